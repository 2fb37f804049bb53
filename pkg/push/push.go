// Package push stores a stream of segments in a backup, on any rclone remote.
package push

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/urfave/cli/v2"
	"golang.org/x/sync/errgroup"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/commitlog"
	"github.com/kbkio/kbk/pkg/heartbeat"
	"github.com/kbkio/kbk/pkg/metrics"
	"github.com/kbkio/kbk/pkg/metrics/prom"
	"github.com/kbkio/kbk/pkg/receipt"
	"github.com/kbkio/kbk/pkg/segment"
	"github.com/kbkio/kbk/pkg/sign"
	"github.com/kbkio/kbk/pkg/statusline"
	"github.com/kbkio/kbk/pkg/store"
)

// Config says where to store the segments, and how.
type Config struct {
	Remote             string
	Transfers          int           // uploads at once
	Checkpoint         time.Duration // a log entry at least so often, while there is something to log
	CheckpointSegments int           // and after so many segments
	Verify             store.Verify
	MaxRate            int64         // bytes a second; 0: as fast as can be
	RetryFor           time.Duration // how long an upload is tried that may succeed yet
	Key                *sign.Key     // signs the log entries; nil: nobody does
	Signers            sign.Signers  // whose entries count; nil: everybody's
	CompactAfter       int           // compact the log when it has so many entries; 0: never
	NoManifest         bool          // for stores where nothing can be overwritten
	MaxFrame           int64         // bytes of the largest frame accepted

	holdMemory bool // of the process, to what its segments take
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
		Flags: append([]cli.Flag{
			&cli.IntFlag{Name: "transfers", Value: 4, Usage: "upload `N` segments at once"},
			&cli.DurationFlag{Name: "checkpoint", Value: 30 * time.Second, Usage: "write a log entry every `TIME`"},
			&cli.IntFlag{Name: "checkpoint-segments", Value: 1000, Usage: "write a log entry after `N` segments, too"},
			&cli.StringFlag{Name: "verify", Value: string(store.VerifyAuto), Usage: "`HOW` to verify uploads: auto, reread or size"},
			command.MaxRateFlag("sent"),
			&cli.DurationFlag{Name: "retry-for", Value: store.DefaultRetryFor, Usage: "give up when the store has failed for `TIME`"},
			&cli.IntFlag{Name: "compact-after", Value: 500, Usage: "fold the log into a snapshot when it has `N` entries; 0: never", DefaultText: "500; 0 with --no-manifest"},
			&cli.BoolFlag{Name: "no-manifest", Usage: "write no manifest.json, for stores where nothing can be overwritten"},
			&cli.StringFlag{Name: "receipts", Usage: "write a JSON line for each log entry to `FILE`"},
			command.MaxFrameFlag(),
			sign.SignersFlag(),
			heartbeat.Flag(),
		}, sign.Flags()...),
		Groups: []command.FlagGroup{
			{Name: "Storing", Flags: []string{"transfers", "verify", "retry-for", "receipts"}},
			{Name: "The log", Flags: []string{"checkpoint", "checkpoint-segments", "compact-after", "no-manifest"}},
			{Name: "Signatures", Flags: []string{"sign", "sign-passphrase-file", "allowed-signers"}},
		},
		Action:  action,
		Values:  map[string]command.Completer{"verify": command.OneOf("auto", "reread", "size")},
		Metrics: prom.Open,
	})
}

