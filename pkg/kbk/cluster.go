package kbk

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/kafka"
	"github.com/kbkio/kbk/pkg/partitions"
	"github.com/kbkio/kbk/pkg/profile"
	"github.com/kbkio/kbk/pkg/timespec"
)

// clusterFacts are what the doctor has learned of a cluster.
type clusterFacts struct {
	reached  bool
	findings []finding            // of the connection, the versions and the clock
	topics   []topicRights        // that the user may DESCRIBE
	cluster  operations           // on the cluster
	group    map[string]groupFact // kbk's own groups
	client   *kgo.Client
}

// operations are what a user may do; nil where the broker does not tell.
type operations map[kmsg.ACLOperation]bool

func (o operations) lacks(op kmsg.ACLOperation) bool { return o != nil && !o[op] }

func operationsOf(list []kadm.ACLOperation) operations {
	if len(list) == 0 {
		return nil
	}
	o := make(operations)
	for _, op := range list {
		o[op] = true
	}
	return o
}

// clusterOperations reads the operations on a cluster. They are 0 where the user may not even
// DESCRIBE it, and the lowest number where the broker does not tell.
func clusterOperations(bits int32) operations {
	if bits == math.MinInt32 {
		return nil
	}
	o := operationsOf(kadm.DecodeACLOperations(bits))
	if o == nil {
		o = make(operations)
	}
	return o
}

type topicRights struct {
	name       string
	partitions int
	internal   bool
	may        operations
}

type groupFact struct {
	may operations
	err error
}

// tryTime is how long one question to a cluster may take.
const tryTime = 20 * time.Second

// cluster asks a cluster, once.
func (d *doctor) cluster(name string) *clusterFacts {
	if f, ok := d.clusters[name]; ok {
		return f
	}
	f := new(clusterFacts)
	d.clusters[name] = f
	cfg, err := kafka.FromFile(d.file.ConfigFile, name, "fetch", "kbk", d.env.Log)
	if err == nil {
		f.client, err = kafka.NewClient(d.ctx, cfg)
	}
	if err != nil {
		f.findings = []finding{wrong(err, "")}
		return f
	}
	ctx, cancel := context.WithTimeout(d.ctx, tryTime)
	defer cancel()
	if err := f.ask(ctx); err != nil {
		f.findings = append(f.findings, wrong(err, ""))
		return f
	}
	f.reached = true
	return f
}

// ask collects the facts.
func (f *clusterFacts) ask(ctx context.Context) error {
	adm := kadm.NewClient(f.client)
	versions, err := adm.ApiVersions(ctx)
	if err != nil {
		return fmt.Errorf("ask the brokers for their versions: %w", err)
	}
	guesses := make(map[string]int)
	versions.Each(func(v kadm.BrokerApiVersions) {
		if v.Err != nil {
			f.findings = append(f.findings, wrong(fmt.Errorf("broker %d does not answer: %w", v.NodeID, v.Err), "start it, or make sure that this machine can reach it"))
			return
		}
		guesses[v.VersionGuess()]++
	})
	f.findings = append(f.findings, brokerVersions(guesses))
	f.findings = append(f.findings, clockOf(ctx, f.client))
	topics, err := adm.ListTopicsWithInternal(kadm.WithAuthorizedOps(ctx))
	if err != nil {
		return fmt.Errorf("list the topics: %w", err)
	}
	for _, t := range topics.Sorted() {
		f.topics = append(f.topics, topicRights{t.Topic, len(t.Partitions), t.IsInternal, operationsOf(t.AuthorizedOperations)})
	}
	req := kmsg.NewPtrDescribeClusterRequest()
	req.IncludeClusterAuthorizedOperations = true
	if resp, err := req.RequestWith(ctx, f.client); err == nil && resp.ErrorCode == 0 { // before Kafka 2.8 there is none
		f.cluster = clusterOperations(resp.ClusterAuthorizedOperations)
	}
	f.group = make(map[string]groupFact)
	for _, name := range []string{"kbk-produce", "kbk-mirror"} {
		all, err := adm.DescribeGroups(ctx, name)
		g := all[name]
		if err == nil {
			err = g.Err
		}
		if errors.Is(err, kerr.GroupIDNotFound) { // which a group that has never been is
			err = nil
		}
		f.group[name] = groupFact{operationsOf(g.AuthorizedOperations), err}
	}
	return nil
}

