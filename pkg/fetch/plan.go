package fetch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/groups"
	"github.com/kbkio/kbk/pkg/kafka"
)

// A plan is what a run will read: topics, and of each partition the offsets
// [from, end).
type plan struct {
	cluster string
	time    time.Time // when the end offsets were taken
	topics  []format.Topic
	groups  *groups.Snapshot
	hidden  []hidden // to be said at the first restore point while following
	parts   []*partition
	// unplaced are partitions of which the offsets are not known yet: they have no
	// leader, or it does not answer. See [planner.place].
	unplaced []unplaced
}

// An unplaced is a partition that cannot be planned, and why.
type unplaced struct {
	*partition
	why error
}

// offsets is how many offsets there are to scan.
func (p *plan) offsets() int64 {
	var n int64
	for _, part := range p.parts {
		n += part.end - part.pos
	}
	return n
}

// A planner asks a cluster what there is to read.
type planner struct {
	cl   *kgo.Client
	adm  *kadm.Client
	cfg  Config
	log  *slog.Logger
	lost *losses

	inVain map[topicPartition]int64 // last stable offsets that a run has waited for to go on

	past map[topicPartition]int64 // committed offsets that stay past the ends
}

// plan plans to read the selected partitions.
func (p *planner) plan(ctx context.Context, meta kadm.Metadata, selected selection) (*plan, error) {
	names := slices.Sorted(maps.Keys(selected))
	out := &plan{cluster: meta.Cluster}
	if len(names) == 0 {
		return out, nil
	}
	configs, err := p.configs(ctx, names)
	if err != nil {
		return nil, err
	}
	// The groups before the ends, so that no committed offset is past them: see listEnds.
	if out.groups, err = readGroups(ctx, p.adm, p.cfg, selected); err != nil {
		return nil, err
	}
	if out.groups != nil {
		for _, what := range out.groups.LeftOut {
			p.log.Warn(what)
		}
	}
	out.time = time.Now()
	var parts []*partition
	for _, name := range names {
		t := meta.Topics[name]
		id := kafka.FormatTopicID(t.ID)
		out.topics = append(out.topics, format.Topic{
			Name: name, ID: id, Partitions: len(t.Partitions), ReplicationFactor: t.Partitions.NumReplicas(), Configs: configs[name],
		})
		resume := p.resume(name, id)
		for _, num := range slices.Sorted(maps.Keys(selected[name])) {
			d := t.Partitions[num]
			part := &partition{topic: name, id: t.ID, num: num, leader: d.Leader, epoch: d.LeaderEpoch, resumed: resume(num)}
			parts = append(parts, part)
		}
	}
	out.parts, out.unplaced, err = p.place(ctx, parts, out.groups)
	return out, err
}

// A position is where earlier runs have come to in a partition.
type position struct {
	next  int64        // -1: they have not read it
	epoch int32        // leader epoch of the last batch below next, -1 where it is not known
	seen  []epochStart // where this and earlier ones begin, as far as this run has read them
}

// resume returns what the cursor says of a topic's partitions.
func (p *planner) resume(name, id string) func(num int32) position {
	none := func(int32) position { return position{next: -1, epoch: -1} }
	if p.cfg.Cursor == nil {
		return none
	}
	t := p.cfg.Cursor.Topics[name]
	if t.ID != "" && t.ID != id {
		p.log.Warn(fmt.Sprintf("topic %s was deleted and created again: reading the new one from its beginning", name), "was", t.ID, "is", id)
		return none
	}
	return func(num int32) position {
		at := position{next: -1, epoch: -1}
		if next, ok := t.Partitions[num]; ok {
			at.next = next
		}
		if epoch, ok := t.Epochs[num]; ok {
			at.epoch = epoch
		}
		return at
	}
}