func action(ctx context.Context, c *cli.Context, env *command.Env) error {
	cfg := Config{
		Remote:             c.Args().First(),
		Transfers:          c.Int("transfers"),
		Checkpoint:         c.Duration("checkpoint"),
		CheckpointSegments: c.Int("checkpoint-segments"),
		Verify:             store.Verify(c.String("verify")),
		MaxRate:            command.MaxRate(c),
		RetryFor:           c.Duration("retry-for"),
		NoManifest:         c.Bool("no-manifest"),
		CompactAfter:       c.Int("compact-after"),
		MaxFrame:           command.SizeOf(c, "max-frame"),
	}
	switch {
	case cfg.Remote == "":
		return command.WithHint(command.Usagef("no remote"), "say where the backup is: a folder, or REMOTE:PATH as rclone knows it")
	case cfg.Transfers < 1:
		return command.Usagef("--transfers %d is below 1", cfg.Transfers)
	case cfg.Checkpoint <= 0:
		return command.Usagef("--checkpoint %s is not above 0", cfg.Checkpoint)
	case cfg.CheckpointSegments < 1:
		return command.Usagef("--checkpoint-segments %d is below 1", cfg.CheckpointSegments)
	case cfg.CompactAfter < 0:
		return command.Usagef("--compact-after %d is below 0", cfg.CompactAfter)
	case cfg.NoManifest && cfg.CompactAfter > 0 && c.IsSet("compact-after"):
		return command.WithHint(command.Usagef("--no-manifest and --compact-after exclude one another"), "compacting deletes what it has folded")
	case cfg.RetryFor <= 0:
		return command.Usagef("--retry-for %s is not above 0", cfg.RetryFor)
	case cfg.Verify != store.VerifyAuto && cfg.Verify != store.VerifyReread && cfg.Verify != store.VerifySize:
		return command.Usagef("--verify %q is neither auto, reread nor size", cfg.Verify)
	}
	if cfg.NoManifest {
		cfg.CompactAfter = 0
	}
	key, err := sign.FromFlags(c)
	if err != nil {
		return err
	}
	if cfg.Signers, err = sign.SignersFromFlags(c); err != nil {
		return err
	}
	if key != nil {
		defer key.Close()
		env.Log.Debug("signing with " + key.Fingerprint())
		cfg.Key = key
	}
	beats, err := heartbeat.Start(ctx, c, env)
	if err != nil {
		return err
	}
	defer beats.Close()
	in, err := command.Stdin()
	if err != nil {
		return err
	}
	if os.Getenv("GOGC") == "" && os.Getenv("GOMEMLIMIT") == "" {
		debug.SetGCPercent(gcPercent)
		cfg.holdMemory = true
	}
	receipts, err := command.ByProduct(c.String("receipts"))
	if err != nil {
		return err
	}
	err = Run(ctx, cfg, env, in, receipts)
	return errors.Join(err, receipts.Close())
}

// The command takes the memory of its segments and not much more: the garbage collector
// runs when so much has come on top of what is in use, which is some large buffers and
// costs it nothing to look at; and above the segments there is as much as rclone takes,
// and one segment for a buffer that grows.
const (
	gcPercent = 20 // % of what is in use
	ownMemory = 64 << 20
)

// pointLinger is how long the entry of a restore point waits for the stream's end,
// which is in that entry too if it comes at once: most runs need only one.
const pointLinger = 100 * time.Millisecond

type key struct {
	topic, id string
	partition int32
}

// A pusher follows the stream. Only its committer touches the log.
type pusher struct {
	cfg      Config
	store    *store.Store
	log      *slog.Logger
	count    *metrics.Counters
	mu       sync.Mutex       // for state
	state    *commitlog.State // of the backup as it was at the start, and what this run has committed
	receipts io.Writer

	source   commitlog.Source
	filters  []string          // of the whole stream; never nil
	order    segment.Order     // of the segments and marks in the stream
	ids      map[string]string // the current topic id of each topic
	position map[key]int64     // of this stream: what is scanned
	parts    map[string]bool   // paths of segments of which the stream has only parts
	branched map[key]int64     // where a branch began that the log may not know of yet
	sending  *errgroup.Group   // uploads, at most cfg.Transfers at once
	current  *checkpoint
	lists    []commitlog.GroupList // those that the group frames that come belong to
	listed   bool                  // the first of these has come
	atPoint  *time.Timer           // ends the entry of a restore point
	commits  chan *checkpoint
	failed   chan error    // the first upload that did
	room     chan struct{} // filled by segments in memory: those on their way, and one that is read
	freed    chan []byte   // the memory of segments that are stored

	appender                  *appender                  // the committer's
	partitions                map[key]*metrics.Partition // likewise
	compactor                 *compactor
	segments, skipped, stored int64
	snapshots                 int64 // of clusters
	foreign                   int64 // restore points of which the stream has nothing
	lacking                   lacking
	copiedBefore              map[string]copiedPoint // by the point's id
	deletions                 deletions
}

