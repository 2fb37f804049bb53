package admin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/cluster/change"
	"github.com/kbkio/kbk/pkg/cluster/diff"
	"github.com/kbkio/kbk/pkg/kafka"
)

const resourcesAtOnce = 1000 // whose configs a request reads or changes

// A configType is a type of resource that has configs, and where those come from that are set
// at the resource itself.
type configType struct {
	number kmsg.ConfigResourceType
	source kmsg.ConfigSource
}

var configTypes = map[string]configType{
	diff.Topic:         {kmsg.ConfigResourceTypeTopic, kmsg.ConfigSourceDynamicTopicConfig},
	diff.Broker:        {kmsg.ConfigResourceTypeBroker, kmsg.ConfigSourceDynamicBrokerConfig},
	diff.Group:         {kmsg.ConfigResourceTypeGroupConfig, kmsg.ConfigSourceGroupConfig},
	diff.ClientMetrics: {kmsg.ConfigResourceTypeClientMetrics, kmsg.ConfigSourceClientMetricsConfig},
}

func (c *Client) readConfigs(ctx context.Context, s *Snapshot) ([]format.Encoder, error) {
	var out []format.Encoder
	brokers, err := c.brokerConfigs(ctx)
	if err != nil {
		return nil, fmt.Errorf("those of brokers: %w", err)
	}
	topics, err := c.topicConfigs(ctx)
	if err != nil {
		return nil, fmt.Errorf("those of topics: %w", err)
	}
	groups, err := c.groupConfigs(ctx, s)
	if err != nil {
		return nil, fmt.Errorf("those of groups: %w", err)
	}
	metrics, err := c.metricsConfigs(ctx)
	if err != nil {
		return nil, fmt.Errorf("those of client metrics: %w", err)
	}
	var secret []string
	for _, f := range slices.Concat(brokers, topics, groups, metrics) {
		out = append(out, f)
		for _, key := range slices.Sorted(keys(f.Values)) {
			if f.Values[key] == nil {
				secret = append(secret, diff.ResourceName(f)+": "+key)
			}
		}
	}
	for _, name := range secret {
		s.LeftOut = append(s.LeftOut, "configs: "+name+", whose value Kafka does not reveal")
	}
	return out, nil
}

