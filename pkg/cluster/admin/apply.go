package admin

import (
	"context"
	"errors"
	"slices"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/cluster/change"
	"github.com/kbkio/kbk/pkg/kafka"
)

// errNotThis is for a change that has nothing of the kind that it says.
var errNotThis = errors.New("this is no such change")

// Apply makes changes of one kind, and calls done for each, with the error if it is not made.
// One that fails does not keep the others from being made. password returns that of a user.
func (c *Client) Apply(ctx context.Context, kind string, changes []change.Change, password func(user string) string, done func(change.Change, error)) {
	step := func(changes []change.Change, do func(context.Context, []change.Change) []error) {
		if len(changes) == 0 {
			return
		}
		for i, err := range do(ctx, changes) {
			done(changes[i], err)
		}
	}
	switch kind {
	case format.ClusterACLs:
		// Who is allowed something is never denied it meanwhile, this command's own user least
		// of all: what allows comes first and goes last.
		var make, remove []change.Change
		for _, ch := range changes {
			if ch.Action == change.Remove {
				remove = append(remove, ch)
			} else {
				make = append(make, ch)
			}
		}
		allow, deny := byPermission(make)
		allowed, denied := byPermission(remove)
		step(allow, c.makeACLs)
		step(denied, c.deleteACLs)
		step(deny, c.makeACLs)
		step(allowed, c.deleteACLs)
	case format.ClusterQuotas:
		step(changes, c.alterQuotas)
	case format.ClusterUsers:
		step(changes, func(ctx context.Context, changes []change.Change) []error {
			return c.alterUsers(ctx, changes, password)
		})
	case format.ClusterConfigs:
		step(changes, c.alterConfigs)
	}
}

// frameOf is what a change is about: what is to be, or else what is to go.
func frameOf[F format.Encoder](c change.Change) (F, bool) {
	if f, ok := c.After.(F); ok {
		return f, true
	}
	f, ok := c.Before.(F)
	return f, ok
}

// each does n changes at a time. Where all of them fail together, each has that error.
func each(changes []change.Change, n int, do func([]change.Change) ([]error, error)) []error {
	out := make([]error, 0, len(changes))
	for some := range slices.Chunk(changes, n) {
		results, err := do(some)
		if err != nil {
			results = slices.Repeat([]error{err}, len(some))
		}
		out = append(out, results...)
	}
	return out
}

// results makes a request until no error in its results may pass.
func (c *Client) results(ctx context.Context, ask func() ([]error, error)) (out []error, err error) {
	err = c.retry(ctx, func() (err error) {
		if out, err = ask(); err == nil {
			err = transient(out)
		}
		return err
	})
	return out, err
}

// transient is the first error that may pass: then the request is made again. That does no
// harm: to make what is there, and to delete what is not, changes nothing.
func transient(errs []error) error {
	for _, err := range errs {
		if err != nil && kafka.Transient(err) {
			return err
		}
	}
	return nil
}
