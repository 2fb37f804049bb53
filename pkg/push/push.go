// Package push stores a stream of segments in a backup, on any rclone remote.
package push

import (
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/urfave/cli/v2"
	"golang.org/x/sync/errgroup"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/commitlog"
	"github.com/kbkio/kbk/pkg/store"
)

// Config says where to store the segments, and how.
type Config struct {
	Remote     string
	Transfers  int           // uploads at once
	Checkpoint time.Duration // a log entry at least so often, while there is something to log
	MaxFrame   int64         // bytes of the largest frame accepted
}

// App is the command kbk-push.
func App() *cli.App {
	return command.App(command.Spec{
		Name:    "kbk-push",
		Usage:   "store a stream of segments in a backup",
		Args:    "REMOTE",
		MaxArgs: 1,
		Description: `Uploads the segments on standard input to a backup: a local folder, or REMOTE:PATH as
rclone knows it. What is stored counts once the backup's log says so; run the same line
again to go on after a failure. A JSON line per log entry goes to standard output, unless
that is a terminal.

   kbk-fetch -b localhost:9092 -t orders | kbk-pack | kbk-push s3:bucket/nightly`,
		Flags: []cli.Flag{
			&cli.IntFlag{Name: "transfers", Value: 4, Usage: "upload `N` segments at once"},
			&cli.DurationFlag{Name: "checkpoint", Value: 30 * time.Second, Usage: "write a log entry every `TIME`"},
			&cli.StringFlag{Name: "receipts", Usage: "write a JSON line per log entry to `FILE`"},
			command.MaxFrameFlag(),
		},
		Action: action,
	})
}

func action(ctx context.Context, c *cli.Context, env *command.Env) error {
	cfg := Config{
		Remote:     c.Args().First(),
		Transfers:  c.Int("transfers"),
		Checkpoint: c.Duration("checkpoint"),
		MaxFrame:   command.SizeOf(c, "max-frame"),
	}
	switch {
	case cfg.Remote == "":
		return command.WithHint(command.Usagef("no remote"), "say where the backup is: a folder, or REMOTE:PATH as rclone knows it")
	case cfg.Transfers < 1:
		return command.Usagef("--transfers %d is below 1", cfg.Transfers)
	case cfg.Checkpoint <= 0:
		return command.Usagef("--checkpoint %s is not above 0", cfg.Checkpoint)
	}
	in, err := command.Stdin()
	if err != nil {
		return err
	}
	receipts, err := command.ByProduct(c.String("receipts"))
	if err != nil {
		return err
	}
	err = Run(ctx, cfg, env, in, receipts)
	return errors.Join(err, receipts.Close())
}

type key struct {
	topic, id string
	partition int32
}

// A pusher follows the stream. Only its committer touches the log.
type pusher struct {
	cfg      Config
	store    *store.Store
	log      *slog.Logger
	state    *commitlog.State // as it was at the start
	receipts io.Writer

	source   commitlog.Source
	ids      map[string]string // the current topic id of each topic
	position map[key]int64     // of this stream: what is scanned
	sending  *errgroup.Group   // uploads, at most cfg.Transfers at once
	current  *checkpoint
	commits  chan *checkpoint

	entries                   []committed // in order; the committer's
	segments, skipped, stored int64
}

// A checkpoint is a log entry in the making, and the uploads that must be done
// before it may be written.
type checkpoint struct {
	entry   commitlog.Entry
	began   time.Time
	marks   map[key]*commitlog.Mark
	uploads []chan error
}

type committed struct {
	entry *commitlog.Entry
	sha   string
}

// A Receipt is what is printed for a log entry that was written.
type Receipt struct {
	Entry      string     `json:"entry"`
	SHA256     string     `json:"sha256"`
	Segments   int        `json:"segments"`
	Partitions []Position `json:"partitions"` // that the entry takes further
	Final      bool       `json:"final"`
}

