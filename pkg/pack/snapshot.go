package pack

import (
	"context"
	"fmt"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/ordered"
	"github.com/kbkio/kbk/pkg/segment"
)

// beginSnapshot opens a snapshot of a cluster. It is packed by itself, as its frames may be
// confidential, and so must not come outside of what is encrypted.
func (p *packer) beginSnapshot(ctx context.Context, raw []byte) error {
	if err := p.closeSnapshot(ctx); err != nil {
		return err
	}
	m, err := segment.DescribeCluster(raw)
	if err != nil {
		return command.Input(err)
	}
	head, err := (&format.Header{Content: format.ContentRecords}).Append(nil)
	if err != nil {
		return err
	}
	p.snapshot = &builder{opened: time.Now(), snapshot: m, meta: format.Segment{Codec: p.cfg.Codec.Name}}
	p.snapshot.chunk = append(head, raw...)
	p.count(p.snapshot)
	return nil
}

// snapshotFrame appends a frame to the open snapshot.
func (p *packer) snapshotFrame(ctx context.Context, f *format.Frame) error {
	s := p.snapshot
	if s == nil {
		return corrupt("a %s frame without a cluster frame before it", f.Name)
	}
	s.snapshot.Frames[string(f.Name)]++
	s.chunk = append(s.chunk, f.Raw...)
	if len(s.chunk) >= segment.ChunkSize {
		if err := s.cutOff(ctx, p.out); err != nil {
			return err
		}
	}
	if p.count(s); s.counted > p.cfg.Memory/4 {
		return command.WithHint(fmt.Errorf("snapshot %s of a cluster takes more than a quarter of --memory", s.snapshot.ID), "use a larger --memory")
	}
	if p.held > p.cfg.Memory/2 {
		return p.makeRoom(ctx)
	}
	return nil
}

// closeSnapshot hands the open snapshot on, if there is one.
func (p *packer) closeSnapshot(ctx context.Context) error {
	s := p.snapshot
	if s == nil {
		return nil
	}
	p.snapshot = nil
	p.held -= s.counted
	return s.end(ctx, p.out)
}

// writeSnapshot writes a snapshot that is sealed.
func (o *output) writeSnapshot(s *builder) error {
	m := s.snapshot
	m.Codec, m.Cipher, m.RawSize, m.Size, m.SHA256 = s.meta.Codec, s.meta.Cipher, s.meta.RawSize, s.meta.Size, s.meta.SHA256
	o.snapshots++
	o.count.BytesRaw.Add(m.RawSize)
	o.count.BytesPacked.Add(m.Size)
	return o.w.WriteSnapshot(m, s.parts...)
}

// snapshot queues a snapshot of a cluster to be unpacked.
func (u *unpacker) snapshot(ctx context.Context, raw []byte) error {
	m, data, err := format.DecodeSnapshot(raw)
	if err != nil {
		return command.Input(err)
	}
	if m.Cipher == "" {
		u.plainSnapshots++
	}
	return u.queue.Put(ctx, int64(len(raw)), func(_ context.Context, out *ordered.Output) error {
		buf := out.Buffer()
		err := u.opener.OpenSnapshot(m, data, func(f *format.Frame) error {
			buf = append(buf, f.Raw...)
			if len(buf) < ordered.ChunkSize {
				return nil
			}
			err := out.Emit(buf)
			buf = out.Buffer()
			return err
		})
		if err != nil {
			return err
		}
		u.count.BytesRaw.Add(m.RawSize)
		u.count.BytesPacked.Add(m.Size)
		return out.Emit(buf)
	})
}

// andSnapshots says how many snapshots of a cluster there were beside other things.
func andSnapshots(n int64) string {
	switch n {
	case 0:
		return ""
	case 1:
		return ", and a snapshot of a cluster"
	}
	return fmt.Sprintf(", and %s snapshots of a cluster", humanize.Comma(n))
}