// place asks for the offsets of partitions, and sets where to begin and to end in each.
// Those of which the offsets cannot be had for now are returned as they were. What groups have
// committed was read before.
func (p *planner) place(ctx context.Context, parts []*partition, committed *groups.Snapshot) (placed []*partition, left []unplaced, err error) {
	asked := make(map[string][]int32)
	for _, part := range parts {
		asked[part.topic] = append(asked[part.topic], part.num)
	}
	o := p.listOffsets(ctx, asked, committed)
	epochs := p.epochs(ctx, parts, o)
	if ctx.Err() != nil {
		return nil, nil, context.Cause(ctx)
	}
	for _, part := range parts {
		k, err := o.of(part)
		if err == nil {
			k.epochs = epochs[part]
			err = k.epochs.err()
		}
		if kafka.Transient(err) {
			left = append(left, unplaced{part, err})
			continue
		}
		if err != nil {
			return nil, nil, fmt.Errorf("%s: list offsets: %w", part, err)
		}
		if err := p.bound(part, k); err != nil {
			return nil, nil, err
		}
		placed = append(placed, part)
	}
	return placed, left, nil
}

// bound sets what is read of a partition, and says what of it cannot be had.
func (p *planner) bound(part *partition, k known) error {
	part.logStart, part.stable, part.high = k.start, k.end, k.high
	part.pos, part.end = p.cfg.bounds(k)
	var what []string
	if part.resumed.next >= 0 {
		r := resume(part.resumed, k)
		if part.pos = r.from; r.branch {
			part.begins, part.branch = true, true
			what = append(what, fmt.Sprintf("%s: %s", part, r.why))
		} else if part.pos > k.start {
			part.pos = max(k.start, part.pos-p.cfg.Cursor.Overlap)
		}
	}
	part.end = max(part.end, part.pos)
	if part.pos < k.start {
		part.lost = [2]int64{part.pos, min(k.start, part.end)}
		part.end = max(part.end, part.lost[1])
		what = append(what, deleted(part, part.lost[0], part.lost[1]))
	}
	part.target = part.end
	if p.cfg.Follow {
		part.end = openEnd
	}
	for _, w := range what {
		if p.cfg.FailOnLoss {
			return lossError(w)
		}
		p.lost.add(w)
	}
	return nil
}

// wait waits for the offsets of the partitions that a plan has none of. Those that have
// none when the time is over are left out.
func (p *planner) wait(ctx context.Context, plan *plan, stop <-chan struct{}) error {
	if len(plan.unplaced) == 0 {
		return nil
	}
	for _, u := range plan.unplaced {
		p.log.Warn(fmt.Sprintf("%s: its offsets cannot be read: waiting up to %s: %v", u.partition, p.cfg.Timeout, u.why))
	}
	for over := time.After(p.cfg.Timeout); len(plan.unplaced) > 0; {
		select {
		case <-time.After(lookEvery):
		case <-stop:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-over:
			return p.giveUp(plan)
		}
		if err := p.again(ctx, plan); err != nil {
			return err
		}
	}
	return nil
}

// again tries once more to place what is unplaced.
func (p *planner) again(ctx context.Context, plan *plan) error {
	var parts []*partition
	names := make(map[string]bool)
	for _, u := range plan.unplaced {
		parts, names[u.topic] = append(parts, u.partition), true
	}
	meta, err := p.adm.Metadata(ctx, slices.Collect(maps.Keys(names))...)
	if err != nil {
		p.log.Debug("metadata: " + err.Error())
		return nil
	}
	for _, part := range parts {
		if d, ok := meta.Topics[part.topic].Partitions[part.num]; ok {
			part.leader, part.epoch = d.Leader, d.LeaderEpoch
		}
	}
	placed, left, err := p.place(ctx, parts, plan.groups)
	if err != nil {
		return err
	}
	plan.parts, plan.unplaced = append(plan.parts, placed...), left
	return nil
}