// A checkpoint is a log entry in the making, and the uploads that must be done
// before it may be written.
type checkpoint struct {
	entry   commitlog.Entry
	point   bool  // it ends with a restore point
	moments int64 // bytes of points that come from another backup
	marks   map[key]*commitlog.Mark
	uploads []chan error
	// How far each partition is stored when the entry is, segments that the backup
	// had before included.
	reached map[key]int64
}

// logOptions are how the log is read: without the segments one by one, and without what is damaged.
func (cfg *Config) logOptions() store.LogOptions {
	return store.LogOptions{Keep: func(string, int32) bool { return false }, SkipDamaged: true, Signed: cfg.Signers.Check()}
}

// Run stores the segments that it reads from in, and writes a [receipt.Receipt] for each log
// entry to receipts.
func Run(ctx context.Context, cfg Config, env *command.Env, in io.Reader, receipts io.Writer) (err error) {
	began, whole := time.Now(), ctx
	g, ctx := errgroup.WithContext(whole)
	count := &env.Counters
	r := format.NewReader(command.Interruptible(ctx, count.Input.Reader(in, &count.BytesIn)), int(cfg.MaxFrame))
	display := env.NewDisplay(nil, statusline.Plan{
		Flow:  []statusline.Size{{Of: statusline.Raw, Name: "read"}, {Of: statusline.Packed, Name: "packed"}, {Of: statusline.Stored, Name: "stored"}},
		Input: "the input", Output: "the store",
	})
	defer display.Close()
	display.Doing("waiting for the input to begin")
	h, err := r.Header()
	if err != nil {
		return command.WithKept(command.Input(err), "nothing was committed")
	}
	display.Expect(h)
	if err := command.Takes(h, "standard input", format.ContentSegments); err != nil {
		return err
	}
	display.Doing("opening " + store.DisplayName(cfg.Remote))
	if h.Window != nil {
		// The segments hold more than was asked for, and the log cannot say so.
		return command.WithHint(command.Usagef("standard input is a window of a backup, in whole segments"), "cut them to it with kbk-pack -d, and pack what is left again")
	}
	opts := store.Options{Log: env.Log, RetryFor: cfg.RetryFor, Verify: cfg.Verify, MaxRate: cfg.MaxRate, Counters: count}
	if cfg.Key != nil {
		opts.Sign = cfg.Key.Sign
	}
	st, err := store.OpenWith(ctx, cfg.Remote, opts)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	// What is covered is enough. What is damaged counts for nothing, and is stored again.
	backup, err := st.ReadLog(ctx, cfg.logOptions())
	if err != nil {
		return err
	}
	backup.Warn(env.Log)
	if backup.Entries() == 0 {
		if has, err := st.HasSegments(ctx); err != nil {
			return err
		} else if has {
			env.Log.Warn(st.Name() + ": " + store.LogLost)
		}
	}
	count.Ready()
	state := backup.State
	p := &pusher{
		cfg: cfg, store: st, log: env.Log, count: count, state: state, receipts: receipts,
		filters: append([]string{}, h.Filters...),
		ids:     make(map[string]string), position: make(map[key]int64), branched: make(map[key]int64), parts: make(map[string]bool),
		sending: new(errgroup.Group), commits: make(chan *checkpoint, 1), failed: make(chan error, 1),
		room: make(chan struct{}, cfg.Transfers+1), freed: make(chan []byte, cfg.Transfers+1),
		appender:  &appender{store: st, run: commitlog.NewRun(), began: backup, manifest: !cfg.NoManifest},
		compactor: newCompactor(cfg, st, backup, env.Log), partitions: make(map[key]*metrics.Partition),
		lacking: make(lacking), copiedBefore: make(map[string]copiedPoint), deletions: newDeletions(time.UnixMilli(h.Created)),
	}
	p.sending.SetLimit(cfg.Transfers)
	if h.Source != nil {
		p.source = commitlog.Source{ClusterID: h.Source.Cluster, Tool: h.Source.Tool, Isolation: h.Source.Isolation, Group: h.Source.Group}
	}
	display.Doing("")
	display.Kept(func() string {
		return p.left() + "; what was on its way is not, and the same line reads it again"
	})
	frames := make(chan frame)
	var end *format.End
	g.Go(func() error { return p.read(ctx, r, frames) })
	g.Go(func() (err error) {
		defer close(p.commits)
		end, err = p.follow(ctx, frames)
		return err
	})
	committing := make(chan struct{})
	g.Go(func() error {
		defer close(committing)
		return p.commit(ctx)
	})
	g.Go(func() error {
		// An upload that failed may be a checkpoint away from being missed.
		select {
		case err := <-p.failed:
			return err
		case <-committing:
			return nil
		}
	})
	err = g.Wait()
	_ = p.sending.Wait() // each upload's error went to its checkpoint
	count.Output.End()
	p.deletions.warn(env.Log) // in any case: the next run goes on where this one has ended
	if err != nil {
		return p.explain(err)
	}
	if !cfg.NoManifest {
		display.Doing("writing the manifest")
		if err := st.WriteManifest(whole, state.Manifest()); err != nil {
			return command.WithHint(err, "the backup itself is complete, the manifest is only a summary; where nothing can be overwritten use --no-manifest")
		}
	}
	if err := p.lookBack(whole); err != nil {
		return err
	}
	there := ""
	if p.snapshots > 0 {
		there = ", with " + command.Count(p.snapshots, "snapshot") + " of the cluster"
	}
	if p.skipped > 0 {
		there += fmt.Sprintf("; %s already stored", command.Count(p.skipped, "segment"))
	}
	if p.foreign > 0 {
		env.Log.Warn(command.Count(p.foreign, "restore point") + " of the backup that this is a copy of include nothing that was copied")
	}
	env.Log.Info(fmt.Sprintf("stored %s, %s, in %s%s", command.Count(p.segments, "segment"), humanize.IBytes(uint64(p.stored)), st.Name(), there),
		slog.Duration("in", time.Since(began).Round(time.Millisecond)))
	err = command.EndStatus(end, "what the source had read is stored; run the same line again to go on")
	if err == nil && len(backup.Damage) > 0 {
		err = command.WithHint(command.WithStatus(command.Loss, fmt.Errorf("done, but %s of the log could not be read and are ignored", command.Count(int64(len(backup.Damage)), "file"))),
			"kbk-catalog repair tells what can be done")
	}
	if lacks := p.lacking.err(); err == nil {
		err = lacks
	} else if lacks != nil {
		env.Log.Warn(lacks.Error())
	}
	return err
}

