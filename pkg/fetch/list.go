package fetch

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kbkio/kbk/pkg/kafka"
)

// A Listing is what is known of one partition without reading it.
type Listing struct {
	Topic     string `json:"topic"`
	TopicID   string `json:"topic_id,omitempty"`
	Partition int32  `json:"partition"`
	Leader    int32  `json:"leader"` // -1: none
	Replicas  int    `json:"replicas"`
	Start     int64  `json:"start"`          // the first offset
	Stable    int64  `json:"stable"`         // the last stable offset: where a run would end
	End       int64  `json:"end"`            // the high watermark
	Size      *int64 `json:"size,omitempty"` // bytes on the leader's disk, where it may be asked
	First     *int64 `json:"first_timestamp,omitempty"`
	Last      *int64 `json:"max_timestamp,omitempty"` // milliseconds since the epoch
	Error     string `json:"error,omitempty"`         // why there are no offsets: it has no leader, say

	// Of the transaction that hides the offsets from Stable to End:

	OpenSince     *int64 `json:"open_since,omitempty"` // milliseconds since the epoch
	Producer      *int64 `json:"open_producer_id,omitempty"`
	Transactional string `json:"open_transactional_id,omitempty"`
}

// List prints the partitions that cfg selects.
func List(ctx context.Context, cfg Config, log *slog.Logger, asJSON bool, out io.Writer) error {
	cl, err := kafka.NewClient(ctx, cfg.Kafka)
	if err != nil {
		return err
	}
	defer cl.Close()
	all, err := listings(ctx, cl, cfg, log)
	if err != nil {
		return err
	}
	if asJSON {
		e := json.NewEncoder(out)
		for _, l := range all {
			if err := e.Encode(l); err != nil {
				return err
			}
		}
		return nil
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TOPIC\tPARTITION\tLEADER\tREPLICAS\tSTART\tSTABLE\tEND\tSIZE\tFIRST RECORD\tLATEST RECORD\tOPEN SINCE")
	for _, l := range all {
		size := "-"
		if l.Size != nil {
			size = humanize.IBytes(uint64(*l.Size))
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%s\t%s\t%s\t%s\n",
			l.Topic, l.Partition, l.Leader, l.Replicas, l.Start, l.Stable, l.End, size, timestamp(l.First), timestamp(l.Last), timestamp(l.OpenSince))
	}
	return w.Flush()
}

// setOpen takes over what is known of an open transaction.
func (l *Listing) setOpen(h *hidden) {
	if begin := h.begin(); !begin.IsZero() {
		ms := begin.UnixMilli()
		l.OpenSince = &ms
	}
	if h.producer >= 0 {
		l.Producer = &h.producer
	}
	l.Transactional = h.id
}

func timestamp(ms *int64) string {
	if ms == nil {
		return "-"
	}
	return time.UnixMilli(*ms).UTC().Format(time.RFC3339)
}

func listings(ctx context.Context, cl *kgo.Client, cfg Config, log *slog.Logger) ([]Listing, error) {
	adm := kadm.NewClient(cl)
	meta, selected, err := choose(ctx, adm, cfg, &losses{log: log})
	if err != nil {
		return nil, err
	}
	var wanted kadm.TopicsSet
	asked := selected.lists()
	for name, nums := range asked {
		wanted.Add(name, nums...)
	}
	ends := kafka.ListOffsets(ctx, cl, asked, kafka.EndOffset, false)
	stable := kafka.ListOffsets(ctx, cl, asked, kafka.EndOffset, true)
	starts := kafka.ListOffsets(ctx, cl, asked, kafka.StartOffset, false)
	latest := kafka.ListOffsets(ctx, cl, asked, kafka.MaxTimestampOffset, false)
	first := kafka.ListOffsets(ctx, cl, asked, 0, false)
	// Sizes need a right of their own (DESCRIBE on the cluster); without it there are none.
	dirs, _ := adm.DescribeAllLogDirs(ctx, wanted)
	p := &planner{cl: cl, adm: adm, cfg: cfg, log: log}
	open := make(map[topicPartition]*hidden)
	found := hiddenIn(asked, ends, stable)
	p.describe(ctx, found)
	for i := range found {
		open[found[i].at()] = &found[i]
	}
	var out []Listing
	for name := range selected {
		t := meta.Topics[name]
		for num := range selected[name] {
			d := t.Partitions[num]
			l := Listing{Topic: name, TopicID: kafka.FormatTopicID(t.ID), Partition: num, Leader: d.Leader, Replicas: len(d.Replicas), Start: -1, Stable: -1, End: -1}
			var trouble error
			for _, f := range []struct {
				from kafka.Offsets
				to   *int64
			}{{starts, &l.Start}, {stable, &l.Stable}, {ends, &l.End}} {
				if at := f.from.Of(name, num); at.Err == nil {
					*f.to = at.Offset
				} else {
					trouble = at.Err
				}
			}
			if trouble != nil {
				l.Error = trouble.Error()
				log.Warn(fmt.Sprintf("%s/%d: its offsets cannot be read: %v", name, num, trouble))
			}
			if at := latest.Of(name, num); at.Err == nil && at.Timestamp >= 0 {
				l.Last = &at.Timestamp
			}
			if at := first.Of(name, num); at.Err == nil && at.Timestamp >= 0 {
				l.First = &at.Timestamp
			}
			if h := open[topicPartition{name, num}]; h != nil {
				l.setOpen(h)
				log.Warn(h.text(cfg.Kafka.Brokers, time.Now()))
			}
			if dir, ok := dirs[d.Leader].LookupPartition(name, num); ok {
				l.Size = &dir.Size
			}
			out = append(out, l)
		}
	}
	slices.SortFunc(out, func(a, b Listing) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	return out, nil
}
