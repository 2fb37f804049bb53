package filter

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/jsontext"
)

// FuzzParsers reads any text as a flag that has a small language of its own.
func FuzzParsers(f *testing.F) {
	for _, s := range []string{
		"value.card.number=last4", `value.items[].price=null`, `headers."a.b"=redact`, "key=hash", `value[3]["]=null`, // masks
		`%t-%p@%o %T\n%k:%K\x41\u00e9\0%%`, "%R%h%i%I", // layouts
		"5..9", "..7", "3..", "1%", "0.5%", "7=9,1=2", "4294967295=0\n1=2", // offsets, shares, schema ids
	} {
		f.Add(s)
	}
	record := &format.Record{Topic: "t", Key: []byte("k"), Value: []byte(`{"a":1}`)}
	f.Fuzz(func(t *testing.T, s string) {
		if m, err := parseMask(s); err == nil && !m.keyed {
			r := *record
			if _, _, err := m.apply(&r, nil); err == nil && len(r.Value) > 0 && !jsontext.Valid(r.Value) && len(m.path) > 0 {
				t.Fatalf("%q makes %q", s, r.Value)
			}
		}
		if parts, err := parseLayout(s); err == nil {
			var b []byte
			for i := range parts {
				b = parts[i].append(b, record)
			}
		}
		if from, to, err := offsets(s); err == nil && (from < 0 || to < from) {
			t.Fatalf("%q is %d to %d", s, from, to)
		}
		if p, err := percent(s); err == nil && !(p >= 0 && p <= 1) {
			t.Fatalf("%q is %f", s, p)
		}
		if strings.Contains(s, "=") { // else it names a file
			if ids, err := schemaIDs(s); err == nil && len(ids) == 0 {
				t.Fatalf("%q has no ids", s)
			}
		}
	})
}

// FuzzLines makes a stream of any lines of JSON: it is one that can be read, with the
// records that the end says.
func FuzzLines(f *testing.F) {
	text, err := run(f, streamOf(f, sample()...), "--to", "json")
	ok(f, err)
	f.Add(text)
	f.Add([]byte(`{"kbk":"header","content":"records"}` + "\n" + `{"topic":"t","partition":0,"offset":1,"ts":2,"payload":{"base64":"/w=="}}` + "\n" + `{"kbk":"end","records":1}` + "\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		out, err := run(t, text, "--from", "json")
		if err != nil {
			return
		}
		r := format.NewReader(bytes.NewReader(out), 0)
		records := int64(0)
		for {
			f, err := r.Next()
			if err == io.EOF {
				return
			}
			if err != nil {
				t.Fatalf("%q became a stream that cannot be read: %v", text, err)
			}
			switch f.Kind {
			case format.KindRec:
				records++
			case format.KindEnd:
				if end, err := format.DecodeEnd(f.Raw); err != nil || end.Records != records {
					t.Fatalf("%q: %d records, and the end says %+v, %v", text, records, end, err)
				}
			}
		}
	})
}