// giveUp leaves out what is unplaced.
func (p *planner) giveUp(plan *plan) error {
	for _, u := range plan.unplaced {
		what := fmt.Sprintf("%s is left out: its offsets could not be read for %s: %v", u.partition, p.cfg.Timeout, u.why)
		if p.cfg.FailOnLoss {
			return lossError(what)
		}
		if p.cfg.Follow { // it may yet have a leader
			p.log.Warn(fmt.Sprintf("%s: continuing without it until its offsets can be read: %v", u.partition, u.why))
			continue
		}
		p.lost.add(what)
	}
	return nil
}

// readGroups reads the groups that cfg asks for, as far as they are about the selected
// topics.
func readGroups(ctx context.Context, adm *kadm.Client, cfg Config, selected selection) (*groups.Snapshot, error) {
	if len(cfg.Groups) == 0 {
		return nil, nil
	}
	meta, err := adm.Metadata(ctx, slices.Collect(maps.Keys(selected))...)
	if err != nil {
		return nil, fmt.Errorf("list topics: %w", err)
	}
	topics := make(map[string]string)
	for name := range selected {
		topics[name] = kafka.FormatTopicID(meta.Topics[name].ID)
	}
	out, err := groups.Read(ctx, adm, groups.Request{Include: cfg.Groups, Exclude: cfg.ExcludeGroups, Topics: topics})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// configs returns the configs of topics. Those that cannot be had are left out, and
// said.
func (p *planner) configs(ctx context.Context, names []string) (map[string]map[string]string, error) {
	if p.cfg.NoConfigs {
		return nil, nil
	}
	configs, failed, err := kafka.TopicConfigs(ctx, p.cl, names)
	if err != nil {
		return nil, err
	}
	byError := make(map[error][]string)
	for name, err := range failed {
		byError[err] = append(byError[err], name)
	}
	for err, names := range byError {
		slices.Sort(names)
		why := err.Error()
		if errors.Is(err, kerr.TopicAuthorizationFailed) {
			why = "the user has no right to DESCRIBE_CONFIGS there; --no-configs leaves them out without a message"
		}
		p.log.Warn(fmt.Sprintf("the topic configs of %s are not in the stream: %s", strings.Join(names, ", "), why))
	}
	return configs, nil
}

// offsets are what brokers say of partitions.
type offsets struct {
	starts, ends kafka.Offsets
	high         kafka.Offsets // the high watermarks
	since        kafka.Offsets // of the first record of Config.From's time or later; nil where that is no time
}

// known is what is known of one partition.
type known struct {
	start int64
	end   int64 // what a run reads up to
	high  int64 // the high watermark
	since int64 // the first offset of Config.From's time or later, -1 where there is none
	epochs
}

// listOffsets asks for the offsets of partitions, after what groups have committed was read.
func (p *planner) listOffsets(ctx context.Context, asked map[string][]int32, committed *groups.Snapshot) *offsets {
	// The ends before the beginnings: what these are afterwards, retention has decided.
	o := new(offsets)
	o.high, o.ends = p.listEnds(ctx, asked, committed)
	o.starts = kafka.ListOffsets(ctx, p.cl, asked, kafka.StartOffset, false)
	if p.cfg.From.kind == atTime {
		o.since = kafka.ListOffsets(ctx, p.cl, asked, p.cfg.From.n, false)
	}
	return o
}

// of is what they say of one partition.
func (o *offsets) of(part *partition) (known, error) {
	k := known{since: -1}
	var errs []error
	get := func(from kafka.Offsets, to *int64) {
		at := from.Of(part.topic, part.num)
		if at.Err != nil {
			errs = append(errs, at.Err)
		}
		*to = at.Offset
	}
	get(o.starts, &k.start)
	get(o.ends, &k.end)
	get(o.high, &k.high)
	if o.since != nil {
		get(o.since, &k.since)
	}
	if len(errs) > 0 {
		return k, errs[0]
	}
	k.end = max(k.end, k.start)
	k.high = max(k.high, k.end)
	return k, nil
}
