package produce

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

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
	name       string
	partitions int
	maxBatch   int32
}

// targets are the topics that the stream's topics go to.
type targets struct {
	cfg     Config
	log     *slog.Logger
	adm     *kadm.Client
	sources map[string]*source

	mu     sync.Mutex
	topics map[string]*target // by name; the client asks for their batch sizes
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
		name := s.name
		if to, ok := t.cfg.Rename[name]; ok {
			name = to
		}
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
	if err := t.checkPresent(ctx, meta.Topics, present, fresh); err != nil {
		return err
	}
	for _, name := range missing {
		if err := t.create(ctx, name, fresh[name]); err != nil {
			return err
		}
	}
	if len(missing) > 0 {
		if meta, err = t.await(ctx, missing, names); err != nil {
			return err
		}
	}
	sizes, err := t.batchSizes(ctx, names)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for name, s := range fresh {
		s.target = &target{name: name, partitions: len(meta.Topics[name].Partitions), maxBatch: sizes[name]}
		t.topics[name] = s.target
	}
	return nil
}

// checkPresent refuses topics that the records do not fit in.
func (t *targets) checkPresent(ctx context.Context, topics kadm.TopicDetails, names []string, fresh map[string]*source) error {
	if len(names) == 0 { // no names would mean all topics
		return nil
	}
	for _, name := range names {
		if about := fresh[name].about; about != nil && len(topics[name].Partitions) < about.Partitions {
			return command.WithHint(
				fmt.Errorf("topic %s has %d partitions, and %s had %d", name, len(topics[name].Partitions), about.Name, about.Partitions),
				"add partitions, or write to another topic with --rename")
		}
	}
	if t.cfg.Append {
		return nil
	}
	starts, err := t.adm.ListStartOffsets(ctx, names...)
	if err == nil {
		err = starts.Error()
	}
	if err != nil {
		return fmt.Errorf("look for records in the target topics: %w", err)
	}
	ends, err := t.adm.ListEndOffsets(ctx, names...)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return fmt.Errorf("look for records in the target topics: %w", err)
	}
	for _, name := range names {
		for num, end := range ends[name] {
			if start, ok := starts.Lookup(name, num); !ok || start.Offset < end.Offset {
				return command.WithHint(fmt.Errorf("topic %s is not empty: partition %d holds offsets %d to %d", name, num, start.Offset, end.Offset-1),
					"write to another topic with --rename, or behind what is there with --if-not-empty append")
			}
		}
	}
	return nil
}

func (t *targets) create(ctx context.Context, name string, s *source) error {
	about := s.about
	if about == nil || about.Partitions == 0 {
		return command.WithHint(fmt.Errorf("topic %s cannot be created: the stream does not say how many partitions it had", name), "create it by hand")
	}
	replicas := about.ReplicationFactor
	if t.cfg.ReplicationFactor > 0 {
		replicas = t.cfg.ReplicationFactor
	}
	if replicas == 0 {
		replicas = -1 // the broker's default
	}
	configs := make(map[string]*string, len(about.Configs))
	for k, v := range about.Configs {
		configs[k] = &v
	}
	_, err := t.adm.CreateTopic(ctx, int32(about.Partitions), int16(replicas), configs, name)
	if errors.Is(err, kerr.InvalidReplicationFactor) {
		return command.WithHint(fmt.Errorf("create topic %s with %d replicas: %w", name, replicas, err), "the cluster is smaller: say --replication-factor N")
	}
	if err != nil {
		return fmt.Errorf("create topic %s: %w", name, err)
	}
	t.log.Info(fmt.Sprintf("created topic %s", name), "partitions", about.Partitions)
	return nil
}

// await waits until topics that were created have leaders, and returns fresh
// metadata of all.
func (t *targets) await(ctx context.Context, created, all []string) (kadm.Metadata, error) {
	ctx, cancel := context.WithTimeout(ctx, createdTimeout)
	defer cancel()
	for {
		meta, err := t.adm.Metadata(ctx, all...)
		if err != nil {
			return meta, fmt.Errorf("look at the topics created: %w", err)
		}
		ready := true
		for _, name := range created {
			d := meta.Topics[name]
			if d.Err != nil || len(d.Partitions) == 0 {
				ready = false
			}
			for _, part := range d.Partitions {
				if part.Leader < 0 {
					ready = false
				}
			}
		}
		if ready {
			return meta, nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return meta, fmt.Errorf("topics %s were created but have no leaders: %w", strings.Join(created, ", "), ctx.Err())
		}
	}
}

// batchSizes returns how large a batch each topic takes.
func (t *targets) batchSizes(ctx context.Context, names []string) (map[string]int32, error) {
	all, err := t.adm.DescribeTopicConfigs(ctx, names...)
	if err != nil {
		return nil, fmt.Errorf("look at the target topics' configs: %w", err)
	}
	sizes := make(map[string]int32)
	for _, name := range names {
		sizes[name] = defaultBatch
	}
	for _, r := range all {
		if r.Err != nil { // without the right to know, the default has to do
			t.log.Debug(fmt.Sprintf("topic %s: its configs cannot be read: %v", r.Name, r.Err))
			continue
		}
		for _, c := range r.Configs {
			if c.Key != "max.message.bytes" || c.Value == nil {
				continue
			}
			if n, err := strconv.ParseInt(*c.Value, 10, 32); err == nil && n > 0 {
				sizes[r.Name] = int32(n)
			}
		}
	}
	return sizes, nil
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