// A Position is how far a partition is stored.
type Position struct {
	Topic     string `json:"topic"`
	TopicID   string `json:"topic_id,omitempty"`
	Partition int32  `json:"partition"`
	Next      int64  `json:"next"` // every offset below it that the run has read is safe
}

// Run stores the segments that it reads from in, and writes a [Receipt] for each log
// entry to receipts.
func Run(ctx context.Context, cfg Config, env *command.Env, in io.Reader, receipts io.Writer) (err error) {
	began := time.Now()
	g, ctx := errgroup.WithContext(ctx)
	r := format.NewReader(command.Interruptible(ctx, in), int(cfg.MaxFrame))
	h, err := r.Header()
	if err != nil {
		return command.Input(err)
	}
	if h.Content != format.ContentSegments {
		return command.WithHint(command.Usagef("standard input is a stream of records, not of segments"), "put kbk-pack before this command")
	}
	if h.Window != nil {
		// The segments hold more than was asked for, and the log cannot say so.
		return command.WithHint(command.Usagef("standard input is a window of a backup, in whole segments"), "cut them to it with kbk-pack -d, and pack what is left again")
	}
	st, err := store.Open(ctx, cfg.Remote)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	state, err := st.LoadLog(ctx)
	if store.IsDamage(err) {
		return command.WithStatus(command.Corrupt, err)
	}
	if err != nil {
		return err
	}
	p := &pusher{
		cfg: cfg, store: st, log: env.Log, state: state, receipts: receipts,
		ids: make(map[string]string), position: make(map[key]int64),
		sending: new(errgroup.Group), commits: make(chan *checkpoint, 1),
	}
	p.sending.SetLimit(cfg.Transfers)
	if h.Source != nil {
		p.source = commitlog.Source{ClusterID: h.Source.Cluster, Tool: h.Source.Tool, Isolation: h.Source.Isolation}
	}
	frames := make(chan frame)
	var end *format.End
	g.Go(func() error { return read(ctx, r, frames) })
	g.Go(func() (err error) {
		defer close(p.commits)
		end, err = p.follow(ctx, frames)
		return err
	})
	g.Go(func() error { return p.commit(ctx) })
	err = g.Wait()
	_ = p.sending.Wait() // each upload's error went to its checkpoint
	if err != nil {
		return p.explain(err)
	}
	for _, c := range p.entries {
		if err := state.Add(c.entry, c.sha); err != nil {
			return err
		}
	}
	if err := st.WriteManifest(ctx, state.Manifest()); err != nil {
		return command.WithHint(err, "the backup itself is whole: the manifest is only a summary, and the next run writes it again")
	}
	there := ""
	if p.skipped > 0 {
		there = fmt.Sprintf("; %s there already", command.Count(p.skipped, "segment"))
	}
	env.Log.Info(fmt.Sprintf("stored %s, %s, in %s%s", command.Count(p.segments, "segment"), humanize.IBytes(uint64(p.stored)), st.Name(), there),
		slog.Duration("in", time.Since(began).Round(time.Millisecond)))
	switch {
	case end.Interrupted:
		return command.Stopped("what the source had read is stored; run the same line again to go on")
	case end.Lost:
		env.Log.Warn("the source had lost records before they were read; the log says which")
	}
	return nil
}

// explain says of a failure what it left behind.
func (p *pusher) explain(err error) error {
	if n := len(p.entries); n > 0 {
		p.log.Warn(fmt.Sprintf("not finished; the %d log entries written until now are valid, and the same line goes on from there", n))
	}
	return err
}

// A frame is one that was read and belongs to whoever has it.
type frame struct {
	kind format.Kind
	raw  []byte
}

