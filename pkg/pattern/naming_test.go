package pattern

import (
	"strings"
	"testing"
)

func TestNaming(t *testing.T) {
	n := Naming{mustRenames(t, "orders=bought"), "restored."}
	for name, want := range map[string]string{"orders": "bought", "users": "restored.users"} {
		if got := n.Target(name); got != want {
			t.Errorf("%s became %s, not %s", name, got, want)
		}
	}
	if !n.Changes() || n.OnlyPrefix() || (Naming{}).Changes() || (Naming{mustRenames(t), ""}).Changes() || !(Naming{Prefix: "x"}).OnlyPrefix() {
		t.Error("what a naming changes is not told")
	}
}

func TestNamingBegin(t *testing.T) {
	known := []string{"orders", "orders-eu", "users"}
	for name, c := range map[string]struct {
		rules     []string
		prefix    string
		old       string
		known     []string
		want, why string
	}{
		"nothing":                {old: "orders", want: "orders"},
		"a prefix":               {prefix: "p.", old: "orders", want: "p.orders"},
		"another is renamed":     {rules: []string{"users=people"}, old: "orders", want: "orders"},
		"one leaves":             {rules: []string{"orders-eu=bought"}, old: "orders", why: "orders-eu becomes bought"},
		"one comes":              {rules: []string{"users=orders-x"}, old: "orders", why: "begins with orders too"},
		"an expression":          {rules: []string{"^(.*)$=x.$1"}, old: "orders", known: known, want: "x.orders"},
		"an expression, unknown": {rules: []string{"^(.*)$=x.$1"}, old: "orders", why: "no names are known"},
		"an expression for some": {rules: []string{"^(.*)-eu$=eu.$1"}, old: "orders", known: known, why: "orders-eu becomes eu.orders"},
		"stays with its prefix":  {rules: []string{"orders-eu=p.orders-europe"}, prefix: "p.", old: "orders", known: known, want: "p.orders"},
	} {
		got, err := Naming{mustRenames(t, c.rules...), c.prefix}.Begin(c.old, c.known)
		if got != c.want || (err != nil) != (c.why != "") || err != nil && !strings.Contains(err.Error(), c.why) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func mustRenames(t *testing.T, rules ...string) *Renames {
	t.Helper()
	r, err := CompileRenames(rules)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
