package produce

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/kafka"
	"github.com/kbkio/kbk/pkg/partitionlog"
	"github.com/kbkio/kbk/pkg/recordbatch"
)

const (
	defaultBatch = 1<<20 + 12 // Kafka's default of max.message.bytes

	// lookAgain is how long to wait before the cluster is looked at again.
	lookAgain = 200 * time.Millisecond
)

// A source is a topic of the stream.
type source struct {
	name    string
	about   *format.Topic // nil where the stream does not say
	highest int           // the most partitions that its records are known to need
	target  *target       // nil until it is prepared
	parts   map[int32]*partition
}

// A target is a topic of the cluster that records go to.
type target struct {
	name       string
	id         string
	source     *source
	partitions int
	maxBatch   int
	codec      string
	compressor *recordbatch.Compressor
	keeps      bool               // batches keep the codec of their producer
	settings   map[string]setting // before the run
	lanes      []*lane
	spread     kgo.TopicPartitioner
	turn       int // of the records that go to the partitions in turn

	oldest        int64 // least timestamp of the stream's records; of a batch that stays as it is, its latest
	appendTime    int64 // records that had the broker's timestamp
	missing       bool  // at a dry run: it would be created
	records, size int64 // at a dry run: what would be produced
}

// targets are the topics that the stream's topics go to.
type targets struct {
	cfg     *Config
	log     *slog.Logger
	cl      *kgo.Client
	adm     *kadm.Client
	logs    *partitionlog.Logs
	keeper  *keeper
	sources map[string]*source
	topics  map[string]*target // by name
	codecs  map[string]*recordbatch.Compressor
	fillers *recordbatch.Compressor
	done    plan // of a dry run: all that would be done
}

func newTargets(cfg *Config, log *slog.Logger, cl *kgo.Client, logs *partitionlog.Logs) (*targets, error) {
	t := &targets{
		cfg: cfg, log: log, cl: cl, adm: kadm.NewClient(cl), logs: logs, keeper: newKeeper(cl, log, cfg.Timeout),
		sources: make(map[string]*source), topics: make(map[string]*target), codecs: make(map[string]*recordbatch.Compressor),
	}
	_, err := t.compressor("none") // for what a codec makes too large
	if err == nil {
		t.fillers, err = recordbatch.NewCompressor(fillerCodec, fillerLevel)
	}
	return t, err
}

// describe takes a topic frame.
func (t *targets) describe(about *format.Topic) { t.named(about.Name).about = about }

// named returns a topic of the stream.
func (t *targets) named(name string) *source {
	s := t.sources[name]
	if s == nil {
		s = &source{name: name, parts: make(map[int32]*partition)}
		t.sources[name] = s
	}
	return s
}

// pending are the topics that are named and not prepared.
func (t *targets) pending() (out []*source) {
	for _, s := range t.sources {
		if s.target == nil {
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b *source) int { return strings.Compare(a.name, b.name) })
	return out
}

// prepare makes ready all topics that the stream has named so far and that are not: looks
// at the cluster, plans, and does what was planned. What destroys comes last.
func (t *targets) prepare(ctx context.Context) error {
	pending := t.pending()
	if len(pending) == 0 {
		return nil
	}
	var wishes []wish
	for _, s := range pending {
		w := wish{source: s.name, target: t.cfg.Naming.Target(s.name), about: s.about, highest: s.highest}
		if other := t.topics[w.target]; other != nil {
			return command.Usagef("topics %s and %s would both go to %s", other.source.name, s.name, w.target)
		}
		wishes = append(wishes, w)
	}
	p, have, err := t.lookAndDo(ctx, wishes)
	if err != nil {
		return err
	}
	if t.cfg.DryRun {
		t.done.topics = append(t.done.topics, p.topics...)
	}
	for _, tp := range p.topics {
		target, err := t.target(tp, have[tp.name])
		if err != nil {
			return err
		}
		target.source = t.sources[tp.wish.source]
		target.source.target, t.topics[tp.name] = target, target
	}
	return nil
}

// lookAndDo looks at the cluster, plans, and does what was planned; and once more where the
// cluster was not any more, or is not yet, as it has to be.
func (t *targets) lookAndDo(ctx context.Context, wishes []wish) (p plan, have map[string]topicState, err error) {
	var wait *partitionlog.Wait
	for began := time.Now(); ; {
		if have, err = t.look(ctx, wishes); err == nil {
			p, err = makePlan(t.cfg, wishes, have)
		}
		if err == nil {
			err = t.validate(ctx, p)
		}
		if err == nil && !t.cfg.DryRun {
			have, err = t.carryOut(ctx, p)
		}
		if !passes(err) || time.Since(began) > t.cfg.Timeout {
			return p, have, err
		}
		if wait == nil {
			wait = t.logs.Wait(partitionlog.Partition{Topic: "the target topics", Num: -1})
			defer wait.End()
		}
		wait.Because(err)
		select {
		case <-time.After(lookAgain):
		case <-ctx.Done():
			return p, have, context.Cause(ctx)
		}
	}
}

