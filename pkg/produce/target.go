package produce

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
)

const (
	defaultBatch   = 1 << 20 // Kafka's default of max.message.bytes is this and 12 bytes
	createdTimeout = 30 * time.Second
)

// A source is a topic of the stream.
type source struct {
	name   string
	about  *format.Topic // nil where the stream does not say
	target *target       // nil until the first record of any topic
	parts  map[int32]*partition
}

// A target is a topic of the cluster that records go to.
type target struct {
	name        string
	partitions  int
	maxBatch    int32
	compression string // compression.type
	retention   string // retention.ms that it will have after the run
	lanes       []*lane
	oldest      int64 // least timestamp of the records that went there
	spread      kgo.TopicPartitioner
	turn        int // of the records that go to the partitions in turn

	missing       bool  // at a dry run: it would be created
	records, size int64 // at a dry run: what would be produced
}

// A lane is a partition of a target.
type lane struct {
	target   *target
	num      int32
	bounds   bounds     // of its log when the run began
	existing *existing  // what an earlier run has produced and this one has not come to; nil when there is no more
	from     *partition // exact offsets: the one partition that goes there
	exact    *exact     // how offsets are kept, where they are to be

	due int64 // offset of the next record acknowledged; -1: others may write there too
}

// targets are the topics that the stream's topics go to.
type targets struct {
	cfg     Config
	log     *slog.Logger
	cl      *kgo.Client
	adm     *kadm.Client
	logs    *logs
	sources map[string]*source
	held    map[string]map[string]*string // configs to put back, by topic; nil: not set on it

	mu     sync.Mutex
	topics map[string]*target // by name; the client asks for their batch sizes
}

func newTargets(cfg Config, env *command.Env, cl *kgo.Client) *targets {
	logs := newLogs(cl)
	return &targets{
		cfg: cfg, log: env.Log, cl: cl, adm: logs.adm, logs: logs,
		sources: make(map[string]*source), topics: make(map[string]*target), held: make(map[string]map[string]*string),
	}
}

// describe takes a topic frame.
func (t *targets) describe(about *format.Topic) {
	if s := t.sources[about.Name]; s != nil {
		s.about = about
		return
	}
	t.sources[about.Name] = &source{name: about.Name, about: about, parts: make(map[int32]*partition)}
}

