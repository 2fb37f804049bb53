package produce

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/groups"
)

// holdGroup is the consumer group in which a run keeps what configs are to be once it
// is over: as the metadata of an offset committed for partition 0 of the topic. A
// run that was killed leaves it there for the next one, and with the topic it goes.
const holdGroup = groups.Produce

// How long what is put back may take after the run was stopped, and how long brokers
// to take a config over.
const (
	putBackTimeout = 30 * time.Second
	configTimeout  = 30 * time.Second
	configSettle   = 100 * time.Millisecond
)

// held says which value a config of a topic must have while records are restored
// that may be old, come in another order than they did, and have a timestamp
// already; "" where the value it has does no harm.
func held(name, value string) string {
	limit := strconv.FormatInt(math.MaxInt64, 10)
	switch name {
	case "retention.ms", "retention.bytes":
		if value != "-1" {
			return "-1"
		}
	case "cleanup.policy": // the broker refuses DeleteRecords where it is only compact
		if value != "delete" {
			return "delete"
		}
	case "message.timestamp.type":
		if value != "CreateTime" {
			return "CreateTime"
		}
	case "message.timestamp.before.max.ms", "message.timestamp.after.max.ms", "message.timestamp.difference.max.ms":
		if value != limit {
			return limit
		}
	}
	return ""
}

// A setting is a config as a topic has it.
type setting struct {
	value string
	own   bool // set on the topic itself
}

// settings returns the configs of topics. Topics whose configs may not be seen are
// missing.
func (t *targets) settings(ctx context.Context, names []string) (map[string]map[string]setting, error) {
	all, err := t.adm.DescribeTopicConfigs(ctx, names...)
	if err != nil {
		return nil, fmt.Errorf("look at the target topics' configs: %w", err)
	}
	out := make(map[string]map[string]setting)
	for _, r := range all {
		if r.Err != nil {
			t.log.Warn(fmt.Sprintf("topic %s: its configs cannot be read, and are left as they are: %v", r.Name, r.Err))
			continue
		}
		m := make(map[string]setting)
		for _, c := range r.Configs {
			if c.Value != nil {
				m[c.Key] = setting{*c.Value, c.Source == kmsg.ConfigSourceDynamicTopicConfig}
			}
		}
		out[r.Name] = m
	}
	return out, nil
}

// hold holds off the configs of topics that would eat or refuse what is restored. It
// remembers, here and in the cluster, what they were.
func (t *targets) hold(ctx context.Context, all map[string]map[string]setting) error {
	saved, err := t.savedConfigs(ctx)
	if err != nil {
		return err
	}
	var offsets kadm.Offsets
	change := make(map[string]map[string]string)
	for name, settings := range all {
		was := saved[name] // by a run that was killed: what is there now is what it held
		if was == nil {
			was = make(map[string]*string)
		}
		set := make(map[string]string)
		for key, s := range settings {
			to := held(key, s.value)
			if to == "" {
				continue
			}
			set[key] = to
			if was[key] = nil; s.own {
				was[key] = &s.value
			}
		}
		if len(was) == 0 {
			continue
		}
		t.held[name] = was
		if len(set) == 0 {
			continue
		}
		change[name] = set
		b, err := json.Marshal(was)
		if err != nil {
			return err
		}
		offsets.Add(kadm.Offset{Topic: name, Partition: 0, LeaderEpoch: -1, Metadata: string(b)})
	}
	if len(change) == 0 {
		return nil
	}
	err = retry(ctx, t.adm, func() error {
		resps, err := t.adm.CommitOffsets(ctx, holdGroup, offsets)
		if err == nil {
			err = resps.Error()
		}
		return err
	})
	if err != nil {
		return command.WithHint(fmt.Errorf("keep the topics' configs in group %s: %w", holdGroup, err),
			"a restore holds off retention and compaction, and needs the right to READ and DELETE this group; or leave them with --keep-configs")
	}
	for name, set := range change {
		if err := t.alter(ctx, name, set, nil); err != nil {
			return command.WithHint(fmt.Errorf("topic %s: hold off %s: %w", name, strings.Join(slices.Sorted(maps.Keys(set)), ", "), err),
				"a restore needs the right to alter the topic's configs; or leave them with --keep-configs, and records may not stay as they are")
		}
		t.log.Debug(fmt.Sprintf("topic %s: configs held off during the run", name), "configs", fmt.Sprint(set))
	}
	return t.awaitHeld(ctx, change)
}

