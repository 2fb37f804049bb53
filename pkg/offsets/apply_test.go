package offsets

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/groups"
	"github.com/kbkio/kbk/test/need"
)

func (w *world) apply(in io.Reader, undo string, more ...func(*ApplyConfig)) (out bytes.Buffer, err error) {
	cfg := ApplyConfig{Kafka: w.kafka(), Skip: nobody, Undo: undo}
	for _, change := range more {
		change(&cfg)
	}
	err = Apply(w.t.Context(), cfg, w.env, in, &out)
	return out, err
}

func (w *world) rollback(undo string) error {
	w.t.Helper()
	f, err := os.Open(undo)
	ok(w.t, err)
	defer f.Close()
	return Rollback(w.t.Context(), ApplyConfig{Kafka: w.kafka(), Skip: nobody}, w.env, f)
}

// TestApply commits, keeps what was there, and puts it back.
func TestApply(t *testing.T) {
	w := newWorld(t, "t", "u")
	w.produce("t", 0, "abcde")
	w.produce("t", 1, "xyz")
	w.commit("a", "t", 0, 1)
	w.commit("a", "u", 0, 0)
	undo := filepath.Join(t.TempDir(), "undo")
	end := group("b", "t", numbers{1: 0})
	o := end.Offsets["t"][1]
	o.AtEnd = true
	end.Offsets["t"][1] = o
	out, err := w.apply(planned(t, format.End{}, group("a", "t", numbers{0: 2, 1: 1}), end), undo)
	ok(t, err)
	const applied = "a t/0 2old note, a t/1 1old note, a u/0 0note, b t/1 3old note"
	if got := w.committed(); got != applied {
		t.Errorf("committed: %s", got)
	}
	w.tells("committed 3 offsets of 2 groups; what was there before is in "+undo, "consumers that use assign() are no members of their group, and cannot be seen", "of a above all")
	if all, _ := read(t, &out); len(all) != 2 || all[1].Offsets["t"][1].AtEnd || all[1].Offsets["t"][1].Offset != 3 {
		t.Errorf("the plan as it was committed: %+v", all)
	}
	// It is never overwritten, and nothing is committed without it.
	_, err = w.apply(planned(t, format.End{}, group("a", "t", numbers{0: 3})), undo)
	if !errors.Is(err, fs.ErrExist) || w.committed() != applied {
		t.Errorf("%v; committed: %s", err, w.committed())
	}
	_, err = w.apply(planned(t, format.End{}, group("a", "t", numbers{0: 3})), filepath.Join(t.TempDir(), "nowhere", "undo"))
	if !errors.Is(err, fs.ErrNotExist) || w.committed() != applied {
		t.Errorf("%v; committed: %s", err, w.committed())
	}
	ok(t, w.rollback(undo))
	if got := w.committed(); got != "a t/0 1note, a u/0 0note" {
		t.Errorf("rolled back: %s", got)
	}
	w.tells("put back 1 offset of 1 group; deleted 2 offsets and 1 group")
	// Once more, it says the same and does no harm.
	ok(t, w.rollback(undo))
	if got := w.committed(); got != "a t/0 1note, a u/0 0note" {
		t.Errorf("rolled back twice: %s", got)
	}
}

// TestRewind refuses to take a group back, whatever else is to be committed.
func TestRewind(t *testing.T) {
	w := newWorld(t, "t")
	w.produce("t", 0, "abcde")
	w.commit("ahead", "t", 0, 4)
	plan := func() *bytes.Buffer {
		return planned(t, format.End{}, group("ahead", "t", numbers{0: 2, 1: 0}), group("other", "t", numbers{0: 1}))
	}
	undo := filepath.Join(t.TempDir(), "undo")
	_, err := w.apply(plan(), undo)
	fails(t, err, command.Failed, "nothing is committed: 1 offset would become lower")
	w.tells(`group ahead goes back in t/0, from 4 to 2`)
	if _, err := os.Stat(undo); !errors.Is(err, fs.ErrNotExist) || w.committed() != "ahead t/0 4note" {
		t.Errorf("%v; committed: %s", err, w.committed())
	}
	var shown bytes.Buffer
	cfg := w.kafka()
	ok(t, Plan(t.Context(), &cfg, 0, false, plan(), &shown))
	if !strings.Contains(shown.String(), "map: the record; goes back from 4") {
		t.Errorf("plan: %s", shown.String())
	}
	_, err = w.apply(plan(), undo, func(c *ApplyConfig) { c.Rewind = true })
	ok(t, err)
	w.tells(`group ahead goes back in t/0, from 4 to 2`)
	if got := w.committed(); got != "ahead t/0 2old note, ahead t/1 0old note, other t/0 1old note" {
		t.Errorf("committed: %s", got)
	}
	ok(t, w.rollback(undo))
	if got := w.committed(); got != "ahead t/0 4note" {
		t.Errorf("rolled back: %s", got)
	}
}

