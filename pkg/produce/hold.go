package produce

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/kafka"
)

// How long it may take to put configs back after the run was stopped, how long brokers may take
// to show a config, and how long after that their logs may take to follow it.
const (
	putBackTimeout = 30 * time.Second
	configTimeout  = 30 * time.Second
	configDelay    = 100 * time.Millisecond
)

// A keeper suspends configs of topics, keeps the notes that say so, and puts the configs back.
type keeper struct {
	cl      *kgo.Client
	adm     *kadm.Client
	log     *slog.Logger
	timeout time.Duration
	cluster string
	me      holder

	mu      sync.Mutex
	topics  map[string]*heldTopic
	changed map[string][]string // configs that somebody else has changed during the run, by topic
}

// A heldTopic is a topic of which configs are suspended, or might be.
type heldTopic struct {
	name     string
	id       string
	was      map[string]*string // configs to put back; nil: not set on the topic
	producer *holder            // a run that was killed, whose producer goes on
	loose    bool               // retention and compaction are not suspended any more
}

// mustStay says that a config is to be suspended as long as records come that were made
// elsewhere; for others it is enough to hold them off until all there was is copied.
func mustStay(key string) bool { return strings.HasPrefix(key, "message.timestamp.") }

func newKeeper(cl *kgo.Client, log *slog.Logger, timeout time.Duration) *keeper {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return &keeper{
		cl: cl, adm: kadm.NewClient(cl), log: log, timeout: timeout,
		me:     holder{Run: fmt.Sprintf("%016x", rand.Uint64()), Host: host, PID: os.Getpid(), Producer: -1, Markers: -1},
		topics: make(map[string]*heldTopic), changed: make(map[string][]string),
	}
}

func (k *keeper) witness() *witness {
	return &witness{now: time.Now(), run: k.me.Run, host: k.me.Host, pid: k.me.PID, alive: alive}
}

func (k *keeper) retry(ctx context.Context, do func() error) error {
	return kafka.Retry(ctx, k.adm, k.timeout, do)
}

// notes returns what runs have noted of topics, by topic; of all for no names. What is
// not of this cluster and these topics is left out.
func (k *keeper) notes(ctx context.Context) (map[string]string, error) {
	var offsets kadm.OffsetResponses
	err := k.retry(ctx, func() (err error) { // the group may be the first of the cluster
		offsets, err = k.adm.FetchOffsets(ctx, holdGroup)
		return err
	})
	if errors.Is(err, kerr.GroupIDNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for configs that an earlier run has suspended, in group %s: %w", holdGroup, err)
	}
	out := make(map[string]string)
	for name, parts := range offsets {
		if meta := parts[0].Metadata; meta != "" {
			out[name] = meta
		}
	}
	return out, nil
}

// inherited is the run that was killed and whose producer goes on in a topic.
func (k *keeper) inherited(topic string) *holder {
	k.mu.Lock()
	defer k.mu.Unlock()
	if h := k.topics[topic]; h != nil {
		return h.producer
	}
	return nil
}

// write commits notes, by topic.
func (k *keeper) write(ctx context.Context, notes map[string]note) error {
	var offsets kadm.Offsets
	for name, n := range notes {
		offsets.Add(kadm.Offset{Topic: name, Partition: 0, LeaderEpoch: -1, Metadata: n.encode()})
	}
	return k.retry(ctx, func() error {
		resps, err := k.adm.CommitOffsets(ctx, holdGroup, offsets)
		if err == nil {
			err = resps.Error()
		}
		return err
	})
}