// brokerVersions says what the brokers are.
func brokerVersions(guesses map[string]int) finding {
	names := slices.Sorted(maps.Keys(guesses))
	n := 0
	for _, name := range names {
		n += guesses[name]
	}
	text := fmt.Sprintf("reached %s of Kafka %s", command.Count(int64(n), "broker"), strings.Join(names, " and "))
	for _, name := range names {
		if major, minor, known := versionOf(name); known && (major == 0 && minor < 11) {
			return finding{text, "kbk reads topics of Kafka 0.11 and later"}
		}
	}
	return ok("%s", text)
}

// versionOf reads the first version in a guess such as "v3.9" or "at least v4.1".
func versionOf(guess string) (major, minor int, known bool) {
	_, v, found := strings.Cut(guess, "v")
	a, b, _ := strings.Cut(v, ".")
	b, _, _ = strings.Cut(b, ".")
	major, err1 := strconv.Atoi(a)
	minor, err2 := strconv.Atoi(strings.TrimRight(b, "+"))
	return major, minor, found && err1 == nil && err2 == nil
}

// clockOf compares this machine's clock with that of the controller, whose answer about
// its quorum has the time (KIP-836).
func clockOf(ctx context.Context, cl *kgo.Client) finding {
	req := kmsg.NewPtrDescribeQuorumRequest()
	topic := kmsg.NewDescribeQuorumRequestTopic()
	topic.Topic = "__cluster_metadata"
	topic.Partitions = []kmsg.DescribeQuorumRequestTopicPartition{kmsg.NewDescribeQuorumRequestTopicPartition()}
	req.Topics = append(req.Topics, topic)
	before := time.Now()
	resp, err := req.RequestWith(ctx, cl)
	after := time.Now()
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	var at time.Time
	if err == nil {
		at = leadersTime(resp)
	}
	if at.IsZero() {
		return ok("its clock was not compared: that needs a cluster with KRaft, and the right to DESCRIBE it")
	}
	return skew(at, before, after)
}

// leadersTime is when the leader of the quorum has answered.
func leadersTime(resp *kmsg.DescribeQuorumResponse) time.Time {
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			for _, v := range p.CurrentVoters {
				if v.ReplicaID == p.LeaderID && v.LastCaughtUpTimestamp > 0 {
					return time.UnixMilli(v.LastCaughtUpTimestamp)
				}
			}
		}
	}
	return time.Time{}
}

// skew compares a clock that was read between two moments of this one.
func skew(at, before, after time.Time) finding {
	if apart := timespec.Apart(at, before, after); apart > timespec.MaxApart {
		return finding{fmt.Sprintf("its clock and that of this machine are %s apart", apart.Round(time.Second)), "let both follow the same time servers (NTP)"}
	}
	return ok("its clock and this machine's differ by less than %s", timespec.MaxApart)
}

// selected are the topics that a profile backs up.
func (f *clusterFacts) selected(p *profile.Profile) []topicRights {
	m, err := partitions.Selection{Topics: p.Topics, Exclude: p.ExcludeTopics}.Compile()
	if err != nil {
		return nil // which kbk-fetch says
	}
	var out []topicRights
	for _, t := range f.topics {
		for n := range int32(t.partitions) {
			if !t.internal && m.Matches(t.name, n) {
				out = append(out, t)
				break
			}
		}
	}
	return out
}

