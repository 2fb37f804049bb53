package filter

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/itchyny/gojq"
	"github.com/urfave/cli/v2"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
)

// A change is what is done to each record that was picked, in this order: masks, the
// program, ids of schemas, topic and partition.
type change struct {
	masks     []*mask
	mustHit   bool // every mask, in every record
	maskKey   []byte
	code      *gojq.Code
	onError   string // fail, drop or pass
	keyIDs    map[uint32]uint32
	valueIDs  map[uint32]uint32
	topic     string
	partition int32 // -1: its own

	mapped [2]atomic.Int64 // keys and values whose schema id was changed
	failed failures        // records that are dropped, or passed on as they were
}

func changeFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "mask", Usage: "hide what is at `PATH=HOW`, such as value.card.number=last4; HOW is redact, last4, hash or null; repeatable"},
		&cli.BoolFlag{Name: "mask-must-hit", Usage: "fail on a record in which a --mask finds nothing to hide"},
		&cli.StringFlag{Name: "mask-key", Usage: "with hash: read the key from `FILE`", EnvVars: []string{"KBK_MASK_KEY"}},
		&cli.StringFlag{Name: "jq", Usage: "run the jq `PROGRAM` on every record; each of its results is a record"},
		&cli.StringFlag{Name: "on-error", Value: "fail", Usage: "`WHAT` to do with a record that --jq or --mask fails on: fail, drop or pass"},
		&cli.StringFlag{Name: "schema-id-map", Usage: "change schema ids of values, `OLD=NEW,…` or a file of such lines"},
		&cli.StringFlag{Name: "key-schema-id-map", Usage: "change schema ids of keys, likewise"},
		&cli.StringFlag{Name: "set-topic", Usage: "give all records the topic `TOPIC`"},
		&cli.IntFlag{Name: "set-partition", Usage: "give all records the partition `N`", DefaultText: "as it is"},
	}
}

// changes reads the flags of changeFlags. Without any it is nil.
func changes(c *cli.Context) (*change, error) {
	ch := &change{onError: c.String("on-error"), topic: c.String("set-topic"), partition: -1}
	switch ch.onError {
	case "fail", "drop", "pass":
	default:
		return nil, command.Usagef("--on-error %q is not fail, drop or pass", ch.onError)
	}
	if ch.onError == "pass" && len(c.StringSlice("mask")) > 0 {
		return nil, command.Usagef("--on-error pass would let through what --mask could not hide")
	}
	if ch.mustHit = c.Bool("mask-must-hit"); ch.mustHit && len(c.StringSlice("mask")) == 0 {
		return nil, command.Usagef("--mask-must-hit is only for --mask")
	}
	keyed := false
	for _, text := range c.StringSlice("mask") {
		m, err := parseMask(text)
		if err != nil {
			return nil, command.Usagef("--mask %s: %w", text, err)
		}
		keyed = keyed || m.keyed
		ch.masks = append(ch.masks, m)
	}
	var err error
	switch file := c.String("mask-key"); {
	case keyed && file == "":
		return nil, command.WithHint(command.Usagef("--mask with hash takes a --mask-key FILE"), "openssl rand -hex 32 > FILE makes one")
	case keyed:
		if ch.maskKey, err = readMaskKey(file); err != nil {
			return nil, command.WithStatus(command.Usage, fmt.Errorf("--mask-key: %w", err))
		}
	}
	if program := c.String("jq"); program != "" {
		if ch.code, err = compileJQ(program); err != nil {
			return nil, command.Usagef("--jq: %s", strings.ReplaceAll(err.Error(), "\n", " "))
		}
	}
	for flag, ids := range map[string]*map[uint32]uint32{"schema-id-map": &ch.valueIDs, "key-schema-id-map": &ch.keyIDs} {
		if text := c.String(flag); text != "" {
			if *ids, err = schemaIDs(text); err != nil {
				return nil, command.WithStatus(command.Usage, fmt.Errorf("--%s: %w", flag, err))
			}
		}
	}
	if c.IsSet("set-partition") {
		n := c.Int("set-partition")
		if n < 0 || n > 1<<31-1 {
			return nil, command.Usagef("--set-partition %d is no partition", n)
		}
		ch.partition = int32(n)
	}
	if len(ch.masks) == 0 && ch.code == nil && ch.keyIDs == nil && ch.valueIDs == nil && ch.topic == "" && ch.partition < 0 {
		return nil, nil
	}
	return ch, nil
}

