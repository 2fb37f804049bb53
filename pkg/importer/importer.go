// Package importer reads backups of other tools as a stream of records. The tools' formats
// are in the packages below pkg/foreign.
package importer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/foreign"
	"github.com/kbkio/kbk/pkg/metrics"
	"github.com/kbkio/kbk/pkg/partitions"
	"github.com/kbkio/kbk/pkg/statusline"
)

// Config says what to read.
type Config struct {
	Format      foreign.Format
	Tree        *foreign.Tree
	Selection   partitions.Selection
	Internal    bool  // Kafka's own topics too
	From, To    int64 // offsets [From, To) of each partition; To 0: to the end
	Since       *time.Time
	Until       *time.Time
	Transfers   int  // files read at once
	SkipDamaged bool // go on behind damage
	Strict      bool // what the tool may have changed is a loss
}

// window is what of a partition is wanted.
func (c *Config) window() *format.Window {
	if c.Since == nil && c.Until == nil {
		return nil
	}
	w := new(format.Window)
	if c.Since != nil {
		ms := c.Since.UnixMilli()
		w.Since = &ms
	}
	if c.Until != nil {
		ms := c.Until.UnixMilli()
		w.Until = &ms
	}
	return w
}

// An importing is one run.
type importing struct {
	cfg     Config
	log     *slog.Logger
	stop    <-chan struct{}
	backup  *foreign.Backup
	matcher *partitions.Matcher
	count   *metrics.Counters
	counted int64 // of told.records, in count
	w       *format.Writer
	end     format.End
	told    tally
	parts   map[partition]*progress
	mixed   map[string]*format.Topic // topics of a mixed backup that are to be written, or nil
}

type partition struct {
	topic  string
	number int32
}

// Run writes the stream. It returns an error of status [command.Loss] where the backup
// lacks something, and of [command.Interrupted] where env.Stop ended it early; in both
// cases the stream is whole.
func Run(ctx context.Context, cfg Config, env *command.Env, out io.Writer) error {
	began := time.Now()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	m := &importing{cfg: cfg, log: env.Log, stop: env.Stop, count: &env.Counters, w: command.NewWriterTo(env.Counters.Output.Writer(out, &env.Counters.BytesOut), out), parts: make(map[partition]*progress), mixed: make(map[string]*format.Topic)}
	m.cfg.Tree = counting(cfg.Tree, &m.count.BytesIn)
	display := env.NewDisplay(out, statusline.Plan{Flow: []statusline.Size{{Of: statusline.Out, Name: "written"}}, Output: "the output"})
	defer display.Close()
	display.Kept(func() string { return command.NoEnd })
	var err error
	if m.backup, err = cfg.Format.List(ctx, m.cfg.Tree); err != nil {
		return corrupt(err)
	}
	if m.matcher, err = cfg.Selection.Compile(); err != nil {
		return command.WithStatus(command.Usage, err)
	}
	m.told.caveats = make([]int64, len(m.backup.Caveats))
	if err := m.w.WriteHeader(&format.Header{
		Created: began.UnixMilli(), Content: format.ContentRecords, Window: cfg.window(),
		Source: &format.Source{Tool: m.backup.Tool},
	}); err != nil {
		return err
	}
	m.count.Ready()
	if len(m.backup.Mixed) > 0 {
		err = m.readMixed(ctx)
	} else {
		err = m.readPartitions(ctx)
	}
	if err != nil {
		return corrupt(err)
	}
	if err := m.matcher.Missing(); err != nil && !m.end.Interrupted {
		return err
	}
	if err := m.writeGroups(); err != nil {
		return err
	}
	m.sayWhatIsMissing()
	m.tell()
	m.end.Records = m.told.records
	if err := m.w.Close(&m.end); err != nil {
		return err
	}
	m.log.Info(fmt.Sprintf("read %s of %s from a backup of %s", command.Count(m.told.records, "record"), command.Count(int64(len(m.parts)), "partition"), m.backup.Tool),
		slog.Duration("in", time.Since(began).Round(time.Millisecond)))
	return command.EndStatus(&m.end, "the stream was ended properly, but it is not the whole backup")
}

// tellNowAndThen counts the records, so often that it is seen how they become more.
func (m *importing) tellNowAndThen() {
	if m.told.records%1024 == 0 {
		m.tell()
	}
}

func (m *importing) tell() {
	m.count.Records.Add(m.told.records - m.counted)
	m.counted = m.told.records
}

