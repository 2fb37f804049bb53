package segment

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"filippo.io/age"
	"github.com/dustin/go-humanize"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/recordbatch"
)

// Age is the one cipher there is: https://age-encryption.org/v1.
const Age = "age"

// An Opener checks segments and takes out what is in them. It may be used by several
// goroutines.
type Opener struct {
	keys     []age.Identity
	maxFrame int
	decoders map[string]*sync.Pool // by codec
	readers  sync.Pool
	batches  sync.Pool // decoders of their records
}

// NewOpener returns an Opener that tries keys on encrypted segments, and refuses frames
// of more than maxFrame bytes inside.
func NewOpener(keys []age.Identity, maxFrame int64) *Opener {
	o := &Opener{keys: keys, maxFrame: int(maxFrame), decoders: make(map[string]*sync.Pool)}
	for _, c := range codecs {
		o.decoders[c.Name] = new(sync.Pool)
	}
	return o
}

// Open checks a segment and calls each for the frames in it, but for the header and the
// end. data is what the segment holds; where it is encrypted it is overwritten. Not a
// byte is decrypted before the checksum is found right, and none is decompressed, nor
// each called, before the cipher has authenticated all of it.
//
// Of batches, each is called for the records in them.
//
// An error of each is returned as it is. Every other names the segment; its status is
// [command.Corrupt], unless it is about the keys.
func (o *Opener) Open(m *format.Segment, data []byte, each func(*format.Frame) error) error {
	var frame format.Frame
	var raw []byte
	return o.OpenBatches(m, data, each, func(b *Batch) error {
		return b.Records(func(r *format.Record) error {
			raw = format.AppendRecord(raw[:0], r)
			if err := frame.Scan(raw); err != nil {
				return err
			}
			return each(&frame)
		})
	})
}

// Verify is [Opener.Open] for those who want to know whether all is as it says.
func (o *Opener) Verify(m *format.Segment, data []byte) error {
	return o.OpenBatches(m, data, func(*format.Frame) error { return nil }, func(b *Batch) error {
		err := b.Records(func(*format.Record) error { return nil })
		if errors.Is(err, recordbatch.ErrTooLarge) { // as whoever packed it has found
			_, _, err = b.Times()
		}
		return err
	})
}

// OpenBatches is [Opener.Open], with batches given to a function of their own, which may look
// into them or not: what it does not read is not compared with the times of the segment. A
// batch and its frame hold until the function returns.
func (o *Opener) OpenBatches(m *format.Segment, data []byte, each func(*format.Frame) error, batch func(*Batch) error) error {
	var own error
	err := o.open(m, data, visitor{
		func(f *format.Frame) error { own = each(f); return own },
		func(b *Batch) error { own = batch(b); return own },
	})
	if err == nil {
		return nil
	}
	if own != nil && !errors.As(own, new(*batchError)) {
		return own
	}
	if errors.As(err, new(*keyError)) {
		return named(m, err)
	}
	return corrupt(m, err)
}

// A visitor is given what is in a segment.
type visitor struct {
	frame func(*format.Frame) error
	batch func(*Batch) error
}

// Check holds data, what a segment holds, against the size and the checksum that the
// segment says it has. The error names the segment; its status is [command.Corrupt].
func Check(m *format.Segment, data []byte) error {
	if err := envelopeOf(m).check(data); err != nil {
		return corrupt(m, err)
	}
	return nil
}

func corrupt(m *format.Segment, err error) error {
	return command.WithStatus(command.Corrupt, named(m, err))
}

// named says of an error which segment it is about.
func named(m *format.Segment, err error) error {
	return fmt.Errorf("segment of %s/%d, offsets %d to %d: %w", m.Topic, m.Partition, m.First, m.Last, err)
}

func (m envelope) check(data []byte) error {
	switch n := int64(len(data)); {
	case n < m.size:
		return fmt.Errorf("it is cut short: %s of %s", command.Count(n, "byte"), humanize.Comma(m.size))
	case n > m.size:
		return fmt.Errorf("it is too long: %s, not %s", command.Count(n, "byte"), humanize.Comma(m.size))
	}
	if sum := sha256.Sum256(data); !bytes.Equal(sum[:], m.sha256) {
		return fmt.Errorf("its sha256 is %x, not %x", sum, m.sha256)
	}
	return nil
}

func (o *Opener) open(m *format.Segment, data []byte, to visitor) error {
	d, _ := o.batches.Get().(*recordbatch.Decoder)
	if d == nil {
		d = recordbatch.NewDecoder()
	}
	defer o.batches.Put(d)
	return o.unwrap(envelopeOf(m), data, func(plain *counter, r *format.Reader) error { return inspect(m, plain, r, d, to) })
}

// An envelope is what is known of packed bytes, whether they are a segment or a snapshot.
type envelope struct {
	codec, cipher string
	rawSize, size int64
	sha256        []byte
}

