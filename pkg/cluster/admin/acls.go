package admin

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/cluster/change"
	"github.com/kbkio/kbk/pkg/cluster/diff"
)

// aclsAtOnce is how many ACLs a request makes or deletes. Brokers take 10,000 records in one
// transaction of the controller.
const aclsAtOnce = 1000

// The names of Kafka's enums, by number. [kmsg] has not all of them.
var (
	resourceTypes = []string{2: "TOPIC", 3: "GROUP", 4: "CLUSTER", 5: "TRANSACTIONAL_ID", 6: "DELEGATION_TOKEN", 7: "USER"}
	patternTypes  = []string{3: "LITERAL", 4: "PREFIXED"}
	permissions   = []string{2: "DENY", 3: "ALLOW"}
	operations    = []string{2: "ALL", 3: "READ", 4: "WRITE", 5: "CREATE", 6: "DELETE", 7: "ALTER", 8: "DESCRIBE", 9: "CLUSTER_ACTION",
		10: "DESCRIBE_CONFIGS", 11: "ALTER_CONFIGS", 12: "IDEMPOTENT_WRITE", 13: "CREATE_TOKENS", 14: "DESCRIBE_TOKENS", 15: "TWO_PHASE_COMMIT"}
)

func nameOf[N ~int8](names []string, n N) string {
	if n < 0 || int(n) >= len(names) {
		return ""
	}
	return names[n]
}

func numberOf(names []string, name string) (int8, error) {
	for n, s := range names {
		if s != "" && s == name {
			return int8(n), nil
		}
	}
	return 0, fmt.Errorf("%q is not known to this version of kbk", name)
}

func (c *Client) readACLs(ctx context.Context, _ *Snapshot) ([]format.Encoder, error) {
	req := kmsg.NewPtrDescribeACLsRequest()
	req.ResourceType, req.ResourcePatternType = kmsg.ACLResourceTypeAny, kmsg.ACLResourcePatternTypeAny
	req.Operation, req.PermissionType = kmsg.ACLOperationAny, kmsg.ACLPermissionTypeAny
	var resp *kmsg.DescribeACLsResponse
	err := c.retry(ctx, func() (err error) {
		if resp, err = req.RequestWith(ctx, c.cl); err == nil {
			err = failure(resp.ErrorCode, resp.ErrorMessage)
		}
		return err
	})
	switch {
	case errors.Is(err, kerr.SecurityDisabled):
		return nil, &absentError{"the brokers have no authorizer, so there are none"}
	case err != nil:
		return nil, err
	}
	var out []format.Encoder
	for _, r := range resp.Resources {
		for _, a := range r.ACLs {
			acl := &format.ACL{
				ResourceType: nameOf(resourceTypes, r.ResourceType), ResourceName: r.ResourceName, PatternType: nameOf(patternTypes, r.ResourcePatternType),
				Principal: a.Principal, Host: a.Host, Operation: nameOf(operations, a.Operation), Permission: nameOf(permissions, a.PermissionType),
			}
			if acl.ResourceType == "" || acl.PatternType == "" || acl.Operation == "" || acl.Permission == "" {
				return nil, fmt.Errorf("one of %s on %s is of a newer Kafka than this version of kbk knows", a.Principal, r.ResourceName)
			}
			out = append(out, acl)
		}
	}
	return out, nil
}

// makeACLs makes ACLs. It returns an error for each change, nil where it is done.
func (c *Client) makeACLs(ctx context.Context, changes []change.Change) []error {
	return each(changes, aclsAtOnce, func(some []change.Change) ([]error, error) {
		req := kmsg.NewPtrCreateACLsRequest()
		return c.someACLs(some, func(n aclNumbers, a *format.ACL) {
			creation := kmsg.NewCreateACLsRequestCreation()
			creation.ResourceType, creation.ResourceName, creation.ResourcePatternType = n.resource, a.ResourceName, n.pattern
			creation.Principal, creation.Host, creation.Operation, creation.PermissionType = a.Principal, a.Host, n.operation, n.permission
			req.Creations = append(req.Creations, creation)
		}, func() ([]error, error) {
			return c.results(ctx, func() (out []error, err error) {
				resp, err := req.RequestWith(ctx, c.cl)
				if err != nil {
					return nil, err
				}
				for _, r := range resp.Results {
					out = append(out, failure(r.ErrorCode, r.ErrorMessage))
				}
				return out, nil
			})
		})
	})
}

