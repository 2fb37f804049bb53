package kafka

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// What [ListOffsets] is asked for, besides a time in milliseconds since the epoch, which
// means the first record of that time or later.
const (
	EndOffset          = -1 // the last stable offset, or the high watermark
	StartOffset        = -2
	MaxTimestampOffset = -3 // of the record with the latest timestamp
	LocalStartOffset   = -4 // of what is on the leader's own disk, in Kafka 3.4 and later
)

// localStartSince is the version of the request that knows LocalStartOffset: an earlier
// one takes it for a time, and so has an answer (KIP-405).
const localStartSince = 8

// An Offset is what a partition's leader says of it, or why there is no answer.
type Offset struct {
	Offset      int64 // -1: there is none
	Timestamp   int64 // of the record there, -1 where that was not asked for
	LeaderEpoch int32
	Err         error
}

// Offsets are offsets by topic and partition.
type Offsets map[string]map[int32]Offset

// Of is the offset of a partition.
func (o Offsets) Of(topic string, num int32) Offset {
	if at, ok := o[topic][num]; ok {
		return at
	}
	return Offset{Offset: -1, Err: errors.New("the brokers did not answer for it")}
}

// Set puts the offset of a partition in.
func (o Offsets) Set(topic string, num int32, at Offset) {
	if o[topic] == nil {
		o[topic] = make(map[int32]Offset)
	}
	o[topic][num] = at
}

// ListOffsets asks the leaders of partitions, by topic, for one offset of each. That a
// partition has no leader, or that its leader does not answer, is an error of this
// partition alone. Committed asks for the last stable offset as the end.
func ListOffsets(ctx context.Context, cl *kgo.Client, partitions map[string][]int32, at int64, committed bool) Offsets {
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID = -1
	if committed {
		req.IsolationLevel = 1
	}
	for topic, nums := range partitions {
		if len(nums) == 0 {
			continue
		}
		t := kmsg.NewListOffsetsRequestTopic()
		t.Topic = topic
		for _, num := range nums {
			p := kmsg.NewListOffsetsRequestTopicPartition()
			p.Partition, p.Timestamp = num, at
			t.Partitions = append(t.Partitions, p)
		}
		req.Topics = append(req.Topics, t)
	}
	out := make(Offsets)
	if len(req.Topics) == 0 {
		return out
	}
	for _, shard := range cl.RequestSharded(ctx, req) {
		if shard.Err != nil {
			for _, t := range shard.Req.(*kmsg.ListOffsetsRequest).Topics {
				for _, p := range t.Partitions {
					out.Set(t.Topic, p.Partition, Offset{Offset: -1, Timestamp: -1, LeaderEpoch: -1, Err: shard.Err})
				}
			}
			continue
		}
		resp := shard.Resp.(*kmsg.ListOffsetsResponse)
		for _, t := range resp.Topics {
			for _, p := range t.Partitions {
				err := kerr.ErrorForCode(p.ErrorCode)
				if at == LocalStartOffset && resp.Version < localStartSince {
					err = kerr.UnsupportedVersion
				}
				out.Set(t.Topic, p.Partition, Offset{p.Offset, p.Timestamp, p.LeaderEpoch, err})
			}
		}
	}
	return out
}

// LocalStart returns the first offset of a partition that its leader has on its own disk,
// where nothing is in remote storage the start, and -1 where nothing tells. Above it, an
// answer without records means that there are none.
func LocalStart(ctx context.Context, cl *kgo.Client, topic string, num int32, start int64) (int64, error) {
	o := ListOffsets(ctx, cl, map[string][]int32{topic: {num}}, LocalStartOffset, false).Of(topic, num)
	if o.Err == nil || Transient(o.Err) {
		return o.Offset, o.Err
	}
	// A broker that does not know the question may yet have tiered storage, as some
	// distributions had it before Apache Kafka: then the topic's config says so.
	configs, failed, err := TopicConfigs(ctx, cl, []string{topic})
	if err != nil || failed[topic] != nil {
		return -1, ctx.Err()
	}
	if tiered := configs[topic]["remote.storage.enable"]; tiered != "" && tiered != "false" {
		return -1, nil
	}
	return start, nil
}

