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
)

const usersAtOnce = 200 // users whose credentials a request changes

var mechanisms = map[kadm.ScramMechanism]string{kadm.ScramSha256: "SCRAM-SHA-256", kadm.ScramSha512: "SCRAM-SHA-512"}

func (c *Client) readUsers(ctx context.Context, s *Snapshot) ([]format.Encoder, error) {
	if c.has(kmsg.DescribeUserSCRAMCredentials) < 0 {
		return nil, tooOld("their SCRAM users", "KIP-554", "2.7")
	}
	// An empty list, and not none as kadm has it: with none, brokers do not answer a user who has
	// no right to ask (Kafka 4.3).
	req := kmsg.NewPtrDescribeUserSCRAMCredentialsRequest()
	req.Users = []kmsg.DescribeUserSCRAMCredentialsRequestUser{}
	var resp *kmsg.DescribeUserSCRAMCredentialsResponse
	err := c.retry(ctx, func() (err error) {
		if resp, err = req.RequestWith(ctx, c.cl); err == nil {
			err = failure(resp.ErrorCode, resp.ErrorMessage)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	var out []format.Encoder
	for _, r := range resp.Results {
		if err := failure(r.ErrorCode, r.ErrorMessage); err != nil {
			return nil, fmt.Errorf("user %s: %w", r.User, err)
		}
		u := &format.User{Name: r.User}
		for _, m := range []kadm.ScramMechanism{kadm.ScramSha256, kadm.ScramSha512} {
			for _, i := range r.CredentialInfos {
				if i.Mechanism == int8(m) {
					u.Credentials = append(u.Credentials, format.Credential{Mechanism: mechanisms[m], Iterations: i.Iterations})
				}
			}
		}
		if len(u.Credentials) != len(r.CredentialInfos) {
			return nil, fmt.Errorf("user %s has a mechanism that this version of kbk does not know", r.User)
		}
		out = append(out, u)
	}
	if len(out) > 0 {
		s.LeftOut = append(s.LeftOut, fmt.Sprintf("users: the passwords of %d, which Kafka does not reveal", len(out)))
	}
	return out, nil
}

// alterUsers sets and deletes credentials. A request may name a user once, so that each of
// somebody's credentials goes into a request of its own.
func (c *Client) alterUsers(ctx context.Context, changes []change.Change, password func(user string) string) []error {
	out := make([]error, len(changes))
	for left := indexes(len(changes)); len(left) > 0; {
		var later, now []int
		named := make(map[string]bool)
		for _, i := range left {
			u, ok := frameOf[*format.User](changes[i])
			switch {
			case !ok || len(u.Credentials) != 1:
				out[i] = errNotThis
			case named[u.Name] || len(now) == usersAtOnce:
				later = append(later, i)
			default:
				named[u.Name] = true
				now = append(now, i)
			}
		}
		c.sendUsers(ctx, changes, now, password, out)
		left = later
	}
	return out
}

func indexes(n int) (out []int) {
	for i := range n {
		out = append(out, i)
	}
	return out
}

// sendUsers changes the credentials at the places now.
func (c *Client) sendUsers(ctx context.Context, changes []change.Change, now []int, password func(string) string, out []error) {
	del, set, places := credentials(changes, now, password, out)
	if len(places) == 0 {
		return
	}
	err := c.retry(ctx, func() error {
		// kadm leaves what it derives from the password in what it is given.
		altered, err := c.adm.AlterUserSCRAMs(ctx, del, slices.Clone(set))
		if err != nil {
			return err
		}
		var all []error
		for user, i := range places {
			a, answered := altered[user]
			out[i] = a.Err
			switch {
			case !answered:
				out[i] = errors.New("the broker does not say whether it was changed")
			case a.Err != nil && a.ErrMessage != "":
				out[i] = fmt.Errorf("%w %s", a.Err, a.ErrMessage)
			}
			all = append(all, out[i])
		}
		return transient(all)
	})
	if err != nil {
		for _, i := range places {
			if out[i] == nil {
				out[i] = err
			}
		}
	}
}

// credentials are what the changes at the places now delete and set, and the places by user. For
// those that no request can make, the error is in out.
func credentials(changes []change.Change, now []int, password func(string) string, out []error) (del []kadm.DeleteSCRAM, set []kadm.UpsertSCRAM, places map[string]int) {
	places = make(map[string]int)
	for _, i := range now {
		u, _ := frameOf[*format.User](changes[i])
		credential := u.Credentials[0]
		m := kadm.ScramSha256
		if credential.Mechanism == mechanisms[kadm.ScramSha512] {
			m = kadm.ScramSha512
		}
		if mechanisms[m] != credential.Mechanism {
			out[i] = fmt.Errorf("mechanism %q is not known to this version of kbk", credential.Mechanism)
			continue
		}
		if changes[i].Action == change.Remove {
			del = append(del, kadm.DeleteSCRAM{User: u.Name, Mechanism: m})
			places[u.Name] = i
			continue
		}
		secret := password(u.Name)
		switch {
		case credential.Iterations < 4096 || credential.Iterations > 16384: // kadm would refuse all others with it
			out[i] = fmt.Errorf("brokers take 4096 to 16384 iterations, not %d", credential.Iterations)
		case secret == "":
			out[i] = errors.New("there is no password")
		default:
			set = append(set, kadm.UpsertSCRAM{User: u.Name, Mechanism: m, Iterations: credential.Iterations, Password: secret})
			places[u.Name] = i
		}
	}
	return del, set, places
}
