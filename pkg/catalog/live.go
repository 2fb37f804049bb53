package catalog

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/kbkio/kbk/pkg/commitlog"
	"github.com/kbkio/kbk/pkg/kafka"
	"github.com/kbkio/kbk/pkg/partitions"
)

// A liveTopic is what a cluster says of a topic.
type liveTopic struct {
	id         string
	partitions map[int32]liveRange
	err        error // why nothing is known of it
}

// A liveRange is where a partition begins and ends in Kafka, open transactions included.
type liveRange struct {
	start, end int64
	err        error
}

// holdAgainst puts into topics what a cluster has of them, and names topics that m asks for
// and the backup does not have, if named is set. What cannot be found out is said in what it
// returns.
func holdAgainst(ctx context.Context, cfg kafka.Config, state *commitlog.State, topics []StatusTopic, m *partitions.Matcher, named bool) *StatusCluster {
	out := &StatusCluster{NotInBackup: []StatusMissing{}}
	var here []string
	for i := range topics {
		if topics[i].Newest {
			here = append(here, topics[i].Name)
		}
	}
	id, live, err := askCluster(ctx, cfg, here, func(topic string, partition int32) bool { return named && m.Matches(topic, partition) })
	out.ID = id
	if err != nil {
		out.Error = err.Error()
		return out
	}
	if of := state.Source().ClusterID; of != "" && id != "" && of != id {
		out.Error = fmt.Sprintf("this is cluster %s, and the backup is of %s", id, of)
		return out
	}
	for i := range topics {
		if t := &topics[i]; t.Newest {
			t.Cluster = compare(live[t.Name], t.ID, state, t.Name, m)
		}
		delete(live, topics[i].Name)
	}
	for _, name := range slices.Sorted(maps.Keys(live)) {
		t := StatusMissing{Name: name}
		if live[name].err != nil {
			t.Error = live[name].err.Error()
		}
		for n, p := range live[name].partitions {
			if !m.Matches(name, n) {
				continue
			}
			if p.err != nil {
				t.Error = fmt.Sprintf("%s/%d: %v", name, n, p.err)
				continue
			}
			t.Offsets += p.end - p.start
		}
		out.NotInBackup = append(out.NotInBackup, t)
	}
	return out
}

// compare holds what the log says of a topic against what the cluster does.
func compare(live liveTopic, id string, state *commitlog.State, name string, m *partitions.Matcher) *StatusLive {
	l := &StatusLive{State: "same", ID: live.id}
	switch {
	case errors.Is(live.err, kerr.UnknownTopicOrPartition):
		l.State = "deleted"
		return l
	case live.err != nil:
		l.State, l.Error = "unknown", live.err.Error()
		return l
	case live.id != "" && id != "" && live.id != id:
		l.State = "recreated"
	}
	for _, n := range slices.Sorted(maps.Keys(live.partitions)) {
		if !m.Matches(name, n) {
			continue
		}
		p := live.partitions[n]
		if p.err != nil {
			l.Error = fmt.Sprintf("%s/%d: %v", name, n, p.err)
			continue
		}
		if l.State == "recreated" {
			l.Behind += p.end - p.start
			continue
		}
		l.partition(n, p, state, name, id)
	}
	return l
}

func (l *StatusLive) partition(n int32, p liveRange, state *commitlog.State, name, id string) {
	next, known := state.Next(name, id, n)
	if known && p.end == next {
		if l.caughtUp == nil {
			l.caughtUp = make(map[int32]bool)
		}
		l.caughtUp[n] = true
	}
	if !known {
		if p.end > p.start {
			l.Missing = append(l.Missing, n)
		} else {
			l.Empty = append(l.Empty, n)
		}
		l.Behind += p.end - p.start
		return
	}
	if p.end < next {
		l.CutOff = append(l.CutOff, n)
		return
	}
	l.Behind += p.end - next
	l.Expired += max(p.start-next, 0)
	sum := state.Summary(name, id, n)
	if sum.From > p.start {
		l.Earlier += sum.From - p.start
		for _, g := range sum.Gone {
			l.Earlier -= max(min(g[1], sum.From)-max(g[0], p.start), 0)
		}
	}
}

// askCluster asks a cluster for its id, for the topics that are named here, and for those
// others of which it has a partition that is wanted. Kafka's own topics are none of these.
func askCluster(ctx context.Context, cfg kafka.Config, here []string, wanted func(topic string, partition int32) bool) (id string, topics map[string]liveTopic, err error) {
	cl, err := kafka.NewClient(ctx, cfg)
	if err != nil {
		return "", nil, err
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	all, err := adm.Metadata(ctx)
	if err != nil {
		return "", nil, fmt.Errorf("list the topics: %w", err)
	}
	details := make(kadm.TopicDetails)
	for name, t := range all.Topics {
		ours := slices.Contains(here, name)
		for n := range t.Partitions {
			ours = ours || wanted(name, n) && !t.IsInternal
		}
		if ours {
			details[name] = t
		}
	}
	// A list of all leaves out topics that one may not see: they are not gone.
	var unseen []string
	for _, name := range here {
		if _, ok := details[name]; !ok {
			unseen = append(unseen, name)
		}
	}
	if len(unseen) > 0 {
		more, err := adm.Metadata(ctx, unseen...)
		if err != nil {
			return "", nil, fmt.Errorf("look at the topics: %w", err)
		}
		for name, t := range more.Topics {
			details[name] = t
		}
	}
	asked := make(map[string][]int32)
	for name, t := range details {
		asked[name] = slices.Collect(maps.Keys(t.Partitions))
	}
	starts := kafka.ListOffsets(ctx, cl, asked, kafka.StartOffset, false)
	ends := kafka.ListOffsets(ctx, cl, asked, kafka.EndOffset, false)
	topics = make(map[string]liveTopic)
	for name, t := range details {
		live := liveTopic{id: kafka.FormatTopicID(t.ID), err: t.Err, partitions: make(map[int32]liveRange)}
		for n := range t.Partitions {
			start, end := starts.Of(name, n), ends.Of(name, n)
			live.partitions[n] = liveRange{start.Offset, end.Offset, errors.Join(start.Err, end.Err)}
		}
		topics[name] = live
	}
	return all.Cluster, topics, nil
}
