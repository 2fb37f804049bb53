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

func TestRenames(t *testing.T) {
	r, err := CompileRenames([]string{"orders=bought", "^(a|b)-(.*)$=$2_$1", "^a=never", "x=y=z"})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"orders": "bought", "a-one": "one_a", "b-two": "two_b", "c": "c", "ordersx": "ordersx", "x=y": "z", "a": "never"} {
		if got := r.Name(name); got != want {
			t.Errorf("%s became %s, not %s", name, got, want)
		}
	}
	for _, bad := range [][]string{{"a"}, {"=a"}, {"a="}, {"^(=a"}, {"a=b", "a=c"}} {
		if _, err := CompileRenames(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
