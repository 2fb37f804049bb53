package partitions

import (
	"fmt"
	"strings"

	"github.com/kbkio/kbk/pkg/pattern"
)

// A Selection says which partitions of which topics are meant. The zero Selection is
// all of them.
type Selection struct {
	Topics  []string       // names, perhaps with partitions (orders:0,3-5), or regular expressions that begin with ^
	Exclude []string       // likewise, without partitions
	Numbers map[int32]bool // of every topic; nil: all
	Shard   Shard
}

// A Matcher is a [Selection] made ready, and knows what of it matched.
type Matcher struct {
	selection Selection
	selectors []*selector
	excluded  func(string) bool
}

type selector struct {
	text    string
	matches func(topic string) bool
	numbers map[int32]bool // nil: all
	topic   bool           // some topic matched
	seen    map[int32]bool // of numbers
}

// Compile makes s ready. Its errors say what is wrong in which selector.
func (s Selection) Compile() (*Matcher, error) {
	m := &Matcher{selection: s}
	var err error
	if m.excluded, err = pattern.Compile(s.Exclude); err != nil {
		return nil, fmt.Errorf("--exclude %w", err)
	}
	for _, text := range s.Topics {
		sel := &selector{text: text, seen: make(map[int32]bool)}
		name, list, some := text, "", false
		if !pattern.IsRegexp(text) {
			if name, list, some = strings.Cut(text, ":"); some {
				if sel.numbers, err = pattern.Partitions(list); err != nil {
					return nil, fmt.Errorf("-t %s: %w", text, err)
				}
			}
		}
		if sel.matches, err = pattern.Compile([]string{name}); err != nil {
			return nil, fmt.Errorf("-t %w", err)
		}
		m.selectors = append(m.selectors, sel)
	}
	return m, nil
}

// Matches tells whether a partition is meant.
func (m *Matcher) Matches(topic string, partition int32) bool {
	if m.excluded(topic) {
		return false
	}
	meant := len(m.selectors) == 0
	for _, s := range m.selectors {
		if !s.matches(topic) {
			continue
		}
		s.topic = true
		if s.numbers == nil || s.numbers[partition] {
			s.seen[partition], meant = true, true
		}
	}
	return meant && (m.selection.Numbers == nil || m.selection.Numbers[partition]) && m.selection.Shard.Holds(topic, partition)
}

// Missing says which selector did not match what it names, of the partitions that
// [Matcher.Matches] was asked about, or nil.
func (m *Matcher) Missing() error {
	for _, s := range m.selectors {
		switch {
		case !s.topic && pattern.IsRegexp(s.text):
			return fmt.Errorf("no topic matches %q", s.text)
		case !s.topic:
			name, _, _ := strings.Cut(s.text, ":")
			if m.excluded(name) {
				continue
			}
			return fmt.Errorf("topic %q is not there", name)
		}
		for n := range s.numbers {
			if !s.seen[n] {
				return fmt.Errorf("-t %s: there is no partition %d", s.text, n)
			}
		}
	}
	return nil
}