// savedConfigs returns what earlier runs have not put back, by topic.
func (t *targets) savedConfigs(ctx context.Context) (map[string]map[string]*string, error) {
	out := make(map[string]map[string]*string)
	var offsets kadm.OffsetResponses
	err := retry(ctx, t.adm, func() (err error) { // the group may be the first of the cluster
		offsets, err = t.adm.FetchOffsets(ctx, holdGroup)
		return err
	})
	if errors.Is(err, kerr.GroupIDNotFound) {
		return out, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for configs that an earlier run has held off, in group %s: %w", holdGroup, err)
	}
	for name, parts := range offsets {
		if meta := parts[0].Metadata; meta != "" {
			was := make(map[string]*string)
			if err := json.Unmarshal([]byte(meta), &was); err != nil {
				return nil, fmt.Errorf("group %s, topic %s: what an earlier run has kept there: %w", holdGroup, name, err)
			}
			out[name] = was
		}
	}
	return out, nil
}

// alter sets configs of a topic, and takes others off it.
func (t *targets) alter(ctx context.Context, name string, set map[string]string, unset []string) error {
	var configs []kadm.AlterConfig
	for key, value := range set {
		configs = append(configs, kadm.AlterConfig{Op: kadm.SetConfig, Name: key, Value: &value})
	}
	for _, key := range unset {
		configs = append(configs, kadm.AlterConfig{Op: kadm.DeleteConfig, Name: key})
	}
	resps, err := t.adm.AlterTopicConfigs(ctx, configs, name)
	if err != nil {
		return err
	}
	for _, r := range resps {
		if r.Err != nil {
			return explained(r.Err, r.ErrMessage)
		}
	}
	return nil
}

func explained(err error, message string) error {
	if message == "" {
		return err
	}
	return fmt.Errorf("%w: %s", err, message)
}

// awaitHeld waits until every broker goes by the configs: the first record may be on
// its way to any of them a moment later.
func (t *targets) awaitHeld(ctx context.Context, change map[string]map[string]string) error {
	ctx, cancel := context.WithTimeout(ctx, configTimeout)
	defer cancel()
	brokers, err := t.adm.ListBrokers(ctx)
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
			answer, err := t.cl.Broker(int(b.NodeID)).RetriableRequest(ctx, req)
			if err != nil {
				return fmt.Errorf("ask broker %d for the configs that are held off: %w", b.NodeID, err)
			}
			if holds(answer.(*kmsg.DescribeConfigsResponse), change) {
				break
			}
			select {
			case <-time.After(10 * time.Millisecond):
			case <-ctx.Done():
				return fmt.Errorf("broker %d has not taken over the configs that are held off: %w", b.NodeID, ctx.Err())
			}
		}
	}
	// A broker tells of a config a moment before its logs go by it
	// (BrokerMetadataPublisher publishes the one and then the other).
	time.Sleep(configSettle)
	return nil
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

// putBack gives the topics the configs that they had, also when the run was stopped.
func (t *targets) putBack(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), putBackTimeout)
	defer cancel()
	var failed []error
	var gone kadm.TopicsSet
	for _, name := range slices.Sorted(maps.Keys(t.held)) {
		set, unset := make(map[string]string), []string(nil)
		for key, value := range t.held[name] {
			if value == nil {
				unset = append(unset, key)
			} else {
				set[key] = *value
			}
		}
		err := t.alter(ctx, name, set, unset)
		if err != nil && !errors.Is(err, kerr.UnknownTopicOrPartition) {
			failed = append(failed, command.WithHint(
				fmt.Errorf("topic %s: put back %s: %w", name, strings.Join(slices.Sorted(maps.Keys(t.held[name])), ", "), err),
				"run the same line again, or set them by hand"))
			continue
		}
		gone.Add(name, 0)
		delete(t.held, name)
	}
	if len(gone) == 0 {
		return errors.Join(failed...)
	}
	resps, err := t.adm.DeleteOffsets(ctx, holdGroup, gone)
	if err == nil {
		err = resps.Error()
	}
	// The topics are as they were: what is left in the group does no harm.
	if err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
		t.log.Warn(fmt.Sprintf("group %s: what was kept there is not needed any more, and could not be deleted: %v", holdGroup, err))
	}
	return errors.Join(failed...)
}

// warnOfRetention says which topics will lose records now that their retention is back.
func (t *targets) warnOfRetention(now time.Time) {
	for _, name := range slices.Sorted(maps.Keys(t.topics)) {
		target := t.topics[name]
		ms, err := strconv.ParseInt(target.retention, 10, 64)
		if err != nil || ms < 0 || target.oldest >= now.UnixMilli()-ms {
			continue
		}
		t.log.Warn(fmt.Sprintf("topic %s: its retention.ms of %s is back, and the broker will delete what is older; the oldest record restored is from %s",
			name, strings.TrimSuffix(humanize.RelTime(now, now.Add(time.Duration(ms)*time.Millisecond), "", ""), " "), time.UnixMilli(target.oldest).UTC().Format(time.RFC3339)))
	}
}