// source returns a topic of the stream, ready to be produced. The first call looks
// at all topics that the stream has named so far, so that what is wrong with the
// last is known before the first record is written.
func (t *targets) source(ctx context.Context, name string) (*source, error) {
	s := t.sources[name]
	if s == nil {
		s = &source{name: name, parts: make(map[int32]*partition)}
		t.sources[name] = s
	}
	if s.target != nil {
		return s, nil
	}
	if err := t.prepare(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// prepare finds or creates the target topics that are not ready, and checks them.
func (t *targets) prepare(ctx context.Context) error {
	fresh := make(map[string]*source) // by target
	var names []string
	for _, s := range t.sources {
		if s.target != nil {
			continue
		}
		name := t.cfg.Naming.target(s.name)
		other := fresh[name]
		for _, o := range t.sources {
			if o.target != nil && o.target.name == name {
				other = o
			}
		}
		if other != nil {
			return command.Usagef("topics %s and %s would both go to %s", other.name, s.name, name)
		}
		fresh[name] = s
		names = append(names, name)
	}
	slices.Sort(names)
	meta, err := t.adm.Metadata(ctx, names...)
	if err != nil {
		return fmt.Errorf("look at the target topics: %w", err)
	}
	var missing, present []string
	for _, name := range names {
		switch err := meta.Topics[name].Err; {
		case errors.Is(err, kerr.UnknownTopicOrPartition):
			missing = append(missing, name)
		case err != nil:
			return fmt.Errorf("topic %s: %w", name, err)
		default:
			present = append(present, name)
		}
	}
	if len(missing) > 0 && !t.cfg.CreateTopics {
		return command.WithHint(fmt.Errorf("topic %s does not exist", strings.Join(missing, ", ")), "create it, or let --create-topics do it")
	}
	partitions := make(map[string]int)
	for _, name := range present {
		if partitions[name], err = t.enough(ctx, fresh[name], name, len(meta.Topics[name].Partitions)); err != nil {
			return err
		}
	}
	for _, name := range missing {
		if partitions[name], err = t.create(ctx, name, fresh[name]); err != nil {
			return err
		}
	}
	there := names
	if t.cfg.DryRun {
		there = present
	} else if err = t.await(ctx, partitions); err != nil {
		return err
	}
	settings := make(map[string]map[string]setting)
	at := make(map[string]map[int32]bounds)
	if len(there) > 0 { // no names would mean all topics
		if settings, err = t.settings(ctx, there); err != nil {
			return err
		}
	}
	for _, name := range present {
		if err := sameLimit(fresh[name], name, settings[name]); err != nil {
			return err
		}
	}
	if !t.cfg.DryRun && !t.cfg.KeepConfigs {
		if err := t.hold(ctx, settings); err != nil {
			return err
		}
	}
	if len(present) > 0 {
		if at, err = t.logs.bounds(ctx, present); err != nil {
			return err
		}
		if t.cfg.IfNotEmpty == purge {
			if err := t.purge(ctx, at); err != nil {
				return err
			}
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for name, s := range fresh {
		s.target = t.target(name, partitions[name], settings[name], at[name])
		s.target.missing = t.cfg.DryRun && slices.Contains(missing, name)
		t.topics[name] = s.target
	}
	t.scans()
	return nil
}

// target is a topic that is ready.
func (t *targets) target(name string, partitions int, settings map[string]setting, at map[int32]bounds) *target {
	target := &target{name: name, partitions: partitions, maxBatch: defaultBatch, oldest: math.MaxInt64}
	if n, err := strconv.ParseInt(settings["max.message.bytes"].value, 10, 32); err == nil && n > 0 {
		target.maxBatch = int32(n)
	}
	target.compression, target.retention = settings["compression.type"].value, settings["retention.ms"].value
	if was, ok := t.held[name]["retention.ms"]; ok && was != nil {
		target.retention = *was
	}
	target.spread = kgo.StickyKeyPartitioner(nil).ForTopic(name)
	for num := range int32(partitions) {
		l := &lane{target: target, num: num, bounds: at[num], due: at[num].end}
		switch {
		case t.cfg.IfNotEmpty == appending:
			l.due = -1
		case l.bounds.start < l.bounds.end:
			l.existing = &existing{start: l.bounds.start, end: l.bounds.end}
		}
		target.lanes = append(target.lanes, l)
	}
	return target
}

// scans gives every partition that holds records the means to read them: what is read
// ahead of all of them takes a part of the memory.
func (t *targets) scans() {
	var all []*lane
	for _, target := range t.topics {
		for _, l := range target.lanes {
			if l.existing != nil && l.existing.scan == nil {
				all = append(all, l)
			}
		}
	}
	for _, l := range all {
		size := min(max(t.cfg.Memory/8/int64(len(all)), 16<<10), 1<<20)
		l.existing.scan = t.logs.scan(l.target.name, l.num, int32(size))
	}
}

// most is the number of partitions that the records of a topic need.
func (t *targets) most(s *source) int {
	if t.cfg.Partitioner != "" || s.about == nil {
		return 1
	}
	most := 0
	for num := range s.about.Partitions {
		most = max(most, int(t.cfg.partition(int32(num)))+1)
	}
	return most
}

// enough is the number of partitions of a topic that exists, once there are enough
// of them.
func (t *targets) enough(ctx context.Context, s *source, name string, has int) (int, error) {
	most := t.most(s)
	if has >= most {
		return has, nil
	}
	if !t.cfg.AddPartitions {
		return 0, command.WithHint(fmt.Errorf("topic %s has %d partitions, and %s needs %d", name, has, s.name, most),
			"let --add-partitions add them, or write to another topic with --rename")
	}
	if t.cfg.DryRun {
		t.log.Info(fmt.Sprintf("would add partitions to topic %s", name), "had", has, "then", most)
		return most, nil
	}
	resps, err := t.adm.UpdatePartitions(ctx, most, name)
	if err == nil {
		err = resps.Error()
	}
	if err != nil {
		return 0, fmt.Errorf("add partitions to topic %s: %w", name, err)
	}
	t.log.Info(fmt.Sprintf("added partitions to topic %s", name), "had", has, "has", most)
	return most, nil
}

// sameLimit refuses a topic that takes smaller batches than the source did.
func sameLimit(s *source, name string, settings map[string]setting) error {
	if s.about == nil {
		return nil
	}
	had, err := strconv.ParseInt(s.about.Configs["max.message.bytes"], 10, 64)
	has, err2 := strconv.ParseInt(settings["max.message.bytes"].value, 10, 64)
	if err != nil || err2 != nil || had <= has {
		return nil
	}
	return command.WithHint(fmt.Errorf("topic %s takes batches of %d bytes, and %s had some of up to %d", name, has, s.name, had),
		fmt.Sprintf("raise max.message.bytes of topic %s", name))
}

// purge deletes all records of topics.
func (t *targets) purge(ctx context.Context, at map[string]map[int32]bounds) error {
	var offsets kadm.Offsets
	var count int64
	var names []string
	for name, parts := range at {
		had := count
		for num, b := range parts {
			if b.start < b.end {
				count += b.end - b.start
				offsets.Add(kadm.Offset{Topic: name, Partition: num, At: b.end})
				parts[num] = bounds{b.end, b.end}
			}
		}
		if count > had {
			names = append(names, name)
		}
	}
	if len(offsets) == 0 {
		return nil
	}
	slices.Sort(names)
	what := fmt.Sprintf("%s of topic %s", command.Count(count, "offset"), strings.Join(names, ", "))
	switch {
	case t.cfg.DryRun:
		t.log.Info("would delete " + what)
		return nil
	case !t.cfg.Yes:
		return command.WithHint(command.Usagef("--if-not-empty purge would delete %s for good", what), "add --yes if that is what you want")
	}
	if err := t.deleteRecords(ctx, offsets); err != nil {
		return err
	}
	t.log.Info("deleted " + what)
	return nil
}

func (t *targets) deleteRecords(ctx context.Context, offsets kadm.Offsets) error {
	return retry(ctx, t.adm, func() error {
		resps, err := t.adm.DeleteRecords(ctx, offsets)
		if err == nil {
			err = resps.Error()
		}
		if err != nil {
			return fmt.Errorf("delete records of topic %s: %w", strings.Join(offsets.TopicsSet().Topics(), ", "), err)
		}
		return nil
	})
}

// create creates a topic and returns how many partitions it has. A dry run lets the
// cluster say whether it would.
func (t *targets) create(ctx context.Context, name string, s *source) (int, error) {
	about := s.about
	partitions := t.cfg.Partitions
	if partitions == 0 && about != nil && about.Partitions > 0 {
		partitions = max(about.Partitions, t.most(s))
	}
	if partitions == 0 {
		return 0, command.WithHint(fmt.Errorf("topic %s cannot be created: the stream does not say how many partitions it had", name), "say --partitions N, or create it by hand")
	}
	if partitions < t.most(s) {
		return 0, command.WithHint(fmt.Errorf("topic %s with %d partitions would be too small: %s needs %d", name, partitions, s.name, t.most(s)),
			"--partitioner murmur2 spreads the records by their keys over fewer")
	}
	replicas := t.cfg.ReplicationFactor
	if replicas == 0 && about != nil {
		replicas = about.ReplicationFactor
	}
	if replicas == 0 {
		replicas = -1 // the broker's default
	}
	configs := make(map[string]*string)
	if about != nil && !t.cfg.NoConfigs {
		for k, v := range about.Configs {
			if !slices.Contains(t.cfg.SkipConfigs, k) {
				configs[k] = &v
			}
		}
	}
	for k, v := range t.cfg.Configs {
		configs[k] = &v
	}
	ask := t.adm.CreateTopics
	if t.cfg.DryRun {
		ask = t.adm.ValidateCreateTopics
	}
	resps, err := ask(ctx, int32(partitions), int16(replicas), configs, name)
	if err != nil {
		return 0, fmt.Errorf("create topic %s: %w", name, err)
	}
	switch r := resps[name]; {
	case errors.Is(r.Err, kerr.InvalidReplicationFactor):
		return 0, command.WithHint(fmt.Errorf("create topic %s with %d replicas: %w", name, replicas, r.Err), "the cluster is smaller: say --replication-factor N")
	case errors.Is(r.Err, kerr.InvalidConfig):
		return 0, t.refused(ctx, name, configs, explained(r.Err, r.ErrMessage))
	case r.Err != nil:
		return 0, fmt.Errorf("create topic %s: %w", name, explained(r.Err, r.ErrMessage))
	}
	done := "created"
	if t.cfg.DryRun {
		done = "would create"
	}
	t.log.Info(fmt.Sprintf("%s topic %s", done, name), "partitions", partitions)
	return partitions, nil
}

// refused names all configs that the cluster does not take: it names only the first.
func (t *targets) refused(ctx context.Context, name string, configs map[string]*string, why error) error {
	var bad, skip []string
	for k, v := range configs {
		resps, err := t.adm.ValidateCreateTopics(ctx, 1, -1, map[string]*string{k: v}, name)
		if err != nil {
			return fmt.Errorf("create topic %s: %w", name, err)
		}
		if errors.Is(resps[name].Err, kerr.InvalidConfig) {
			bad, skip = append(bad, k+"="+*v), append(skip, "--skip-config "+k)
		}
	}
	if len(bad) == 0 {
		return fmt.Errorf("create topic %s: %w", name, why)
	}
	slices.Sort(bad)
	slices.Sort(skip)
	return command.WithHint(fmt.Errorf("create topic %s: the cluster refuses %s: %w", name, strings.Join(bad, ", "), why),
		"to do without: "+strings.Join(skip, " "))
}

// await waits until topics have all their partitions, with leaders.
func (t *targets) await(ctx context.Context, partitions map[string]int) error {
	ctx, cancel := context.WithTimeout(ctx, createdTimeout)
	defer cancel()
	var names []string
	for name := range partitions {
		names = append(names, name)
	}
	for {
		meta, err := t.adm.Metadata(ctx, names...)
		if err != nil {
			return fmt.Errorf("look at the target topics: %w", err)
		}
		waiting := ""
		for name, n := range partitions {
			d := meta.Topics[name]
			if d.Err != nil || len(d.Partitions) < n {
				waiting = name
			}
			for _, part := range d.Partitions {
				if part.Leader < 0 {
					waiting = name
				}
			}
		}
		if waiting == "" {
			return nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("topic %s has partitions without a leader: %w", waiting, ctx.Err())
		}
	}
}

// maxBatch is how large a batch the client may send to a topic.
func (t *targets) maxBatch(topic string) int32 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if target := t.topics[topic]; target != nil {
		return target.maxBatch
	}
	return defaultBatch
}

// codec is what batches are compressed with: as the topics say, where they agree.
func (t *targets) codec() string {
	if t.cfg.Compression != "" {
		return t.cfg.Compression
	}
	all := ""
	for _, target := range t.topics {
		c := target.compression
		if c == "" || c == "producer" || all != "" && all != c {
			return "zstd"
		}
		all = c
	}
	return all
}
