// Package filter picks, changes and shows records of a stream.
package filter

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sync/errgroup"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/metrics"
	"github.com/kbkio/kbk/pkg/metrics/prom"
	"github.com/kbkio/kbk/pkg/ordered"
	"github.com/kbkio/kbk/pkg/statusline"
)

// Config says which records to pass on, and what to do with them. Its fields are made
// of flags: see App.
type Config struct {
	where  []routing
	times  times
	slow   []deep
	invert bool
	head   int64 // -1: all
	change *change
	print  *printer // nil: write a stream
	parse  bool     // read JSON lines and not a stream
	count  bool     // write nothing but how many there are
	digest string   // of all that may drop or change records

	MaxFrame int64 // bytes of the largest frame accepted
}

// App is the command kbk-filter.
func App() *cli.App {
	return command.App(command.Spec{
		Name:  "kbk-filter",
		Usage: "pick, change and show records of a stream",
		Description: `Reads a stream of records, passes on those for which every condition holds, changed as
asked, and all other frames. Of batches it reads the records, unless the flags only say of
which topics, partitions and offsets, or give them others: then whole batches pass. With --to json it writes a line of JSON for each frame, for
jq and everything else that reads lines, and with --from json it reads them back.

   kbk-fetch -b localhost:9092 -t users | kbk-filter --mask value.email=redact | kbk-pack | kbk-push s3:bucket/masked
   kbk-pull s3:bucket/nightly | kbk-pack -d | kbk-filter --key '^42$' --to json | jq .payload`,
		Flags: slices.Concat(pickFlags(), changeFlags(), []cli.Flag{
			&cli.BoolFlag{Name: "count", Aliases: []string{"c"}, Usage: "print only how many records there are"},
			&cli.StringFlag{Name: "to", Usage: "write `WHAT`: json for one line per frame, raw for one value per line", DefaultText: "a stream"},
			&cli.StringFlag{Name: "from", Usage: "read `WHAT`: json, as --to json writes it", DefaultText: "a stream"},
			&cli.BoolFlag{Name: "pretty", Usage: "with --to json: for people to read: records only, JSON in keys and values unfolded"},
			&cli.StringFlag{Name: "format", Aliases: []string{"f"}, Usage: "write each record as `TEXT`, in which %t %p %o %T %k %s %h and others stand for its parts, as in kcat"},
			command.MaxFrameFlag(),
		}),
		Groups: []command.FlagGroup{
			{Name: "Which records", Flags: []string{"topic", "not-topic", "partition", "not-partition", "offset", "not-offset", "since", "until", "key", "not-key", "value", "not-value", "header", "not-header", "tombstones", "no-tombstones", "sample", "seed", "invert", "head"}},
			{Name: "Changes", Flags: []string{"mask", "mask-must-hit", "mask-key", "jq", "on-error", "schema-id-map", "key-schema-id-map", "set-topic", "set-partition"}},
			{Name: "Lines and counts", Flags: []string{"count", "to", "from", "pretty", "format"}},
		},
		Action:  action,
		Metrics: prom.Open,
	})
}

func action(ctx context.Context, c *cli.Context, env *command.Env) error {
	cfg, err := configure(c)
	if err != nil {
		return err
	}
	in, err := command.Stdin()
	if err != nil {
		return err
	}
	if cfg.count || cfg.print != nil {
		return Run(ctx, cfg, env, in, command.Text())
	}
	out, err := command.Stdout()
	if err != nil {
		return err
	}
	return command.WhileRead(ctx, out, func(ctx context.Context) error { return Run(ctx, cfg, env, in, out) })
}

