package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
)

// An input is a snapshot that was read, and the end of the stream that it came in.
type input struct {
	*format.Cluster
	frames []format.Encoder
	end    *format.End
	others int // snapshots in the stream that are older
}

// readSnapshot reads the newest snapshot of a stream. Frames that belong to none are passed over.
func readSnapshot(ctx context.Context, in io.Reader, maxFrame int64) (*input, error) {
	const name = "standard input"
	r := format.NewReader(command.Interruptible(ctx, in), int(maxFrame))
	h, err := r.Header()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if err := command.Takes(h, name, format.ContentRecords, format.ContentBatches); err != nil {
		return nil, err
	}
	out, reading := new(input), false
	for {
		f, err := r.Next()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		switch {
		case f.Kind == format.KindEnd:
			if out.end, err = format.DecodeEnd(f.Raw); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			if out.Cluster == nil {
				return nil, command.WithHint(errors.New("there is no snapshot of a cluster in "+name),
					"kbk-cluster snapshot writes one; kbk-pull and kbk-pack -d get it out of a backup. What apply has saved is for kbk-cluster rollback")
			}
			return out, nil
		case f.Kind == format.KindCluster:
			c, err := format.DecodeCluster(f.Raw)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			if reading = out.Cluster == nil || c.Time >= out.Time; !reading {
				out.others++
				continue
			}
			if out.Cluster != nil {
				out.others++
			}
			out.Cluster, out.frames = c, nil
		case f.Kind.OfCluster() && reading:
			frame, err := format.DecodeOfCluster(f)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			out.frames = append(out.frames, frame)
		}
	}
}
