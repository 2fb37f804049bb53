package store

import (
	"context"
	"io"
	"sync/atomic"

	"github.com/kbkio/kbk/pkg/throttle"

	"github.com/rclone/rclone/fs"
	"github.com/rclone/rclone/fs/accounting"
)

// limited makes r keep to [Options].MaxRate, and to RCLONE_BWLIMIT, which rclone only
// does for its own copies.
func (s *Store) limited(ctx context.Context, r io.Reader) io.Reader {
	if len(fs.GetConfig(ctx).BwLimit) > 0 {
		r = bandwidth{r}
	}
	if s.rate != nil {
		r = throttled{ctx, r, s.rate}
	}
	return r
}

// counted counts what is read of r.
type counted struct {
	r io.Reader
	n *atomic.Int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	return n, err
}

type bandwidth struct{ r io.Reader }

func (b bandwidth) Read(p []byte) (int, error) {
	n, err := b.r.Read(p[:min(len(p), 1<<20)]) // rclone's bucket holds 4 MiB
	accounting.TokenBucket.LimitBandwidth(accounting.TokenBucketSlotAccounting, n)
	return n, err
}

type throttled struct {
	ctx  context.Context
	r    io.Reader
	rate *throttle.Limit // of all that the store sends and receives
}

func (t throttled) Read(p []byte) (int, error) {
	n, err := t.r.Read(p[:min(len(p), 64<<10)]) // it flows, and does not come in gulps
	if waitErr := t.rate.Wait(t.ctx, int64(n)); waitErr != nil {
		return n, waitErr
	}
	return n, err
}
