package need

import (
	"strings"
	"testing"
)

// A fake is a test that ends, or not, without ending this one.
type fake struct {
	testing.TB
	skipped, failed string
}

func (f *fake) Helper()                   {}
func (f *fake) Skip(args ...any)          { f.skipped = args[0].(string) }
func (f *fake) Fatalf(s string, _ ...any) { f.failed = s }

func TestTools(t *testing.T) {
	t.Setenv("CI", "")
	f := new(fake)
	Tools(f, "sh")
	if f.skipped != "" || f.failed != "" {
		t.Errorf("sh is here: %q %q", f.skipped, f.failed)
	}
	Tools(f, "sh", "no-such-tool", "nor-this-one")
	if f.skipped != Mark+"no-such-tool, nor-this-one" || f.failed != "" {
		t.Errorf("skipped %q, failed %q", f.skipped, f.failed)
	}
	t.Setenv("CI", "1")
	f = new(fake)
	Tools(f, "no-such-tool")
	if f.skipped != "" || !strings.HasPrefix(f.failed, "missing: ") {
		t.Errorf("with CI: skipped %q, failed %q", f.skipped, f.failed)
	}
}