// hold notes and suspends the configs of topics. The settings of states were read
// before.
func (k *keeper) hold(ctx context.Context, topics []topicPlan, states map[string]topicState) error {
	if len(topics) == 0 {
		return nil
	}
	if err := k.join(ctx, topics, states); err != nil {
		return command.WithHint(err, "a restore suspends retention and compaction, and needs the right to READ and DELETE group "+holdGroup+"; or use --keep-configs")
	}
	change := make(map[string]map[string]string)
	for _, tp := range topics {
		if len(tp.hold) > 0 {
			change[tp.name] = tp.hold
		}
	}
	if len(change) == 0 {
		return nil
	}
	var errs []error
	for name, err := range k.alter(ctx, change, nil) {
		errs = append(errs, command.WithHint(fmt.Errorf("topic %s: suspend %s: %w", name, strings.Join(slices.Sorted(maps.Keys(change[name])), ", "), err),
			"a restore needs the right to alter the topic's configs; or use --keep-configs; records may then be deleted or changed"))
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	for _, tp := range topics {
		if len(tp.hold) > 0 {
			k.log.Debug(fmt.Sprintf("topic %s: configs suspended during the run", tp.name), "configs", fmt.Sprint(tp.hold))
		}
	}
	return k.awaitHeld(ctx, change)
}

// join notes this run as a holder of topics. Two runs may do so at the same time: what
// was written is read again.
func (k *keeper) join(ctx context.Context, topics []topicPlan, states map[string]topicState) error {
	for {
		metas, err := k.notes(ctx)
		if err != nil {
			return err
		}
		w := k.witness()
		mine := make(map[string]note)
		k.mu.Lock()
		for _, tp := range topics {
			state := states[tp.name]
			had, ours := k.noteOf(metas, tp.name, state.id)
			if metas[tp.name] != "" && !ours {
				k.log.Warn(fmt.Sprintf("topic %s: an earlier run's note in group %s is about another topic or cluster, and is ignored", tp.name, holdGroup))
			}
			h := k.topics[tp.name]
			if h != nil && had.has(k.me.Run) {
				continue // it was there when it was read again
			}
			joined, dead := had.join(k.me, w, state.settings, tp.hold)
			if h == nil {
				h = &heldTopic{name: tp.name, id: state.id, producer: dead}
				k.topics[tp.name] = h
			}
			joined.Holders[len(joined.Holders)-1] = k.holder(h, w.now)
			h.was = joined.Was
			mine[tp.name] = joined
		}
		k.mu.Unlock()
		if len(mine) == 0 {
			return nil
		}
		if err := k.write(ctx, mine); err != nil {
			return fmt.Errorf("note the topics' configs in group %s: %w", holdGroup, err)
		}
	}
}

// noteOf is the note of a topic that has this id, or a new one of it. ours says that there
// was one.
func (k *keeper) noteOf(metas map[string]string, topic, id string) (n note, ours bool) {
	if n, ours = parseNote(metas[topic], k.cluster, id); !ours {
		n = note{Version: noteVersion, Cluster: k.cluster, TopicID: id}
	}
	return n, ours
}

// holder is this run as the note of a topic has it.
func (k *keeper) holder(h *heldTopic, now time.Time) holder {
	me := k.me
	me.Renewed = now.UnixMilli()
	if h.producer != nil {
		me.Producer, me.Epoch, me.Markers = h.producer.Producer, h.producer.Epoch, h.producer.Markers
	}
	return me
}

func (n *note) has(run string) bool {
	return slices.ContainsFunc(n.Holders, func(h holder) bool { return h.Run == run })
}

// alter sets configs of topics, and takes others off them, all in one request. It returns
// the errors by topic.
func (k *keeper) alter(ctx context.Context, set map[string]map[string]string, unset map[string][]string) (failed map[string]error) {
	req := alteration(set, unset)
	// The topics are there, as a broker has just said: one that does not know them is behind.
	_ = kafka.Retry(ctx, k.adm, kafka.CatchUp, func() error {
		failed = k.send(ctx, req)
		for _, err := range failed {
			if errors.Is(err, kerr.UnknownTopicOrPartition) {
				return err
			}
		}
		return nil
	})
	return failed
}

// alteration is the request of [keeper.alter].
func alteration(set map[string]map[string]string, unset map[string][]string) *kmsg.IncrementalAlterConfigsRequest {
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	names := make(map[string]bool)
	for name := range set {
		names[name] = true
	}
	for name := range unset {
		names[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		r := kmsg.NewIncrementalAlterConfigsRequestResource()
		r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeTopic, name
		for key, value := range set[name] {
			c := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
			c.Name, c.Op, c.Value = key, kmsg.IncrementalAlterConfigOpSet, &value
			r.Configs = append(r.Configs, c)
		}
		for _, key := range unset[name] {
			c := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
			c.Name, c.Op = key, kmsg.IncrementalAlterConfigOpDelete
			r.Configs = append(r.Configs, c)
		}
		req.Resources = append(req.Resources, r)
	}
	return req
}

// send sends a request until a broker answers it, and returns the errors by topic.
func (k *keeper) send(ctx context.Context, req *kmsg.IncrementalAlterConfigsRequest) map[string]error {
	failed := make(map[string]error)
	err := k.retry(ctx, func() error {
		clear(failed)
		resp, err := req.RequestWith(ctx, k.cl)
		if err != nil {
			return err
		}
		for _, r := range resp.Resources {
			if err := kerr.ErrorForCode(r.ErrorCode); err != nil {
				if kerr.IsRetriable(err) && !errors.Is(err, kerr.UnknownTopicOrPartition) {
					return err
				}
				said := ""
				if r.ErrorMessage != nil {
					said = *r.ErrorMessage
				}
				failed[r.ResourceName] = explained(err, said)
			}
		}
		return nil
	})
	if err != nil {
		for _, r := range req.Resources {
			failed[r.ResourceName] = err
		}
	}
	return failed
}

func explained(err error, message string) error {
	if message == "" {
		return err
	}
	return fmt.Errorf("%w: %s", err, message)
}

// awaitHeld waits until every broker goes by the configs: the first record may be on
// its way to any of them a moment later.
func (k *keeper) awaitHeld(ctx context.Context, change map[string]map[string]string) error {
	ctx, cancel := context.WithTimeout(ctx, configTimeout)
	defer cancel()
	brokers, err := kafka.Brokers(ctx, k.adm)
	if err != nil {
		return fmt.Errorf("look for the brokers: %w", err)
	}
	req := kmsg.NewPtrDescribeConfigsRequest()
	for name, set := range change {
		r := kmsg.NewDescribeConfigsRequestResource()
		r.ResourceType, r.ResourceName, r.ConfigNames = kmsg.ConfigResourceTypeTopic, name, slices.Collect(maps.Keys(set))
		req.Resources = append(req.Resources, r)
	}
	for _, b := range brokers {
		for {
			answer, err := k.cl.Broker(int(b.NodeID)).Request(ctx, req)
			if err == nil && holds(answer.(*kmsg.DescribeConfigsResponse), change) {
				break
			}
			if err != nil && k.gone(ctx, b.NodeID) { // it has the configs before it leads a partition again
				break
			}
			if err != nil && ctx.Err() == nil && !kafka.Transient(err) {
				return fmt.Errorf("ask broker %d for the configs that are suspended: %w", b.NodeID, err)
			}
			select {
			case <-time.After(10 * time.Millisecond):
			case <-ctx.Done():
				return fmt.Errorf("broker %d has not taken over the configs that are suspended: %w", b.NodeID, ctx.Err())
			}
		}
	}
	// A broker tells of a config a moment before its logs go by it
	// (BrokerMetadataPublisher publishes the one and then the other).
	select {
	case <-time.After(configDelay):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// gone says that a broker is none of the cluster's at the moment.
func (k *keeper) gone(ctx context.Context, id int32) bool {
	brokers, err := kafka.Brokers(ctx, k.adm)
	return err == nil && !slices.ContainsFunc(brokers, func(b kadm.BrokerDetail) bool { return b.NodeID == id })
}

func holds(resp *kmsg.DescribeConfigsResponse, change map[string]map[string]string) bool {
	for _, r := range resp.Resources {
		if r.ErrorCode != 0 {
			return false
		}
		for _, c := range r.Configs {
			if want, ok := change[r.ResourceName][c.Name]; ok && (c.Value == nil || *c.Value != want) {
				return false
			}
		}
	}
	return true
}

// settings returns the configs of topics that are there. Topics whose configs may not be seen
// are missing.
func (k *keeper) settings(ctx context.Context, names []string) (map[string]map[string]setting, error) {
	out := make(map[string]map[string]setting)
	if len(names) == 0 {
		return out, nil
	}
	var all kadm.ResourceConfigs
	var refused error
	err := kafka.Retry(ctx, k.adm, kafka.CatchUp, func() error {
		refused = nil
		err := k.retry(ctx, func() (err error) {
			all, err = k.adm.DescribeTopicConfigs(ctx, names...)
			return err
		})
		if err != nil {
			return err
		}
		for _, r := range all {
			if kafka.Transient(r.Err) {
				refused = r.Err
			}
		}
		return refused
	})
	if err != nil && !errors.Is(err, refused) {
		return nil, fmt.Errorf("look at the target topics' configs: %w", err)
	}
	for _, r := range all {
		if r.Err != nil {
			k.log.Warn(fmt.Sprintf("topic %s: its configs cannot be read, and are left as they are: %v", r.Name, r.Err))
			continue
		}
		m := make(map[string]setting)
		for _, c := range r.Configs {
			if c.Value != nil {
				m[c.Key] = settingOf(&c)
			}
		}
		out[r.Name] = m
	}
	return out, nil
}

// settingOf is a config of a topic, and what it would be if it were not set on it.
func settingOf(c *kadm.Config) setting {
	s := setting{value: *c.Value, own: c.Source == kmsg.ConfigSourceDynamicTopicConfig, byDefault: *c.Value}
	if !s.own {
		return s
	}
	s.byDefault = ""
	for _, other := range c.Synonyms {
		if other.Source != kmsg.ConfigSourceDynamicTopicConfig && other.Value != nil {
			s.byDefault = *other.Value
			break // they come in the order in which they count
		}
	}
	return s
}

// ids are the ids of topics, as they are at this moment: kadm answers with what was known
// a moment ago. Topics that are not there are missing.
func (k *keeper) ids(ctx context.Context, names []string) (map[string]string, error) {
	out := make(map[string]string)
	if len(names) == 0 { // no names would mean all topics
		return out, nil
	}
	req := kmsg.NewPtrMetadataRequest()
	for _, name := range names {
		rt := kmsg.NewMetadataRequestTopic()
		rt.Topic = &name
		req.Topics = append(req.Topics, rt)
	}
	resp, err := req.RequestWith(ctx, k.cl)
	if err != nil {
		return nil, err
	}
	for _, rt := range resp.Topics {
		if rt.Topic != nil && kerr.ErrorForCode(rt.ErrorCode) != kerr.UnknownTopicOrPartition {
			out[*rt.Topic] = kafka.FormatTopicID(rt.TopicID)
		}
	}
	return out, nil
}

// still are those topics that are what they were when their configs were suspended; had
// are their ids then. Configs of another topic that has the name by now are not this run's
// business.
func (k *keeper) still(ctx context.Context, had map[string]string) ([]string, error) {
	names := sortedNames(had)
	var ids map[string]string
	err := k.retry(ctx, func() (err error) {
		ids, err = k.ids(ctx, names)
		return err
	})
	if err != nil {
		return names, fmt.Errorf("look at the topics whose configs are suspended: %w", err)
	}
	return slices.DeleteFunc(names, func(name string) bool { return another(had[name], ids[name]) }), nil
}

// another says by their ids whether a topic is another one than it was. Brokers before 2.8
// know no ids, and they are not told to whoever may not see the topic.
func another(had, has string) bool { return had != "" && has != "" && had != has }

// had are the ids of the topics whose configs are suspended. The lock is held.
func (k *keeper) had() map[string]string {
	out := make(map[string]string)
	for name, h := range k.topics {
		out[name] = h.id
	}
	return out
}

// original are the configs of a topic that are suspended, as they were.
func (k *keeper) original(topic string) map[string]*string {
	k.mu.Lock()
	defer k.mu.Unlock()
	if h := k.topics[topic]; h != nil {
		return maps.Clone(h.was)
	}
	return nil
}

// watch renews the notes, and looks whether the configs are still held, until ctx ends.
func (k *keeper) watch(ctx context.Context) {
	tick := time.NewTicker(noteEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := k.check(ctx); err != nil && ctx.Err() == nil {
				k.log.Warn(fmt.Sprintf("look at the configs that are suspended: %v", err))
			}
			if err := k.renew(ctx); err != nil && ctx.Err() == nil {
				k.log.Warn(fmt.Sprintf("renew the note in group %s: %v", holdGroup, err))
			}
		case <-ctx.Done():
			return
		}
	}
}

// check looks whether all configs are still harmless, notes which are not, and holds them
// off again.
func (k *keeper) check(ctx context.Context) error {
	k.mu.Lock()
	had := k.had()
	k.mu.Unlock()
	names, err := k.still(ctx, had)
	if err != nil {
		return err
	}
	have, err := k.settings(ctx, names)
	if err != nil {
		return err
	}
	again := make(map[string]map[string]string)
	for name, settings := range have {
		for key, s := range settings {
			to := held(key, s.value)
			if to == "" || !k.holds(name, key) {
				continue
			}
			if again[name] == nil {
				again[name] = make(map[string]string)
			}
			again[name][key] = to
			k.log.Warn(fmt.Sprintf("topic %s: somebody has changed %s to %s while it is suspended: it is suspended again", name, key, s.value))
			k.noteChange(name, key, s)
		}
	}
	if len(again) == 0 {
		return nil
	}
	var errs []error
	for name, err := range k.alter(ctx, again, nil) {
		errs = append(errs, fmt.Errorf("topic %s: %w", name, err))
	}
	return errors.Join(errs...)
}

// holds says whether a config is still suspended.
func (k *keeper) holds(topic, key string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	h := k.topics[topic]
	return h == nil || !h.loose || mustStay(key)
}

// giveBackRetention gives topics their retention and compaction back while the run goes on.
func (k *keeper) giveBackRetention(ctx context.Context, names []string) error {
	set, unset := make(map[string]map[string]string), make(map[string][]string)
	var givenBack []*heldTopic
	k.mu.Lock()
	for _, name := range names {
		h := k.topics[name]
		if h == nil || h.loose {
			continue
		}
		h.loose = true
		givenBack = append(givenBack, h)
		for key, value := range h.was {
			switch {
			case mustStay(key):
			case value == nil:
				unset[name] = append(unset[name], key)
			default:
				if set[name] == nil {
					set[name] = make(map[string]string)
				}
				set[name][key] = *value
			}
		}
	}
	k.mu.Unlock()
	if len(set)+len(unset) == 0 {
		return nil
	}
	failed := k.alter(ctx, set, unset)
	k.mu.Lock()
	var errs []error
	for _, h := range givenBack {
		if name := h.name; failed[name] != nil {
			h.loose = false
			errs = append(errs, fmt.Errorf("topic %s: put back retention and compaction: %w", name, failed[name]))
			continue
		}
		maps.DeleteFunc(h.was, func(key string, _ *string) bool { return !mustStay(key) })
	}
	k.mu.Unlock()
	return errors.Join(append(errs, k.renew(ctx))...)
}

// noteChange remembers a config that somebody has changed: it is what is to be put back,
// now.
func (k *keeper) noteChange(name, key string, s setting) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !slices.Contains(k.changed[name], key) {
		k.changed[name] = append(k.changed[name], key)
	}
	if h := k.topics[name]; h != nil {
		if h.was[key] = nil; s.own {
			h.was[key] = &s.value
		}
	}
}

// renew writes the notes again, with this run in them.
func (k *keeper) renew(ctx context.Context) error {
	k.mu.Lock()
	had := k.had()
	k.mu.Unlock()
	names, err := k.still(ctx, had)
	if err != nil {
		return err
	}
	metas, err := k.notes(ctx)
	if err != nil {
		return err
	}
	w := k.witness()
	notes := make(map[string]note)
	k.mu.Lock()
	for _, name := range names {
		h := k.topics[name]
		n, _ := k.noteOf(metas, name, h.id)
		n.Was, n.Holders = h.was, append(n.leave(w), k.holder(h, w.now))
		notes[name] = n
	}
	k.mu.Unlock()
	if len(notes) == 0 {
		return nil
	}
	return k.write(ctx, notes)
}

// meet learns which cluster it is.
func (k *keeper) meet(ctx context.Context) error {
	err := k.retry(ctx, func() error {
		meta, err := k.adm.BrokerMetadata(ctx)
		k.cluster = meta.Cluster
		return err
	})
	if err != nil {
		return fmt.Errorf("ask for the cluster's id: %w", err)
	}
	return nil
}

// putBack gives the topics the configs that they had, also when the run was stopped.
// keep says which are to stay as they are held: for good, or, of a run that is unfinished,
// until the next one puts them back. late says that requests may still be on their way: the
// next run is to know the producer.
func (k *keeper) putBack(ctx context.Context, keep map[string][]string, unfinished, late bool) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), putBackTimeout)
	defer cancel()
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.topics) == 0 {
		return nil
	}
	metas, err := k.notes(ctx)
	if err != nil {
		k.log.Warn(fmt.Sprintf("%v; no other run is taken into account", err))
	}
	still, err := k.still(ctx, k.had())
	if err != nil {
		k.log.Warn(err.Error())
	}
	w := k.witness()
	set, unset := make(map[string]map[string]string), make(map[string][]string)
	var mine []string
	shared := make(map[string]note)
	for _, name := range sortedNames(k.topics) {
		h := k.topics[name]
		if !slices.Contains(still, name) {
			if _, ours := parseNote(metas[name], k.cluster, h.id); ours {
				mine = append(mine, name) // the note goes
			}
			continue
		}
		if n, ours := parseNote(metas[name], k.cluster, h.id); ours {
			if others := n.leave(w); len(others) > 0 {
				n.Holders = others
				shared[name] = n
				if len(h.was) > 0 {
					k.log.Info(fmt.Sprintf("topic %s: another restore, %s, still needs its configs suspended, and will put them back", name, others[0].String()))
				}
				continue
			}
		}
		mine = append(mine, name)
		me := k.holder(h, time.UnixMilli(0)) // it is over: nobody is to wait for it
		left := note{Version: noteVersion, Cluster: k.cluster, TopicID: h.id, Was: make(map[string]*string), Holders: []holder{me}}
		for key, value := range h.was {
			switch {
			case slices.Contains(keep[name], key):
				left.Was[key] = value
			case value == nil:
				unset[name] = append(unset[name], key)
			default:
				if set[name] == nil {
					set[name] = make(map[string]string)
				}
				set[name][key] = *value
			}
		}
		if unfinished && len(left.Was) > 0 || late {
			shared[name] = left
		}
	}
	failed := make(map[string]error)
	if len(set)+len(unset) > 0 {
		failed = k.alter(ctx, set, unset)
	}
	var errs []error
	var gone []string
	for _, name := range mine {
		if _, left := shared[name]; left && failed[name] == nil {
			continue
		}
		if err := failed[name]; err != nil && !errors.Is(err, kerr.UnknownTopicOrPartition) {
			errs = append(errs, command.WithHint(fmt.Errorf("topic %s: put back its configs: %w; this does it: %s", name, err, commands(name, set[name], unset[name])),
				"run the same line again, or kbk-produce --release, or set them by hand"))
			continue
		}
		gone = append(gone, name)
	}
	if len(shared) > 0 {
		if err := k.write(ctx, shared); err != nil {
			errs = append(errs, fmt.Errorf("note in group %s what is still suspended: %w", holdGroup, err))
		}
	}
	k.forget(ctx, gone)
	for _, name := range append(gone, slices.Collect(maps.Keys(shared))...) {
		delete(k.topics, name)
	}
	return errors.Join(errs...)
}