// TestRewinds names no more than so many.
func TestRewinds(t *testing.T) {
	g := group("g", "t", nil)
	now := make(kadm.OffsetResponses)
	for n := range int32(told + 5) {
		g.Offsets["t"][n] = format.GroupOffset{Offset: 1}
		now.Add(kadm.OffsetResponse{Offset: kadm.Offset{Topic: "t", Partition: n, At: int64(n % 3)}})
	}
	back := rewinds([]*format.Group{g}, map[string]kadm.OffsetResponses{"g": now})
	if len(back) != (told+5)/3 || back[0].from != 2 || back[0].to != 1 {
		t.Errorf("%+v", back)
	}
	if n := standing([]*format.Group{g}, map[string]kadm.OffsetResponses{"g": now}); n != (told+5+1)/3 {
		t.Errorf("%d stand", n)
	}
	w := newWorld(t)
	many := make([]rewind, told+3)
	fails(t, refuseRewind(w.env.Log, many, false), command.Failed, "23 offsets would become lower")
	w.tells("and 3 offsets more: kbk-offsets plan -b lists them all")
}

// TestActive refuses groups with members, and kinds of groups that have no offsets.
func TestActive(t *testing.T) {
	w := newWorld(t, "t")
	w.produce("t", 0, "abc")
	w.join("busy", "t")
	w.join("busy-too", "t")
	undo := filepath.Join(t.TempDir(), "undo")
	_, err := w.apply(planned(t, format.End{}, group("busy", "t", numbers{0: 1})), undo)
	fails(t, err, command.Failed, "group busy has active members")
	_, err = w.apply(planned(t, format.End{}, group("busy", "t", numbers{0: 1}), group("busy-too", "t", numbers{0: 1})), undo)
	fails(t, err, command.Failed, "groups busy, busy-too have active members")
	_, err = w.apply(planned(t, format.End{}, group("busy", "t", numbers{0: 1}), group("idle", "t", numbers{0: 1})), undo, func(c *ApplyConfig) {
		c.Skip = func(id string) bool { return id == "busy" }
	})
	ok(t, err)
	if got := w.committed(); got != "idle t/0 1old note" {
		t.Errorf("committed: %s", got)
	}
	for _, c := range []struct {
		state states
		want  string
	}{
		{states{"a": {ProtocolType: "share", State: "Empty"}}, "a is one of the share groups in the target"},
		{states{"a": {ProtocolType: "share"}, "b": {ProtocolType: "share"}}, "a, b are share groups in the target"},
		{states{"a": {ProtocolType: "streams", State: "NotReady"}}, "group a has active members"},
		{states{"a": {State: "Empty"}, "b": {State: "Dead"}}, ""},
	} {
		if err := c.state.refuse([]*format.Group{{ID: "a"}, {ID: "b"}, {ID: "c"}}); c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%v: %v", c.state, err)
		}
	}
}