func read(ctx context.Context, r *format.Reader, frames chan<- frame) error {
	defer close(frames)
	for {
		f, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return command.Input(err)
		}
		select {
		case frames <- frame{f.Kind, r.Own()}:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// follow takes the stream apart until its end, with a checkpoint now and then.
func (p *pusher) follow(ctx context.Context, frames <-chan frame) (*format.End, error) {
	tick := time.NewTicker(p.cfg.Checkpoint)
	defer tick.Stop()
	p.begin()
	for {
		select {
		case f, ok := <-frames:
			if !ok {
				return nil, ctx.Err() // the reader says why
			}
			if f.kind == format.KindEnd {
				end, err := format.DecodeEnd(f.raw)
				if err != nil {
					return nil, command.Input(err)
				}
				p.current.entry.Final, p.current.entry.Interrupted = true, end.Interrupted
				return end, p.checkpoint(ctx)
			}
			if err := p.frame(ctx, f); err != nil {
				return nil, err
			}
		case <-tick.C:
			if e := &p.current.entry; len(e.Segments)+len(p.current.marks)+len(e.Points) > 0 {
				if err := p.checkpoint(ctx); err != nil {
					return nil, err
				}
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (p *pusher) begin() {
	p.current = &checkpoint{began: time.Now(), marks: make(map[key]*commitlog.Mark)}
}

// checkpoint hands the current entry to the committer.
func (p *pusher) checkpoint(ctx context.Context) error {
	c := p.current
	for _, m := range c.marks {
		c.entry.Marks = append(c.entry.Marks, *m)
	}
	slices.SortStableFunc(c.entry.Marks, commitlog.CompareMarks)
	p.begin()
	select {
	case p.commits <- c:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *pusher) frame(ctx context.Context, f frame) error {
	e := &p.current.entry
	switch f.kind {
	case format.KindSeg:
		return p.segment(ctx, f.raw)
	case format.KindMark:
		m, err := format.DecodeMark(f.raw)
		if err != nil {
			return command.Input(err)
		}
		p.mark(m)
	case format.KindTopic:
		t, err := format.DecodeTopic(f.raw)
		if err != nil {
			return command.Input(err)
		}
		p.ids[t.Name] = t.ID
		e.Topics = append(e.Topics, commitlog.Topic{
			Name: t.Name, ID: t.ID, Partitions: t.Partitions, ReplicationFactor: t.ReplicationFactor, Configs: t.Configs, Frame: f.raw,
		})
	case format.KindGroup:
		g, err := format.DecodeGroup(f.raw)
		if err != nil {
			return command.Input(err)
		}
		offsets := make(map[string]map[int32]commitlog.GroupOffset)
		for topic, parts := range g.Offsets {
			offsets[topic] = make(map[int32]commitlog.GroupOffset)
			for n, o := range parts {
				offsets[topic][n] = commitlog.GroupOffset{Offset: o.Offset, LeaderEpoch: o.LeaderEpoch, Metadata: o.Metadata}
			}
		}
		e.Groups = append(e.Groups, commitlog.Group{ID: g.ID, Offsets: offsets, Frame: f.raw})
	case format.KindPoint:
		t, err := format.DecodePoint(f.raw)
		if err != nil {
			return command.Input(err)
		}
		e.Points = append(e.Points, commitlog.Point{Time: t.Time, Frame: f.raw})
	case format.KindRec:
		return command.WithStatus(command.Corrupt, errors.New("standard input: a record in a stream of segments"))
	default:
		e.Others = append(e.Others, f.raw)
	}
	return nil
}

// mark notes that a partition was scanned up to an offset.
func (p *pusher) mark(m *format.Mark) {
	id := m.TopicID
	if id == "" {
		id = p.ids[m.Topic]
	}
	k := key{m.Topic, id, m.Partition}
	from, known := p.position[k]
	if !known || m.Begins || from > m.Next {
		from = m.Next
	}
	if p.position[k] = max(p.position[k], m.Next); m.Begins {
		p.position[k] = m.Next
	}
	had := p.current.marks[k]
	if had != nil && m.Begins {
		p.current.entry.Marks = append(p.current.entry.Marks, *had)
		had = nil
	}
	if had == nil {
		had = &commitlog.Mark{Topic: m.Topic, TopicID: id, Partition: m.Partition, From: from, Next: m.Next}
		p.current.marks[k] = had
	}
	had.Next = max(had.Next, m.Next)
	had.LeaderEpoch, had.LogStart, had.End = m.LeaderEpoch, m.LogStart, m.End
	had.Lost = append(had.Lost, m.Lost...)
}

// segment uploads a segment, unless the backup has its offsets already.
func (p *pusher) segment(ctx context.Context, raw []byte) error {
	m, data, err := format.DecodeSegment(raw)
	if err != nil {
		return command.Input(err)
	}
	k := key{m.Topic, m.TopicID, m.Partition}
	if at, known := p.position[k]; !known || at < m.Next {
		p.position[k] = m.Next
	}
	if p.state.Covered(m.Topic, m.TopicID, m.Partition, m.From, m.Next) {
		p.skipped++
		return nil
	}
	s := commitlog.Segment{
		Topic: m.Topic, TopicID: m.TopicID, Partition: m.Partition, From: m.From, Next: m.Next, First: m.First, Last: m.Last,
		Records: m.Records, MinTimestamp: m.MinTimestamp, MaxTimestamp: m.MaxTimestamp,
		Codec: m.Codec, Cipher: m.Cipher, RawSize: m.RawSize, Size: m.Size, SHA256: hex.EncodeToString(m.SHA256), Filters: m.Filters,
	}
	if int64(len(data)) != m.Size {
		return command.WithStatus(command.Corrupt, fmt.Errorf("standard input: segment of %s/%d of %d bytes, not %d", m.Topic, m.Partition, len(data), m.Size))
	}
	if s.Path, err = commitlog.SegmentPath(&s); err != nil {
		return command.WithStatus(command.Corrupt, command.Input(err))
	}
	done := make(chan error, 1)
	p.sending.Go(func() error { // waits while enough are on their way
		done <- p.store.PutSegment(ctx, s.Path, data, s.SHA256)
		return nil
	})
	p.current.uploads = append(p.current.uploads, done)
	p.current.entry.Segments = append(p.current.entry.Segments, s)
	p.segments++
	p.stored += s.Size
	return nil
}

// commit writes the entries of checkpoints, each when its uploads are done.
func (p *pusher) commit(ctx context.Context) error {
	run := commitlog.NewRun()
	for c := range p.commits {
		for _, done := range c.uploads {
			select {
			case err := <-done:
				if err != nil {
					return err
				}
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		e := &c.entry
		e.Tool, e.Source = "kbk-push "+command.Version(), p.source
		run.Stamp(e, p.state.After(time.Now()))
		sha, err := p.store.AppendEntry(ctx, e)
		if err != nil {
			return err
		}
		run.Advance(sha)
		p.entries = append(p.entries, committed{e, sha})
		if err := p.receipt(c, sha); err != nil {
			return err
		}
	}
	return nil
}

func (p *pusher) receipt(c *checkpoint, sha string) error {
	next := make(map[key]int64)
	for _, m := range c.entry.Marks {
		k := key{m.Topic, m.TopicID, m.Partition}
		next[k] = max(next[k], m.Next)
	}
	for _, s := range c.entry.Segments {
		k := key{s.Topic, s.TopicID, s.Partition}
		next[k] = max(next[k], s.Next)
	}
	r := Receipt{Entry: c.entry.ID, SHA256: sha, Segments: len(c.entry.Segments), Final: c.entry.Final, Partitions: []Position{}}
	for k, n := range next {
		r.Partitions = append(r.Partitions, Position{k.topic, k.id, k.partition, n})
	}
	slices.SortFunc(r.Partitions, func(a, b Position) int {
		return cmp.Or(strings.Compare(a.Topic, b.Topic), strings.Compare(a.TopicID, b.TopicID), cmp.Compare(a.Partition, b.Partition))
	})
	line, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("write receipt: %w", err)
	}
	if _, err := p.receipts.Write(append(line, '\n')); err != nil {
		return command.WithHint(fmt.Errorf("write receipt: %w", err), "the log entry itself is written")
	}
	return nil
}
