// Package fetch reads topics of a Kafka cluster into a stream of records.
package fetch

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/urfave/cli/v2"
	"golang.org/x/sync/errgroup"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/cursor"
	"github.com/kbkio/kbk/pkg/kafka"
)

// Config says what to read.
type Config struct {
	Kafka       kafka.Config
	Topics      []string       // names, or regular expressions that begin with ^
	From        *cursor.Cursor // where to begin; nil: at the beginning
	Concurrency int            // partitions read at once
	Timeout     time.Duration  // how long a partition may make no progress
}

// App is the command kbk-fetch.
func App() *cli.App {
	return command.App(command.Spec{
		Name:  "kbk-fetch",
		Usage: "read topics of a Kafka cluster as a stream of records",
		Description: `Reads the selected topics from their beginning, or from --from, to the end offsets
seen at the start, writes them to standard output and stops. Only committed records
are read: the end is the last stable offset.

   kbk-fetch -b localhost:9092 -t orders -t '^audit\.' | kbk-pack | kbk-push /var/backups/nightly`,
		Flags: append(kafka.Flags(),
			&cli.StringSliceFlag{Name: "topic", Aliases: []string{"t"}, Usage: "read `TOPIC`: a name, or a regular expression that begins with ^; repeatable"},
			&cli.StringFlag{Name: "from", Usage: "begin where the cursor `FILE` says (- is standard input); default: the beginning"},
			&cli.IntFlag{Name: "concurrency", Value: 64, Usage: "read `N` partitions at once"},
			&cli.DurationFlag{Name: "timeout", Value: 2 * time.Minute, Usage: "give up when a partition makes no progress for this long"},
		),
		Action: action,
	})
}

func action(ctx context.Context, c *cli.Context, env *command.Env) error {
	cfg := Config{Topics: c.StringSlice("topic"), Concurrency: c.Int("concurrency"), Timeout: c.Duration("timeout")}
	var err error
	if cfg.Kafka, err = kafka.FromFlags(c); err != nil {
		return err
	}
	if len(cfg.Topics) == 0 {
		return command.WithHint(command.Usagef("no topics"), "give -t NAME, or -t '^' for all")
	}
	if cfg.Concurrency < 1 {
		return command.Usagef("--concurrency %d is below 1", cfg.Concurrency)
	}
	if cfg.Timeout <= 0 {
		return command.Usagef("--timeout %s is not above 0", cfg.Timeout)
	}
	if from := c.String("from"); from != "" {
		if cfg.From, err = readCursor(from); err != nil {
			return command.WithStatus(command.Usage, fmt.Errorf("--from %s: %w", from, err))
		}
	}
	out, err := command.Stdout()
	if err != nil {
		return err
	}
	return Run(ctx, cfg, env, out)
}

func readCursor(name string) (*cursor.Cursor, error) {
	if name == "-" {
		return cursor.Read(os.Stdin)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return cursor.Read(f)
}

// Run reads what cfg says and writes the stream to out. It returns an error of
// status [command.Interrupted] where env.Stop ended it early, and of status
// [command.Loss] where records had been deleted before they could be read; in
// both cases the stream is whole. After any other error it has no end frame.
func Run(ctx context.Context, cfg Config, env *command.Env, out io.Writer) error {
	began := time.Now()
	cl, err := kafka.NewClient(ctx, cfg.Kafka)
	if err != nil {
		return err
	}
	defer cl.Close()
	p, err := makePlan(ctx, kadm.NewClient(cl), cfg, env.Log)
	if err != nil {
		return err
	}
	w := format.NewWriter(out)
	err = w.WriteHeader(&format.Header{
		ID:      runID(),
		Created: began.UnixMilli(),
		Content: format.ContentRecords,
		Source:  &format.Source{Cluster: p.cluster, Tool: "kbk-fetch " + command.Version(), Isolation: "read_committed"},
	})
	if err != nil {
		return err
	}
	for i := range p.topics {
		if err := w.Write(&p.topics[i]); err != nil {
			return err
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	e := newEncoder()
	s := newSource(cl, cfg, env, p.parts, e)
	bar := env.NewProgress("reading", p.offsets(), false)
	defer bar.Close()
	s.progress = bar.Set
	g.Go(func() error {
		defer e.Close()
		return s.run(gctx)
	})
	e.Start(gctx, g, w.WriteRaw)
	if err := g.Wait(); err != nil {
		return err
	}
	bar.Close()
	if !s.stopped {
		if err := w.Write(&format.Point{Time: p.time.UnixMilli()}); err != nil {
			return err
		}
	}
	if err := w.Close(&format.End{Records: e.records.Load(), Interrupted: s.stopped, Lost: p.lost || s.lost}); err != nil {
		return err
	}
	env.Log.Info(fmt.Sprintf("read %s records of %d topics", humanize.Comma(e.records.Load()), len(p.topics)),
		slog.Duration("in", time.Since(began).Round(time.Millisecond)))
	switch {
	case s.stopped:
		return command.Stopped("the stream was ended properly, and what was read is whole")
	case p.lost || s.lost:
		return command.WithStatus(command.Loss, fmt.Errorf("done, but records had been deleted before they were read"))
	}
	return nil
}

// runID names one run of a source.
func runID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // crypto/rand.Read never fails
	return hex.EncodeToString(b[:])
}