// errAway says that a topic cannot be created while brokers are away.
var errAway = errors.New("not all brokers of the cluster are up")

// passes tells whether a change that was refused need not be refused when the cluster is
// looked at again. It may have been made already: the client repeats a request whose answer
// was lost; the broker that was looked at may be behind; or somebody else was quicker. Or the
// controller is away.
func passes(err error) bool {
	return kafka.Transient(err) || errors.Is(err, kerr.TopicAlreadyExists) || errors.Is(err, kerr.InvalidPartitions) || errors.Is(err, errAway)
}

// look returns what the cluster has of some topics.
func (t *targets) look(ctx context.Context, wishes []wish) (map[string]topicState, error) {
	var names, there []string
	for _, w := range wishes {
		names = append(names, w.target)
	}
	var meta kadm.Metadata
	err := kafka.Retry(ctx, t.adm, t.cfg.Timeout, func() (err error) {
		meta, err = t.adm.Metadata(ctx, names...)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look at the target topics: %w", err)
	}
	t.keeper.cluster = meta.Cluster
	have := make(map[string]topicState)
	for _, name := range names {
		d := meta.Topics[name]
		state := topicState{exists: true, internal: d.IsInternal, id: kafka.FormatTopicID(d.ID), partitions: len(d.Partitions), err: d.Err}
		if errors.Is(d.Err, kerr.UnknownTopicOrPartition) {
			state = topicState{}
		} else if d.Err == nil && !state.internal {
			there = append(there, name)
		}
		have[name] = state
	}
	settings, err := t.keeper.settings(ctx, there)
	if err != nil {
		return nil, err
	}
	bounds, err := t.logs.Bounds(ctx, there)
	if err != nil {
		return nil, err
	}
	for _, name := range there {
		state := have[name]
		state.settings, state.bounds = settings[name], make(map[int32]partitionlog.Bounds)
		for p, b := range bounds {
			if p.Topic == name {
				state.bounds[p.Num] = b
			}
		}
		have[name] = state
	}
	return have, nil
}

// validate lets the cluster say whether it would create what is to be created.
func (t *targets) validate(ctx context.Context, p plan) error {
	var errs []error
	for _, tp := range p.topics {
		if tp.create {
			errs = append(errs, t.create(ctx, tp, t.adm.ValidateCreateTopics))
		}
	}
	return errors.Join(errs...)
}

type creator func(ctx context.Context, partitions int32, replicas int16, configs map[string]*string, topics ...string) (kadm.CreateTopicResponses, error)

func (t *targets) create(ctx context.Context, tp topicPlan, ask creator) error {
	resps, err := ask(ctx, int32(tp.partitions), int16(tp.replicas), tp.configs, tp.name)
	if err != nil {
		return fmt.Errorf("create topic %s: %w", tp.name, err)
	}
	switch r := resps[tp.name]; {
	case errors.Is(r.Err, kerr.InvalidReplicationFactor) && t.brokersAway(ctx, tp.replicas):
		return fmt.Errorf("create topic %s with %d replicas: %w: %w", tp.name, tp.replicas, r.Err, errAway)
	case errors.Is(r.Err, kerr.InvalidReplicationFactor):
		return command.WithHint(fmt.Errorf("create topic %s with %d replicas: %w", tp.name, tp.replicas, r.Err), "the cluster has fewer brokers: give --replication-factor N")
	case errors.Is(r.Err, kerr.InvalidConfig):
		return t.refused(ctx, tp, explained(r.Err, r.ErrMessage))
	case r.Err != nil:
		return fmt.Errorf("create topic %s: %w", tp.name, explained(r.Err, r.ErrMessage))
	}
	return nil
}

// brokersAway tells whether the cluster is large enough for so many replicas, -1 for its
// default, when all its brokers are up. Before Kafka 4.0 it does not say which are away
// (KIP-1073).
func (t *targets) brokersAway(ctx context.Context, replicas int) bool {
	req := kmsg.NewPtrDescribeClusterRequest()
	req.IncludeFencedBrokers = true
	var resp *kmsg.DescribeClusterResponse
	err := t.keeper.retry(ctx, func() (err error) {
		if resp, err = req.RequestWith(ctx, t.cl); err == nil {
			err = kerr.ErrorForCode(resp.ErrorCode)
		}
		return err
	})
	switch {
	case err != nil:
		return false
	case replicas < 0:
		return slices.ContainsFunc(resp.Brokers, func(b kmsg.DescribeClusterResponseBroker) bool { return b.IsFenced })
	default:
		return len(resp.Brokers) >= replicas
	}
}

// refused names all configs that the cluster does not take: it names only the first.
func (t *targets) refused(ctx context.Context, tp topicPlan, why error) error {
	var bad, skip []string
	for k, v := range tp.configs {
		resps, err := t.adm.ValidateCreateTopics(ctx, 1, -1, map[string]*string{k: v}, tp.name)
		if err != nil {
			return fmt.Errorf("create topic %s: %w", tp.name, err)
		}
		if errors.Is(resps[tp.name].Err, kerr.InvalidConfig) {
			bad, skip = append(bad, k+"="+*v), append(skip, "--skip-config "+k)
		}
	}
	if len(bad) == 0 {
		return fmt.Errorf("create topic %s: %w", tp.name, why)
	}
	slices.Sort(bad)
	slices.Sort(skip)
	return command.WithHint(fmt.Errorf("create topic %s: the cluster refuses %s: %w", tp.name, strings.Join(bad, ", "), why),
		"to do without: "+strings.Join(skip, " "))
}

// carryOut does what was planned, and returns what the cluster has then.
func (t *targets) carryOut(ctx context.Context, p plan) (map[string]topicState, error) {
	var wishes []wish
	partitions := make(map[string]int)
	for _, tp := range p.topics {
		wishes, partitions[tp.name] = append(wishes, tp.wish), tp.partitions
		switch {
		case tp.create:
			if err := t.create(ctx, tp, t.adm.CreateTopics); err != nil {
				return nil, err
			}
			t.log.Info("created topic "+tp.name, "partitions", tp.partitions)
		case tp.had < tp.partitions:
			if err := t.addPartitions(ctx, tp.name, tp.had, tp.partitions); err != nil {
				return nil, err
			}
		default:
			continue
		}
	}
	if err := t.await(ctx, partitions); err != nil {
		return nil, err
	}
	// What a topic that was created has by default is only known now.
	have, err := t.look(ctx, wishes)
	if err != nil {
		return nil, err
	}
	if !t.cfg.KeepConfigs {
		for i := range p.topics {
			tp := &p.topics[i]
			tp.notes = nil
			tp.planHold(t.cfg, have[tp.name].settings)
		}
		if err := t.keeper.hold(ctx, p.topics, have); err != nil {
			return nil, err
		}
		if _, err := t.keeper.release(ctx); err != nil { // of other topics: it is not this run's business to fail
			t.log.Warn(err.Error())
		}
	}
	return have, t.purge(ctx, p, have)
}

func (t *targets) addPartitions(ctx context.Context, name string, had, has int) error {
	err := t.keeper.retry(ctx, func() error {
		resps, err := t.adm.UpdatePartitions(ctx, has, name)
		if err == nil {
			err = resps.Error()
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("add partitions to topic %s: %w", name, err)
	}
	t.log.Info("added partitions to topic "+name, "had", had, "has", has)
	return nil
}

// purge deletes all records of topics.
func (t *targets) purge(ctx context.Context, p plan, have map[string]topicState) error {
	what := p.purged()
	if what == "" || t.cfg.IfNotEmpty != purge {
		return nil
	}
	for _, tp := range p.topics {
		for _, num := range tp.full {
			b := have[tp.name].bounds[num]
			if err := t.logs.DeleteBelow(ctx, partitionlog.Partition{Topic: tp.name, Num: num}, b.End); err != nil {
				return err
			}
			have[tp.name].bounds[num] = partitionlog.Bounds{Start: b.End, End: b.End}
		}
	}
	t.log.Info("deleted " + what)
	return nil
}

// await waits until topics have all their partitions, with leaders.
func (t *targets) await(ctx context.Context, partitions map[string]int) error {
	names := sortedNames(partitions)
	if len(names) == 0 {
		return nil
	}
	err := t.logs.Retry(ctx, partitionlog.Partition{Topic: "the target topics", Num: -1}, func(ctx context.Context, _ time.Time) error {
		meta, err := t.adm.Metadata(ctx, names...)
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := ready(meta.Topics[name], partitions[name]); err != nil {
				return fmt.Errorf("topic %s: %w", name, err)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("wait for the target topics: %w", err)
	}
	return nil
}

// ready wants a topic to have n partitions, all with leaders.
func ready(d kadm.TopicDetail, n int) error {
	if d.Err != nil {
		return d.Err
	}
	if len(d.Partitions) < n {
		return fmt.Errorf("it has %d of %d partitions", len(d.Partitions), n)
	}
	for _, part := range d.Partitions.Sorted() {
		if part.Leader < 0 {
			return fmt.Errorf("partition %d has no leader", part.Partition)
		}
	}
	return nil
}

// same wants the topics to be those that they were when they were prepared: what was
// written to a topic that was deleted since is gone, whatever there is of its name now.
func (t *targets) same(ctx context.Context) error {
	names := sortedNames(t.topics)
	if len(names) == 0 { // no names would mean all topics
		return nil
	}
	var ids map[string]string
	err := t.logs.Retry(ctx, partitionlog.Partition{Topic: "the target topics", Num: -1}, func(ctx context.Context, _ time.Time) (err error) {
		if ids, err = t.keeper.ids(ctx, names); err != nil {
			return err
		}
		for _, name := range names {
			if _, ok := ids[name]; !ok { // or a broker has just begun to serve
				return fmt.Errorf("topic %s is gone: %w", name, kerr.UnknownTopicOrPartition)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("look at the target topics: %w", err)
	}
	for _, name := range names {
		if another(t.topics[name].id, ids[name]) {
			return command.WithHint(fmt.Errorf("topic %s was deleted and created again while records were restored", name), "run the same line again")
		}
	}
	return nil
}

// target is a topic that is ready.
func (t *targets) target(tp topicPlan, state topicState) (*target, error) {
	target := &target{name: tp.name, id: state.id, partitions: tp.partitions, maxBatch: defaultBatch, settings: state.settings, oldest: math.MaxInt64}
	target.missing = t.cfg.DryRun && !state.exists
	if n, err := strconv.ParseInt(state.settings["max.message.bytes"].value, 10, 32); err == nil && n > 0 {
		target.maxBatch = int(n)
	}
	if v := tp.configs["max.message.bytes"]; target.missing && v != nil {
		if n, err := strconv.ParseInt(*v, 10, 32); err == nil && n > 0 {
			target.maxBatch = int(n)
		}
	}
	if n, err := strconv.ParseInt(state.settings["segment.bytes"].value, 10, 32); err == nil && n > 0 {
		target.maxBatch = min(target.maxBatch, int(n))
	}
	target.codec = t.cfg.Compression
	if target.codec == "" {
		target.codec = state.settings["compression.type"].value
		if v := tp.configs["compression.type"]; target.missing && v != nil {
			target.codec = *v
		}
		if target.keeps = !recordbatch.IsCodec(target.codec); target.keeps { // "producer", or it may not be seen
			target.codec = "zstd"
		}
	}
	var err error
	if target.compressor, err = t.compressor(target.codec); err != nil {
		return nil, err
	}
	target.spread = kgo.StickyKeyPartitioner(nil).ForTopic(tp.name)
	t.grown(target, state.bounds)
	return target, nil
}

// compressor returns the one compressor of a codec.
func (t *targets) compressor(codec string) (*recordbatch.Compressor, error) {
	if codec == "uncompressed" {
		codec = "none"
	}
	c := t.codecs[codec]
	if c == nil {
		var err error
		if c, err = recordbatch.NewCompressor(codec, 0); err != nil {
			return nil, err
		}
		t.codecs[codec] = c
	}
	return c, nil
}

// grown gives a target the lanes that it lacks.
func (t *targets) grown(target *target, at map[int32]partitionlog.Bounds) {
	for num := int32(len(target.lanes)); int(num) < target.partitions; num++ {
		target.lanes = append(target.lanes, &lane{
			target: target, at: partitionlog.Partition{Topic: target.name, Num: num}, num: num, bounds: at[num], due: at[num].End,
		})
	}
}

// grow adds partitions to a target that has turned out to need more of them.
func (t *targets) grow(ctx context.Context, target *target, needs int) error {
	if !t.cfg.AddPartitions {
		return tooFew(target.source.name, target.name, target.partitions, needs)
	}
	if !t.cfg.DryRun {
		err := t.addPartitions(ctx, target.name, target.partitions, needs)
		if err != nil && !errors.Is(err, kerr.InvalidPartitions) {
			return err
		}
		// It may have them: where the answer to the request was lost, the client repeats it.
		if awaitErr := t.await(ctx, map[string]int{target.name: needs}); awaitErr != nil {
			return cmp.Or(err, awaitErr)
		}
	}
	target.partitions = needs
	t.grown(target, nil)
	return nil
}
