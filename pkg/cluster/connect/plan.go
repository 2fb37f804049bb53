package connect

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/cluster/change"
)

// Plan returns what it takes to make the connectors those of the snapshot, and what there is to say for
// people besides.
func Plan(want, have Content) (changes []change.Change, notes []string) {
	here := make(map[string]*format.Connector)
	for _, h := range have.Connectors {
		here[h.Name] = h
	}
	wanted := make(map[string]bool)
	for _, w := range want.Connectors {
		wanted[w.Name] = true
		h := here[w.Name]
		if h == nil {
			c, more := added(w)
			changes, notes = append(changes, c), append(notes, more...)
			continue
		}
		after, details, more := differences(w, h)
		notes = append(notes, more...)
		if len(details) > 0 {
			changes = append(changes, change.Change{Kind: format.ClusterConnectors, Action: change.Alter, Name: "connector " + w.Name, Before: h, After: after, Details: details})
		}
	}
	for _, h := range have.Connectors {
		if !wanted[h.Name] {
			changes = append(changes, change.Change{Kind: format.ClusterConnectors, Action: change.Remove, Name: "connector " + h.Name, Before: h})
		}
	}
	return changes, notes
}

func added(w *format.Connector) (change.Change, []string) {
	c := change.Change{Kind: format.ClusterConnectors, Action: change.Add, Name: "connector " + w.Name, After: w}
	var missing []string
	for _, key := range slices.Sorted(maps.Keys(w.Config)) {
		if masked(key, w.Config[key]) {
			missing = append(missing, key)
		}
	}
	if len(missing) > 0 {
		c.Lacks = "the snapshot does not have the values of " + strings.Join(missing, ", ")
	}
	var notes []string
	switch offsets, err := parseOffsets(w.Offsets); {
	case w.Offsets == "" || err != nil:
		notes = append(notes, fmt.Sprintf("connector %s: its offsets are not in the snapshot, so it starts from the beginning", w.Name))
	case ofSink(offsets):
		notes = append(notes, sinkNote(w.Name))
	}
	return c, notes
}

func sinkNote(name string) string {
	return fmt.Sprintf("connector %s is a sink: its offsets are those of the consumer group connect-%s, and kbk-offsets carries them over", name, name)
}

// differences compares a connector with the live one. What it returns first is how it is to be: a value
// that the snapshot does not have stays as it is, and so do offsets that are not to be set back.
func differences(w, h *format.Connector) (*format.Connector, []change.Detail, []string) {
	after := *w
	after.Config = maps.Clone(w.Config)
	var details []change.Detail
	var notes []string
	keys := maps.Clone(w.Config)
	if keys == nil {
		keys = make(map[string]string)
	}
	maps.Copy(keys, h.Config)
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		to, inWant := w.Config[key]
		is, inHave := h.Config[key]
		switch {
		case inWant == inHave && to == is:
			continue
		case inWant && inHave && masked(key, to):
			after.Config[key] = is
			notes = append(notes, fmt.Sprintf("connector %s: %s: the snapshot does not have its value; it stays as it is", w.Name, key))
			continue
		}
		d := change.Detail{Field: key}
		if !secret.MatchString(key) && !login.MatchString(is) && !login.MatchString(to) {
			d.Before, d.After = shown(is, inHave), shown(to, inWant)
		}
		details = append(details, d)
	}
	more, note := offsetDifferences(w, h)
	details = append(details, more...)
	if note != "" {
		notes = append(notes, note)
	}
	if to, err := parseOffsets(w.Offsets); len(more) == 0 && (err != nil || !ofSink(to)) {
		after.Offsets = h.Offsets
	}
	if after.State == "" {
		after.State = h.State
	}
	if after.State != h.State {
		details = append(details, change.Detail{Field: "state", Before: &h.State, After: &after.State})
	}
	return &after, details, notes
}

func shown(value string, there bool) *string {
	if !there {
		return nil
	}
	return &value
}

// offsetDifferences compares offsets. A source that has read on is not to read again what it has read, so
// the offsets of one that has any of the same partitions are set back only where it is stopped.
func offsetDifferences(w, h *format.Connector) ([]change.Detail, string) {
	if w.Offsets == "" || h.Offsets == "" || w.Offsets == h.Offsets {
		return nil, ""
	}
	to, err := parseOffsets(w.Offsets)
	if err != nil {
		return nil, fmt.Sprintf("connector %s: its offsets in the snapshot cannot be read: %v", w.Name, err)
	}
	is, err := parseOffsets(h.Offsets)
	if err != nil {
		return nil, fmt.Sprintf("connector %s: its offsets cannot be read: %v", w.Name, err)
	}
	if ofSink(to) || ofSink(is) {
		return nil, ""
	}
	at := make(map[string]string)
	for _, o := range is {
		at[o.partition] = o.offset
	}
	var details []change.Detail
	begun := false
	for _, o := range to {
		was, there := at[o.partition]
		delete(at, o.partition)
		begun = begun || there
		if was != o.offset {
			details = append(details, change.Detail{Field: "offset of " + o.partition, Before: shown(was, there), After: &o.offset})
		}
	}
	for _, partition := range slices.Sorted(maps.Keys(at)) {
		details = append(details, change.Detail{Field: "offset of " + partition, Before: shown(at[partition], true)})
	}
	if len(details) > 0 && (begun || len(to) == 0) && h.State != stopped {
		return nil, fmt.Sprintf("connector %s has read further since the snapshot, so its offsets stay. To set them back, stop it first (PUT /connectors/%s/stop)", w.Name, w.Name)
	}
	return details, ""
}
