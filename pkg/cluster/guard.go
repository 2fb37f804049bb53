package cluster

import (
	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/cluster/change"
	"github.com/kbkio/kbk/pkg/cluster/diff"
)

// guard says of changes that would take from this command what it works with that they are not
// to be applied. own is its principal; "" is not known.
func guard(changes []change.Change, own string) {
	for i := range changes {
		if c := &changes[i]; c.Lacks == "" {
			c.Lacks = needed(c, own)
		}
	}
}

// needed says why this command must not make a change; "" is that it may.
func needed(c *change.Change, own string) string {
	const somebody = "somebody else has to do this: "
	switch before := c.Before.(type) {
	case *format.User:
		if "User:"+before.Name == own {
			return somebody + "kbk-cluster itself logs in as this user"
		}
	case *format.ACL:
		grants := c.Action == change.Remove && before.Permission == "ALLOW"
		switch {
		case grants && own != "" && before.Principal == own:
			return somebody + "kbk-cluster itself has this principal"
		case grants && before.ResourceType == "CLUSTER" && (own == "" || before.Principal == diff.Everybody):
			return somebody + "it may be what allows kbk-cluster its work"
		}
	}
	after, ok := c.After.(*format.ACL)
	if ok && after.Permission == "DENY" && after.ResourceType == "CLUSTER" && (own == "" || after.Principal == own || after.Principal == diff.Everybody) {
		return somebody + "it may deny kbk-cluster its work"
	}
	return ""
}
