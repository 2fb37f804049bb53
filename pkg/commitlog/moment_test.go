package commitlog

import (
	"fmt"
	"testing"
)

// TestMomentOfTopicMadeAgain has a run make restore points before a topic is deleted and
// created again, and behind that.
func TestMomentOfTopicMadeAgain(t *testing.T) {
	mark := func(id string, partition int32, next int64, deleted bool) Mark {
		return Mark{Topic: "orders", TopicID: id, Partition: partition, From: 0, Next: next, Deleted: deleted}
	}
	var m Moment
	for i, c := range []struct {
		entry Entry
		want  string
	}{
		{Entry{Topics: []Topic{{Name: "orders", ID: "t1"}}, Marks: []Mark{mark("t1", 0, 3, false), mark("t1", 1, 4, false)}}, "[t1 map[0:[0 3] 1:[0 4]]]"},
		{Entry{Topics: []Topic{{Name: "orders", ID: "t2"}}, Marks: []Mark{mark("t1", 0, 5, true), mark("t2", 0, 1, false)}}, "[t2 map[0:[0 1]]]"},
		{Entry{Marks: []Mark{mark("t2", 1, 2, false)}}, "[t2 map[0:[0 1] 1:[0 2]]]"},
	} {
		c.entry.ID, c.entry.Points = fmt.Sprint("e", i), []Point{{Time: int64(i)}}
		m.Add(&c.entry)
		var got []string
		for _, topic := range m.AtPoints()[0].Topics {
			got = append(got, fmt.Sprint(topic.ID, " ", topic.Partitions))
		}
		if fmt.Sprint(got) != c.want {
			t.Errorf("point %d is of %v instead of %s", i, got, c.want)
		}
	}
}
