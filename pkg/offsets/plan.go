package offsets

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/kafka"
)

// A Row is one line of a plan: an offset in the target, or one that has no place there.
type Row struct {
	Group     string               `json:"group"`
	Topic     string               `json:"topic"`
	Partition int32                `json:"partition"`
	From      []format.GroupSource `json:"from,omitempty"`
	LagBefore *int64               `json:"lag_before,omitempty"` // records and gaps, in offsets
	Offset    *int64               `json:"offset,omitempty"`     // none: the end, or no place
	LagAfter  *int64               `json:"lag_after,omitempty"`
	Committed *int64               `json:"committed,omitempty"` // in the target now
	How       string               `json:"how"`
	Unplaced  bool                 `json:"unplaced,omitempty"`
}

// Plan prints what apply would commit. Where the target is not given, it is not said how
// far behind the groups will be.
func Plan(ctx context.Context, target *kafka.Config, maxFrame int64, asJSON bool, in io.Reader, out io.Writer) error {
	groups, end, err := readTranslated(ctx, in, maxFrame)
	if err != nil {
		return err
	}
	var now *present
	if target != nil {
		cl, err := kafka.NewClient(ctx, *target)
		if err != nil {
			return err
		}
		defer cl.Close()
		if now, err = lookAt(ctx, cl, groups); err != nil {
			return err
		}
	}
	if err := printRows(rows(groups, now), asJSON, out); err != nil {
		return err
	}
	return endStatus(end, "the plan is incomplete", lossOf(count(groups)))
}

// present is what there is in the target.
type present struct {
	bounds    map[place][2]int64 // where partitions begin and end
	committed map[string]kadm.OffsetResponses
}

func lookAt(ctx context.Context, cl *kgo.Client, groups []*format.Group) (*present, error) {
	bounds, _, err := resolveInTarget(ctx, cl, groups)
	if err != nil {
		return nil, err
	}
	adm := kadm.NewClient(cl)
	states, err := statesOf(ctx, adm)
	if err != nil {
		return nil, err
	}
	committed, err := fetchOffsets(ctx, adm, states.known(), groups)
	return &present{bounds, committed}, err
}

// resolveInTarget turns offsets that are the end of a partition into numbers, and takes those out
// that are not in the target. It returns where the partitions begin and end, and the ids
// of the topics.
func resolveInTarget(ctx context.Context, cl *kgo.Client, groups []*format.Group) (bounds map[place][2]int64, ids map[string]string, err error) {
	topics := make(map[string]bool)
	for _, g := range groups {
		for topic := range g.Offsets {
			topics[topic] = true
		}
	}
	r, err := lookAtTopics(ctx, cl, names(topics))
	if err != nil {
		return nil, nil, err
	}
	if bounds, err = r.whole(ctx); err != nil {
		return nil, nil, err
	}
	ids = make(map[string]string)
	for topic := range topics {
		ids[topic] = r.id(topic)
	}
	for _, g := range groups {
		for p, o := range each(g) {
			b, ok := bounds[p]
			why := ""
			switch {
			case !ok:
				why = fmt.Sprintf("the target has no partition %s", p)
			case g.Topics[p.topic] != "" && ids[p.topic] != "" && g.Topics[p.topic] != ids[p.topic]:
				why = fmt.Sprintf("topic %s was deleted and created again since the restore", p.topic)
			case o.AtEnd:
				o.Offset = b[1]
			case o.Offset < b[0]:
				why = fmt.Sprintf("it would be %d in the target, where %s begins at %d", o.Offset, p, b[0])
			case o.Offset > b[1]:
				why = fmt.Sprintf("it would be %d in the target, where %s ends at %d", o.Offset, p, b[1])
			}
			if why == "" {
				g.Offsets[p.topic][p.num] = o
				continue
			}
			delete(g.Offsets[p.topic], p.num)
			for _, s := range o.From {
				g.Unplaced = append(g.Unplaced, format.Unplaced{Topic: s.Topic, Partition: s.Partition, Offset: s.Offset, Why: why})
			}
		}
	}
	return bounds, ids, nil
}

