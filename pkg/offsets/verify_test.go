package offsets

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/recordbatch/batchtest"
)

func (w *world) verify(in *bytes.Buffer, records ...string) error {
	return Verify(w.t.Context(), VerifyConfig{Kafka: w.kafka(), Skip: nobody, Records: records}, w.env, in)
}

// TestVerify compares offsets and next records, and says what it could not compare.
func TestVerify(t *testing.T) {
	w := newWorld(t, "t")
	w.produce("t", 0, "abcde")
	w.produce("t", 1, "x")
	w.commit("a", "t", 0, 2)
	w.commit("a", "t", 1, 1)
	w.commit("b", "t", 0, 0)
	a := func() *format.Group {
		g := withRecord(group("a", "t", numbers{0: 2, 1: 1}), "t", 0, "c", 1002)
		o := g.Offsets["t"][1]
		o.From[0].Next, o.AtEnd = nil, true
		g.Offsets["t"][1] = o
		return g
	}
	ok(t, w.verify(planned(t, format.End{}, a(), group("b", "t", numbers{0: 0}))))
	w.tells("3 offsets of 2 groups are committed as planned; 1 next record compared, 1 at the end, 1 not compared")
	// By the backup's records too.
	records := filepath.Join(t.TempDir(), "records")
	var b bytes.Buffer
	f := format.NewWriter(&b)
	ok(t, f.WriteHeader(&format.Header{Content: format.ContentRecords}))
	ok(t, f.Write(&format.Mark{Topic: "old"}))
	ok(t, f.WriteRecord(&format.Record{Topic: "old", Offset: 0, Timestamp: 1000, Value: []byte("a")}))
	ok(t, f.Close(&format.End{Records: 1}))
	ok(t, os.WriteFile(records, b.Bytes(), 0o600))
	ok(t, w.verify(planned(t, format.End{}, a(), group("b", "t", numbers{0: 0})), records))
	w.tells("2 next records compared, 1 at the end, 0 not compared")
	whole := b.Bytes()
	var in bytes.Buffer
	f = format.NewWriter(&in)
	ok(t, f.WriteHeader(&format.Header{Content: format.ContentBatches}))
	batch := batchtest.Frame(t, "gzip", format.Record{Topic: "old", Offset: 0, Timestamp: 1000, Value: []byte("a")}, format.Record{Topic: "old", Offset: 1, Timestamp: 1001, Value: []byte("b")})
	ok(t, f.Write(batch))
	ok(t, f.Close(&format.End{Records: 2}))
	ok(t, os.WriteFile(records, in.Bytes(), 0o600))
	ok(t, w.verify(planned(t, format.End{}, a(), group("b", "t", numbers{0: 0})), records))
	w.tells("2 next records compared, 1 at the end, 0 not compared")
	batch.Data[len(batch.Data)-1] ^= 1
	in.Reset()
	f = format.NewWriter(&in)
	ok(t, f.WriteHeader(&format.Header{Content: format.ContentBatches}))
	ok(t, f.Write(batch))
	ok(t, f.Close(&format.End{Records: 2}))
	ok(t, os.WriteFile(records, in.Bytes(), 0o600))
	fails(t, w.verify(planned(t, format.End{}, a()), records), command.Corrupt, "records: old/0: batch of offsets 0 to 1: corrupt record batch at offset 0: checksum")
	ok(t, os.WriteFile(records, whole[:len(whole)-3], 0o600))
	fails(t, w.verify(planned(t, format.End{}, a()), records), command.Corrupt, "stream ended before its end frame")
	fails(t, w.verify(planned(t, format.End{}, a()), records+"nowhere"), command.Failed, "no such file")

	// What differs.
	wrong := withRecord(group("b", "t", numbers{0: 0}), "t", 0, "z", 1000)
	fails(t, w.verify(planned(t, format.End{}, a(), wrong)), command.Failed, "1 difference of 3 offsets")
	w.tells("group b: the next record of t/0, at offset 0, is not the one at offset 0 of old/0")
	fails(t, w.verify(planned(t, format.End{}, group("a", "t", numbers{0: 3}))), command.Failed, "1 difference of 1 offset")
	w.tells("group a: 2 is committed for t/0, and 3 is planned")
	fails(t, w.verify(planned(t, format.End{}, group("nobody", "t", numbers{0: 3}))), command.Failed, "1 difference of 1 offset")
	w.tells("group nobody: nothing is committed for t/0, and 3 is planned")
	w.commit("c", "t", 0, 5)
	behind := withRecord(group("c", "t", numbers{0: 5}), "t", 0, "f", 1005)
	fails(t, w.verify(planned(t, format.End{}, behind)), command.Failed, "1 difference of 1 offset")
	w.tells("group c: no record comes next in t/0, and offset 5 of old/0 would in the source")
	many := group("many", "t", nil)
	for n := range int32(2) {
		many.Offsets["t"][n] = format.GroupOffset{}
	}
	var more []*format.Group
	for i := range told {
		more = append(more, group(strings.Repeat("m", i+1), "t", numbers{0: 1, 1: 1}))
	}
	fails(t, w.verify(planned(t, format.End{}, more...)), command.Failed, "40 differences of 40 offsets")
	w.tells("and 20 differences more")

	// What came before is passed on.
	end := format.End{}
	end.Lose("t/1: expired")
	fails(t, w.verify(planned(t, end, a())), command.Loss, "t/1: expired")
	fails(t, w.verify(planned(t, format.End{Interrupted: true}, a())), command.Interrupted, "is incomplete")
	unplaced := a()
	unplaced.Unplaced = []format.Unplaced{{Topic: "old", Offset: 7, Why: "because"}}
	fails(t, w.verify(planned(t, format.End{}, unplaced)), command.Loss, "without a place in the target for 1 offset")
}

