package admin

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/cluster/change"
	"github.com/kbkio/kbk/pkg/cluster/diff"
)

const quotasAtOnce = 500 // entities whose quotas a request changes

func (c *Client) readQuotas(ctx context.Context, _ *Snapshot) ([]format.Encoder, error) {
	if c.has(kmsg.DescribeClientQuotas) < 0 {
		return nil, tooOld("their quotas", "KIP-546", "2.6")
	}
	var described kadm.DescribedClientQuotas
	err := c.retry(ctx, func() (err error) {
		described, err = c.adm.DescribeClientQuotas(ctx, false, nil)
		return err
	})
	if err != nil {
		return nil, err
	}
	var out []format.Encoder
	for _, d := range described {
		q := &format.Quota{Values: make(map[string]float64)}
		for _, e := range d.Entity {
			q.Entity = append(q.Entity, format.QuotaEntity{Type: e.Type, Name: e.Name})
		}
		for _, v := range d.Values {
			q.Values[v.Key] = v.Value
		}
		out = append(out, q)
	}
	return out, nil
}

// alterQuotas sets and removes values of quotas. Those of one entity go together, as the broker
// answers for an entity.
func (c *Client) alterQuotas(ctx context.Context, changes []change.Change) []error {
	out := make([]error, len(changes))
	places, order := grouped(changes, func(ch change.Change) string {
		if q, ok := frameOf[*format.Quota](ch); ok {
			return diff.Name(q)
		}
		return ""
	})
	for names := range slices.Chunk(order, quotasAtOnce) {
		var entries []kadm.AlterClientQuotaEntry
		for _, name := range names {
			var e kadm.AlterClientQuotaEntry
			for _, i := range places[name] {
				q, ok := frameOf[*format.Quota](changes[i])
				if !ok {
					out[i] = errNotThis
					continue
				}
				e.Entity = nil
				for _, part := range q.Entity {
					e.Entity = append(e.Entity, kadm.ClientQuotaEntityComponent{Type: part.Type, Name: part.Name})
				}
				for key, value := range q.Values {
					e.Ops = append(e.Ops, kadm.AlterClientQuotaOp{Key: key, Value: value, Remove: changes[i].Action == change.Remove})
				}
			}
			if len(e.Ops) > 0 {
				entries = append(entries, e)
			}
		}
		altered, err := c.sendQuotas(ctx, entries)
		for _, name := range names {
			for _, i := range places[name] {
				if out[i] == nil {
					out[i] = errors.Join(err, altered[name])
				}
			}
		}
	}
	return out
}

// sendQuotas returns the errors by the names of entities.
func (c *Client) sendQuotas(ctx context.Context, entries []kadm.AlterClientQuotaEntry) (map[string]error, error) {
	out := make(map[string]error)
	if len(entries) == 0 {
		return out, nil
	}
	err := c.retry(ctx, func() error {
		altered, err := c.adm.AlterClientQuotas(ctx, entries)
		if err != nil {
			return err
		}
		var all []error
		for _, a := range altered {
			q := new(format.Quota)
			for _, e := range a.Entity {
				q.Entity = append(q.Entity, format.QuotaEntity{Type: e.Type, Name: e.Name})
			}
			err := a.Err
			if err != nil && a.ErrMessage != "" {
				err = fmt.Errorf("%w %s", err, a.ErrMessage)
			}
			out[diff.Name(q)] = err
			all = append(all, err)
		}
		return transient(all)
	})
	return out, err
}

// grouped are the places of changes by a name, and the names in the order in which they come.
func grouped(changes []change.Change, name func(change.Change) string) (places map[string][]int, order []string) {
	places = make(map[string][]int)
	for i, c := range changes {
		n := name(c)
		if places[n] == nil {
			order = append(order, n)
		}
		places[n] = append(places[n], i)
	}
	return places, order
}
