// Package change has what a plan consists of: the differences between a snapshot of a cluster and
// one that is live, as plain values. Whoever finds them, shows them and applies them agree by it.
package change

import "github.com/kbkio/kbk/format"

// An Action is what it takes to make a live cluster as the snapshot is.
type Action byte

// The actions. Remove is for what the snapshot does not have.
const (
	Add    Action = '+'
	Alter  Action = '~'
	Remove Action = '-'
)

// A Change is one difference.
type Change struct {
	Kind   string // of [format.ClusterKinds]
	Action Action
	Name   string // what it is about, for people: "User:alice READ on TOPIC orders"
	// Before is how it is in the live cluster, nil where it is not there; After how it is in the
	// snapshot, nil where it is not there. Both are frames of the snapshot: *[format.ACL], say.
	Before, After format.Encoder
	Details       []Detail // of Alter: what differs
	// Lacks says to people why it cannot be applied: "the password is missing". It is "" where it can.
	Lacks string
}

// A Detail is one field that differs. A value that is not there, or not to be shown, is nil.
type Detail struct {
	Field         string
	Before, After *string
}