// TestRollbackAnswerLost loses the answer to what deletes a group: the client repeats the
// request, and the broker says that there is no such group.
func TestRollbackAnswerLost(t *testing.T) {
	w := newWorld(t, "t")
	w.produce("t", 0, "abcde")
	undo := filepath.Join(t.TempDir(), "undo")
	_, err := w.apply(planned(t, format.End{}, group("new", "t", numbers{0: 3})), undo)
	ok(t, err)
	lost := false // only the cluster looks at it
	w.c.ControlKey(int16(kmsg.DeleteGroups), func(kmsg.Request) (kmsg.Response, error, bool) {
		w.c.KeepControl()
		if !lost {
			lost = true
			w.c.SleepControl(func() {
				if _, err := w.adm.DeleteGroup(t.Context(), "new"); err != nil {
					t.Error(err)
				}
			})
		}
		return nil, nil, false
	})
	w.said.Reset()
	ok(t, w.rollback(undo))
	w.tells("deleted 1 offset and 1 group")
	if got := w.committed(); got != "" {
		t.Errorf("rolled back: %s", got)
	}
}

// TestHalf commits one group and fails on the other: the file that takes it back is named,
// also when the same is run again.
func TestHalf(t *testing.T) {
	w := newWorld(t, "t")
	w.produce("t", 0, "abcde")
	w.commit("a", "t", 0, 1)
	w.commit("b", "t", 0, 1)
	dir := t.TempDir()
	plan := func() *bytes.Buffer {
		return planned(t, format.End{}, group("a", "t", numbers{0: 3}), group("b", "t", numbers{0: 4}))
	}
	var failing atomic.Bool
	failing.Store(true)
	begun := false // only the cluster looks at it
	w.c.ControlKey(int16(kmsg.OffsetCommit), func(r kmsg.Request) (kmsg.Response, error, bool) {
		w.c.KeepControl()
		req := r.(*kmsg.OffsetCommitRequest)
		if !failing.Load() || req.Group != "b" {
			begun = true
			return nil, nil, false
		}
		code := kerr.GroupAuthorizationFailed.Code
		if !begun { // group a is to be first
			code = kerr.CoordinatorLoadInProgress.Code
		}
		resp := req.ResponseKind().(*kmsg.OffsetCommitResponse)
		for _, t := range req.Topics {
			rt := kmsg.OffsetCommitResponseTopic{Topic: t.Topic}
			for _, p := range t.Partitions {
				rt.Partitions = append(rt.Partitions, kmsg.OffsetCommitResponseTopicPartition{Partition: p.Partition, ErrorCode: code})
			}
			resp.Topics = append(resp.Topics, rt)
		}
		return resp, nil, true
	})
	first := filepath.Join(dir, "first")
	_, err := w.apply(plan(), first)
	fails(t, err, command.Failed, "commit the offsets of group b: ")
	if !strings.Contains(err.Error(), "committed before)") {
		t.Errorf("%v", err)
	}
	if hint := command.HintOf(err); !strings.Contains(hint, "what was there before is in "+first) {
		t.Errorf("hint: %s", hint)
	}
	failing.Store(false)
	w.said.Reset()
	_, err = w.apply(plan(), filepath.Join(dir, "second"))
	ok(t, err)
	w.tells("already committed as planned: 1 offset; if an earlier apply did that, its undo file has what was there before, and " + filepath.Join(dir, "second") + " does not")
	ok(t, w.rollback(first))
	if got := w.committed(); got != "a t/0 1note, b t/0 1note" {
		t.Errorf("rolled back: %s", got)
	}
}

