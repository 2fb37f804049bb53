package jsontext

import (
	"encoding/json"
	"testing"
	"unicode/utf8"
)

// FuzzStrings compares what is made of strings, there and back, with encoding/json.
func FuzzStrings(f *testing.F) {
	for _, s := range []string{`"a"`, `"\u00e9\ud83d\ude00\ud83d\udeXX"`, `"\ud83d"`, `"\ud83dx\u0041"`, `"\ud83d\ud83d\ude00"`, `"\b\f\n\r\t\/\\\""`, "\"\u2028\""} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var want string
		if Valid(b) && SkipSpace(b, 0) == 0 && b[0] == '"' && json.Unmarshal(b, &want) == nil {
			if got := Unquote(b[:SkipValue(b, 0)]); string(got) != want {
				t.Fatalf("%q: got %q, want %q", b, got, want)
			}
		}
		if utf8.Valid(b) {
			if text := AppendString(nil, b); !json.Valid(text) || string(Unquote(text)) != string(b) {
				t.Fatalf("%q became %s", b, text)
			}
		}
	})
}

func TestMembers(t *testing.T) {
	text := []byte(` { "a" : [1, "]", {"x":"}"}] , "b\n":null,"c":-1.5e3 } `)
	var got []string
	for _, m := range Members(text, 1, nil) {
		got = append(got, string(m.Name)+"="+string(text[m.Value:m.To]))
	}
	want := []string{`a=[1, "]", {"x":"}"}]`, "b\n=null", "c=-1.5e3"}
	if len(got) != 3 || got[0] != want[0] || got[1] != want[1] || got[2] != want[2] {
		t.Errorf("got %q, want %q", got, want)
	}
	if n := len(Members([]byte(" [ ] "), 1, nil)); n != 0 {
		t.Errorf("%d members of an empty array", n)
	}
}
