// Package carry gives a snapshot of a cluster the names that its topics, groups and principals
// have in another cluster. It is pure: frames in, frames out.
package carry

import (
	"fmt"
	"slices"
	"strings"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/cluster/change"
	"github.com/kbkio/kbk/pkg/cluster/diff"
	"github.com/kbkio/kbk/pkg/pattern"
)

// Rules say what names become.
type Rules struct {
	Topics, Groups pattern.Naming
	Principals     *pattern.Renames
}

// A Carried is what became of the frames of a snapshot.
type Carried struct {
	Frames []format.Encoder
	Left   []change.Change // what cannot be carried: Lacks says why
	Notes  []string        // what is carried, and is not quite the same
}

// Frames applies the rules to ACLs, quotas, users and configs; other frames stay as they are.
// An error names two that would become one.
func (r *Rules) Frames(frames []format.Encoder) (*Carried, error) {
	c := &carrying{Rules: r, from: make(map[string]string)}
	for _, f := range frames {
		switch f := f.(type) {
		case *format.Config:
			if f.ResourceType == diff.Topic {
				c.topics = append(c.topics, f.Name)
			}
		case *format.ACL:
			if f.ResourceType == "GROUP" && f.PatternType == "LITERAL" && f.ResourceName != wildcard {
				c.groups = append(c.groups, f.ResourceName)
			}
		}
	}
	for _, f := range frames {
		if err := c.frame(f); err != nil {
			return nil, err
		}
	}
	slices.Sort(c.out.Notes)
	c.out.Notes = slices.Compact(c.out.Notes)
	return &c.out, nil
}

// wildcard is the name of a literal ACL that is for all resources of its type.
const wildcard = "*"

type carrying struct {
	*Rules
	topics, groups []string // that the snapshot names
	from           map[string]string
	out            Carried
}

func (c *carrying) frame(f format.Encoder) error {
	var why error
	carried := f
	switch f := f.(type) {
	case *format.ACL:
		carried, why = c.acl(f)
	case *format.Quota:
		carried, why = c.quota(f)
	case *format.User:
		to := *f
		to.Name, why = c.user(f.Name)
		carried = &to
	case *format.Config:
		to := *f
		switch {
		case f.ResourceType == diff.Topic && !diff.Internal(f.Name):
			to.Name = c.Topics.Target(f.Name)
		case f.ResourceType == diff.Group:
			to.Name = c.Groups.Target(f.Name)
		}
		carried = &to
	}
	if why != nil {
		c.out.Left = append(c.out.Left, change.Change{Kind: diff.KindOf(f), Action: change.Add, Name: diff.Name(f), After: f, Lacks: "its name in the target is not clear: " + why.Error()})
		return nil
	}
	return c.add(f, carried)
}

// add takes in what a frame became. Two ACLs may become one; of other things that would be two
// meanings for one name.
func (c *carrying) add(was, is format.Encoder) error {
	kind := diff.KindOf(is)
	if kind == format.ClusterSchemas || kind == format.ClusterConnectors || kind == "" {
		c.out.Frames = append(c.out.Frames, is)
		return nil
	}
	key := kind + "\x00" + diff.Name(is)
	if other, twice := c.from[key]; twice {
		if kind == format.ClusterACLs {
			return nil
		}
		return fmt.Errorf("%s: %s and %s would both become %s", kind, other, diff.Name(was), diff.Name(is))
	}
	c.from[key] = diff.Name(was)
	c.out.Frames = append(c.out.Frames, is)
	return nil
}

// principal is what a principal becomes. That of everybody is changed by its own name alone.
func (c *carrying) principal(p string) string {
	to, ok := c.Principals.Lookup(p)
	if p == diff.Everybody && ok && !c.Principals.Names(p) {
		return p
	}
	return to
}

// user is what the user of SCRAM credentials and of quotas becomes, by its principal.
func (c *carrying) user(name string) (string, error) {
	const of = "User:"
	to := c.principal(of + name)
	if user, ok := strings.CutPrefix(to, of); ok && user != "" {
		return user, nil
	}
	return "", fmt.Errorf("%s%s becomes %s, which is no user", of, name, to)
}

func (c *carrying) quota(q *format.Quota) (format.Encoder, error) {
	to := &format.Quota{Entity: slices.Clone(q.Entity), Values: q.Values}
	for i, e := range to.Entity {
		if e.Type != "user" || e.Name == nil {
			continue
		}
		name, err := c.user(*e.Name)
		if err != nil {
			return nil, err
		}
		to.Entity[i].Name = &name
	}
	return to, nil
}

func (c *carrying) acl(a *format.ACL) (format.Encoder, error) {
	to := *a
	to.Principal = c.principal(a.Principal)
	var err error
	switch a.ResourceType {
	case "TOPIC":
		err = c.resource(&to, c.Topics, c.topics)
	case "GROUP":
		err = c.resource(&to, c.Groups, c.groups)
	case "USER": // KIP-373: its name is a principal
		to.ResourceName = c.principal(a.ResourceName)
	case "DELEGATION_TOKEN":
		if a.ResourceName != wildcard {
			c.out.Notes = append(c.out.Notes, "ACLs on single delegation tokens are carried, but the tokens are not")
		}
	}
	return &to, err
}

// resource changes the name of the resource of an ACL.
func (c *carrying) resource(a *format.ACL, naming pattern.Naming, known []string) (err error) {
	switch {
	case !naming.Changes():
	case a.PatternType == "PREFIXED":
		a.ResourceName, err = naming.Begin(a.ResourceName, known)
	case a.ResourceName != wildcard:
		if !diff.Internal(a.ResourceName) {
			a.ResourceName = naming.Target(a.ResourceName)
		}
	case naming.OnlyPrefix():
		a.PatternType, a.ResourceName = "PREFIXED", naming.Prefix
	default:
		c.out.Notes = append(c.out.Notes, fmt.Sprintf("%s: is for every %s of the target, not only for those that were renamed", diff.ACLName(a), strings.ToLower(a.ResourceType)))
	}
	return err
}
