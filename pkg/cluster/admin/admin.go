// Package admin reads what a cluster has besides its records, from Kafka itself, and changes it:
// ACLs, quotas, users, configs. What is to be changed is decided elsewhere.
package admin

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/kafka"
)

// Kinds are those of [format.ClusterKinds] that Kafka itself has.
var Kinds = []string{format.ClusterACLs, format.ClusterQuotas, format.ClusterUsers, format.ClusterConfigs}

// A Client makes the requests.
type Client struct {
	cl       *kgo.Client
	adm      *kadm.Client
	versions kadm.BrokersApiVersions
}

// New returns a client that uses cl.
func New(ctx context.Context, cl *kgo.Client) (*Client, error) {
	c := &Client{cl: cl, adm: kadm.NewClient(cl)}
	err := c.retry(ctx, func() (err error) {
		if c.versions, err = c.adm.ApiVersions(ctx); err != nil {
			return err
		}
		for _, v := range c.versions.Sorted() {
			if v.Err != nil {
				return v.Err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("ask the brokers for their versions: %w", err)
	}
	return c, nil
}

func (c *Client) retry(ctx context.Context, do func() error) error {
	return kafka.Retry(ctx, c.adm, kafka.Patience, do)
}

// has returns the highest version of a request that all brokers know; -1 is none.
func (c *Client) has(key kmsg.Key) int16 {
	highest := int16(math.MaxInt16)
	for _, v := range c.versions.Sorted() {
		n, ok := v.KeyMaxVersion(key.Int16())
		if !ok {
			return -1
		}
		highest = min(highest, n)
	}
	return highest
}

// Features are the finalized feature levels, metadata.version among them.
func (c *Client) Features() map[string]int64 {
	out := make(map[string]int64)
	for _, v := range c.versions.Sorted() {
		for _, f := range v.Raw().FinalizedFeatures {
			out[f.Name] = max(out[f.Name], int64(f.MaxVersionLevel))
		}
	}
	return out
}

// Cluster is the cluster's id.
func (c *Client) Cluster(ctx context.Context) (id string, err error) {
	err = c.retry(ctx, func() error {
		meta, err := c.adm.BrokerMetadata(ctx)
		id = meta.Cluster
		return err
	})
	return id, err
}

// A Snapshot is what was read.
type Snapshot struct {
	Kinds   []string // of which all was read
	Frames  []format.Encoder
	LeftOut []string // what Kafka does not reveal, in a line each
	Missing []Missing
}

// Missing is a kind that was not read.
type Missing struct {
	Kind   string
	Absent bool // the cluster has no such thing; otherwise there was no right to read it, or it failed
	Why    string
}

func (m Missing) String() string {
	if m.Absent {
		return m.Kind + ": " + m.Why
	}
	return m.Kind + " cannot be read: " + m.Why
}

// Read reads what the cluster has of kinds. What cannot be read is in the snapshot; an error is
// of ctx.
func (c *Client) Read(ctx context.Context, kinds []string) (*Snapshot, error) {
	s := new(Snapshot)
	for _, kind := range kinds {
		read := map[string]func(context.Context, *Snapshot) ([]format.Encoder, error){
			format.ClusterACLs: c.readACLs, format.ClusterQuotas: c.readQuotas, format.ClusterUsers: c.readUsers, format.ClusterConfigs: c.readConfigs,
		}[kind]
		if read == nil {
			continue
		}
		frames, err := read(ctx, s)
		var absent *absentError
		switch {
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case errors.As(err, &absent):
			s.Missing = append(s.Missing, Missing{kind, true, err.Error()})
		case err != nil:
			s.Missing = append(s.Missing, Missing{kind, false, strings.TrimSuffix(err.Error(), ".")})
		default:
			s.Kinds = append(s.Kinds, kind)
			s.Frames = append(s.Frames, frames...)
		}
	}
	return s, nil
}

// absentError says that a cluster has nothing of a kind, for a reason other than that nobody
// has made any.
type absentError struct{ why string }

func (e *absentError) Error() string { return e.why }

// tooOld says that the brokers do not know a request.
func tooOld(what, kip, since string) error {
	return fmt.Errorf("brokers before Kafka %s (%s) do not report %s", since, kip, what)
}

// failure is the error of an answer; nil where it has none.
func failure(code int16, message *string) error {
	err := kerr.ErrorForCode(code)
	if err == nil || message == nil || *message == "" {
		return err
	}
	return fmt.Errorf("%w %s", err, strings.TrimSuffix(*message, "."))
}

// Tokens says what is known of delegation tokens, which are no part of a snapshot: how many
// there are that the user may see, -1 where brokers do not tell.
func (c *Client) Tokens(ctx context.Context) int {
	if c.has(kmsg.DescribeDelegationToken) < 0 {
		return 0
	}
	tokens, err := c.adm.DescribeDelegationTokens(ctx)
	switch {
	case errors.Is(err, kerr.DelegationTokenAuthDisabled):
		return 0
	case err != nil:
		return -1
	}
	return len(tokens)
}
