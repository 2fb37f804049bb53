package commitlog

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// foldLosses notes what a run that has ended says that it could not have. A later run that
// reads a partition to its end says anew what is missing of it; one that was interrupted
// may not have come to what the one before could not have.
func (s *State) foldLosses(e *Entry) {
	if !e.Final || len(e.Losses) == 0 && (e.Interrupted || !s.lossy) {
		return
	}
	for key, p := range s.parts {
		if p.run == e.Run {
			p.losses = s.lossesOf(key, e.Losses)
			s.lossy = s.lossy || len(p.losses) > 0
		}
	}
}

// lossesOf are the lines that may be about a partition: those that do not name another.
func (s *State) lossesOf(key partitionKey, lines []string) (own []string) {
	for _, line := range lines {
		subject, _, _ := strings.Cut(line, ": ")
		topic, number, isPartition := subject, "", false
		if i := strings.LastIndexByte(subject, '/'); i >= 0 {
			topic, number, isPartition = subject[:i], subject[i+1:], true
		}
		n, err := strconv.ParseInt(number, 10, 32)
		switch {
		case isPartition && err == nil && s.topics[topic] != nil:
			if topic != key.topic || int32(n) != key.partition {
				continue
			}
		case s.topics[subject] != nil && subject != key.topic:
			continue
		}
		own = append(own, line)
	}
	return own
}

// Losses says, in a line for people each, what the run that read a partition last could
// not have of it: see [Entry.Losses]. Lines about offsets that were let go since are not
// among them.
func (s *State) Losses(topic, id string, partition int32) []string {
	key := partitionKey{topic, id, partition}
	if p := s.parts[key]; p != nil {
		return p.lossesLeft(key)
	}
	return nil
}

// lossesLeft are the lines of the last run, but for those about offsets that were let go.
func (p *partition) lossesLeft(key partitionKey) []string {
	if len(p.losses) == 0 {
		return nil
	}
	now := p.now()
	gone := now.gone()
	return slices.DeleteFunc(slices.Clone(p.losses), func(line string) bool {
		r, ok := offsetsOf(line, key.topic, key.partition)
		return ok && gone.covers(r[0], r[1])
	})
}

// TellsOf tells whether a line of losses is about just these offsets, [from, next), of a
// partition.
func TellsOf(line, topic string, partition int32, offsets [2]int64) bool {
	r, ok := offsetsOf(line, topic, partition)
	return ok && r == offsets
}

// offsetsOf reads the offsets of a partition that a line is about: those of "orders/3:
// offsets 5 to 9 were deleted", say, are [5, 10).
func offsetsOf(line, topic string, partition int32) (offsets [2]int64, ok bool) {
	rest, ok := strings.CutPrefix(line, fmt.Sprintf("%s/%d: offsets ", topic, partition))
	first, rest, _ := strings.Cut(rest, " to ")
	last, _, _ := strings.Cut(rest, " ")
	from, err1 := strconv.ParseInt(first, 10, 64)
	to, err2 := strconv.ParseInt(last, 10, 64)
	return [2]int64{from, to + 1}, ok && err1 == nil && err2 == nil && from <= to
}