// configure reads the flags.
func configure(c *cli.Context) (cfg Config, err error) {
	cfg = Config{head: -1, invert: c.Bool("invert"), count: c.Bool("count"), MaxFrame: command.SizeOf(c, "max-frame")}
	now := time.Now()
	if err := conditions(c, now, &cfg); err != nil {
		return cfg, err
	}
	if cfg.invert && !cfg.conditional() {
		return cfg, command.Usagef("--invert leaves nothing without another condition")
	}
	if c.IsSet("head") {
		if cfg.head = c.Int64("head"); cfg.head < 0 {
			return cfg, command.Usagef("--head %d is below 0", cfg.head)
		}
	}
	if cfg.change, err = changes(c); err != nil {
		return cfg, err
	}
	if cfg.print, err = printing(c); err != nil {
		return cfg, err
	}
	switch c.String("from") {
	case "":
	case "json":
		cfg.parse = true
	default:
		return cfg, command.Usagef("--from %q is not json", c.String("from"))
	}
	if cfg.alters() {
		if cfg.digest, err = digest(c, cfg.change, now); err != nil {
			return cfg, err
		}
	}
	return cfg, nil
}

// conditional tells whether records are picked by what they are.
func (cfg *Config) conditional() bool {
	return len(cfg.where)+len(cfg.slow) > 0 || cfg.times != always
}

// alters tells whether what comes out may not be what came in.
func (cfg *Config) alters() bool { return cfg.conditional() || cfg.head >= 0 || cfg.change != nil }

// total is what is true of total, the input's, behind the filter. Conditions that do not look
// into records may leave out whole partitions, marks and all.
func (cfg *Config) total(total *format.Total) *format.Total {
	switch {
	case total == nil || !cfg.alters():
		return total
	case len(cfg.where) > 0 || cfg.head >= 0 || cfg.change.moves():
		return nil
	}
	return &format.Total{Offsets: total.Offsets}
}

// A filter is one run.
type filter struct {
	cfg    Config
	source source
	out    sink
	queue  *ordered.Queue // nil where all is done on one core
	block  *block
	blocks sync.Pool
	order  *order // nil where nothing can have disturbed it

	batches  bool      // the input may have batches
	whole    bool      // which may pass as they are
	decoders sync.Pool // of batches

	alone *task // inline's
	count *metrics.Counters

	seen, passed   atomic.Int64
	withoutCluster atomic.Bool // there was a snapshot of a cluster, and it is left out
}

// A source is where frames come from: a stream, or lines of JSON.
type source interface {
	Header() (*format.Header, error)
	Next() (*format.Frame, error)
}

// Run filters the stream in to out. It reads in to its end, also behind the last record
// that it passes on: only then is it known that the stream is whole.
func Run(ctx context.Context, cfg Config, env *command.Env, in io.Reader, out io.Writer) error {
	began, count := time.Now(), &env.Counters
	g, ctx := errgroup.WithContext(ctx)
	f := &filter{cfg: cfg, count: count, blocks: sync.Pool{New: func() any { return new(block) }}}
	paused := &pausing{r: command.Interruptible(ctx, count.Input.Reader(in, &count.BytesIn)), before: func() error { return f.pause(ctx) }}
	if cfg.parse {
		f.source = newLines(paused, cfg.MaxFrame)
	} else {
		f.source = format.NewReader(paused, int(cfg.MaxFrame))
	}
	var display *command.Display
	if cfg.print == nil { // else the terminal is for the lines
		display = env.NewDisplay(out, statusline.Plan{Flow: []statusline.Size{{Of: statusline.In, Name: "read"}}, Input: "the input", Output: "the output"})
	}
	defer display.Close()
	display.Doing("waiting for the input to begin")
	display.Kept(func() string { return command.NoEnd })
	h, err := f.source.Header()
	if err != nil {
		return command.Input(err)
	}
	display.Doing("")
	if err := command.Takes(h, "standard input", format.ContentRecords, format.ContentBatches); err != nil {
		return err
	}
	f.batches, f.whole = h.Content == format.ContentBatches, f.cfg.passesBatches()
	if !f.whole {
		h.Content = format.ContentRecords
	}
	if cfg.alters() {
		h.Filters = append(h.Filters, env.Name+":"+cfg.digest)
	}
	h.Total = cfg.total(h.Total)
	if cfg.change != nil {
		cfg.change.failed.tell = func(what string) { env.Log.Warn(what) }
	}
	if cfg.change.moves() && !cfg.count && cfg.print == nil {
		f.order = newOrder()
	}
	switch {
	case cfg.count:
		f.out = nothing{}
	case cfg.print != nil:
		f.out = &lines{w: bufio.NewWriterSize(count.Output.Writer(out, &count.BytesOut), ordered.ChunkSize), printer: cfg.print}
	default:
		f.out = &stream{command.NewWriterTo(count.Output.Writer(out, &count.BytesOut), out)}
	}
	if err := f.out.header(h); err != nil {
		return err
	}
	// Several cores pay where records are looked into, and keep their order; the first
	// records are only known on one.
	deep := len(cfg.slow) > 0 || cfg.invert || cfg.change != nil || cfg.print != nil || f.batches && !f.whole
	if deep && cfg.head < 0 {
		f.queue = ordered.NewQueue(queued, queued)
		f.block = f.newBlock()
	}
	count.Ready()
	end := new(format.End)
	if f.queue == nil {
		if end, err = f.inline(); err != nil {
			return err
		}
	} else {
		g.Go(func() (err error) {
			defer f.queue.Close()
			end, err = f.parallel(ctx)
			return err
		})
		f.queue.Start(ctx, g, func(b []byte) error { return errors.Join(f.out.raw(b), f.out.flush()) })
		if err := g.Wait(); err != nil {
			return err
		}
	}
	passed := f.passed.Load()
	said := f.outcome(f.seen.Load(), passed)
	end.Records, end.Segments = passed, 0
	for _, line := range said.losses {
		end.Lose(line)
	}
	if err := f.out.close(end); err != nil {
		return err
	}
	if cfg.count {
		if _, err := fmt.Fprintln(out, passed); err != nil {
			return err
		}
	}
	for _, line := range said.warn {
		env.Log.Warn(line)
	}
	if f.withoutCluster.Load() {
		env.Log.Warn("the snapshot of the cluster is left out: it has names and configs that no condition and no mask looks at")
	}
	for i, line := range said.info {
		if i > 0 {
			env.Log.Info(line)
		} else {
			env.Log.Info(line, slog.Duration("in", time.Since(began).Round(time.Millisecond)))
		}
	}
	const stopped = "what the source had read is passed on"
	if cfg.count || cfg.print != nil { // there may be nobody behind who would say what was lost
		return command.EndStatus(end, stopped)
	}
	return command.EndStatusThrough(out, end, stopped)
}

