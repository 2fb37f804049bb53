package pull

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/kbkio/kbk/pkg/commitlog"
)

// A placement is where a restore point has a partition.
type placement struct {
	moment *commitlog.Moment
	order  int      // of the point in the log
	at     [2]int64 // where the log began in Kafka, and the first offset that is not part of it
}

// An incarnationAt is what restore points say of an incarnation of a topic: of each
// partition what the newest one says that includes it.
type incarnationAt struct {
	id           string
	order, place int // of the newest that speaks of any partition, and its place there
	description  *commitlog.Topic
	parts        map[int32]placement
}

// A standing is what restore points say of the topics that are wanted. Which point is newer
// is told by the order of the log.
type standing map[string]map[string]*incarnationAt // by topic and topic id

// add takes in the point that has this order.
func (s standing) add(order int, m *commitlog.Moment, wanted func(topic string, partition int32) bool) {
	for place, t := range m.Topics {
		for n, at := range t.Partitions {
			if !wanted(t.Name, n) {
				continue
			}
			if s[t.Name] == nil {
				s[t.Name] = make(map[string]*incarnationAt)
			}
			in := s[t.Name][t.ID]
			if in == nil {
				in = &incarnationAt{id: t.ID, order: -1, parts: make(map[int32]placement)}
				s[t.Name][t.ID] = in
			}
			if had, ok := in.parts[n]; !ok || had.order <= order {
				in.parts[n] = placement{m, order, at}
			}
			if in.order <= order {
				in.order, in.place = order, place
				if t.Topic != nil {
					in.description = t.Topic
				}
			}
		}
	}
}

// topic returns the incarnation that the newest point has of a topic, or the one of this id,
// or nil.
func (s standing) topic(name, id string) *incarnationAt {
	if id != "" {
		return s[name][id]
	}
	var newest *incarnationAt
	for _, key := range slices.Sorted(maps.Keys(s[name])) {
		in := s[name][key]
		if newest == nil || in.order > newest.order || in.order == newest.order && in.place > newest.place {
			newest = in
		}
	}
	return newest
}

// used says which topics are read as of which point, in a line for each point. One point
// for all needs no line.
func used(parts map[string][]placement) []string {
	topics := make(map[*commitlog.Moment][]string)
	var moments []*commitlog.Moment
	order := make(map[*commitlog.Moment]int)
	for _, name := range slices.Sorted(maps.Keys(parts)) {
		for _, p := range parts[name] {
			if topics[p.moment] == nil {
				moments = append(moments, p.moment)
			}
			order[p.moment] = p.order
			if !slices.Contains(topics[p.moment], name) {
				topics[p.moment] = append(topics[p.moment], name)
			}
		}
	}
	if len(moments) < 2 {
		return nil
	}
	slices.SortFunc(moments, func(a, b *commitlog.Moment) int { return order[a] - order[b] })
	var lines []string
	for _, m := range moments {
		names, more := topics[m], ""
		if len(names) > 10 {
			names, more = names[:10], fmt.Sprintf(" and %d more topics", len(topics[m])-10)
		}
		lines = append(lines, fmt.Sprintf("as of restore point %s, %s: %s%s", m.Entry, time.UnixMilli(m.Points[0].Time).UTC().Format(time.RFC3339), strings.Join(names, ", "), more))
	}
	return lines
}