func keys(m map[string]*string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// brokerConfigs are the defaults of all brokers, and those of each.
func (c *Client) brokerConfigs(ctx context.Context) ([]*format.Config, error) {
	defaults, err := c.describe(ctx, diff.Broker, []string{""}, kmsg.ConfigSourceDynamicDefaultBrokerConfig)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, v := range c.versions.Sorted() {
		ids = append(ids, strconv.Itoa(int(v.NodeID)))
	}
	each, err := c.describe(ctx, diff.Broker, ids, kmsg.ConfigSourceDynamicBrokerConfig)
	return append(defaults, each...), err
}

// topicConfigs are those of every topic, with its numbers of partitions and replicas. A topic that
// is listed and then unknown was deleted between, or the broker that is asked does not know it yet:
// what there is is listed again.
func (c *Client) topicConfigs(ctx context.Context) (out []*format.Config, err error) {
	err = kafka.Retry(ctx, c.adm, kafka.CatchUp, func() error {
		var topics kadm.TopicDetails
		err := c.retry(ctx, func() (err error) {
			if topics, err = c.adm.ListTopicsWithInternal(ctx); err == nil {
				err = topics.Error()
			}
			return err
		})
		if err != nil {
			return err
		}
		out, err = c.describe(ctx, diff.Topic, topics.Names(), kmsg.ConfigSourceDynamicTopicConfig)
		for _, f := range out {
			d := topics[f.Name]
			f.Partitions = len(d.Partitions)
			f.ReplicationFactor = d.Partitions.NumReplicas()
		}
		return err
	})
	return out, err
}

// groupConfigs are those of groups. Brokers that cannot list them (before KIP-1142) are asked
// for those of the groups that there are.
func (c *Client) groupConfigs(ctx context.Context, s *Snapshot) ([]*format.Config, error) {
	if c.has(kmsg.ConsumerGroupDescribe) < 0 { // groups have configs since KIP-848
		return nil, nil
	}
	var names []string
	if c.has(kmsg.ListConfigResources) >= 1 {
		listed, err := c.list(ctx, kmsg.ConfigResourceTypeGroupConfig)
		if err != nil {
			return nil, err
		}
		names = listed
	} else {
		var groups kadm.ListedGroups
		err := c.retry(ctx, func() (err error) {
			groups, err = c.adm.ListGroups(ctx)
			return err
		})
		if err != nil {
			return nil, err
		}
		names = groups.Groups()
		s.LeftOut = append(s.LeftOut, "configs: those of groups that have neither members nor offsets, which brokers before Kafka 4.1 (KIP-1142) do not list")
	}
	all, err := c.describe(ctx, diff.Group, names, kmsg.ConfigSourceGroupConfig)
	if errors.Is(err, kerr.InvalidRequest) || errors.Is(err, kerr.InvalidConfig) { // brokers before Kafka 4.0, which know the group but no configs of it
		return nil, nil
	}
	return slices.DeleteFunc(all, func(f *format.Config) bool { return len(f.Values) == 0 }), err
}

// metricsConfigs are the subscriptions to metrics of clients (KIP-714).
func (c *Client) metricsConfigs(ctx context.Context) ([]*format.Config, error) {
	if c.has(kmsg.ListConfigResources) < 0 {
		return nil, nil // there are none before
	}
	names, err := c.list(ctx, kmsg.ConfigResourceTypeClientMetrics)
	if err != nil {
		return nil, err
	}
	return c.describe(ctx, diff.ClientMetrics, names, kmsg.ConfigSourceClientMetricsConfig)
}

func (c *Client) list(ctx context.Context, t kmsg.ConfigResourceType) (names []string, err error) {
	err = c.retry(ctx, func() error {
		var listed kadm.ListedConfigResources
		if c.has(kmsg.ListConfigResources) == 0 { // KIP-714: those of client metrics alone
			listed, err = c.adm.ListConfigResources(ctx)
		} else {
			listed, err = c.adm.ListConfigResources(ctx, t)
		}
		if err == nil {
			err = listed.Err
		}
		names = nil
		for _, r := range listed.Resources {
			if r.Type == t || c.has(kmsg.ListConfigResources) == 0 {
				names = append(names, r.Name)
			}
		}
		return err
	})
	slices.Sort(names)
	return names, err
}

// describe returns the configs of resources that come from source. Where the cluster does not know
// a topic, it is not asked again.
func (c *Client) describe(ctx context.Context, resource string, names []string, source kmsg.ConfigSource) (out []*format.Config, err error) {
	for names := range slices.Chunk(names, resourcesAtOnce) {
		req := kmsg.NewPtrDescribeConfigsRequest()
		for _, name := range names {
			r := kmsg.NewDescribeConfigsRequestResource()
			r.ResourceType, r.ResourceName = configTypes[resource].number, name
			req.Resources = append(req.Resources, r)
		}
		var some []*format.Config
		var unknown error
		err := c.retry(ctx, func() error {
			some, unknown = nil, nil
			for _, shard := range c.cl.RequestSharded(ctx, req) {
				if shard.Err != nil {
					return shard.Err
				}
				for _, r := range shard.Resp.(*kmsg.DescribeConfigsResponse).Resources {
					err := failure(r.ErrorCode, r.ErrorMessage)
					if err != nil {
						err = fmt.Errorf("%s: %w", diff.ResourceName(&format.Config{ResourceType: resource, Name: r.ResourceName}), err)
					}
					if resource == diff.Topic && errors.Is(err, kerr.UnknownTopicOrPartition) {
						unknown = err
						continue
					}
					if err != nil {
						return err
					}
					some = append(some, configOf(resource, r, source))
				}
			}
			return nil
		})
		if err = cmp.Or(err, unknown); err != nil {
			return nil, err
		}
		out = append(out, some...)
	}
	slices.SortFunc(out, func(a, b *format.Config) int { return compareNames(a.Name, b.Name) })
	return out, nil
}

func compareNames(a, b string) int {
	if len(a) != len(b) { // of brokers by number
		if _, err := strconv.Atoi(a); err == nil {
			return len(a) - len(b)
		}
	}
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func configOf(resource string, r kmsg.DescribeConfigsResponseResource, source kmsg.ConfigSource) *format.Config {
	f := &format.Config{ResourceType: resource, Name: r.ResourceName, Values: make(map[string]*string)}
	for _, v := range r.Configs {
		if v.Source != source {
			continue
		}
		value := v.Value
		if v.IsSensitive {
			value = nil
		} else if value == nil {
			value = kadm.StringPtr("")
		}
		f.Values[v.Name] = value
	}
	return f
}

// alterConfigs sets and deletes configs. Those of one resource go together, as the broker
// answers for a resource.
func (c *Client) alterConfigs(ctx context.Context, changes []change.Change) []error {
	out := make([]error, len(changes))
	places, order := grouped(changes, func(ch change.Change) string {
		if f, ok := frameOf[*format.Config](ch); ok {
			return diff.Name(f)
		}
		return ""
	})
	for names := range slices.Chunk(order, resourcesAtOnce) {
		req := kmsg.NewPtrIncrementalAlterConfigsRequest()
		for _, name := range names {
			r := kmsg.NewIncrementalAlterConfigsRequestResource()
			for _, i := range places[name] {
				f, ok := frameOf[*format.Config](changes[i])
				if !ok {
					out[i] = errNotThis
					continue
				}
				r.ResourceType, r.ResourceName = configTypes[f.ResourceType].number, f.Name
				for key, value := range f.Values {
					set := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
					set.Name, set.Value = key, value
					if changes[i].Action == change.Remove {
						set.Op, set.Value = kmsg.IncrementalAlterConfigOpDelete, nil
					}
					r.Configs = append(r.Configs, set)
				}
			}
			if len(r.Configs) > 0 {
				req.Resources = append(req.Resources, r)
			}
		}
		errs, err := c.sendConfigs(ctx, req)
		for _, name := range names {
			for _, i := range places[name] {
				if out[i] == nil {
					out[i] = errors.Join(err, errs[name])
				}
			}
		}
	}
	return out
}

// sendConfigs returns the errors by the names of resources.
func (c *Client) sendConfigs(ctx context.Context, req *kmsg.IncrementalAlterConfigsRequest) (map[string]error, error) {
	out := make(map[string]error)
	if len(req.Resources) == 0 {
		return out, nil
	}
	err := c.retry(ctx, func() error {
		var all []error
		shards := c.cl.RequestSharded(ctx, req)
		for _, shard := range shards {
			if shard.Err != nil && len(shards) == 1 {
				return shard.Err
			}
			if shard.Err != nil { // a broker's own request: the others have answered
				sent, ok := shard.Req.(*kmsg.IncrementalAlterConfigsRequest)
				for i := 0; ok && i < len(sent.Resources); i++ {
					out[resourceName(sent.Resources[i].ResourceType, sent.Resources[i].ResourceName)] = shard.Err
				}
				all = append(all, shard.Err)
				continue
			}
			for _, r := range shard.Resp.(*kmsg.IncrementalAlterConfigsResponse).Resources {
				err := failure(r.ErrorCode, r.ErrorMessage)
				out[resourceName(r.ResourceType, r.ResourceName)] = err
				all = append(all, err)
			}
		}
		return transient(all)
	})
	return out, err
}

func resourceName(t kmsg.ConfigResourceType, name string) string {
	for resource, ct := range configTypes {
		if ct.number == t {
			return diff.ResourceName(&format.Config{ResourceType: resource, Name: name})
		}
	}
	return ""
}