// A storeError is a failure of the store, and not of the input.
type storeError struct{ error }

func (e storeError) Unwrap() error { return e.error }

// explain says of a failure what it left behind, and how to go on.
func (p *pusher) explain(err error) error {
	left := p.left()
	if _, ok := errors.AsType[storeError](err); ok {
		return command.WithHint(err, left+"; fix the cause, then run the same line again to continue")
	}
	if p.count.Snapshot().Commits > 0 {
		left += ", and the same line continues from there"
	}
	return command.WithKept(err, left)
}

// left is what a run that is not finished leaves behind.
func (p *pusher) left() string {
	c := p.count.Snapshot()
	if c.Commits == 0 {
		return "nothing was committed"
	}
	return fmt.Sprintf("what was committed until now, %s in %s, stays valid", command.Count(c.Committed, "record"), entries(c.Commits))
}

func entries(n int64) string {
	if n == 1 {
		return "1 log entry"
	}
	return humanize.Comma(n) + " log entries"
}

// A frame is one that was read and belongs to whoever has it.
type frame struct {
	kind format.Kind
	raw  []byte
}

// read reads frames, into buffers that come back through freed. It begins with a frame
// when there is room for it, for it may be a segment.
func (p *pusher) read(ctx context.Context, r *format.Reader, frames chan<- frame) error {
	defer close(frames)
	largest := int64(0)
	for {
		if err := p.awaitRoom(ctx); err != nil {
			return err
		}
		select {
		case b := <-p.freed:
			r.Reuse(b)
		default:
		}
		f, err := r.Next()
		if err == io.EOF {
			p.count.Output.Begin() // all that is left to do
			return nil
		}
		if err != nil {
			return command.Input(err)
		}
		segment := f.Kind == format.KindSeg || f.Kind == format.KindSnapshot
		if n := int64(len(f.Raw)); p.cfg.holdMemory && segment && n > largest {
			largest = n
			debug.SetMemoryLimit(ownMemory + int64(p.cfg.Transfers+2)*n)
		}
		select {
		case frames <- frame{f.Kind, r.Own()}:
		case <-ctx.Done():
			return ctx.Err()
		}
		if !segment { // its room is free when it is stored
			<-p.room
		}
	}
}