// deleteACLs deletes ACLs.
func (c *Client) deleteACLs(ctx context.Context, changes []change.Change) []error {
	return each(changes, aclsAtOnce, func(some []change.Change) ([]error, error) {
		req := kmsg.NewPtrDeleteACLsRequest()
		return c.someACLs(some, func(n aclNumbers, a *format.ACL) {
			f := kmsg.NewDeleteACLsRequestFilter()
			f.ResourceType, f.ResourceName, f.ResourcePatternType = n.resource, &a.ResourceName, n.pattern
			f.Principal, f.Host, f.Operation, f.PermissionType = &a.Principal, &a.Host, n.operation, n.permission
			req.Filters = append(req.Filters, f)
		}, func() ([]error, error) {
			return c.results(ctx, func() (out []error, err error) {
				resp, err := req.RequestWith(ctx, c.cl)
				if err != nil {
					return nil, err
				}
				for _, r := range resp.Results {
					err := failure(r.ErrorCode, r.ErrorMessage)
					for _, m := range r.MatchingACLs {
						if err == nil {
							err = failure(m.ErrorCode, m.ErrorMessage)
						}
					}
					out = append(out, err)
				}
				return out, nil
			})
		})
	})
}

// aclNumbers are the enums of an ACL.
type aclNumbers struct {
	resource   kmsg.ACLResourceType
	pattern    kmsg.ACLResourcePatternType
	operation  kmsg.ACLOperation
	permission kmsg.ACLPermissionType
}

// someACLs adds those that can be numbered to a request, sends it, and puts the results in the
// places of the changes.
func (c *Client) someACLs(changes []change.Change, add func(aclNumbers, *format.ACL), send func() ([]error, error)) ([]error, error) {
	out := make([]error, len(changes))
	var at []int
	for i, ch := range changes {
		a, ok := frameOf[*format.ACL](ch)
		if !ok {
			out[i] = errNotThis
			continue
		}
		r, err1 := numberOf(resourceTypes, a.ResourceType)
		p, err2 := numberOf(patternTypes, a.PatternType)
		o, err3 := numberOf(operations, a.Operation)
		m, err4 := numberOf(permissions, a.Permission)
		if out[i] = errors.Join(err1, err2, err3, err4); out[i] == nil {
			add(aclNumbers{kmsg.ACLResourceType(r), kmsg.ACLResourcePatternType(p), kmsg.ACLOperation(o), kmsg.ACLPermissionType(m)}, a)
			at = append(at, i)
		}
	}
	if len(at) == 0 {
		return out, nil
	}
	results, err := send()
	if err != nil {
		return nil, err
	}
	if len(results) != len(at) {
		return nil, fmt.Errorf("%d answers to %d ACLs", len(results), len(at))
	}
	for j, i := range at {
		out[i] = results[j]
	}
	return out, nil
}

// byPermission sorts changes of ACLs apart: those that allow, and those that deny.
func byPermission(changes []change.Change) (allow, deny []change.Change) {
	for _, c := range changes {
		if a, ok := frameOf[*format.ACL](c); ok && a.Permission == "DENY" {
			deny = append(deny, c)
		} else {
			allow = append(allow, c)
		}
	}
	return allow, deny
}

// Denies tells whether an ACL keeps the principal from something, whatever host it is on.
func Denies(a *format.ACL, principal string) bool {
	return a.Permission == "DENY" && (a.Principal == principal || a.Principal == diff.Everybody)
}