// queued is how many bytes of frames wait for a core, and how many for the writer.
const queued = 32 << 20

// pause is called before a read: nothing that can be written is held back while the
// input may pause.
func (f *filter) pause(ctx context.Context) error {
	switch {
	case f.out == nil: // the header is being read
		return nil
	case f.queue != nil:
		return f.hand(ctx)
	}
	f.alone.tell()
	return f.out.flush()
}

// pausing calls before in front of each read.
type pausing struct {
	r      io.Reader
	before func() error
}

// Read implements io.Reader.
func (p *pausing) Read(b []byte) (int, error) {
	if err := p.before(); err != nil {
		return 0, err
	}
	return p.r.Read(b)
}

// picked tells whether a record is to be passed on, as far as the scan tells.
func (f *filter) picked(frame *format.Frame) bool {
	return f.cfg.invert || f.scanned(frame.Topic, frame.Partition, frame.Offset, frame.Timestamp)
}

// scanned tells whether the conditions on what the scan has found hold.
func (f *filter) scanned(topic string, partition int32, offset, timestamp int64) bool {
	return f.cfg.times.holds(timestamp) && f.cfg.placed(span{topic, partition, offset, offset}) == all
}

// inline filters on one core. Without conditions on what is in a record it does not
// look there.
func (f *filter) inline() (*format.End, error) {
	t := f.newTask(nil)
	f.alone = t
	defer t.tally()
	for {
		frame, err := f.source.Next()
		if err != nil {
			return nil, command.Input(err)
		}
		switch {
		case frame.Kind == format.KindEnd:
			end, err := format.DecodeEnd(frame.Raw)
			return end, err
		case frame.Kind == format.KindRec && t.plain():
			t.seen++
			if !f.picked(frame) || t.rest == 0 {
				continue
			}
			t.rest = max(t.rest-1, -1)
			t.passed++
			err = f.out.raw(frame.Raw)
		default:
			if err = t.frame(frame); err == nil {
				err = t.flush()
			}
		}
		if err != nil {
			return nil, err
		}
	}
}

