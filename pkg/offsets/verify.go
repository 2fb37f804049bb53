package offsets

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/dustin/go-humanize"
	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/kafka"
	"github.com/kbkio/kbk/pkg/recordbatch"
	"github.com/kbkio/kbk/pkg/statusline"
)

// VerifyConfig says what a plan is held against.
type VerifyConfig struct {
	Kafka    kafka.Config
	Records  []string // files of record streams, to compare records with
	Skip     func(id string) bool
	MaxFrame int64
}

// Verify holds what is committed against a plan, and the next record of each group
// against the one that it would have read in the source, where the plan or the records
// say which that is.
func Verify(ctx context.Context, cfg VerifyConfig, env *command.Env, in io.Reader) error {
	display := env.NewDisplay(nil, statusline.Plan{})
	defer display.Close()
	display.Doing("reading the plan")
	planned, end, err := readTranslated(ctx, in, cfg.MaxFrame)
	if err != nil {
		return err
	}
	planned = slices.DeleteFunc(planned, func(g *format.Group) bool { return cfg.Skip(g.ID) })
	for _, name := range cfg.Records {
		display.Doing("reading " + command.Printable(name))
		err := withRecords(planned, func(do func(place, format.NextRecord)) error {
			return readRecords(ctx, name, cfg.MaxFrame, do)
		})
		if err != nil {
			return err
		}
	}
	display.Doing("comparing with the cluster")
	cl, err := kafka.NewClient(ctx, cfg.Kafka)
	if err != nil {
		return err
	}
	defer cl.Close()
	if _, _, err := resolveInTarget(ctx, cl, planned); err != nil {
		return err
	}
	committed, err := fetchOffsets(ctx, kadm.NewClient(cl), idsOf(planned), planned)
	if err != nil {
		return err
	}
	var offsets, different, compared, ends, unknown int64
	wrong := func(f string, args ...any) {
		if different++; different <= told {
			env.Log.Warn(fmt.Sprintf(f, args...))
		}
	}
	committedAs(committed, planned, func(g *format.Group, p place, want, got int64) {
		what := fmt.Sprintf("%d", got)
		if got < 0 {
			what = "nothing"
		}
		wrong("group %s: %s is committed for %s, and %d is planned", g.ID, what, p, want)
	})
	topics := make(map[string]bool)
	wanted := make(map[place][]int64)
	for _, g := range planned {
		for p, o := range each(g) {
			offsets++
			switch comparing(g.By, &o) {
			case yes:
				wanted[p] = append(wanted[p], o.Offset)
				topics[p.topic] = true
			case atEnd:
				ends++
			case no:
				unknown++
			}
		}
	}
	for p := range wanted {
		slices.Sort(wanted[p])
		wanted[p] = slices.Compact(wanted[p])
	}
	r, err := newReader(ctx, cl, env.Log, names(topics))
	if err != nil {
		return err
	}
	next, failed := r.peek(ctx, wanted)
	if err := ctx.Err(); err != nil {
		return err
	}
	for _, g := range planned {
		for p, o := range each(g) {
			if comparing(g.By, &o) != yes {
				continue
			}
			if err := failed[p]; err != nil {
				wrong("group %s: the next record of %s cannot be read: %v", g.ID, p, err)
				continue
			}
			compared++
			s := &o.From[0]
			rec, ok := next[p][o.Offset]
			if !ok {
				wrong("group %s: no record comes next in %s, and offset %d of %s/%d would in the source", g.ID, p, s.Record.Offset, s.Topic, s.Partition)
			} else if !bytes.Equal(rec.Digest, s.Record.Digest) {
				wrong("group %s: the next record of %s, at offset %d, is not the one at offset %d of %s/%d", g.ID, p, rec.Offset, s.Record.Offset, s.Topic, s.Partition)
			}
		}
	}
	if different > told {
		env.Log.Warn(fmt.Sprintf("and %s more", command.Count(different-told, "difference")))
	}
	if different > 0 {
		return fmt.Errorf("%s of %s", command.Count(different, "difference"), command.Count(offsets, "offset"))
	}
	env.Log.Info(fmt.Sprintf("%s of %s are committed as planned; %s compared, %s at the end, %s not compared",
		command.Count(offsets, "offset"), command.Count(int64(len(planned)), "group"), command.Count(compared, "next record"), humanize.Comma(ends), humanize.Comma(unknown)))
	return endStatus(end, "what was planned is committed, but the plan is incomplete", lossOf(count(planned)))
}

type comparability int

const (
	yes   comparability = iota
	atEnd               // nothing was restored behind it: what is there came later
	no                  // the record is not known, or is not the one that comes next here
)

// comparing tells whether it is known which record comes next at an offset.
func comparing(by string, o *format.GroupOffset) comparability {
	if len(o.From) != 1 {
		return no
	}
	s := &o.From[0]
	looked := by != byIdentity && by != byTimestamp // for the next record, and found none
	switch {
	case o.AtEnd, s.Next == nil && looked, s.Record == nil && s.End != nil && s.Offset >= *s.End:
		return atEnd
	case s.Record == nil, s.Next != nil && *s.Next != s.Record.Offset:
		return no
	}
	return yes
}

// readRecords calls do with each record of a stream.
func readRecords(ctx context.Context, name string, maxFrame int64, do func(place, format.NextRecord)) error {
	f, err := open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	r := format.NewReader(command.Interruptible(ctx, f), int(maxFrame))
	h, err := r.Header()
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := command.Takes(h, name, format.ContentRecords, format.ContentBatches); err != nil {
		return err
	}
	var rec format.Record
	var batch format.Batch
	d := recordbatch.NewDecoder()
	take := func(r *format.Record) error {
		do(place{r.Topic, r.Partition}, nextRecord(r))
		return nil
	}
	for {
		f, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil && f.Kind == format.KindRec {
			err = errors.Join(f.Record(&rec), take(&rec))
		} else if err == nil && f.Kind == format.KindBatch {
			if err = batch.Decode(f.Raw); err == nil {
				err = d.Unpack(&batch, take)
			}
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
}