// schemaIDs reads OLD=NEW,… or the file of that name, with one in a line.
func schemaIDs(text string) (map[uint32]uint32, error) {
	if !strings.Contains(text, "=") {
		b, err := os.ReadFile(text)
		if err != nil {
			return nil, err
		}
		text = string(b)
	}
	out := make(map[uint32]uint32)
	for _, pair := range strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == '\n' || r == '\r' }) {
		a, b, _ := strings.Cut(pair, "=")
		from, err1 := strconv.ParseUint(strings.TrimSpace(a), 10, 32)
		to, err2 := strconv.ParseUint(strings.TrimSpace(b), 10, 32)
		if err1 != nil || err2 != nil {
			return nil, fmt.Errorf("%q is not OLD=NEW, two schema ids", pair)
		}
		if was, twice := out[uint32(from)]; twice && was != uint32(to) {
			return nil, fmt.Errorf("id %d is to become both %d and %d", from, was, to)
		}
		out[uint32(from)] = uint32(to)
	}
	if len(out) == 0 {
		return nil, errors.New("there are no ids")
	}
	return out, nil
}

// schemaID is the id in front of what a serializer of the Confluent Schema Registry
// wrote: a zero byte and four bytes, big-endian. Others have none.
func schemaID(b []byte) (id uint32, ok bool) {
	if len(b) < 5 || b[0] != 0 {
		return 0, false
	}
	return binary.BigEndian.Uint32(b[1:]), true
}

func remap(b []byte, ids map[uint32]uint32, n *int64) []byte {
	id, framed := schemaID(b)
	to, known := ids[id]
	if !framed || !known {
		return b
	}
	*n++
	out := append(make([]byte, 0, len(b)), b...)
	binary.BigEndian.PutUint32(out[1:], to)
	return out
}

// moves tells whether records may come to another partition, or get another offset.
func (ch *change) moves() bool {
	return ch != nil && (ch.code != nil || ch.topic != "" || ch.partition >= 0)
}

// A worker changes records, one at a time.
type worker struct {
	*change
	hash   hiding
	hits   []int64  // of each mask, values
	among  []int64  // and the records in which it was to hide something
	mapped [2]int64 // keys and values
}

func (ch *change) worker() *worker {
	w := &worker{change: ch}
	if ch != nil {
		w.hits, w.among = make([]int64, len(ch.masks)), make([]int64, len(ch.masks))
		if ch.maskKey != nil {
			w.hash = hashing(ch.maskKey)
		}
	}
	return w
}

// tally adds what the worker has counted to the counts of the run.
func (w *worker) tally() {
	for i := range w.hits {
		w.masks[i].hits.Add(w.hits[i])
		w.masks[i].among.Add(w.among[i])
	}
	for i, n := range w.mapped {
		if n > 0 {
			w.change.mapped[i].Add(n)
		}
	}
}

