package fetch

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/groups"
	"github.com/kbkio/kbk/pkg/kafka"
	"github.com/kbkio/kbk/pkg/kafka/kafkatest"
)

func TestPastEnds(t *testing.T) {
	at := func(topic string, num int32, offset int64) map[string]map[int32]format.GroupOffset {
		return map[string]map[int32]format.GroupOffset{topic: {num: {Offset: offset}}}
	}
	s := &groups.Snapshot{Groups: []format.Group{
		{ID: "a", Offsets: at("t", 0, 7)}, {ID: "b", Offsets: at("t", 0, 9)}, {ID: "c", Offsets: at("t", 1, 5)},
		{ID: "d", Offsets: at("t", 2, 8)}, {ID: "e", Offsets: at("t", 3, 8)}, {ID: "f", Offsets: at("u", 0, 6)},
	}}
	high := make(kafka.Offsets)
	for num := range int32(3) {
		high.Set("t", num, kafka.Offset{Offset: 5})
	}
	high.Set("t", 3, kafka.Offset{Offset: -1, Err: errors.New("no answer")})
	known := map[topicPartition]int64{{"t", 2}: 8}
	if got := fmt.Sprint(pastEnds(s, high, known)); got != "[{{t 0} b 9 5}]" {
		t.Error(got)
	}
	if got := pastEnds(nil, high, known); got != nil {
		t.Error(got)
	}
}

// TestLowEnd has a leader tell an end below what a group has read: for a moment, as one that was cut
// off from the other brokers does, and for good.
func TestLowEnd(t *testing.T) {
	t.Parallel()
	groupsToo := func(c *Config) { c.Groups = []string{"g"} }
	w := newWorld(t, 1, "t", 1)
	w.produce("t", 0, 10)
	w.commit("g", "t", 0, 8)
	asked := 0
	w.fake.ControlKey(int16(kmsg.ListOffsets), func(req kmsg.Request) (kmsg.Response, error, bool) {
		w.fake.KeepControl()
		list := req.(*kmsg.ListOffsetsRequest)
		if list.Topics[0].Partitions[0].Timestamp != -1 {
			return nil, nil, false
		}
		if asked++; asked > 4 {
			return nil, nil, false
		}
		return kafkatest.Listed(list, 5), nil, true
	})
	r := w.fetch(groupsToo, nil)
	w.want(r, "t/0", upTo(10), 0, 10)
	if strings.Contains(r.log, "past the end") {
		t.Error(r.log)
	}
	w.commit("g", "t", 0, 99)
	r = w.fetch(groupsToo, nil)
	w.want(r, "t/0", upTo(10), 0, 10)
	if !strings.Contains(r.log, "consumer groups have committed offsets past the end of 1 partition: group g is at 99 of t/0, which ends at 10") {
		t.Error(r.log)
	}
}
