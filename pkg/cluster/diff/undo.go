package diff

import (
	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/cluster/change"
)

// An Undoing is what rollback makes of saved changes.
type Undoing struct {
	Back    []change.Change // what takes back what is still as it was made
	Changed []change.Change // what takes back what is neither as before nor as after: somebody has changed it since
	Gone    int             // how many are as before already
}

// Undo decides what takes changes back, given what there is now.
func Undo(changes []change.Change, now []format.Encoder) *Undoing {
	u, have := new(Undoing), byKey(now)
	for _, c := range changes {
		before, after := one(c.Before), one(c.After)
		current := have[keyOf(before, after)]
		if current == nil {
			current = elsewhere(after, have)
		}
		back, differs := between(current, before)
		switch {
		case !differs:
			u.Gone++
		case equal(current, after), elsewhere(after, have) == current && current != nil:
			u.Back = append(u.Back, back)
		default:
			u.Changed = append(u.Changed, back)
		}
	}
	return u
}

// elsewhere is what a version of a subject is in a registry that gives versions of its own.
func elsewhere(e *entry, have map[string]*entry) *entry {
	if e == nil {
		return nil
	}
	s, ok := e.frame.(*format.Schema)
	if !ok {
		return nil
	}
	for _, h := range have {
		other, ok := h.frame.(*format.Schema)
		if !ok || other.Subject != s.Subject {
			continue
		}
		asHere := *s
		asHere.Version = other.Version
		if same(&entry{frame: &asHere}, h) {
			return h
		}
	}
	return nil
}

// one is the entry of a frame that has one; nil where there is no frame.
func one(f format.Encoder) *entry {
	if f == nil {
		return nil
	}
	all := entries(f)
	if len(all) != 1 {
		return nil
	}
	return &all[0]
}

func keyOf(a, b *entry) string {
	if a != nil {
		return a.key()
	}
	if b != nil {
		return b.key()
	}
	return ""
}

func equal(a, b *entry) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return same(a, b)
}

// Missing are the changes that do not show in what there is now.
func Missing(changes []change.Change, now []format.Encoder) (out []change.Change) {
	have := byKey(now)
	for _, c := range changes {
		before, after := one(c.Before), one(c.After)
		if !equal(have[keyOf(before, after)], after) {
			out = append(out, c)
		}
	}
	return out
}