// counting opens the files of a tree so that what is read of them is counted in n.
func counting(t *foreign.Tree, n *atomic.Int64) *foreign.Tree {
	counted := *t
	counted.Open = func(ctx context.Context, path string) (io.ReadCloser, error) {
		r, err := t.Open(ctx, path)
		if err != nil {
			return nil, err
		}
		return &countingReader{r, n}, nil
	}
	return &counted
}

type countingReader struct {
	io.ReadCloser
	n *atomic.Int64
}

// Read implements io.Reader.
func (r *countingReader) Read(b []byte) (int, error) {
	n, err := r.ReadCloser.Read(b)
	r.n.Add(int64(n))
	return n, err
}

// corrupt gives errors of damage their status.
func corrupt(err error) error {
	if errors.Is(err, foreign.ErrDamaged) {
		return command.WithHint(command.WithStatus(command.Corrupt, err), "--skip-damaged continues after it")
	}
	return err
}

// wants tells whether a partition is selected.
func (m *importing) wants(p partition) bool {
	if strings.HasPrefix(p.topic, "__") && !m.cfg.Internal {
		return false
	}
	return m.matcher.Matches(p.topic, p.number)
}

// readPartitions reads a backup whose files are of one partition each.
func (m *importing) readPartitions(ctx context.Context) error {
	var wanted []*foreign.Partition
	topics := make(map[string]bool)
	var files []*foreign.File
	for i := range m.backup.Partitions {
		p := &m.backup.Partitions[i]
		if !m.wants(partition{p.Topic, p.Number}) {
			continue
		}
		wanted = append(wanted, p)
		topics[p.Topic] = true
		for j := range p.Files {
			files = append(files, &p.Files[j])
		}
	}
	for i := range m.backup.Topics {
		t := &m.backup.Topics[i]
		if topics[t.Name] || m.hasNoFiles(t.Name) && m.wants(partition{t.Name, 0}) {
			if err := m.w.Write(t); err != nil {
				return err
			}
		}
	}
	ahead := newAhead(ctx, m, files)
	defer ahead.close()
	for _, p := range wanted {
		if m.stopped() {
			break
		}
		if err := m.readPartition(p, ahead); err != nil {
			return err
		}
	}
	return nil
}

func (m *importing) hasNoFiles(topic string) bool {
	return !slices.ContainsFunc(m.backup.Partitions, func(p foreign.Partition) bool { return p.Topic == topic })
}

// stopped tells whether the run is told to stop, and notes it.
func (m *importing) stopped() bool {
	select {
	case <-m.stop:
		m.end.Interrupted = true
	default:
	}
	return m.end.Interrupted
}

// damaged decides about an error of a file: it is the run's, or a loss.
func (m *importing) damaged(err error) error {
	if !m.cfg.SkipDamaged || !errors.Is(err, foreign.ErrDamaged) {
		return err
	}
	m.lose(err.Error())
	return nil
}

func (m *importing) lose(what string) {
	m.log.Warn(what)
	m.count.Losses.Add(1)
	m.end.Lose(what)
}

// readMixed reads a backup whose files hold several partitions, one after the other.
func (m *importing) readMixed(ctx context.Context) error {
	for i := range m.backup.Topics {
		m.mixed[m.backup.Topics[i].Name] = &m.backup.Topics[i]
	}
	for i := range m.backup.Mixed {
		f := &m.backup.Mixed[i]
		if m.stopped() {
			break
		}
		err := m.cfg.Format.Read(ctx, m.cfg.Tree, f, foreign.Out{Record: func(r *format.Record) error { return m.takeMixed(f, r) }})
		if errors.Is(err, errStopped) {
			break
		}
		if err != nil {
			if err = m.damaged(err); err != nil {
				return err
			}
		}
	}
	return m.endPartitions()
}

var errStopped = errors.New("told to stop")

func (m *importing) takeMixed(f *foreign.File, r *format.Record) error {
	if m.stopped() {
		return errStopped
	}
	key := partition{r.Topic, r.Partition}
	p := m.parts[key]
	if p == nil {
		if !m.wants(key) {
			return nil
		}
		p = newProgress(key)
		m.parts[key] = p
		about, known := m.mixed[r.Topic]
		if !known {
			about = &format.Topic{Name: r.Topic}
		}
		if about != nil {
			if err := m.w.Write(about); err != nil {
				return err
			}
		}
		m.mixed[r.Topic] = nil
	}
	if p.begun && r.Offset < p.next {
		if p.last == f && r.Offset <= p.lastOffset || p.inHole(r.Offset) || r.Offset < p.first {
			return foreign.Damaged(f.Path, "offset %d of %s/%d comes after offset %d: name the files in the order of their offsets", r.Offset, r.Topic, r.Partition, p.lastOffset)
		}
		m.told.doubled++
		p.last, p.lastOffset = f, r.Offset
		return nil
	}
	holes := len(p.holes)
	if err := p.advance(m.w, r.Offset, p.last == f, nil); err != nil {
		return err
	}
	m.told.holes += int64(len(p.holes) - holes)
	p.last, p.lastOffset, p.next = f, r.Offset, r.Offset+1
	if !m.cfg.holds(r) {
		return nil
	}
	m.told.count(m.backup, r)
	m.tellNowAndThen()
	return m.w.WriteRecord(r)
}