// TestApplyLoss leaves out what is not in the target, and passes on what was lost before.
func TestApplyLoss(t *testing.T) {
	w := newWorld(t, "t", "reborn")
	w.produce("t", 0, "abc")
	other := group("g", "reborn", numbers{0: 0})
	other.Topics = map[string]string{"reborn": "vPeOCWypqUOSepEvx0cbog"}
	end := format.End{}
	end.Lose("t/1: expired")
	undo := filepath.Join(t.TempDir(), "undo")
	out, err := w.apply(planned(t, end, group("a", "t", numbers{0: 1}), group("b", "nowhere", numbers{0: 1}), group("c", "t", numbers{0: 9}), other), undo)
	fails(t, err, command.Loss, "without a place in the target for 3 offsets")
	fails(t, err, command.Loss, "t/1: expired")
	w.tells("the target has no partition nowhere/0", "it would be 9 in the target, where t/0 ends at 3", "topic reborn was deleted and created again since the restore")
	if got := w.committed(); got != "a t/0 1old note" {
		t.Errorf("committed: %s", got)
	}
	if _, end := read(t, &out); len(end.Losses) != 1 || !end.Lost {
		t.Errorf("the end is %+v", end)
	}
	if _, err := w.apply(planned(t, end, group("a", "t", numbers{0: 2})), undo+"2"); command.StatusOf(err) != command.Loss {
		t.Errorf("%v", err)
	}
	// What is interrupted, truncated, no plan or of kbk itself is not committed.
	before := w.committed()
	_, err = w.apply(planned(t, format.End{Interrupted: true}, group("a", "t", numbers{0: 3})), undo+"3")
	fails(t, err, command.Interrupted, "nothing is committed")
	whole := planned(t, format.End{}, group("a", "t", numbers{0: 3})).Bytes()
	_, err = w.apply(bytes.NewReader(whole[:len(whole)-2]), undo+"3")
	fails(t, err, command.Corrupt, "stream ended before its end frame")
	bare := group("a", "t", numbers{0: 3})
	bare.By = ""
	_, err = w.apply(planned(t, format.End{}, bare), undo+"3")
	fails(t, err, command.Usage, "those of its own cluster")
	_, err = w.apply(planned(t, format.End{}, group(groups.Produce, "t", numbers{0: 3})), undo+"3")
	ok(t, err)
	if got := w.committed(); got != before {
		t.Errorf("committed: %s, not %s", got, before)
	}
}

// TestApplyFull names the undo file when what was committed cannot be written.
func TestApplyFull(t *testing.T) {
	w := newWorld(t, "t")
	w.produce("t", 0, "abc")
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		need.Missing(t, "/dev/full")
	}
	defer full.Close()
	undo := filepath.Join(t.TempDir(), "undo")
	err = Apply(t.Context(), ApplyConfig{Kafka: w.kafka(), Skip: nobody, Undo: undo}, w.env, planned(t, format.End{}, group("a", "t", numbers{0: 1})), full)
	fails(t, err, command.Failed, "all is committed, but not written")
	if hint := command.HintOf(err); !strings.Contains(hint, undo) {
		t.Errorf("hint: %s", hint)
	}
	// An undo file that could not be written whole does not stay.
	if err := keep("/dev/full/x", nil); err == nil {
		t.Error("a file in a device")
	}
}

// TestRollback refuses a plan, leaves alone topics that are others now, and groups with
// other offsets.
func TestRollback(t *testing.T) {
	w := newWorld(t, "t", "reborn")
	w.produce("t", 0, "abc")
	w.produce("reborn", 0, "abc")
	dir := t.TempDir()
	cfg := ApplyConfig{Kafka: w.kafka(), Skip: nobody}
	fails(t, Rollback(t.Context(), cfg, w.env, planned(t, format.End{}, group("a", "t", numbers{0: 1}))), command.Usage, "a plan, and not what was there before")
	w.commit("a", "reborn", 0, 1)
	undo := filepath.Join(dir, "undo")
	_, err := w.apply(planned(t, format.End{}, group("a", "reborn", numbers{0: 2}), group("new", "t", numbers{0: 1})), undo)
	ok(t, err)
	w.commit("new", "t", 1, 0) // it has gone on elsewhere
	_, err = w.adm.DeleteTopics(t.Context(), "reborn")
	ok(t, err)
	_, err = w.adm.CreateTopics(t.Context(), 2, 1, nil, "reborn")
	ok(t, err)
	before := w.committed()
	fails(t, w.rollback(undo), command.Loss, "done, but not in reborn, which were deleted and created again")
	w.tells("topic reborn was deleted and created again since: what groups have committed in it is left as it is")
	if got, want := w.committed(), strings.Replace(before, "new t/0 1old note, ", "", 1); got != want {
		t.Errorf("rolled back: %s, not %s", got, want)
	}
	w.join("busy", "t")
	was := group("busy", "t", numbers{0: 1})
	was.By = ""
	fails(t, Rollback(t.Context(), cfg, w.env, planned(t, format.End{}, was)), command.Failed, "group busy has active members")
	fails(t, Rollback(t.Context(), cfg, w.env, strings.NewReader("")), command.Corrupt, "stream ended before")
}
