package offsets

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/kafka"
	"github.com/kbkio/kbk/pkg/pattern"
)

// How records are found in the target, to make a map of them.
const (
	byHeaders = "headers"
	byContent = "content"
)

// MapConfig says how a map is made.
type MapConfig struct {
	Kafka    kafka.Config // the target
	By       string
	Records  []string // files of record streams
	Topics   *pattern.Renames
	Groups   func(id string) bool
	MaxFrame int64
}

// A mapping is the making of one map.
type mapping struct {
	cfg MapConfig
	*input
	reader *reader
	bounds map[place][2]int64 // of the target's partitions

	mu    sync.Mutex
	w     *format.Writer
	runs  int64
	found map[string]bool // topics of the source of which a record was found
}

// Map looks in the target for the records that groups had not read, and writes to out the
// map that kbk-produce would have written, behind the groups and marks that it has read
// from in and from files.
func Map(ctx context.Context, cfg MapConfig, env *command.Env, in io.Reader, out io.Writer) error {
	began := time.Now()
	m := &mapping{cfg: cfg, input: newInput(), w: command.NewWriter(out), found: make(map[string]bool)}
	defer m.close()
	if err := m.w.WriteHeader(&format.Header{Created: began.UnixMilli(), Content: format.ContentRecords}); err != nil {
		return err
	}
	m.pass = func(f *format.Frame) error { return m.w.WriteRaw(f.Raw) }
	if err := m.readAll(ctx, in, cfg.MaxFrame, env.Log, cfg.Records...); err != nil {
		return err
	}
	if err := m.choose(cfg.Groups); err != nil {
		return err
	}
	if err := m.look(ctx, env.Log); err != nil {
		return err
	}
	if err := m.tellNext(); err != nil {
		return err
	}
	for _, g := range m.groups.sorted() {
		if err := m.w.Write(g); err != nil {
			return fmt.Errorf("group %s: %w", g.ID, err)
		}
	}
	m.end.Records = 0
	if err := m.w.Close(&m.end); err != nil {
		return err
	}
	env.Log.Info(fmt.Sprintf("found %s of records in the target", command.Count(m.runs, "run")),
		slog.String("by", cfg.By), slog.Duration("in", time.Since(began).Round(time.Millisecond)))
	return command.EndStatus(&m.end, "the input was stopped before its end, so the map is incomplete")
}

// tellNext notes, of each offset, which record of the backup comes next, for
// kbk-offsets verify.
func (m *mapping) tellNext() error {
	wanted := make(map[place][]int64)
	for _, g := range m.groups.byID {
		for p, o := range each(g) {
			wanted[p] = append(wanted[p], o.Offset)
		}
	}
	found, err := firstRecords(wanted, m.eachRecord)
	if err != nil {
		return err
	}
	for _, g := range m.groups.byID {
		for p, o := range each(g) {
			if r, ok := found[p][o.Offset]; ok {
				o.Record = &r
				g.Offsets[p.topic][p.num] = o
			}
		}
	}
	return nil
}

// look reads the target and writes runs.
func (m *mapping) look(ctx context.Context, log *slog.Logger) error {
	cl, err := kafka.NewClient(ctx, m.cfg.Kafka)
	if err != nil {
		return err
	}
	defer cl.Close()
	topics := make(map[string]bool)
	for _, g := range m.groups.byID {
		for topic := range g.Offsets {
			topics[m.cfg.Topics.Name(topic)] = true
		}
	}
	if m.reader, err = newReader(ctx, cl, log, names(topics)); err != nil {
		return err
	}
	if m.bounds, err = m.reader.committed(ctx); err != nil {
		return err
	}
	if m.cfg.By == byHeaders {
		return m.scanHeaders(ctx)
	}
	return m.scanContent(ctx)
}

// add writes a run.
func (m *mapping) add(run *format.Map) error {
	if run.Count == 0 {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.runs++
	m.found[run.Topic] = true
	return m.w.Write(run)
}

// writeTargets says what the partitions that groups have offsets in became: the partition
// of the same number, where a record of their topic was found and none has changed its
// partition. offsets are those that the map was made for, nil: all.
func (m *mapping) writeTargets(offsets func(place) []int64, moved map[string]bool) error {
	all := make(map[place]bool)
	for _, g := range m.groups.byID {
		for p := range each(g) {
			all[p] = m.found[p.topic]
		}
	}
	for _, p := range slices.SortedFunc(maps.Keys(all), place.compare) {
		if !all[p] {
			continue
		}
		to := &format.Target{Topic: p.topic, Partition: p.num, TargetTopic: m.cfg.Topics.Name(p.topic), TargetPartition: p.num}
		to.TargetID, to.Offsets = m.reader.id(to.TargetTopic), offsets(p)
		if moved[p.topic] {
			to.TargetPartition = -1
		}
		if err := m.w.Write(to); err != nil {
			return err
		}
	}
	return nil
}

// scanHeaders makes a map of the headers that kbk-produce --offset-headers has added.
func (m *mapping) scanHeaders(ctx context.Context) error {
	var mu sync.Mutex
	moved := make(map[string]bool)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(readers)
	for to, b := range m.bounds {
		g.Go(func() error {
			var run format.Map
			var failed error
			err := m.reader.each(ctx, to, b[0], b[1], scanBytes, func(rec *format.Record) (enough bool) {
				p, offset, ok := origin(rec)
				if !ok {
					return false
				}
				if run.Count > 0 && p == (place{run.Topic, run.Partition}) && offset == run.SourceFirst+run.Count && rec.Offset == run.TargetFirst+run.Count {
					run.Count++
					return false
				}
				if p.num != to.num {
					mu.Lock()
					moved[p.topic] = true
					mu.Unlock()
				}
				failed = m.add(&run)
				run = format.Map{Topic: p.topic, Partition: p.num, SourceFirst: offset, TargetTopic: to.topic, TargetPartition: to.num, TargetFirst: rec.Offset, Count: 1}
				return failed != nil
			})
			if err == nil {
				err = failed
			}
			if err == nil {
				err = m.add(&run)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if m.runs == 0 {
		return command.WithHint(fmt.Errorf("no record in the target has the headers %s*", originHeader), "kbk-produce adds them with --offset-headers; is --rename the same here as there?")
	}
	return m.writeTargets(func(place) []int64 { return nil }, moved)
}

// origin reads where a record was from its headers, the last of each name.
func origin(r *format.Record) (p place, offset int64, ok bool) {
	var have int
	for i := len(r.Headers) - 1; i >= 0 && have != 7; i-- {
		h := &r.Headers[i]
		switch string(h.Name) {
		case originHeader + "topic":
			if have&1 == 0 {
				p.topic, have = string(h.Value), have|1
			}
		case originHeader + "partition":
			n, err := strconv.ParseInt(string(h.Value), 10, 32)
			if have&2 == 0 && err == nil && n >= 0 {
				p.num, have = int32(n), have|2
			}
		case originHeader + "offset":
			n, err := strconv.ParseInt(string(h.Value), 10, 64)
			if have&4 == 0 && err == nil && n >= 0 {
				offset, have = n, have|4
			}
		}
	}
	return p, offset, have == 7
}
