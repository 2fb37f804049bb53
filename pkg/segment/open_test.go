package segment

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
)

func testEnv() *command.Env {
	return &command.Env{Name: "test", Log: slog.New(slog.DiscardHandler), Stop: make(chan struct{})}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func generate(t testing.TB) *age.X25519Identity {
	t.Helper()
	key, err := age.GenerateX25519Identity()
	ok(t, err)
	return key
}

// sealed makes a segment of some records, encrypted to whom it may concern.
func sealed(t testing.TB, records int, to ...age.Recipient) (*format.Segment, []byte) {
	t.Helper()
	var plain, data bytes.Buffer
	w := format.NewWriter(&plain)
	ok(t, w.WriteHeader(&format.Header{Content: format.ContentRecords}))
	ok(t, w.Write(&format.Mark{Topic: "orders", Partition: 3}))
	r := rand.New(rand.NewPCG(1, 2))
	value := make([]byte, 1000)
	for i := range records {
		value[r.IntN(1000)]++
		ok(t, w.WriteRecord(&format.Record{Topic: "orders", Partition: 3, Offset: int64(i), Value: value}))
	}
	ok(t, w.Write(&format.Mark{Topic: "orders", Partition: 3, Next: int64(records)}))
	ok(t, w.Close(&format.End{}))
	m := &format.Segment{Topic: "orders", Partition: 3, Next: int64(records), Last: int64(records - 1), Records: int64(records), Codec: None, RawSize: int64(plain.Len())}
	if len(to) > 0 {
		m.Cipher = Age
		e, err := age.Encrypt(&data, to...)
		ok(t, err)
		_, err = e.Write(plain.Bytes())
		ok(t, err)
		ok(t, e.Close())
		plain = data
	}
	m.Size = int64(plain.Len())
	sum := sha256.Sum256(plain.Bytes())
	m.SHA256 = sum[:]
	return m, plain.Bytes()
}

// opened counts the records that come out of a segment. What it is told of its size and
// sum is made to fit, as one who forges a segment would.
func opened(t testing.TB, m *format.Segment, data []byte, keys ...age.Identity) (records int64, err error) {
	t.Helper()
	c, sum := *m, sha256.Sum256(data)
	c.Size, c.SHA256 = int64(len(data)), sum[:]
	err = NewOpener(keys, 1<<20).Open(&c, bytes.Clone(data), func(f *format.Frame) error {
		if f.Kind == format.KindRec {
			records++
		}
		return nil
	})
	return records, err
}

// TestNothingUnauthenticated changes and cuts an encrypted segment wherever that can
// make a difference: each is an error that names it, and not one frame comes out.
func TestNothingUnauthenticated(t *testing.T) {
	key := generate(t)
	m, data := sealed(t, 300, key.Recipient()) // 5 chunks of the cipher
	if n, err := opened(t, m, data, key); err != nil || n != 300 {
		t.Fatalf("%d records, %v", n, err)
	}
	header := headerOf(data)
	refused := func(what string, at int, changed []byte) {
		t.Helper()
		n, err := opened(t, m, changed, key)
		if err == nil || n != 0 || !strings.HasPrefix(err.Error(), "segment of orders/3, offsets 0 to 299: ") || strings.Contains(err.Error(), "\n") {
			t.Fatalf("%s at %d of %d: %d frames came out, and the error is %v", what, at, len(data), n, err)
		}
		if at > header && (command.StatusOf(err) != command.Corrupt || !strings.Contains(err.Error(), map[string]string{"a bit flipped": "was changed"}[what])) {
			t.Fatalf("%s at %d: %v", what, at, err)
		}
	}
	for at := 0; at < len(data); at += 1 + at/header*97 { // each byte of the header
		changed := bytes.Clone(data)
		changed[at] ^= 1 << (at % 8)
		refused("a bit flipped", at, changed)
		refused("cut", at, data[:at])
	}
	for chunk := 1; chunk < 5; chunk++ { // cut between two chunks
		at := header + chunk*(64<<10+16)
		refused("cut", at, data[:at])
	}
	last := bytes.Clone(data)
	last[len(last)-1] ^= 1
	refused("a bit flipped", len(last)-1, last)
	refused("trailing", len(data), append(bytes.Clone(data), 0))
}

// headerOf is how long the header of an age file is, with the nonce behind it.
func headerOf(file []byte) int {
	mac := bytes.Index(file, []byte("\n--- ")) + 1
	return mac + bytes.IndexByte(file[mac:], '\n') + 1 + 16
}

// TestErrorsAreDistinct wants an error of its own for each thing that can be wrong.
func TestErrorsAreDistinct(t *testing.T) {
	key, other := generate(t), generate(t)
	m, data := sealed(t, 100, key.Recipient())
	pass, err := newPassphrase("words")
	ok(t, err)
	locked, lockedData := sealed(t, 100, pass)
	wrong, err := newPassphrase("other words")
	ok(t, err)
	forged := bytes.Clone(data)
	forged[len(forged)/2] ^= 1
	for name, c := range map[string]struct {
		m      *format.Segment
		data   []byte
		keys   []age.Identity
		want   string
		status int
	}{
		"no key":         {m, data, nil, "it is encrypted, and no key is given", command.Usage},
		"wrong key":      {m, data, []age.Identity{other}, "none of the keys given opens it: it is encrypted to X25519", command.Usage},
		"wrong words":    {locked, lockedData, []age.Identity{wrong, other}, "none of the keys given opens it: it is encrypted to scrypt", command.Usage},
		"much work":      {locked, bytes.Replace(lockedData, []byte(" 15\n"), []byte(" 21\n"), 1), []age.Identity{pass}, "its passphrase asks for a work factor of 21", command.Usage},
		"flipped, found": {m, forged, []age.Identity{key}, "its encrypted content was changed", command.Corrupt},
		"truncated":      {m, data[:len(data)-1], []age.Identity{key}, "its encrypted content was changed", command.Corrupt},
		"cut at a chunk": {m, data[:len(data)-(len(data)-headerOf(data))%(64<<10+16)], []age.Identity{key}, "its encrypted content is cut short", command.Corrupt},
		"no header":      {m, data[:20], []age.Identity{key}, "its encrypted content was changed", command.Corrupt},
	} {
		t.Run(name, func(t *testing.T) {
			n, err := opened(t, c.m, c.data, c.keys...)
			if n != 0 || err == nil || !strings.HasPrefix(err.Error(), "segment of orders/3, offsets 0 to 99: "+c.want) || command.StatusOf(err) != c.status {
				t.Errorf("%d frames, status %d: %v", n, command.StatusOf(err), err)
			}
		})
	}
	// As damage shows where nobody forges: before any key is tried.
	for want, changed := range map[string][]byte{"its sha256 is ": forged, "it is cut short: ": data[1:], "it is too long: ": append(data, 0)} {
		err := NewOpener(nil, 1<<20).Open(m, bytes.Clone(changed), func(*format.Frame) error { return nil })
		if command.StatusOf(err) != command.Corrupt || !strings.Contains(err.Error(), "0 to 99: "+want) {
			t.Errorf("%v", err)
		}
	}
}

// TestErrorsOfTheCaller come back as they are.
func TestErrorsOfTheCaller(t *testing.T) {
	m, data := sealed(t, 1)
	if err := NewOpener(nil, 1<<20).Open(m, data, func(*format.Frame) error { return io.ErrClosedPipe }); err != io.ErrClosedPipe {
		t.Errorf("%v", err)
	}
}

// TestBombs wants no more out of a segment than it says, whatever the codec.
func TestBombs(t *testing.T) {
	for _, codec := range codecs {
		compress, err := codec.Compressor(1)
		ok(t, err)
		m, data := sealed(t, 1)
		data = append(data[:len(data)-len(data)/4], make([]byte, 64<<20)...) // an endless item
		data[m.RawSize-m.RawSize/4] = 0x9f
		if compress != nil {
			data, err = compress(nil, data)
			ok(t, err)
		}
		m.Codec = codec.Name
		if _, err := opened(t, m, data); err == nil || command.StatusOf(err) != command.Corrupt {
			t.Errorf("%s: %v", codec.Name, err)
		}
	}
}

// TestCodecs joins frames, and wants them back as one; and damage found.
func TestCodecs(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, codec := range codecs {
		if codec.newWriter == nil {
			continue
		}
		for level := 1; level <= max(1, codec.Levels); level++ {
			compress, err := codec.Compressor(level)
			ok(t, err)
			var packed, want []byte
			for range 5 {
				part := bytes.Repeat([]byte{byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32())}, r.IntN(100_000))
				if packed, err = compress(packed, part); err != nil {
					t.Fatal(err)
				}
				want = append(want, part...)
			}
			d, err := codec.newReader()
			ok(t, err)
			for range 2 { // one reader, used again
				ok(t, d.reset(bytes.NewReader(packed)))
				if got, err := io.ReadAll(d); err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s at level %d: %d bytes came back of %d: %v", codec.Name, level, len(got), len(want), err)
				}
			}
			if err = d.reset(bytes.NewReader(packed[:len(packed)-2])); err == nil {
				_, err = io.ReadAll(d)
			}
			if err == nil || errors.Is(err, io.EOF) {
				t.Errorf("%s: a frame that is cut short is none: %v", codec.Name, err)
			}
		}
	}
}

