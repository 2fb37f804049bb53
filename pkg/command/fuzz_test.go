package command

import (
	"strings"
	"testing"
)

// FuzzConfig reads any configuration file. An error is one line, and quotes no value: it
// may be a password.
func FuzzConfig(f *testing.F) {
	for _, text := range []string{
		"cluster:\n  sasl.password: 0123\nfetch:\n  size: 1MB\n  n: 7\n  topic: [a, 'b,c']\n  follow: true\npack: {}\n", "cluster: sasl.password secret-secret\n",
		"cluster:\n  sasl.password: *secret-secret\n", "fetch: &a\n  x: !!str y\npush: *a\n", "fetch:\n  ? [a]\n  : b\n", "- x\n", "a: b: c\n", "pull:\n  <<: {topic: x}\n",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		_, err := decodeConfig(strings.NewReader(text))
		if err == nil {
			return
		}
		if strings.ContainsAny(err.Error(), "\n\r") {
			t.Fatalf("%q: %q", text, err)
		}
		if strings.Contains(err.Error(), "secret-secret") && !strings.HasPrefix(err.Error(), `section "`) && !strings.HasPrefix(text, "secret-secret") {
			t.Fatalf("%q: %q", text, err)
		}
	})
}

// FuzzSize reads any size. One that is read is about the same when it was written.
func FuzzSize(f *testing.F) {
	for _, s := range []string{"64MiB", "10MB", "4096", "1.5GiB", "0", "9EB"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var size, again Size
		if size.Set(text) != nil {
			return
		}
		if size < 0 {
			t.Fatalf("%q is %d", text, size)
		}
		if err := again.Set(size.String()); err != nil || float64(again) < 0.9*float64(size) || float64(again) > 1.1*float64(size) {
			t.Fatalf("%q is %d, or %s, and that is %d, %v", text, size, size.String(), again, err)
		}
	})
}