// holds tells whether a record is within the bounds that were asked for.
func (c *Config) holds(r *format.Record) bool {
	return r.Offset >= c.From && (c.To == 0 || r.Offset < c.To) &&
		(c.Since == nil || r.Timestamp >= c.Since.UnixMilli()) && (c.Until == nil || r.Timestamp <= c.Until.UnixMilli())
}

// endPartitions writes the last marks of a mixed backup.
func (m *importing) endPartitions() error {
	for _, key := range m.sortedParts() {
		if err := m.parts[key].mark(m.w); err != nil {
			return err
		}
	}
	return nil
}

func (m *importing) sortedParts() []partition {
	var keys []partition
	for key := range m.parts {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b partition) int {
		if c := strings.Compare(a.topic, b.topic); c != 0 {
			return c
		}
		return int(a.number) - int(b.number)
	})
	return keys
}

// writeGroups writes the consumer groups, as far as they are about what was read. An
// offset past the backup's end is set to it: tools take groups and records at different
// times.
func (m *importing) writeGroups() error {
	for _, g := range m.backup.Groups {
		out := &format.Group{ID: g.ID, Offsets: make(map[string]map[int32]format.GroupOffset), GroupInfo: format.GroupInfo{Topics: make(map[string]string)}}
		for topic, offsets := range g.Offsets {
			for number, o := range offsets {
				p := m.parts[partition{topic, number}]
				if p == nil {
					continue
				}
				if o.Offset > p.next && !p.bounded {
					m.told.clamped++
					m.log.Debug(fmt.Sprintf("group %s: offset %d of %s/%d is past the end of the backup, and set to %d", g.ID, o.Offset, topic, number, p.next))
					o.Offset = p.next
				}
				if out.Offsets[topic] == nil {
					out.Offsets[topic], out.Topics[topic] = make(map[int32]format.GroupOffset), ""
				}
				out.Offsets[topic][number] = o
			}
		}
		if len(out.Offsets) == 0 {
			continue
		}
		if err := m.w.Write(out); err != nil {
			return err
		}
	}
	return nil
}

// sayWhatIsMissing says what the backup lacks, which is a loss, and what the tool may have
// changed, which is one if the run is strict.
func (m *importing) sayWhatIsMissing() {
	for _, what := range m.backup.Missing {
		m.lose(what)
	}
	for _, what := range m.told.notes(m.backup) {
		m.log.Warn(what)
		if m.cfg.Strict {
			m.end.Lose(what)
		}
	}
}

// A tally counts what is said at the end of a run.
type tally struct {
	records, doubled, clamped int64
	holes                     int64        // ranges between files
	markers                   atomic.Int64 // several files are read at once
	caveats                   []int64      // records, for each of the backup's
	tails                     []string     // ends that may lack records
}

func (t *tally) marker() { t.markers.Add(1) }

func (t *tally) count(b *foreign.Backup, r *format.Record) {
	t.records++
	for i := range b.Caveats {
		if b.Caveats[i].Applies(r) {
			t.caveats[i]++
		}
	}
}

// notes are lines for people.
func (t *tally) notes(b *foreign.Backup) []string {
	var out []string
	for i, n := range t.caveats {
		if n > 0 {
			out = append(out, command.Count(n, "record")+" "+b.Caveats[i].Text)
		}
	}
	if n := t.markers.Load(); n > 0 {
		out = append(out, "left out "+command.Count(n, "transaction marker")+" stored as records; records of aborted transactions are in the stream, as nothing tells them from others")
	}
	if t.doubled > 0 {
		out = append(out, "left out "+command.Count(t.doubled, "doubled record"))
	}
	if t.holes > 0 {
		out = append(out, "found "+command.Count(t.holes, "range")+" of offsets between two files: whether records are missing there is not known; the marks say that nothing is known of them")
	}
	if t.clamped > 0 {
		out = append(out, "set "+command.Count(t.clamped, "offset")+" of consumer groups, past the end of the backup, to the end")
	}
	return append(append(out, t.tails...), b.Notes...)
}
