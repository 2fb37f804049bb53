package fetch

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/twmb/franz-go/pkg/kadm"

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
}

// List prints the partitions that cfg selects.
func List(ctx context.Context, cfg Config, asJSON bool, out io.Writer) error {
	cl, err := kafka.NewClient(ctx, cfg.Kafka)
	if err != nil {
		return err
	}
	defer cl.Close()
	all, err := listings(ctx, kadm.NewClient(cl), cfg)
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
	fmt.Fprintln(w, "TOPIC\tPARTITION\tLEADER\tREPLICAS\tSTART\tSTABLE\tEND\tSIZE\tFIRST RECORD\tLATEST RECORD")
	for _, l := range all {
		size := "-"
		if l.Size != nil {
			size = humanize.IBytes(uint64(*l.Size))
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%s\t%s\t%s\n",
			l.Topic, l.Partition, l.Leader, l.Replicas, l.Start, l.Stable, l.End, size, timestamp(l.First), timestamp(l.Last))
	}
	return w.Flush()
}

func timestamp(ms *int64) string {
	if ms == nil {
		return "-"
	}
	return time.UnixMilli(*ms).UTC().Format(time.RFC3339)
}

func listings(ctx context.Context, adm *kadm.Client, cfg Config) ([]Listing, error) {
	meta, selected, err := choose(ctx, adm, cfg)
	if err != nil {
		return nil, err
	}
	names := slices.Sorted(maps.Keys(selected))
	listed := make([]kadm.ListedOffsets, 5)
	for i, list := range []func(context.Context, ...string) (kadm.ListedOffsets, error){
		adm.ListStartOffsets, adm.ListCommittedOffsets, adm.ListEndOffsets, adm.ListMaxTimestampOffsets,
		func(ctx context.Context, names ...string) (kadm.ListedOffsets, error) {
			return adm.ListOffsetsAfterMilli(ctx, 0, names...)
		},
	} {
		// An error of one partition leaves its figure out; one that has no leader is
		// listed all the same.
		if listed[i], err = list(ctx, names...); err != nil {
			return nil, fmt.Errorf("list offsets: %w", err)
		}
	}
	var wanted kadm.TopicsSet
	for _, name := range names {
		wanted.Add(name, slices.Collect(maps.Keys(selected[name]))...)
	}
	// Sizes need a right of their own (DESCRIBE on the cluster); without it there are none.
	dirs, _ := adm.DescribeAllLogDirs(ctx, wanted)
	var out []Listing
	for _, name := range names {
		t := meta.Topics[name]
		for num := range selected[name] {
			d := t.Partitions[num]
			l := Listing{Topic: name, TopicID: kafka.FormatTopicID(t.ID), Partition: num, Leader: d.Leader, Replicas: len(d.Replicas), Start: -1, Stable: -1, End: -1}
			for i, to := range []*int64{&l.Start, &l.Stable, &l.End} {
				if o, ok := listed[i].Lookup(name, num); ok && o.Err == nil {
					*to = o.Offset
				}
			}
			if o, ok := listed[3].Lookup(name, num); ok && o.Err == nil && o.Timestamp >= 0 {
				l.Last = &o.Timestamp
			}
			if o, ok := listed[4].Lookup(name, num); ok && o.Err == nil && o.Timestamp >= 0 {
				l.First = &o.Timestamp
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
