package pattern

import "testing"

func TestCompile(t *testing.T) {
	matches, err := Compile([]string{"orders", `^audit\.`, "a.c"})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{
		"orders": true, "orders2": false, "my.orders": false, "audit.x": true, "auditx": false, "a.c": true, "abc": false, "": false,
	} {
		if matches(name) != want {
			t.Errorf("%q: %v", name, !want)
		}
	}
	if none, err := Compile(nil); err != nil || none("") || none("x") {
		t.Errorf("no patterns: %v", err)
	}
	if _, err := Compile([]string{"x", "^("}); err == nil || err.Error()[:5] != `"^(":` {
		t.Errorf("a bad pattern: %v", err)
	}
}