// ordered wants the passages to be in the order that a stream has.
func (f *filter) ordered(all []passage) error {
	if err := f.order.take(all); err != nil {
		return command.WithHint(err, "a stream has each offset of a partition once, and in ascending order: see kbk-filter(1), ORDER")
	}
	return nil
}

// A task looks at records on one core, and gathers what is to be written of them.
type task struct {
	*filter
	worker *worker
	to     *ordered.Output // nil where it is the only one
	rec    format.Record
	batch  format.Batch
	buf    []byte
	moved  []passage // of what is in buf, where the order is watched
	seen   int64
	passed int64
	told   int64 // of them, to the counters
	rest   int64 // of --head; below 0: no bound
}

// newTask returns a task that writes to an output, or to the filter's where that is nil.
func (f *filter) newTask(to *ordered.Output) *task {
	t := &task{filter: f, worker: f.cfg.change.worker(), to: to, rest: f.cfg.head}
	if to != nil {
		t.buf = to.Buffer()
	}
	return t
}

// flush writes what the task has gathered.
func (t *task) flush() error {
	if t.to != nil {
		err := t.last()
		t.buf = t.to.Buffer()
		return err
	}
	if t.order != nil {
		if err := t.ordered(t.moved); err != nil {
			return err
		}
		t.moved = t.moved[:0]
	}
	err := t.out.raw(t.buf)
	t.buf = t.buf[:0]
	return err
}

// last hands on what the task has gathered; it gathers no more.
func (t *task) last() error {
	if moved := t.moved; t.order != nil {
		t.moved = nil
		t.to.Then(func() error { return t.ordered(moved) })
	}
	return t.to.Emit(t.buf)
}

// spill writes what the task has gathered once that is large enough.
func (t *task) spill() error {
	if len(t.buf) < ordered.ChunkSize {
		return nil
	}
	return t.flush()
}

// tell counts what the task has passed on since it was last called.
func (t *task) tell() {
	if t == nil {
		return
	}
	t.count.Records.Add(t.passed - t.told)
	t.told = t.passed
}

// tally adds what the task has counted to the counts of the run.
func (t *task) tally() {
	t.filter.seen.Add(t.seen)
	t.filter.passed.Add(t.passed)
	t.tell()
	t.worker.tally()
}

// frame appends what is to be written of a frame to t.buf.
func (t *task) frame(frame *format.Frame) error {
	switch {
	case frame.Kind == format.KindRec && (!t.picked(frame) || t.rest == 0):
		t.seen++
		return nil
	case frame.Kind == format.KindRec:
		return t.look(frame)
	case frame.Kind == format.KindBatch && t.batches:
		return t.fromBatch(frame)
	case frame.Kind == format.KindBatch || frame.Kind == format.KindSeg:
		return command.WithStatus(command.Corrupt, fmt.Errorf("standard input: a %s frame in a stream of records", frame.Name))
	}
	return t.other(frame)
}

// look appends what is to be written of a rec frame that was picked, as far as the scan
// tells, to t.buf.
func (t *task) look(frame *format.Frame) error {
	t.seen++
	if err := frame.Record(&t.rec); err != nil {
		return command.Input(err)
	}
	return t.record(frame)
}

// other appends what is to be written of a frame that has no records to t.buf.
func (t *task) other(frame *format.Frame) error {
	if t.cfg.count {
		return nil
	}
	if frame.Kind.OfCluster() && t.cfg.alters() {
		t.withoutCluster.Store(true)
		return nil
	}
	b, err := t.cfg.change.other(frame)
	if err != nil {
		return command.Input(err)
	}
	if len(b) == 0 { // it is left out
		return nil
	}
	changed := *frame
	changed.Raw = b
	if t.order != nil {
		p, moves, err := passageOf(&changed)
		if err != nil {
			return command.Input(err)
		}
		if moves {
			t.moved = append(t.moved, p)
		}
	}
	if t.cfg.print == nil {
		t.buf = append(t.buf, b...)
		return nil
	}
	t.buf, err = t.cfg.print.other(t.buf, &changed)
	return err
}