// forget takes notes away that are not needed any more. First they are written anew with
// nothing in them: that takes no other right than writing them did, and if they cannot be
// deleted nobody believes them.
func (k *keeper) forget(ctx context.Context, names []string) {
	if len(names) == 0 {
		return
	}
	empty := make(map[string]note)
	var topics kadm.TopicsSet
	for _, name := range names {
		empty[name] = note{Version: noteVersion}
		topics.Add(name, 0)
	}
	err := k.write(ctx, empty)
	if err == nil || errors.Is(err, kerr.UnknownTopicOrPartition) {
		err = k.retry(ctx, func() error {
			resps, err := k.adm.DeleteOffsets(ctx, holdGroup, topics)
			if err == nil {
				err = resps.Error()
			}
			if errors.Is(err, kerr.UnknownTopicOrPartition) { // it is gone, and its note with it
				return nil
			}
			return err
		})
	}
	if err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
		k.log.Warn(fmt.Sprintf("group %s: its notes are no longer needed, but could not be deleted: %v", holdGroup, err))
	}
}

// release puts back what runs that were killed have suspended, in all topics but those
// that this run has to do with.
func (k *keeper) release(ctx context.Context) (released int, err error) {
	metas, err := k.notes(ctx)
	if err != nil {
		return 0, err
	}
	for name := range metas {
		if k.topics[name] != nil {
			delete(metas, name)
		}
	}
	if len(metas) == 0 {
		return 0, nil
	}
	var meta kadm.Metadata
	err = k.retry(ctx, func() (err error) {
		meta, err = k.adm.Metadata(ctx, slices.Collect(maps.Keys(metas))...)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("look at the topics of group %s: %w", holdGroup, err)
	}
	maps.DeleteFunc(metas, func(name, _ string) bool { return errors.Is(meta.Topics[name].Err, kerr.UnknownTopicOrPartition) })
	names := slices.Sorted(maps.Keys(metas))
	settings, err := k.settings(ctx, names)
	if err != nil {
		return 0, err
	}
	w := k.witness()
	set, unset := make(map[string]map[string]string), make(map[string][]string)
	var over []string
	for _, name := range names {
		n, ours := parseNote(metas[name], k.cluster, kafka.FormatTopicID(meta.Topics[name].ID))
		if !ours {
			continue // of whoever wrote it
		}
		if living, _ := w.split(n.Holders); len(living) > 0 {
			continue
		}
		over = append(over, name)
		for key, was := range n.Was {
			if s := settings[name][key]; !s.own || held(key, s.value) != "" {
				continue // it has been changed since
			}
			if was == nil {
				unset[name] = append(unset[name], key)
				continue
			}
			if set[name] == nil {
				set[name] = make(map[string]string)
			}
			set[name][key] = *was
		}
	}
	var failed map[string]error
	if len(set)+len(unset) > 0 {
		failed = k.alter(ctx, set, unset)
	}
	var errs []error
	var gone []string
	for _, name := range over {
		if err := failed[name]; err != nil && !errors.Is(err, kerr.UnknownTopicOrPartition) {
			errs = append(errs, fmt.Errorf("topic %s: put back what a run that was killed has suspended: %w; this does it: %s", name, err, commands(name, set[name], unset[name])))
			continue
		}
		if len(set[name])+len(unset[name]) > 0 {
			keys := slices.Sorted(maps.Keys(set[name]))
			keys = append(keys, slices.Sorted(slices.Values(unset[name]))...)
			k.log.Info(fmt.Sprintf("topic %s: put back what a run that was killed has suspended: %s", name, strings.Join(keys, ", ")))
			released++
		}
		gone = append(gone, name)
	}
	k.forget(ctx, gone)
	return released, errors.Join(errs...)
}