// rows are the plan's; now is nil where the target is not known.
func rows(groups []*format.Group, now *present) []Row {
	var out []Row
	if now == nil {
		now = new(present)
	}
	for _, g := range groups {
		for p, o := range each(g) {
			row := Row{Group: g.ID, Topic: p.topic, Partition: p.num, From: o.From, Offset: &o.Offset, How: how(g.By, &o)}
			var lag int64
			known := len(o.From) > 0
			for _, s := range o.From {
				if s.End == nil {
					known = false
					break
				}
				lag += max(0, *s.End-s.Offset)
			}
			if known {
				row.LagBefore = &lag
			}
			if c, ok := now.committed[g.ID].Lookup(p.topic, p.num); ok && c.At >= 0 {
				row.Committed = &c.At
				if c.At > o.Offset {
					row.How += fmt.Sprintf("; goes back from %d", c.At)
				}
			}
			if b, ok := now.bounds[p]; ok {
				after := b[1] - o.Offset
				row.LagAfter = &after
			} else if o.AtEnd {
				row.Offset = nil
			}
			out = append(out, row)
		}
		for _, u := range g.Unplaced {
			out = append(out, Row{Group: g.ID, Topic: u.Topic, Partition: u.Partition, How: u.Why, Unplaced: true,
				From: []format.GroupSource{{Topic: u.Topic, Partition: u.Partition, Offset: u.Offset}}})
		}
	}
	return out
}

// how says by what an offset was found, and what comes there.
func how(by string, o *format.GroupOffset) string {
	var s *format.GroupSource
	if len(o.From) == 1 {
		s = &o.From[0]
	}
	var what string
	switch {
	case o.AtEnd:
		what = "the end"
	case by == byIdentity:
		what = "the same offset"
	case s == nil:
		what = fmt.Sprintf("the first of %d partitions", len(o.From))
	case by == byTimestamp:
		if s.Record != nil {
			what = time.UnixMilli(s.Record.Timestamp).UTC().Format(time.RFC3339Nano)
		}
	case s.Next == nil:
		what = "behind the last record"
	case *s.Next == s.Offset:
		what = "the record"
	default:
		what = fmt.Sprintf("the next record, %d", *s.Next)
	}
	what = strings.TrimSuffix(by+": "+what, ": ")
	if o.Again > 0 {
		what += fmt.Sprintf("; up to %d again", o.Again)
	}
	for _, s := range o.From {
		if s.Missing > 0 {
			what += fmt.Sprintf("; %d missing", s.Missing)
		}
	}
	return what
}

func printRows(rows []Row, asJSON bool, out io.Writer) error {
	if asJSON {
		e := json.NewEncoder(out)
		for _, r := range rows {
			if err := e.Encode(r); err != nil {
				return err
			}
		}
		return nil
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "GROUP\tTOPIC\tPARTITION\tSOURCE OFFSET\tLAG\tTARGET OFFSET\tLAG\tHOW")
	for _, r := range rows {
		var from []string
		for _, s := range r.From {
			at := strconv.FormatInt(s.Offset, 10)
			if s.Topic != r.Topic || s.Partition != r.Partition || len(r.From) > 1 {
				at = fmt.Sprintf("%s/%d:%s", s.Topic, s.Partition, at)
			}
			from = append(from, at)
		}
		to := number(r.Offset)
		if r.Offset == nil && !r.Unplaced {
			to = "end"
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%s\t%s\t%s\n", r.Group, r.Topic, r.Partition, strings.Join(from, ","), number(r.LagBefore), to, number(r.LagAfter), r.How)
	}
	return w.Flush()
}

func number(n *int64) string {
	if n == nil {
		return "-"
	}
	return strconv.FormatInt(*n, 10)
}
