package commitlog

import (
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
// not have of it: see [Entry.Losses].
func (s *State) Losses(topic, id string, partition int32) []string {
	if p := s.parts[partitionKey{topic, id, partition}]; p != nil {
		return p.losses
	}
	return nil
}
