package offsets

import (
	"bytes"
	"reflect"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kbkio/kbk/pkg/cursor"
	"github.com/kbkio/kbk/pkg/groups"
	"github.com/kbkio/kbk/pkg/kafka"
)

// TestCursor wants a cursor of the ends of a mirror, in the words of its source.
func TestCursor(t *testing.T) {
	w := newWorld(t, "mirror.orders", "plain", "empty", "filling")
	w.produce("mirror.orders", 0, "abc")
	w.produce("mirror.orders", 1, "abcd")
	w.produce("plain", 1, "a")
	w.produce("filling", 1, "a")
	for range 3 { // an exact restore was killed while it filled the log
		ok(t, w.cl.ProduceSync(t.Context(), &kgo.Record{Topic: "filling", Timestamp: time.UnixMilli(0)}).FirstErr())
	}
	_, err := w.adm.DeleteRecords(t.Context(), kadm.Offsets{"mirror.orders": {0: {Topic: "mirror.orders", At: 3}}})
	ok(t, err)
	meta, err := w.adm.Metadata(t.Context())
	ok(t, err)
	ids := map[string]string{"mirror.orders": kafka.FormatTopicID(meta.Topics["mirror.orders"].ID), "plain": "of a topic that was deleted"}
	ok(t, groups.WriteOrigins(t.Context(), w.adm, map[string]groups.Origin{
		"mirror.orders": {Cluster: "A", Topic: "orders", TopicID: "id in A"}, "plain": {Cluster: "A", Topic: "other", TopicID: "another"},
	}, ids))
	print := func(topics func(string) bool) *cursor.Cursor {
		t.Helper()
		var out bytes.Buffer
		ok(t, Cursor(t.Context(), CursorConfig{Kafka: w.kafka(), Topics: topics, Overlap: 7}, w.env.Log, &out))
		c, err := cursor.Read(&out)
		ok(t, err)
		return c
	}
	c := print(everybody)
	same(t, c, &cursor.Cursor{Version: 1, Overlap: 7, Topics: map[string]cursor.Topic{
		"orders":  {ID: "id in A", Partitions: map[int32]int64{0: 3, 1: 4}},
		"plain":   {Partitions: map[int32]int64{1: 1}},
		"filling": {Partitions: map[int32]int64{1: 1}},
	}})
	same(t, print(func(name string) bool { return name == "plain" }).Topics, map[string]cursor.Topic{"plain": {Partitions: map[int32]int64{1: 1}}})
	same(t, print(nobody).Topics, map[string]cursor.Topic{})

	_, err = cursorOf(map[place][2]int64{{"a", 0}: {0, 1}, {"b", 0}: {0, 1}}, map[string]groups.Origin{"b": {Topic: "a"}}, 0)
	fails(t, err, 1, "topics a and b are both mirrors of a")

	// What kbk notes is no data.
	all, err := groups.Read(t.Context(), w.adm, groups.Request{Topics: map[string]string{"mirror.orders": "", "plain": ""}})
	ok(t, err)
	if len(all.Groups) > 0 {
		t.Errorf("groups %v", all.Groups)
	}
}

func same(t *testing.T, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, and not %+v", got, want)
	}
}