// An EpochEnd is where a leader epoch ends on a partition's leader (KIP-320): Epoch is
// the highest one there that is not above the one asked for, and End the offset where it
// ends. Both are -1 where the leader does not know.
type EpochEnd struct {
	Epoch int32
	End   int64
	Err   error
}

// EpochEnds asks the leaders of partitions where leader epochs end, by topic and
// partition.
func EpochEnds(ctx context.Context, cl *kgo.Client, epochs map[string]map[int32]int32) map[string]map[int32]EpochEnd {
	req := kmsg.NewPtrOffsetForLeaderEpochRequest()
	req.ReplicaID = -1
	out := make(map[string]map[int32]EpochEnd)
	for topic, nums := range epochs {
		if len(nums) == 0 {
			continue
		}
		out[topic] = make(map[int32]EpochEnd)
		t := kmsg.NewOffsetForLeaderEpochRequestTopic()
		t.Topic = topic
		for num, epoch := range nums {
			out[topic][num] = EpochEnd{-1, -1, errors.New("the brokers did not answer for it")}
			p := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
			p.Partition, p.CurrentLeaderEpoch, p.LeaderEpoch = num, -1, epoch
			t.Partitions = append(t.Partitions, p)
		}
		req.Topics = append(req.Topics, t)
	}
	if len(req.Topics) == 0 {
		return out
	}
	for _, shard := range cl.RequestSharded(ctx, req) {
		if shard.Err != nil {
			for _, t := range shard.Req.(*kmsg.OffsetForLeaderEpochRequest).Topics {
				for _, p := range t.Partitions {
					out[t.Topic][p.Partition] = EpochEnd{-1, -1, shard.Err}
				}
			}
			continue
		}
		for _, t := range shard.Resp.(*kmsg.OffsetForLeaderEpochResponse).Topics {
			for _, p := range t.Partitions {
				out[t.Topic][p.Partition] = EpochEnd{p.LeaderEpoch, p.EndOffset, kerr.ErrorForCode(p.ErrorCode)}
			}
		}
	}
	return out
}

// TopicConfigs returns the configs that were set on each topic; the rest are the
// brokers' and not the topic's. Of those that it could not have, it returns why.
func TopicConfigs(ctx context.Context, cl *kgo.Client, topics []string) (configs map[string]map[string]string, failed map[string]error, err error) {
	configs, failed = make(map[string]map[string]string), make(map[string]error)
	if len(topics) == 0 {
		return configs, failed, nil
	}
	req := kmsg.NewPtrDescribeConfigsRequest()
	for _, name := range topics {
		r := kmsg.NewDescribeConfigsRequestResource()
		r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeTopic, name
		req.Resources = append(req.Resources, r)
	}
	adm := kadm.NewClient(cl)
	err = Retry(ctx, adm, CatchUp, func() error {
		var resp *kmsg.DescribeConfigsResponse
		err := Retry(ctx, adm, Patience, func() (err error) {
			resp, err = req.RequestWith(ctx, cl)
			return err
		})
		if err != nil {
			return err
		}
		clear(configs)
		clear(failed)
		for _, r := range resp.Resources {
			if err := kerr.ErrorForCode(r.ErrorCode); err != nil {
				failed[r.ResourceName] = err
				continue
			}
			configs[r.ResourceName] = setOn(&r)
		}
		for _, err := range failed {
			if Transient(err) {
				return err
			}
		}
		return nil
	})
	if err != nil && len(failed) == 0 {
		return nil, nil, fmt.Errorf("describe topic configs: %w", err)
	}
	return configs, failed, nil
}

// setOn are the configs that were set on a topic; nil for none.
func setOn(topic *kmsg.DescribeConfigsResponseResource) map[string]string {
	var out map[string]string
	for _, c := range topic.Configs {
		if c.Source == kmsg.ConfigSourceDynamicTopicConfig && c.Value != nil {
			if out == nil {
				out = make(map[string]string)
			}
			out[c.Name] = *c.Value
		}
	}
	return out
}
