package jsontext

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"
)

// twice tells by encoding/json's tokens whether a name is there twice in an object.
func twice(t *testing.T, b []byte) bool {
	t.Helper()
	type level struct {
		names map[string]bool // nil in an array
		name  bool            // a name comes next
	}
	var open []level
	d := json.NewDecoder(bytes.NewReader(b))
	for d.UseNumber(); ; {
		token, err := d.Token()
		if err == io.EOF {
			return false
		}
		if err != nil {
			t.Fatal(err)
		}
		if n := len(open) - 1; n >= 0 && open[n].names != nil {
			if name, ok := token.(string); ok && open[n].name {
				if open[n].names[name] {
					return true
				}
				open[n].names[name], open[n].name = true, false
				continue
			}
			open[n].name = true // behind this value
		}
		switch token {
		case json.Delim('{'):
			open = append(open, level{make(map[string]bool), true})
		case json.Delim('['):
			open = append(open, level{})
		case json.Delim('}'), json.Delim(']'):
			open = open[:len(open)-1]
		}
	}
}

// FuzzDecode compares what is decoded with encoding/json, and every member with its text.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{
		` {"a": [1, -2.50e+3, {"b\n": null}], "": "é\ud83d\ude00", "c":true , "d":false} `, `[]`, `{}`, `[[[]],{}]`, `"x"`, `12345678901234567890123`,
		`{"a":"x","a":{"b":1}}`, `{"a":{"b":1,"b":2}}`, `[{"a":1},{"a":2}]`, `{"\ud800":1,"\ud801":2}`, `{"a":1,"\u0061":2}`, `{"a":"b","b":"a"}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if !Valid(b) {
			return
		}
		got, err := Decode(b)
		var duplicate *DuplicateError
		if dup := twice(t, b); dup != errors.As(err, &duplicate) || dup != (err != nil) {
			t.Fatalf("%q: a name is there twice: %v, said: %v", b, dup, err)
		}
		if err != nil {
			return
		}
		d := json.NewDecoder(bytes.NewReader(b))
		d.UseNumber()
		var want any
		if err := d.Decode(&want); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%q: got %#v, want %#v", b, got, want)
		}
		if i := SkipSpace(b, 0); b[i] == '{' || b[i] == '[' {
			at := i + 1
			for _, m := range Members(b, i, nil) {
				if m.From < at || m.Value < m.From || m.To <= m.Value || !Valid(b[m.Value:m.To]) {
					t.Fatalf("%q: a member is at %d, %d to %d", b, m.From, m.Value, m.To)
				}
				at = m.To
			}
		}
	})
}

func TestLoneSurrogate(t *testing.T) {
	for in, want := range map[string]bool{
		`"a"`: false, `"\ud83d\ude00"`: false, `"\ud83d"`: true, `"\ude00\ud83d"`: true, `"\ud83d\ud83d\ude00"`: true, `"\\ud83d"`: false, `"\\\ud83d"`: true,
		`{"\uDC00":1}`: true, `["\u00e9", "\uD83D\uDE00", "\uD83Dx"]`: true, `"\ud83d\n"`: true, `"\ud83d\u0041"`: true,
	} {
		if got := LoneSurrogate([]byte(in)); got != want {
			t.Errorf("%s: %v", in, got)
		}
	}
}

// FuzzLoneSurrogate finds one exactly where decoding puts U+FFFD that was not there.
func FuzzLoneSurrogate(f *testing.F) {
	for _, s := range []string{`"\ud83d\ude00"`, `"\ud83d\ud83d\ude00"`, `"\\ud83d"`, `"\uDC00\uD800"`, `"\ufffd"`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if !Valid(b) || b[0] != '"' || bytes.ContainsRune(b, utf8.RuneError) || strings.Contains(strings.ToLower(string(b)), `\ufffd`) {
			return
		}
		got := LoneSurrogate(b)
		if want := bytes.ContainsRune(Unquote(b[:SkipValue(b, 0)]), utf8.RuneError); got != want {
			t.Fatalf("%q: %v", b, got)
		}
	})
}

func TestDecodeNames(t *testing.T) {
	_, err := Decode([]byte(`{"x":[{"a\"b":1,"a\"b":2}]}`))
	if err == nil || err.Error() != `the name "a\"b" is there twice in one object` {
		t.Error(err)
	}
}