// awaitRoom waits until there is room for one more segment.
func (p *pusher) awaitRoom(ctx context.Context) error {
	select {
	case p.room <- struct{}{}:
		return nil
	default:
	}
	p.count.Output.Begin()
	defer p.count.Output.End()
	select {
	case p.room <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// follow takes the stream apart until its end, with a checkpoint now and then.
func (p *pusher) follow(ctx context.Context, frames <-chan frame) (*format.End, error) {
	tick := time.NewTicker(p.cfg.Checkpoint)
	defer tick.Stop()
	p.atPoint = time.NewTimer(pointLinger)
	p.atPoint.Stop()
	p.begin()
	for {
		select {
		case f, ok := <-frames:
			if !ok {
				return nil, ctx.Err() // the reader says why
			}
			// A restore point is a boundary between entries: all that it covers is in its
			// own or in one before, and nothing that comes later is.
			if p.current.point && f.kind != format.KindEnd {
				if err := p.checkpoint(ctx); err != nil {
					return nil, err
				}
			}
			if f.kind == format.KindEnd {
				end, err := format.DecodeEnd(f.raw)
				if err != nil {
					return nil, command.Input(err)
				}
				p.current.entry.Final, p.current.entry.Interrupted, p.current.entry.Losses = true, end.Interrupted, losses(end)
				return end, p.checkpoint(ctx)
			}
			if err := p.frame(ctx, f); err != nil {
				return nil, err
			}
		case <-p.atPoint.C:
			if p.current.point {
				if err := p.checkpoint(ctx); err != nil {
					return nil, err
				}
			}
		case <-tick.C:
			if e := &p.current.entry; len(e.Segments)+len(p.current.marks)+len(e.Points)+len(e.ClusterSnapshots) > 0 {
				if err := p.checkpoint(ctx); err != nil {
					return nil, err
				}
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// losses are what the log says of a stream that lost something.
func losses(end *format.End) []string {
	if end.Lost && len(end.Losses) == 0 { // an older writer's
		return []string{"records were lost before they could be read; the marks say which"}
	}
	return end.Losses
}

func (p *pusher) begin() {
	p.current = &checkpoint{marks: make(map[key]*commitlog.Mark), reached: make(map[key]int64)}
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
	case format.KindSnapshot:
		return p.snapshot(ctx, f.raw)
	case format.KindMark:
		m, err := format.DecodeMark(f.raw)
		if err == nil {
			err = p.order.Mark(m)
		}
		if err != nil {
			return command.Input(err)
		}
		return p.mark(ctx, m)
	case format.KindTopic:
		t, err := format.DecodeTopic(f.raw)
		if err != nil {
			return command.Input(err)
		}
		p.order.Topic(t)
		p.ids[t.Name] = t.ID
		about := commitlog.TopicOf(t, f.raw)
		p.deletions.topic(about)
		e.Topics = append(e.Topics, *about)
	case format.KindGroup:
		g, err := commitlog.GroupOf(f.raw)
		if err != nil {
			return command.Input(err)
		}
		if len(e.GroupLists) == 0 { // the entry with them has ended, and each has to tell by itself
			e.GroupLists = slices.Clone(p.lists)
		}
		e.Groups = append(e.Groups, g)
		p.listed = true
	case format.KindGroups:
		l, err := commitlog.GroupListOf(f.raw)
		if err != nil {
			return command.Input(err)
		}
		if p.listed {
			p.lists, p.listed = nil, false
		}
		if len(e.Groups) > 0 { // an entry's lists are of all its groups
			if err := p.checkpoint(ctx); err != nil {
				return err
			}
			e = &p.current.entry
		}
		p.lists = append(p.lists, l)
		e.GroupLists = append(e.GroupLists, l)
	case format.KindPoint:
		t, err := format.DecodePoint(f.raw)
		if err != nil {
			return command.Input(err)
		}
		e.Points = append(e.Points, commitlog.Point{Time: t.Time, Frame: f.raw, Without: t.Without})
		p.current.point = true
		p.atPoint.Reset(pointLinger)
	case format.KindMoment:
		return p.moment(ctx, f.raw)
	case format.KindRec, format.KindBatch:
		return command.WithStatus(command.Corrupt, errors.New("standard input: a record outside of the segments"))
	default:
		if f.kind.OfCluster() { // it may be confidential, and the log is not encrypted
			return command.WithStatus(command.Corrupt, errors.New("standard input: a frame of a snapshot of a cluster outside of one that is packed"))
		}
		e.Others = append(e.Others, f.raw)
	}
	return nil
}

// begins notes that the stream begins to speak of a partition at an offset.
func (p *pusher) begins(k key, at int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if next, ok := p.state.Next(k.topic, k.id, k.partition); !ok || next != at || at == 0 {
		return
	}
	if run, known := p.state.LastRun(k.topic, k.id, k.partition); known {
		p.deletions.read[k] = commitlog.TimeOf(run.Entry)
	}
}

// mark notes that a partition was scanned up to an offset.
func (p *pusher) mark(ctx context.Context, m *format.Mark) error {
	id := m.TopicID
	if id == "" {
		id = p.ids[m.Topic]
	}
	k := key{m.Topic, id, m.Partition}
	if e := &p.current.entry; m.Branch && len(e.Segments)+len(e.Marks)+len(p.current.marks) > 0 {
		// A branch counts before all else that its entry has of the partition.
		if err := p.checkpoint(ctx); err != nil {
			return err
		}
	}
	from, known := p.position[k]
	if !known {
		p.begins(k, m.Next)
	}
	if known && m.Next > from {
		p.count.Offsets.Add(m.Next - from)
	}
	if !known || m.Begins || from > m.Next {
		from = m.Next
	}
	if p.position[k] = max(p.position[k], m.Next); m.Begins {
		p.position[k] = m.Next
	}
	if m.Branch {
		p.branched[k] = m.Next
	}
	p.current.reached[k] = p.position[k]
	next := &commitlog.Mark{
		Topic: m.Topic, TopicID: id, Partition: m.Partition, From: from, Next: m.Next, LeaderEpoch: m.LeaderEpoch, LogStart: m.LogStart, End: m.End,
		Lost: m.Lost, Filters: m.Filters, Open: m.Open, Branch: m.Branch, Deleted: m.Deleted,
	}
	if had := p.current.marks[k]; had != nil {
		next = p.current.join(had, next, m.Begins)
	}
	p.current.marks[k] = next
	return nil
}

// join puts a partition's next mark behind the one before, in one where they touch. What
// lies between them is in segments, or is not spoken of.
func (c *checkpoint) join(had, next *commitlog.Mark, begins bool) *commitlog.Mark {
	if next.LogStart == nil {
		next.LogStart = had.LogStart
	}
	switch {
	case !begins && next.From == had.Next && slices.Equal(had.Filters, next.Filters):
		next.From, next.Branch = had.From, had.Branch
		next.Lost = slices.Concat(had.Lost, next.Lost)
		if next.LeaderEpoch == nil {
			next.LeaderEpoch = had.LeaderEpoch
		}
		if next.Open == nil {
			next.Open = had.Open
		}
		next.Deleted = next.Deleted || had.Deleted
	case had.From == had.Next && len(had.Lost) == 0 && !had.Branch: // it says nothing that next does not say
	default:
		c.entry.Marks = append(c.entry.Marks, *had)
	}
	return next
}

// segment uploads a segment, unless the backup has its offsets already.
func (p *pusher) segment(ctx context.Context, raw []byte) error {
	m, data, err := format.DecodeSegment(raw)
	if err == nil {
		err = p.order.Segment(m)
	}
	if err != nil {
		return command.Input(err)
	}
	k := key{m.Topic, m.TopicID, m.Partition}
	next := m.Next
	if m.DropFrom > 0 { // of what lies behind other segments or marks speak
		next = min(next, m.DropFrom)
	}
	at, known := p.position[k]
	if !known {
		at = m.From
		p.begins(k, at)
	}
	if !known || at < next {
		p.position[k] = next
		p.count.Offsets.Add(next - at)
	}
	p.count.Taken.Add(m.Records)
	p.current.reached[k] = p.position[k]
	s, err := commitlog.SegmentOf(m, p.appender.run.Name())
	if err != nil {
		return command.WithStatus(command.Corrupt, command.Input(err))
	}
	p.mu.Lock()
	covered := p.state.Covered(m.Topic, m.TopicID, m.Partition, m.From, m.Next, m.Filters)
	p.mu.Unlock()
	if at, branched := p.branched[k]; branched && m.Next > at { // what is covered is what was there before
		covered = false
	}
	if m.DropBelow > 0 || m.DropFrom > 0 { // of one of which a part is wanted the stream may have another part, too
		covered = covered || p.parts[s.Path]
		p.parts[s.Path] = true
	}
	p.upload(raw, func() error { return p.put(ctx, m, data, s, covered) })
	if covered {
		p.skipped++
		p.count.SegmentsThere.Add(1)
		p.count.There.Add(s.Records)
		return nil
	}
	p.deletions.segment(k, m)
	p.current.entry.Segments = append(p.current.entry.Segments, s)
	p.segments++
	p.stored += s.Size
	if len(p.current.entry.Segments) >= p.cfg.CheckpointSegments {
		return p.checkpoint(ctx)
	}
	return nil
}

// upload lets put store what is in raw, and makes the current checkpoint wait for it.
func (p *pusher) upload(raw []byte, put func() error) {
	done := make(chan error, 1)
	p.count.Pending.Add(1)
	p.sending.Go(func() error { // waits while enough are on their way
		err := put()
		p.count.Pending.Add(-1)
		if err != nil {
			select {
			case p.failed <- err:
			default: // another was first
			}
		}
		select {
		case p.freed <- raw:
		default: // there are enough
		}
		<-p.room
		done <- err
		return nil
	})
	p.current.uploads = append(p.current.uploads, done)
}

// put uploads a segment that is not covered, and checks every one: the log only learns what
// it is told.
func (p *pusher) put(ctx context.Context, m *format.Segment, data []byte, s commitlog.Segment, covered bool) error {
	began, there := time.Now(), covered || int64(len(data)) != m.Size
	err := p.putOrCheck(ctx, s.Path, data, s.SHA256.String(), there, func() error { return segment.Check(m, data) })
	if err == nil && !there {
		p.uploaded(&s, time.Since(began))
	}
	return err
}

// putOrCheck uploads data, unless it is there already. The upload compares the data with sum. If it
// is there, or if the sums differ, check looks at the data and says what is wrong with it.
func (p *pusher) putOrCheck(ctx context.Context, path string, data []byte, sum string, there bool, check func() error) error {
	var err error
	if !there {
		if err = p.store.PutSegment(ctx, path, data, sum); err == nil {
			return nil
		}
		if !errors.Is(err, store.ErrSum) {
			return storeError{err}
		}
	}
	if err = cmp.Or(check(), err); err != nil {
		err = command.Input(err)
	}
	return err
}

// uploaded counts a segment that is stored.
func (p *pusher) uploaded(s *commitlog.Segment, took time.Duration) {
	p.count.Uploads.Add(took)
	p.count.Segments.Add(1)
	p.count.Records.Add(s.Records)
	p.count.BytesRaw.Add(s.RawSize)
	p.count.BytesPacked.Add(s.Size)
}

// commit writes the entries of checkpoints, each when its uploads are done.
func (p *pusher) commit(ctx context.Context) error {
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
		sha, err := p.append(ctx, e)
		if err != nil {
			return err
		}
		for k, next := range c.reached {
			p.shown(k).Commit(next)
		}
		if err := p.receipt(c, sha); err != nil {
			return err
		}
		joins, err := p.appender.joins(ctx, e.Final)
		if err != nil {
			return storeError{err}
		}
		if len(joins) > 0 {
			if _, err := p.append(ctx, &commitlog.Entry{Joins: joins, Final: e.Final, Interrupted: e.Interrupted}); err != nil {
				return err
			}
		}
	}
	return nil
}

// shown is where others see how far a partition is committed; nil where nobody looks.
func (p *pusher) shown(k key) *metrics.Partition {
	one, ok := p.partitions[k]
	if !ok {
		one = p.count.Partitions.Open(k.topic, k.partition)
		p.partitions[k] = one
	}
	return one
}

// append writes an entry, and makes it part of the state.
func (p *pusher) append(ctx context.Context, e *commitlog.Entry) (sha string, err error) {
	e.Tool, e.Source, e.Filters = "kbk-push "+command.Version(), p.source, p.filters
	sha, err = p.appender.append(ctx, e, p.state.After(time.Now())) // nobody else changes state
	if err != nil {
		return "", storeError{err}
	}
	p.mu.Lock()
	err = p.state.Add(e, sha)
	p.mu.Unlock()
	for i := range e.Segments {
		p.count.Committed.Add(e.Segments[i].Records)
	}
	p.count.Commit()
	for i := range e.Points {
		p.count.Point(e.Points[i].Time)
	}
	if err == nil {
		p.compactor.entry(ctx)
	}
	return sha, err
}

func (p *pusher) receipt(c *checkpoint, sha string) error {
	r := receipt.Receipt{Entry: c.entry.ID, SHA256: sha, Segments: len(c.entry.Segments), Final: c.entry.Final, Partitions: []receipt.Position{}}
	for k, next := range c.reached {
		r.Partitions = append(r.Partitions, receipt.Position{Topic: k.topic, TopicID: k.id, Partition: k.partition, Next: next})
	}
	slices.SortFunc(r.Partitions, func(a, b receipt.Position) int {
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
