// Package pull reads a backup from any rclone remote as a stream of segments.
package pull

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/urfave/cli/v2"
	"golang.org/x/sync/errgroup"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/commitlog"
	"github.com/kbkio/kbk/pkg/store"
)

// Config says what to read.
type Config struct {
	Remote    string
	Transfers int // downloads at once, and segments held in memory
}

// App is the command kbk-pull.
func App() *cli.App {
	return command.App(command.Spec{
		Name:    "kbk-pull",
		Usage:   "read a backup as a stream of segments",
		Args:    "REMOTE",
		MaxArgs: 1,
		Description: `Reads the backup's log, downloads the segments that together hold every record once,
checks them and writes them to standard output: those of one partition in order, the
partitions in turn.

   kbk-pull s3:bucket/nightly | kbk-pack -d | kbk-produce -b localhost:9092 --create-topics > map.kbk`,
		Flags: []cli.Flag{
			&cli.IntFlag{Name: "transfers", Value: 4, Usage: "download `N` segments at once"},
		},
		Action: action,
	})
}

func action(ctx context.Context, c *cli.Context, env *command.Env) error {
	cfg := Config{Remote: c.Args().First(), Transfers: c.Int("transfers")}
	switch {
	case cfg.Remote == "":
		return command.WithHint(command.Usagef("no remote"), "say where the backup is: a folder, or REMOTE:PATH as rclone knows it")
	case cfg.Transfers < 1:
		return command.Usagef("--transfers %d is below 1", cfg.Transfers)
	}
	out, err := command.Stdout()
	if err != nil {
		return err
	}
	return Run(ctx, cfg, env, out)
}

// A download is a segment on its way; data may be read after a receive from done.
type download struct {
	seg  *commitlog.Chosen
	mark *format.Mark // or, instead, a mark to write
	data []byte
	done chan error
}

// Run writes the newest incarnation of every topic of a backup to out. It returns an
// error of status [command.Loss], after a whole stream, where the backup has holes.
func Run(ctx context.Context, cfg Config, env *command.Env, out io.Writer) (err error) {
	began := time.Now()
	st, err := store.Open(ctx, cfg.Remote)
	if err != nil {
		return err
	}
	defer func() {
		if store.IsDamage(err) {
			err = command.WithStatus(command.Corrupt, err)
		}
		err = errors.Join(err, st.Close())
	}()
	state, err := st.LoadLog(ctx)
	if err != nil {
		return err
	}
	if state.Entries() == 0 {
		return command.WithHint(fmt.Errorf("no backup in %s: it has no log", st.Name()), "is the path right, and has a kbk-push there finished?")
	}
	w := format.NewWriter(out)
	source := state.Source()
	err = w.WriteHeader(&format.Header{
		Created: began.UnixMilli(),
		Content: format.ContentSegments,
		Source:  &format.Source{Cluster: source.ClusterID, Tool: source.Tool, Isolation: source.Isolation},
	})
	if err != nil {
		return err
	}
	for _, t := range state.Topics() {
		if len(t.Frame) > 0 {
			if err := w.WriteRaw(t.Frame); err != nil {
				return err
			}
		}
	}
	plans := state.Select()
	var total int64
	holes := false
	for _, p := range plans {
		for i := range p.Segments {
			total += p.Segments[i].Size
		}
		for _, h := range p.Holes {
			holes = true
			env.Log.Warn(fmt.Sprintf("%s/%d: the backup has no word of offsets %d to %d", p.Topic, p.Partition, h[0], h[1]-1))
		}
	}
	bar := env.NewProgress("reading", total, true)
	defer bar.Close()
	g, gctx := errgroup.WithContext(ctx)
	loading := new(errgroup.Group)
	loading.SetLimit(cfg.Transfers)
	queue := make(chan *download, cfg.Transfers)
	stopped := false
	g.Go(func() error {
		defer close(queue)
		for d := range interleave(plans) {
			select {
			case <-env.Stop:
				stopped = true
				return nil
			default:
			}
			if d.seg != nil {
				loading.Go(func() (err error) {
					d.data, err = st.ReadSegment(gctx, d.seg.Segment)
					d.done <- err
					return nil
				})
			}
			select {
			case queue <- d:
			case <-gctx.Done():
				return gctx.Err()
			}
		}
		return nil
	})
	var segments, records, size int64
	g.Go(func() error {
		for d := range queue {
			if d.mark != nil {
				if err := w.Write(d.mark); err != nil {
					return err
				}
				continue
			}
			select {
			case err := <-d.done:
				if err != nil {
					return err
				}
			case <-gctx.Done():
				return gctx.Err()
			}
			if err := writeSegment(w, d); err != nil {
				return err
			}
			segments++
			records += d.seg.Records
			size += d.seg.Size
			bar.Set(size)
		}
		return nil
	})
	err = g.Wait()
	_ = loading.Wait() // each download's error went to whoever waited for it
	if err != nil {
		return err
	}
	bar.Close()
	for _, group := range state.Groups() {
		if err := w.WriteRaw(group.Frame); err != nil {
			return err
		}
	}
	for _, other := range state.Others() {
		if err := w.WriteRaw(other); err != nil {
			return err
		}
	}
	if err := w.Close(&format.End{Records: records, Segments: segments, Interrupted: stopped}); err != nil {
		return err
	}
	env.Log.Info(fmt.Sprintf("read %s, %s, from %s", command.Count(segments, "segment"), humanize.IBytes(uint64(size)), st.Name()),
		slog.Duration("in", time.Since(began).Round(time.Millisecond)))
	switch {
	case stopped:
		return command.Stopped("the stream was ended properly, but it is not the whole backup")
	case holes:
		return command.WithStatus(command.Loss, errors.New("done, but the backup has holes"))
	}
	return nil
}

// interleave yields what to write: of each partition a mark where it begins, its
// segments in order and a mark where it ends, the partitions taking turns so that
// a producer has work for all of them.
func interleave(plans []commitlog.Plan) func(yield func(*download) bool) {
	return func(yield func(*download) bool) {
		for turn, left := 0, true; left; turn++ {
			left = false
			for i := range plans {
				p := &plans[i]
				if turn == 0 && !yield(&download{mark: mark(p, p.From)}) {
					return
				}
				if turn < len(p.Segments) {
					left = true
					if !yield(&download{seg: &p.Segments[turn], done: make(chan error, 1)}) {
						return
					}
				}
				if turn == max(len(p.Segments)-1, 0) && !yield(&download{mark: mark(p, p.Next)}) {
					return
				}
			}
		}
	}
}

func mark(p *commitlog.Plan, next int64) *format.Mark {
	return &format.Mark{Topic: p.Topic, Partition: p.Partition, Next: next, MarkInfo: format.MarkInfo{TopicID: p.TopicID}}
}

func writeSegment(w *format.Writer, d *download) error {
	s := d.seg
	sum, err := hex.DecodeString(s.SHA256)
	if err != nil {
		return fmt.Errorf("%s: sha256: %w", s.Path, err)
	}
	m := &format.Segment{
		Topic: s.Topic, TopicID: s.TopicID, Partition: s.Partition, From: s.From, Next: s.Next, First: s.First, Last: s.Last,
		Records: s.Records, MinTimestamp: s.MinTimestamp, MaxTimestamp: s.MaxTimestamp,
		Codec: s.Codec, Cipher: s.Cipher, RawSize: s.RawSize, Size: s.Size, SHA256: sum, Filters: s.Filters,
	}
	if s.DropBelow > s.From {
		m.DropBelow = s.DropBelow
	}
	return w.WriteSegment(m, d.data)
}