func envelopeOf(m *format.Segment) envelope {
	return envelope{m.Codec, m.Cipher, m.RawSize, m.Size, m.SHA256}
}

// unwrap checks data, decrypts it, and gives read what decompresses it.
func (o *Opener) unwrap(m envelope, data []byte, read func(plain *counter, r *format.Reader) error) error {
	if err := m.check(data); err != nil {
		return err
	}
	codec := CodecOf(m.codec)
	if codec == nil {
		return fmt.Errorf("codec %q is not known", m.codec)
	}
	switch m.cipher {
	case "":
	case Age:
		var err error
		if data, err = o.decrypt(data); err != nil {
			return err
		}
	default:
		return fmt.Errorf("cipher %q is not known", m.cipher)
	}
	plain := &counter{r: bytes.NewReader(data), max: m.rawSize}
	if codec.newReader != nil {
		pool := o.decoders[codec.Name]
		d, _ := pool.Get().(*decompressor)
		if d == nil {
			var err error
			if d, err = codec.newReader(); err != nil {
				return fmt.Errorf("decompress: %w", err)
			}
		}
		defer pool.Put(d)
		if err := d.reset(plain.r); err != nil {
			return fmt.Errorf("decompress: %w", err)
		}
		plain.r = d
	}
	r, _ := o.readers.Get().(*format.Reader)
	if r == nil {
		r = format.NewReader(plain, o.maxFrame)
	} else {
		r.Reset(plain)
	}
	defer o.readers.Put(r)
	return read(plain, r)
}

// decrypt decrypts data in place, to its end: what age has decrypted is always behind
// what it has read. Each 64 KiB are authenticated before they are decrypted, and the
// last by itself, so that a file that is cut short shows (C2SP age, "Payload").
func (o *Opener) decrypt(data []byte) ([]byte, error) {
	if len(o.keys) == 0 {
		return nil, &keyError{command.WithHint(command.Usagef("it is encrypted, and no key is given"),
			"give the file of an identity with -i, or --passphrase-file")}
	}
	r, err := age.Decrypt(bytes.NewReader(data), o.keys...)
	if err != nil {
		var none *age.NoIdentityMatchError
		var key *keyError
		switch {
		case errors.As(err, &none):
			return nil, &keyError{command.Usagef("none of the keys given opens it: it is encrypted to %s", strings.Join(none.StanzaTypes, ", "))}
		case errors.As(err, &key):
			return nil, err
		}
		return nil, changed(err)
	}
	n := 0
	for {
		k, err := r.Read(data[n:])
		n += k
		if err == io.EOF {
			return data[:n], nil
		}
		if err != nil {
			return nil, changed(err)
		}
	}
}

// changed says of an age file that it is not as it was made.
func changed(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return errors.New("its encrypted content is cut short")
	}
	return fmt.Errorf("its encrypted content was changed: %w", err)
}

// inspect reads what is in a segment and holds it against what the segment says.
func inspect(m *format.Segment, plain *counter, r *format.Reader, d *recordbatch.Decoder, to visitor) error {
	h, err := r.Header()
	var in *inside
	if err == nil {
		in, err = newInside(h)
	}
	if said := cmp.Or(m.Content, format.ContentRecords); err == nil && in.content != said {
		err = fmt.Errorf("it is a stream of %s, and the segment says %s", in.content, said)
	}
	if err != nil {
		return fmt.Errorf("inside: %w", err)
	}
	in.topic, in.partition, in.known = m.Topic, m.Partition, true
	for {
		f, err := r.Next()
		var b *Batch
		switch {
		case err != nil:
		case f.Kind == format.KindBatch:
			if b, err = in.batch(f, d); err == nil && (b.First < m.From || b.Last >= m.Next) {
				err = fmt.Errorf("a batch of offsets %d to %d outside [%d, %d)", b.First, b.Last, m.From, m.Next)
			}
		default:
			if err = in.frame(f); err == nil && f.Kind == format.KindRec && (f.Offset < m.From || f.Offset >= m.Next) {
				err = fmt.Errorf("a record of offset %d outside [%d, %d)", f.Offset, m.From, m.Next)
			}
		}
		switch {
		case err != nil:
			return fmt.Errorf("inside: %w", err)
		case b != nil:
			b.Within = [2]int64{m.MinTimestamp, m.MaxTimestamp}
			err = to.batch(b)
		case f.Kind == format.KindEnd:
			return in.compare(m, plain.n)
		default:
			err = to.frame(f)
		}
		if err != nil {
			return err
		}
	}
}

// A counter counts what is read through it, and fails at more than max: what a
// segment may decompress to is what it says.
type counter struct {
	r      io.Reader
	n, max int64
}

// Read implements io.Reader.
func (c *counter) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	if c.n += int64(n); c.n > c.max {
		return 0, fmt.Errorf("more than %d bytes uncompressed", c.max)
	}
	return n, err
}