// plain tells whether records pass as they are, without a look into them.
func (t *task) plain() bool {
	return len(t.cfg.slow) == 0 && !t.cfg.invert && t.cfg.change == nil && t.cfg.print == nil
}

// record appends what is to be written of t.rec to t.buf. frame is its own, or nil where it
// is one of a batch.
func (t *task) record(frame *format.Frame) error {
	holds := !t.cfg.invert || t.scanned(t.rec.Topic, t.rec.Partition, t.rec.Offset, t.rec.Timestamp) // otherwise it was asked before
	for i := 0; holds && i < len(t.cfg.slow); i++ {
		holds = t.cfg.slow[i](&t.rec)
	}
	if holds == t.cfg.invert {
		return nil
	}
	if t.cfg.change == nil {
		return t.give(frame, &t.rec)
	}
	return t.worker.apply(&t.rec, func(r *format.Record) error { return t.give(frame, r) })
}

// give writes a record, as it was or as it has become.
func (t *task) give(frame *format.Frame, r *format.Record) (err error) {
	if t.rest == 0 {
		return nil
	}
	t.rest = max(t.rest-1, -1)
	t.passed++
	if t.order != nil {
		t.moved = append(t.moved, passage{place: place{r.Topic, r.Partition}, offset: r.Offset, last: r.Offset})
	}
	switch {
	case t.cfg.count:
	case t.cfg.print != nil:
		t.buf, err = t.cfg.print.record(t.buf, frame, r)
	case t.cfg.change == nil && frame != nil:
		t.buf = append(t.buf, frame.Raw...)
	default:
		t.buf = frameOf(t.buf, frame, r)
	}
	return errors.Join(err, t.spill())
}

// frameOf appends the frame of a record to b, with all that is in the one that it came from.
func frameOf(b []byte, frame *format.Frame, r *format.Record) []byte {
	if frame == nil {
		return format.AppendRecord(b, r)
	}
	return frame.Rewrite(b, r)
}

// A block is frames on their way to a core: a copy of them, as they lie in the stream.
type block struct {
	bytes  []byte
	frames []format.Frame
	ends   []int // where each ends in bytes
}

const blockSize = 256 << 10

func (f *filter) newBlock() *block {
	b := f.blocks.Get().(*block)
	b.bytes, b.frames, b.ends = b.bytes[:0], b.frames[:0], b.ends[:0]
	return b
}

// parallel hands blocks of frames to the queue.
func (f *filter) parallel(ctx context.Context) (*format.End, error) {
	missed := int64(0) // records that no core has to look at
	defer func() { f.seen.Add(missed) }()
	for {
		frame, err := f.source.Next()
		if err != nil {
			return nil, command.Input(err)
		}
		if frame.Kind == format.KindEnd {
			end, err := format.DecodeEnd(frame.Raw)
			return end, errors.Join(err, f.hand(ctx))
		}
		if frame.Kind == format.KindRec && !f.picked(frame) {
			missed++
			continue
		}
		b := f.block
		b.bytes = append(b.bytes, frame.Raw...)
		b.frames = append(b.frames, *frame)
		b.ends = append(b.ends, len(b.bytes))
		if len(b.bytes) >= blockSize {
			if err := f.hand(ctx); err != nil {
				return nil, err
			}
		}
	}
}

// hand hands the block on that is being gathered.
func (f *filter) hand(ctx context.Context) error {
	b := f.block
	if len(b.frames) == 0 {
		return nil
	}
	f.block = f.newBlock()
	return f.queue.Put(ctx, int64(len(b.bytes)), func(_ context.Context, out *ordered.Output) error {
		defer f.blocks.Put(b)
		t := f.newTask(out)
		at := 0
		for i := range b.frames {
			frame := &b.frames[i]
			frame.Raw, at = b.bytes[at:b.ends[i]:b.ends[i]], b.ends[i]
			var err error
			if frame.Kind == format.KindRec {
				err = t.look(frame)
			} else if err = frame.Scan(frame.Raw); err != nil { // its name was in the reader's memory
				err = command.Input(err)
			} else {
				err = t.frame(frame)
			}
			if err == nil {
				err = t.spill()
			}
			if err != nil {
				return err
			}
		}
		t.tally()
		return t.last()
	})
}
