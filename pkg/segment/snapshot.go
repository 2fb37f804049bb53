package segment

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
)

// CheckSnapshot is [Check] for a snapshot of a cluster.
func CheckSnapshot(m *format.Snapshot, data []byte) error {
	if err := envelopeOfSnapshot(m).check(data); err != nil {
		return corruptSnapshot(m, err)
	}
	return nil
}

func envelopeOfSnapshot(m *format.Snapshot) envelope {
	return envelope{m.Codec, m.Cipher, m.RawSize, m.Size, m.SHA256}
}

// OpenSnapshot is [Opener.Open] for a snapshot of a cluster: it checks all of it, and calls each
// for its frames, the cluster frame first. Errors are as those of Open.
func (o *Opener) OpenSnapshot(m *format.Snapshot, data []byte, each func(*format.Frame) error) error {
	var own error
	err := o.unwrap(envelopeOfSnapshot(m), data, func(plain *counter, r *format.Reader) error {
		return inspectSnapshot(m, plain, r, func(f *format.Frame) error { own = each(f); return own })
	})
	switch {
	case err == nil, own != nil:
		return own
	case errors.As(err, new(*keyError)):
		return namedSnapshot(m, err)
	}
	return corruptSnapshot(m, err)
}

func corruptSnapshot(m *format.Snapshot, err error) error {
	return command.WithStatus(command.Corrupt, namedSnapshot(m, err))
}

func namedSnapshot(m *format.Snapshot, err error) error {
	return fmt.Errorf("snapshot %s of a cluster: %w", m.ID, err)
}

// inspectSnapshot reads what is in a snapshot and holds it against what the snapshot says.
func inspectSnapshot(m *format.Snapshot, plain *counter, r *format.Reader, each func(*format.Frame) error) error {
	is, err := readSnapshot(plain, r, func(is *format.Snapshot, f *format.Frame) error {
		if f.Kind == format.KindCluster {
			if err := sameCluster(m, is); err != nil {
				return err
			}
		}
		return each(f)
	})
	switch {
	case err != nil:
		return err
	case !maps.Equal(is.Frames, m.Frames):
		return fmt.Errorf("it has other frames than it says: %v, not %v", is.Frames, m.Frames)
	case is.RawSize != m.RawSize:
		return fmt.Errorf("it is %d bytes uncompressed, not %d", is.RawSize, m.RawSize)
	}
	return nil
}

// readSnapshot reads the stream inside of a snapshot to its end, and returns what that comes to.
// each is called for its frames, with what is known by then.
func readSnapshot(plain *counter, r *format.Reader, each func(*format.Snapshot, *format.Frame) error) (is *format.Snapshot, err error) {
	h, err := r.Header()
	if err == nil && h.Content != format.ContentRecords {
		err = fmt.Errorf("it is a stream of %s", h.Content)
	}
	if err != nil {
		return nil, fmt.Errorf("inside: %w", err)
	}
	for {
		f, err := r.Next()
		switch {
		case err != nil:
			return nil, fmt.Errorf("inside: %w", err)
		case (is == nil) != (f.Kind == format.KindCluster):
			return nil, fmt.Errorf("inside: a %s frame where another is due", f.Name)
		case is == nil:
			is, err = DescribeCluster(f.Raw)
		case f.Kind.OfCluster():
			is.Frames[string(f.Name)]++
		case f.Kind == format.KindEnd:
			is.RawSize = plain.n
			return is, nil
		case f.Kind != format.KindUnknown:
			return nil, fmt.Errorf("inside: a %s frame", f.Name)
		}
		if err == nil {
			err = each(is, f)
		}
		if err != nil {
			return nil, err
		}
	}
}

// DescribeCluster is what a packed snapshot says of itself that begins with a cluster frame.
// What is known of its bytes, and its frames, are left out.
func DescribeCluster(raw []byte) (*format.Snapshot, error) {
	c, err := format.DecodeCluster(raw)
	if err != nil {
		return nil, err
	}
	return &format.Snapshot{ID: c.ID, Time: c.Time, Cluster: c.Cluster, Kinds: c.Kinds, LeftOut: int64(len(c.LeftOut)), Frames: make(map[string]int64)}, nil
}

// sameCluster tells whether what a cluster frame says is what a snapshot says.
func sameCluster(m, is *format.Snapshot) error {
	if is.ID != m.ID || is.Time != m.Time || is.Cluster != m.Cluster || is.LeftOut != m.LeftOut || !slices.Equal(is.Kinds, m.Kinds) {
		return fmt.Errorf("it is snapshot %s of cluster %q, and not what it says", is.ID, is.Cluster)
	}
	return nil
}

// DescribeSnapshot reads a snapshot of a cluster that lies somewhere by itself, and returns what
// a backup's log would say of it. Where it is encrypted, data is overwritten.
func (o *Opener) DescribeSnapshot(codec, cipher string, data []byte) (*format.Snapshot, error) {
	sum, size := sha256.Sum256(data), int64(len(data))
	var m *format.Snapshot
	err := o.unwrap(envelope{codec, cipher, math.MaxInt64, size, sum[:]}, data, func(plain *counter, r *format.Reader) (err error) {
		m, err = readSnapshot(plain, r, func(*format.Snapshot, *format.Frame) error { return nil })
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("it is no snapshot of a cluster: %w", err)
	}
	m.Codec, m.Cipher, m.Size, m.SHA256 = codec, cipher, size, sum[:]
	return m, nil
}
