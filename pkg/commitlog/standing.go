package commitlog

import (
	"fmt"
	"reflect"
	"slices"
)

// A standing is how an entry writes marks of partitions of a topic at which a run came by
// and found nothing new: their From is their Next. A quiet run has one for each partition
// of the cluster, and a line for each would be most of the log.
//
// The lists have an element for each partition, or one for all of them.
type standing struct {
	Topic       string     `json:"topic"`
	TopicID     string     `json:"topic_id,omitempty"`
	Partitions  [][2]int32 `json:"partitions"` // from the first to the last, both included
	Next        []int64    `json:"next"`
	LeaderEpoch []int32    `json:"leader_epoch,omitempty"`
	LogStart    []int64    `json:"log_start,omitempty"`
	End         []int64    `json:"end,omitempty"` // none where AtEnd
	AtEnd       bool       `json:"at_end,omitempty"`
}

// stand takes out of marks those that standings say as well. Marks are in the order of
// [CompareMarks].
func stand(marks []Mark) (standings []standing, others []Mark) {
	for i := 0; i < len(marks); {
		j := i + 1
		for j < len(marks) && standsWith(&marks[j-1], &marks[j]) {
			j++
		}
		if s, ok := standingOf(marks[i:j]); ok {
			standings = append(standings, s)
		} else {
			others = append(others, marks[i:j]...)
		}
		i = j
	}
	return standings, others
}

// standsWith tells whether b may be in one standing with a, the mark before it.
func standsWith(a, b *Mark) bool {
	return stands(a) && stands(b) && a.Topic == b.Topic && a.TopicID == b.TopicID && a.Partition < b.Partition &&
		(a.LeaderEpoch == nil) == (b.LeaderEpoch == nil) && (a.LogStart == nil) == (b.LogStart == nil) &&
		(a.End == nil) == (b.End == nil) && (a.End == nil || (*a.End == a.Next) == (*b.End == b.Next))
}

// stands tells whether a standing says all that m does.
func stands(m *Mark) bool {
	plain := Mark{Topic: m.Topic, TopicID: m.TopicID, Partition: m.Partition, From: m.Next, Next: m.Next, LeaderEpoch: m.LeaderEpoch, LogStart: m.LogStart, End: m.End}
	return reflect.DeepEqual(*m, plain)
}

func standingOf(marks []Mark) (standing, bool) {
	first := &marks[0]
	if !stands(first) {
		return standing{}, false
	}
	s := standing{Topic: first.Topic, TopicID: first.TopicID, AtEnd: first.End != nil && *first.End == first.Next}
	for i := range marks {
		m := &marks[i]
		if n := len(s.Partitions); n > 0 && s.Partitions[n-1][1] == m.Partition-1 {
			s.Partitions[n-1][1] = m.Partition
		} else {
			s.Partitions = append(s.Partitions, [2]int32{m.Partition, m.Partition})
		}
		s.Next = append(s.Next, m.Next)
		if m.LeaderEpoch != nil {
			s.LeaderEpoch = append(s.LeaderEpoch, *m.LeaderEpoch)
		}
		if m.LogStart != nil {
			s.LogStart = append(s.LogStart, *m.LogStart)
		}
		if m.End != nil && !s.AtEnd {
			s.End = append(s.End, *m.End)
		}
	}
	s.Next, s.LeaderEpoch, s.LogStart, s.End = once(s.Next), once(s.LeaderEpoch), once(s.LogStart), once(s.End)
	return s, true
}

// once makes a list of equal elements one of one.
func once[T comparable](list []T) []T {
	if len(list) > 0 && len(slices.Compact(slices.Clone(list))) == 1 {
		return list[:1]
	}
	return list
}

// marks are what the standing stands for. There are no more of them than it has elements,
// but for what a partition takes.
func (s *standing) marks() ([]Mark, error) {
	n := int64(0)
	last := int32(-1)
	for _, r := range s.Partitions {
		if r[0] <= last || r[1] < r[0] {
			return nil, fmt.Errorf("partitions %d to %d do not follow %d", r[0], r[1], last)
		}
		last = r[1]
		n += int64(r[1]) - int64(r[0]) + 1
	}
	if n > maxStanding {
		return nil, fmt.Errorf("%d partitions are too many for a topic", n)
	}
	for _, l := range []int{len(s.Next), len(s.LeaderEpoch), len(s.LogStart), len(s.End)} {
		if l > 1 && int64(l) != n {
			return nil, fmt.Errorf("a list of %d for %d partitions", l, n)
		}
	}
	if n > 0 && len(s.Next) == 0 {
		return nil, fmt.Errorf("no offsets for %d partitions", n)
	}
	marks := make([]Mark, 0, n)
	for _, r := range s.Partitions {
		for p := r[0]; ; p++ {
			i := len(marks)
			m := Mark{Topic: s.Topic, TopicID: s.TopicID, Partition: p, From: of(s.Next, i), Next: of(s.Next, i)}
			if len(s.LeaderEpoch) > 0 {
				m.LeaderEpoch = new(of(s.LeaderEpoch, i))
			}
			if len(s.LogStart) > 0 {
				m.LogStart = new(of(s.LogStart, i))
			}
			switch {
			case s.AtEnd:
				m.End = new(m.Next)
			case len(s.End) > 0:
				m.End = new(of(s.End, i))
			}
			marks = append(marks, m)
			if p == r[1] {
				break
			}
		}
	}
	return marks, nil
}

// maxStanding bounds what one standing stands for: Kafka has no topic of so many partitions.
const maxStanding = 1 << 20

// of is the element of a list for the i-th partition.
func of[T any](list []T, i int) T {
	if len(list) == 1 {
		return list[0]
	}
	return list[i]
}