// TestPlan shows what apply would do, with and without the target.
func TestPlan(t *testing.T) {
	w := newWorld(t, "t")
	w.produce("t", 0, "abcde")
	w.produce("t", 1, "xyz")
	w.commit("a", "t", 1, 1)
	plan := func() *bytes.Buffer {
		g := group("a", "t", numbers{0: 2, 1: 1})
		end, next := int64(9), int64(4)
		o := g.Offsets["t"][0]
		o.From[0].End, o.From[0].Next, o.From[0].Missing = &end, &next, 2
		g.Offsets["t"][0] = o
		e := group("b", "t", numbers{0: 0})
		o = e.Offsets["t"][0]
		o.AtEnd, o.Again = true, 3
		o.From = append(o.From, format.GroupSource{Topic: "old", Partition: 7, Offset: 1})
		e.Offsets["t"][0] = o
		e.Unplaced = []format.Unplaced{{Topic: "old", Partition: 3, Offset: 7, Why: "because"}}
		return planned(t, format.End{}, g, e)
	}
	var out bytes.Buffer
	fails(t, Plan(t.Context(), nil, 0, false, plan(), &out), command.Loss, "without a place in the target for 1 offset")
	const without = `GROUP TOPIC PARTITION SOURCE OFFSET LAG TARGET OFFSET LAG HOW
a t 0 old/0:2 7 2 - map: the next record, 4; 2 missing
a t 1 old/1:1 - 1 - map: the record
b t 0 old/0:0,old/7:1 - end - map: the end; up to 3 again
b old 3 7 - - - because
`
	if got := squeeze(out.String()); got != without {
		t.Errorf("got\n%s", got)
	}
	out.Reset()
	cfg := w.kafka()
	fails(t, Plan(t.Context(), &cfg, 0, true, plan(), &out), command.Loss, "1 offset")
	var rows []Row
	for d := json.NewDecoder(&out); d.More(); {
		var r Row
		ok(t, d.Decode(&r))
		rows = append(rows, r)
	}
	if len(rows) != 4 || *rows[0].LagAfter != 3 || *rows[0].LagBefore != 7 || rows[0].Committed != nil || *rows[1].Committed != 1 || *rows[2].Offset != 5 || *rows[2].LagAfter != 0 || !rows[3].Unplaced {
		t.Errorf("%+v", rows)
	}
	fails(t, Plan(t.Context(), nil, 0, false, planned(t, format.End{Interrupted: true}, group("a", "t", numbers{0: 2})), &out), command.Interrupted, "the plan is incomplete")
	if err := Plan(t.Context(), nil, 0, false, strings.NewReader("no stream"), &out); command.StatusOf(err) != command.Corrupt {
		t.Errorf("%v", err)
	}
}

