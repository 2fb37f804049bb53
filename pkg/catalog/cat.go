package catalog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"filippo.io/age"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/commitlog"
	"github.com/kbkio/kbk/pkg/jsonline"
	"github.com/kbkio/kbk/pkg/segment"
	"github.com/kbkio/kbk/pkg/store"
)

// CatConfig says which records to print.
type CatConfig struct {
	Topic        string
	TopicID      string // "": the newest incarnation
	Partition    int32
	From, To     int64 // offsets [From, To)
	Since, Until int64 // timestamps, milliseconds since the epoch, both included
	Limit        int64 // records; 0: all
	Identities   []age.Identity
	MaxFrame     int64 // bytes
	JSON         bool
	Log          store.LogOptions
}

var errEnough = errors.New("enough")

// Cat writes records of one partition to out.
func Cat(ctx context.Context, st *store.Store, cfg CatConfig, env *command.Env, out io.Writer) error {
	opts := cfg.Log
	opts.Keep = func(topic string, p int32) bool { return topic == cfg.Topic && p == cfg.Partition }
	log, err := load(ctx, st, opts, env)
	if err != nil {
		return err
	}
	state := log.State
	id := cfg.TopicID
	if ids := state.Incarnations(cfg.Topic); id == "" && len(ids) > 0 {
		id = ids[len(ids)-1]
	}
	plan, ok := state.Plan(cfg.Topic, id, cfg.Partition)
	if !ok {
		return command.WithHint(fmt.Errorf("%s has no %s/%d", st.Name(), cfg.Topic, cfg.Partition), "kbk-catalog show lists what it has")
	}
	if ids := state.Incarnations(cfg.Topic); cfg.TopicID == "" && len(ids) > 1 {
		env.Log.Warn(fmt.Sprintf("topic %s was deleted and created again: %s is read; --topic-id reads an older one: %s", cfg.Topic, cmp.Or(id, "the one of unknown id"), strings.Join(ids[:len(ids)-1], ", ")))
	}
	plan.Cut(cfg.From, cfg.To, cfg.Since, cfg.Until)
	var filters []string // there are no marks that could say it
	for _, f := range plan.Filtered {
		env.Log.Warn(fmt.Sprintf("offsets %d to %d are in the backup only as %s left them", f.From, f.Next-1, strings.Join(f.Filters, ", ")))
		filters = append(filters, f.Filters...)
	}
	slices.Sort(filters)
	end := endOf(log)
	for _, h := range plan.Hidden {
		end.Lose(fmt.Sprintf("offsets %d to %d %s", h.From, h.Next-1, h.Why()))
	}
	c := &cat{cfg: cfg, opener: segment.NewOpener(cfg.Identities, cfg.MaxFrame)}
	if cfg.JSON {
		c.put = printer(out)
		if err := c.all(ctx, st, &plan); err != nil {
			return err
		}
		return command.EndStatus(end, "")
	}
	window := &format.Window{Offsets: map[string]map[int32][2]int64{cfg.Topic: {cfg.Partition: {cfg.From, cfg.To}}}}
	if cfg.Since > -1<<63 {
		window.Since = &cfg.Since
	}
	if cfg.Until < 1<<63-1 {
		window.Until = &cfg.Until
	}
	w := format.NewWriter(out)
	source := state.Source()
	err = w.WriteHeader(&format.Header{
		Content: format.ContentRecords, Window: window, Filters: slices.Compact(filters),
		Source: &format.Source{Cluster: source.ClusterID, Tool: source.Tool, Isolation: source.Isolation},
	})
	if err != nil {
		return err
	}
	if t := state.Description(cfg.Topic, id); len(t.Frame) > 0 {
		if err := w.WriteRaw(t.Frame); err != nil {
			return err
		}
	}
	// No marks: the records are for a look, and cover nothing but themselves.
	c.put = func(f *format.Frame) error { return w.WriteRaw(f.Raw) }
	if err := c.all(ctx, st, &plan); err != nil {
		return err
	}
	end.Records = c.n
	if err := w.Close(end); err != nil {
		return err
	}
	return command.EndStatusThrough(out, end, "")
}

// endOf is the end of a stream that was made of a log: what could not be read of that is lost.
func endOf(log *store.Log) *format.End {
	end := new(format.End)
	for _, d := range log.Damage {
		end.Lose(fmt.Sprintf("%s of the log could not be read: what it lists is in no other file", d.Name))
	}
	return end
}

type cat struct {
	cfg    CatConfig
	opener *segment.Opener
	put    func(*format.Frame) error
	n      int64
}

func (c *cat) all(ctx context.Context, st *store.Store, plan *commitlog.Plan) error {
	for i := range plan.Len() {
		seg := plan.Segment(i)
		data, err := st.ReadSegment(ctx, seg.Segment)
		if err != nil {
			return err
		}
		err = c.opener.Open(seg.Frame(), data, func(f *format.Frame) error {
			if f.Kind != format.KindRec || f.Offset < max(c.cfg.From, seg.DropBelow) || f.Offset >= min(c.cfg.To, seg.DropFrom) ||
				f.Timestamp < c.cfg.Since || f.Timestamp > c.cfg.Until {
				return nil
			}
			if c.cfg.Limit > 0 && c.n >= c.cfg.Limit {
				return errEnough
			}
			c.n++
			return c.put(f)
		})
		if errors.Is(err, errEnough) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// printer writes the lines of records that kbk-filter --to json writes.
func printer(out io.Writer) func(*format.Frame) error {
	var line []byte
	return func(f *format.Frame) (err error) {
		if line, err = jsonline.Append(line[:0], f); err != nil {
			return err
		}
		_, err = out.Write(line)
		return err
	}
}