// rightsToRead says what of a profile's topics cannot be backed up.
func rightsToRead(p *profile.Profile, f *clusterFacts) []finding {
	chosen := f.selected(p)
	var all []finding
	for _, name := range p.Topics {
		if strings.HasPrefix(name, "^") {
			continue
		}
		name, _, _ = strings.Cut(name, ":")
		if !slices.ContainsFunc(f.topics, func(t topicRights) bool { return t.name == name }) {
			all = append(all, finding{"topic " + name + " is not there, or the user has no right to DESCRIBE it", "create it, grant DESCRIBE and READ on it, or take it out of the profile"})
		}
	}
	var unread, unconfigured []string
	for _, t := range chosen {
		if t.may.lacks(kmsg.ACLOperationRead) {
			unread = append(unread, t.name)
		}
		if t.may.lacks(kmsg.ACLOperationDescribeConfigs) {
			unconfigured = append(unconfigured, t.name)
		}
	}
	if len(unread) > 0 {
		all = append(all, finding{"the user has no right to READ " + some(unread), "grant READ on these topics, or exclude them"})
	}
	if len(unconfigured) > 0 {
		all = append(all, finding{"the user has no right to read the configs of " + some(unconfigured), "grant DESCRIBE_CONFIGS on these topics, or set no-configs: true in the section fetch"})
	}
	if len(chosen) == 0 {
		all = append(all, finding{"no topic is selected that the user may DESCRIBE", "check the names under topics, and grant DESCRIBE and READ on the topics"})
	}
	if len(all) == 0 {
		all = append(all, ok("%s can be read, with their configs", command.Count(int64(len(chosen)), "topic")))
	}
	return all
}

// some names the first of many.
func some(names []string) string {
	const most = 5
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}

// mayCreate asks whether the first of the topics could be created in a target; nothing is
// created.
func (d *doctor) mayCreate(t profile.Target, chosen []topicRights) error {
	if len(chosen) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(d.ctx, tryTime)
	defer cancel()
	rf := int16(-1)
	if n, err := strconv.ParseInt(t.ReplicationFactor, 10, 16); err == nil {
		rf = int16(n)
	}
	name := t.Prefix + chosen[0].name
	resp, err := kadm.NewClient(d.clusters[t.Cluster].client).ValidateCreateTopics(ctx, 1, rf, nil, name)
	if err != nil {
		return err
	}
	switch err := resp[name].Err; {
	case err == nil, errors.Is(err, kerr.TopicAlreadyExists):
		return nil
	case errors.Is(err, kerr.TopicAuthorizationFailed), errors.Is(err, kerr.ClusterAuthorizationFailed):
		return fmt.Errorf("the user has no right to CREATE topic %s", name)
	default:
		return fmt.Errorf("topic %s cannot be created: %w", name, err)
	}
}

// rightsToWrite says what a restore to a target lacks. created is why a topic could not be
// created.
func rightsToWrite(t profile.Target, mirrors bool, f *clusterFacts, created error) []finding {
	var all []finding
	if created != nil {
		all = append(all, wrong(created, "grant CREATE on the cluster, or on the topics' names"))
	}
	groups := []string{"kbk-produce"}
	if mirrors {
		groups = append(groups, "kbk-mirror")
	}
	for _, name := range groups {
		g := f.group[name]
		switch {
		case errors.Is(g.err, kerr.GroupAuthorizationFailed):
			all = append(all, finding{"the user has no right to DESCRIBE the group " + name + ", in which kbk-produce keeps notes", "grant DESCRIBE, READ and DELETE on it"})
		case g.err != nil:
			all = append(all, wrong(fmt.Errorf("group %s: %w", name, g.err), "grant DESCRIBE, READ and DELETE on the group "+name))
		case g.may.lacks(kmsg.ACLOperationRead), g.may.lacks(kmsg.ACLOperationDelete):
			all = append(all, finding{"the user has no right to READ and DELETE the group " + name + ", in which kbk-produce keeps notes", "grant both"})
		}
	}
	if (t.Offsets == "exact" || mirrors) && f.cluster.lacks(kmsg.ACLOperationAlter) {
		all = append(all, finding{"the user has no right to ALTER the cluster, which fills gaps between offsets", "grant it, or restore with new offsets"})
	}
	if len(all) == 0 {
		all = append(all, ok("topics can be created, and configs can be noted"))
	}
	return all
}