// squeeze makes one space of several.
func squeeze(s string) string {
	var b strings.Builder
	for line := range strings.Lines(s) {
		b.WriteString(strings.Join(strings.Fields(line), " ") + "\n")
	}
	return b.String()
}

// TestHow says by what an offset was found.
func TestHow(t *testing.T) {
	rec := &format.NextRecord{Timestamp: 1700000000000}
	next := int64(5)
	for _, c := range []struct {
		by   string
		o    format.GroupOffset
		want string
	}{
		{byIdentity, format.GroupOffset{From: []format.GroupSource{{}}}, "identity: the same offset"},
		{byTimestamp, format.GroupOffset{From: []format.GroupSource{{Record: rec}}}, "timestamp: 2023-11-14T22:13:20Z"},
		{byTimestamp, format.GroupOffset{From: []format.GroupSource{{}}}, "timestamp"},
		{byMap, format.GroupOffset{From: []format.GroupSource{{Offset: 5, Next: &next}}}, "map: the record"},
		{byMap, format.GroupOffset{From: []format.GroupSource{{Offset: 4, Next: &next}}}, "map: the next record, 5"},
		{byMap, format.GroupOffset{From: []format.GroupSource{{Offset: 4}}}, "map: behind the last record"},
		{byMap, format.GroupOffset{From: []format.GroupSource{{}, {}}}, "map: the first of 2 partitions"},
	} {
		if got := how(c.by, &c.o); got != c.want {
			t.Errorf("%s, not %s", got, c.want)
		}
	}
}

// TestScript writes commands that a shell can take, whatever names there are.
func TestScript(t *testing.T) {
	g := group("it's", "t", numbers{0: 2, 1: 0})
	o := g.Offsets["t"][1]
	o.AtEnd = true
	g.Offsets["t"][1] = o
	g.Unplaced = []format.Unplaced{{Topic: "old", Partition: 3, Offset: 7, Why: "two\nlines"}}
	var out bytes.Buffer
	fails(t, Script(t.Context(), 0, "b:9092", planned(t, format.End{}, g), &out), command.Loss, "1 offset")
	const want = `# Commits consumer groups' offsets with Kafka's own tool; paste it into bash, or run it.
BROKERS='b:9092'
PLAN=$(mktemp)

cat >"$PLAN" <<'END'
t,0,2
END
kafka-consumer-groups.sh --bootstrap-server "$BROKERS" --reset-offsets --execute --group 'it'\''s' --from-file "$PLAN"

kafka-consumer-groups.sh --bootstrap-server "$BROKERS" --reset-offsets --execute --group 'it'\''s' --to-latest --topic 't:1'
# no place: old/3, offset 7: two lines

rm "$PLAN"
`
	if out.String() != want {
		t.Errorf("got\n%s", &out)
	}
	out.Reset()
	ok(t, Script(t.Context(), 0, "", planned(t, format.End{}, group("a", "t", numbers{0: 2})), &out))
	if !strings.Contains(out.String(), `: "${BROKERS:?set it`) {
		t.Errorf("got\n%s", &out)
	}
	fails(t, Script(t.Context(), 0, "", planned(t, format.End{Interrupted: true}), &out), command.Interrupted, "the script is incomplete")
	if err := Script(t.Context(), 0, "", strings.NewReader(""), &out); command.StatusOf(err) != command.Corrupt {
		t.Errorf("%v", err)
	}
}
