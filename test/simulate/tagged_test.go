//go:build synctests

package simulate

// tagged: franz-go's client waits for a mutex as for a channel, and virtual time goes on
// meanwhile.
const tagged = true
