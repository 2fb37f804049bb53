package segment

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/kbkio/kbk/format"
)

// FuzzDescribe describes any bytes. What it takes for a segment opens by its description.
func FuzzDescribe(f *testing.F) {
	for i, codec := range codecs {
		_, plain := sealed(f, 3)
		compress, err := codec.Compressor(1)
		ok(f, err)
		if compress != nil {
			plain, err = compress(nil, plain)
			ok(f, err)
		}
		f.Add(uint8(i), plain)
	}
	o := NewOpener(nil, 1<<16)
	f.Fuzz(func(t *testing.T, codec uint8, data []byte) {
		m, err := Describe(codecs[int(codec)%len(codecs)].Name, data, 1<<16)
		if err != nil {
			return
		}
		n := int64(0)
		err = o.Open(m, bytes.Clone(data), func(f *format.Frame) error {
			if f.Kind == format.KindRec {
				n++
			}
			return nil
		})
		if err != nil || n != m.Records {
			t.Fatalf("%+v opens with %d records: %v", m, n, err)
		}
	})
}

// FuzzKeys reads any key files. None of their words is in an error.
func FuzzKeys(f *testing.F) {
	key := generate(f)
	f.Add("# mine\n" + key.String() + "\n")
	f.Add(key.Recipient().String() + "\r\nssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ5mbWcbHxwNDRUZ1yQwBLhzLyYM0dDYvHSYWMBs4iVr me\n")
	f.Add("AGE-PLUGIN-X-1QQ\nage1x1qq\nAGE-SECRET-KEY-PQ-1\nage1pq1\nage1tag1q\n")
	f.Fuzz(func(t *testing.T, text string) {
		_, err := identities([]byte(text), testEnv())
		if err != nil {
			for word := range strings.FieldsSeq(text) {
				if len(word) > 20 && strings.Contains(err.Error(), word) {
					t.Fatalf("%q is in %q", word, err)
				}
			}
		}
		for _, line := range keyLines([]byte(text)) {
			if r, err := recipient(line, testEnv()); r == nil && err == nil {
				t.Fatalf("%q: %v, %v", line, r, err)
			}
		}
	})
}

// FuzzAge gives any bytes out as encrypted.
func FuzzAge(f *testing.F) {
	key := generate(f)
	_, data := sealed(f, 1, key.Recipient())
	f.Add(data)
	f.Add([]byte("age-encryption.org/v1\n-> X25519 " + base64.RawStdEncoding.EncodeToString(make([]byte, 32)) + "\n"))
	o := NewOpener([]age.Identity{key}, 1<<16)
	f.Fuzz(func(t *testing.T, data []byte) {
		if m, err := o.Describe(None, Age, bytes.Clone(data)); err == nil && m.Size != int64(len(data)) {
			t.Fatalf("%+v", m)
		}
	})
}
