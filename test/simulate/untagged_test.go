//go:build !synctests

package simulate

// tagged: virtual time would stand still where a client waits for a mutex.
const tagged = false