// FuzzOpen gives segments of every codec, encrypted or not, any content. Whatever it is,
// nothing may panic, and what comes out must be what the segment says.
func FuzzOpen(f *testing.F) {
	key := generate(f)
	for i, codec := range codecs {
		m, plain := sealed(f, 3)
		compress, err := codec.Compressor(1)
		ok(f, err)
		if compress != nil {
			plain, err = compress(nil, plain)
			ok(f, err)
		}
		f.Add(uint8(i), false, m.RawSize, plain)
	}
	m, data := sealed(f, 3, key.Recipient())
	f.Add(uint8(len(codecs)-1), true, m.RawSize, data)
	o := NewOpener([]age.Identity{key}, 1<<16)
	f.Fuzz(func(t *testing.T, codec uint8, encrypted bool, rawSize int64, data []byte) {
		sum := sha256.Sum256(data)
		m := &format.Segment{
			Topic: "orders", Partition: 3, Next: 3, Last: 2, Records: 3,
			Codec: codecs[int(codec)%len(codecs)].Name, RawSize: rawSize, Size: int64(len(data)), SHA256: sum[:],
		}
		if encrypted {
			m.Cipher = Age
		}
		n := int64(0)
		err := o.Open(m, data, func(f *format.Frame) error {
			if f.Kind == format.KindRec {
				n++
			}
			return nil
		})
		if err == nil && n != m.Records {
			t.Errorf("%d records came out of %d", n, m.Records)
		}
	})
}

func BenchmarkOpen(b *testing.B) {
	key := generate(b)
	m, data := sealed(b, 10_000, key.Recipient())
	o := NewOpener([]age.Identity{key}, 1<<20)
	b.SetBytes(m.RawSize)
	b.ReportAllocs()
	for b.Loop() {
		ok(b, o.Open(m, bytes.Clone(data), func(*format.Frame) error { return nil }))
	}
}