// apply changes a record and calls give for each that comes of it: none, one, or
// several.
func (w *worker) apply(r *format.Record, give func(*format.Record) error) error {
	original := *r
	var out []format.Record // only given when all of it has worked
	err := w.masked(r)
	if err == nil && w.code != nil {
		err = runJQ(w.code, r, func(r *format.Record) error { out = append(out, *r); return nil })
	} else if err == nil {
		out = append(out, *r)
	}
	if err != nil {
		switch w.onError {
		case "fail":
			return fmt.Errorf("%s/%d, offset %d: %w", original.Topic, original.Partition, original.Offset, err)
		case "drop":
			w.failed.add(&original, err)
			return nil
		}
		w.failed.add(&original, err)
		out = []format.Record{original}
	}
	for i := range out {
		o := &out[i]
		o.Key, o.Value = remap(o.Key, w.keyIDs, &w.mapped[0]), remap(o.Value, w.valueIDs, &w.mapped[1])
		if w.topic != "" {
			o.Topic = w.topic
		}
		if w.partition >= 0 {
			o.Partition = w.partition
		}
		if err := give(o); err != nil {
			return err
		}
	}
	return nil
}

func (w *worker) masked(r *format.Record) error {
	for i, m := range w.masks {
		hits, due, err := m.apply(r, w.hash)
		if err == nil && due && hits == 0 && w.mustHit {
			err = errNoHit
		}
		if err != nil {
			return fmt.Errorf("mask %s: %w", m.text, err)
		}
		if due {
			w.hits[i] += int64(hits)
			w.among[i]++
		}
	}
	return nil
}

// other changes the topic and the partition of frames that are not records, so that the
// stream stays one of the records that are in it. Frames that it does not touch are
// returned as they are.
func (ch *change) other(f *format.Frame) ([]byte, error) {
	if ch == nil || ch.topic == "" && ch.partition < 0 {
		return f.Raw, nil
	}
	switch f.Kind {
	case format.KindTopic:
		t, err := format.DecodeTopic(f.Raw)
		if err != nil {
			return nil, err
		}
		if ch.topic != "" {
			t.Name, t.ID = ch.topic, "" // it is another topic
		}
		return t.AppendFrame(nil)
	case format.KindMark:
		m, err := format.DecodeMark(f.Raw)
		if err != nil {
			return nil, err
		}
		if ch.topic != "" {
			m.Topic, m.TopicID = ch.topic, ""
		}
		if ch.partition >= 0 {
			m.Partition = ch.partition
		}
		return m.AppendFrame(nil)
	case format.KindGroup:
		g, err := format.DecodeGroup(f.Raw)
		if err != nil {
			return nil, err
		}
		moved := make(map[string]map[int32]format.GroupOffset)
		for topic, parts := range g.Offsets {
			if ch.topic != "" {
				topic = ch.topic
			}
			if moved[topic] == nil {
				moved[topic] = make(map[int32]format.GroupOffset)
			}
			for n, o := range parts {
				if ch.partition >= 0 {
					n = ch.partition
				}
				if had, twice := moved[topic][n]; !twice || o.Offset < had.Offset {
					moved[topic][n] = o // none is skipped
				}
			}
		}
		g.Offsets, g.Topics = moved, ch.topicsOf(g.Topics)
		return g.AppendFrame(nil)
	case format.KindMoment: // restore points of what the stream is not any more
		return nil, nil
	case format.KindGroups:
		g, err := format.DecodeGroups(f.Raw)
		if err != nil {
			return nil, err
		}
		g.Topics = ch.topicsOf(g.Topics)
		return g.AppendFrame(nil)
	case format.KindPoint:
		p, err := format.DecodePoint(f.Raw)
		if err != nil || len(p.Without) == 0 {
			return f.Raw, err
		}
		without := make(map[string][]int32)
		for topic, parts := range p.Without {
			if ch.topic != "" {
				topic = ch.topic
			}
			for _, n := range parts {
				if ch.partition >= 0 {
					n = ch.partition
				}
				if !slices.Contains(without[topic], n) {
					without[topic] = append(without[topic], n)
				}
			}
			slices.Sort(without[topic])
		}
		p.Without = without
		return p.AppendFrame(nil)
	}
	return f.Raw, nil
}

// topicsOf is what topics with their ids become: another topic has another id.
func (ch *change) topicsOf(ids map[string]string) map[string]string {
	if ch.topic == "" || len(ids) == 0 {
		return ids
	}
	return map[string]string{ch.topic: ""}
}
