package fetch

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/kafka/kafkatest"
)

// TestTopicDeleted deletes a topic, and perhaps creates it again, while it is read with
// another.
func TestTopicDeleted(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*world){
		"deleted":       func(*world) {},
		"created again": func(w *world) { w.create("u", 1) },
	} {
		for _, strict := range []bool{false, true} {
			w := newWorld(t, 1, "t", 1)
			w.create("u", 1)
			w.produce("t", 0, 5)
			w.produce("u", 0, 4)
			var begin sync.Once
			var gone atomic.Bool
			w.fake.ControlKey(int16(kmsg.Fetch), func(kmsg.Request) (kmsg.Response, error, bool) {
				w.fake.KeepControl()
				if gone.Load() {
					return nil, nil, false
				}
				go begin.Do(func() { // the broker works on one request at a time
					if err := w.fake.DeleteTopic("u"); err != nil {
						t.Error(err)
					}
					change(w)
					gone.Store(true)
				})
				return nil, errors.New("not now"), true
			})
			r := w.fetch(func(c *Config) { c.Topics, c.FailOnLoss = []string{"^"}, strict }, nil)
			what := "u/0: the topic was deleted before offsets 0 to 3 were read"
			if strict {
				if command.StatusOf(r.err) != command.Loss || r.end != nil || !strings.Contains(r.err.Error(), what) {
					t.Errorf("%s, to fail on loss: %v, end %+v", name, r.err, r.end)
				}
				continue
			}
			if command.StatusOf(r.err) != command.Loss || !slices.Equal(r.end.Losses, []string{what}) || !strings.Contains(r.log, "topic u was deleted") || strings.Contains(r.log, "and created again") != (name == "created again") {
				t.Errorf("%s: %v, end %+v\n%s", name, r.err, r.end, r.log)
			}
			if !slices.Equal(r.deleted, []string{"u/0"}) || r.point == nil || !reflect.DeepEqual(r.point.Without, map[string][]int32{"u": {0}}) {
				t.Errorf("%s: deleted %q, point %+v", name, r.deleted, r.point)
			}
			r.err = nil
			w.want(r, "t/0", upTo(5), 0, 5)
			w.want(r, "u/0", nil, 0, 0)
		}
	}
}

// TestLeaderLost takes the leader of a partition away after the run has begun.
func TestLeaderLost(t *testing.T) {
	setUp := func(t *testing.T) (*world, *atomic.Bool) {
		w := newWorld(t, 1, "t", 2)
		w.produce("t", 0, 3)
		w.produce("t", 1, 4)
		gone := new(atomic.Bool)
		w.leaderless(gone)
		id := w.fake.TopicInfo("t").TopicID
		asked := false // for partition 0, in this request or earlier in its session
		w.fake.ControlKey(int16(kmsg.Fetch), func(req kmsg.Request) (kmsg.Response, error, bool) {
			w.fake.KeepControl()
			fetch := req.(*kmsg.FetchRequest)
			asked = asked && fetch.SessionEpoch > 0 && len(fetch.ForgottenTopics) == 0
			for _, t := range fetch.Topics {
				asked = asked || slices.ContainsFunc(t.Partitions, func(p kmsg.FetchRequestTopicPartition) bool { return p.Partition == 0 })
			}
			if !gone.Load() || !asked {
				return nil, nil, false
			}
			resp := fetch.ResponseKind().(*kmsg.FetchResponse)
			rt := kmsg.NewFetchResponseTopic()
			rt.Topic, rt.TopicID = "t", id
			rp := kmsg.NewFetchResponseTopicPartition() // the others have to ask again
			rp.ErrorCode = kerr.NotLeaderForPartition.Code
			rt.Partitions = append(rt.Partitions, rp)
			resp.Topics = append(resp.Topics, rt)
			return resp, nil, true
		})
		return w, gone
	}
	t.Run("in a run with an end", func(t *testing.T) {
		w, gone := setUp(t)
		var planned sync.Once
		w.fake.ControlKey(int16(kmsg.ListOffsets), func(req kmsg.Request) (kmsg.Response, error, bool) {
			w.fake.KeepControl()
			if req.(*kmsg.ListOffsetsRequest).Topics[0].Partitions[0].Timestamp == -2 { // the last question of the plan
				planned.Do(func() { gone.Store(true) })
			}
			return nil, nil, false
		})
		r := w.fetch(func(c *Config) { c.Timeout = 600 * time.Millisecond }, nil)
		what := "t/0: no leader for 600ms: offsets 0 to 2 were not read"
		if command.StatusOf(r.err) != command.Loss || !slices.Equal(r.end.Losses, []string{what}) || !strings.Contains(r.log, what) {
			t.Errorf("%v, end %+v\n%s", r.err, r.end, r.log)
		}
		if r.point == nil || !reflect.DeepEqual(r.point.Without, map[string][]int32{"t": {0}}) {
			t.Errorf("point %+v", r.point)
		}
		r.err = nil
		w.want(r, "t/0", nil, 0, 0)
		w.want(r, "t/1", upTo(4), 0, 4)
	})
	t.Run("while following", func(t *testing.T) {
		w, gone := setUp(t)
		f := w.follow(func(c *Config) { c.Timeout, c.PointEvery = 600*time.Millisecond, 100*time.Millisecond })
		f.until(0, "point")
		gone.Store(true)
		f.logs("t/0: no leader for 600ms: continuing without it until it has one")
		f.mu.Lock()
		at := len(f.frames)
		f.mu.Unlock()
		f.until(f.until(at, "point without map[t:[0]]"), "point without map[t:[0]]")
		gone.Store(false)
		f.logs("t/0: has a leader again")
		w.produce("t", 0, 1)
		f.until(f.until(at, "rec t/0 3"), "point")
		if frames := f.end(); frames[len(frames)-1] != "end 8 interrupted true" {
			t.Errorf("it ends with %q", frames[len(frames)-1])
		}
	})
}

// TestBranchWhileFollowing has the log cut off below what was read, which shows in each
// of the ways that it can.
func TestBranchWhileFollowing(t *testing.T) {
	for name, cut := range map[string]func(w *world){
		"a leader is elected": func(w *world) {
			if err := w.fake.MoveTopicPartition("t", 0, 1-w.fake.LeaderFor("t", 0)); err != nil {
				w.Error(err)
			}
		},
		"a fetch diverges": func(w *world) {
			w.answerOnce(func(rp *kmsg.FetchResponseTopicPartition) {
				rp.DivergingEpoch.Epoch, rp.DivergingEpoch.EndOffset = 0, 4
			})
		},
		"an offset is not there": func(w *world) {
			w.answerOnce(func(rp *kmsg.FetchResponseTopicPartition) { rp.ErrorCode = kerr.OffsetOutOfRange.Code })
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 2, "t", 1)
			w.produce("t", 0, 10)
			f := w.follow(nil)
			f.until(0, "rec t/0 9")
			w.answerEpochs(func(epoch int32) (int32, int64) { return epoch, 4 })
			cut(w)
			at := f.until(0, "branch t/0 4")
			f.until(at, "rec t/0 4")
			f.until(at, "rec t/0 9")
			f.logs("offsets 4 to 9 that were read before are no longer in Kafka")
			frames := f.end()
			if !f.ended.Lost || len(f.ended.Losses) != 1 || !strings.Contains(f.ended.Losses[0], "t/0: the log was truncated") {
				t.Errorf("end %+v", f.ended)
			}
			if n := slices.Index(frames[at:], "rec t/0 3"); n >= 0 {
				t.Error("what is the same was read again")
			}
		})
	}
}

// answerOnce answers the next fetch of partition 0 of topic t.
func (w *world) answerOnce(fill func(*kmsg.FetchResponseTopicPartition)) {
	id := w.fake.TopicInfo("t").TopicID
	w.fake.ControlKey(int16(kmsg.Fetch), func(req kmsg.Request) (kmsg.Response, error, bool) {
		fetch := req.(*kmsg.FetchRequest)
		resp := fetch.ResponseKind().(*kmsg.FetchResponse)
		rt := kmsg.NewFetchResponseTopic()
		rt.Topic, rt.TopicID = "t", id
		rp := kmsg.NewFetchResponseTopicPartition()
		rp.HighWatermark, rp.LastStableOffset = 10, 10
		fill(&rp)
		rt.Partitions = append(rt.Partitions, rp)
		resp.Topics = append(resp.Topics, rt)
		return resp, nil, true
	})
}

// TestCutOffAbove has the log cut off above what was read, before the run has come there.
func TestCutOffAbove(t *testing.T) {
	w := newWorld(t, 1, "t", 1)
	w.produce("t", 0, 5)
	w.answerEmpty(3, 1<<30)
	w.answerEpochs(func(epoch int32) (int32, int64) { return epoch, 3 })
	r := w.fetch(nil, nil)
	what := "t/0: it ended at offset 5 before and ends at 3 now (unclean leader election?): what was between is lost"
	if command.StatusOf(r.err) != command.Loss || !slices.Equal(r.end.Losses, []string{what}) {
		t.Fatalf("%v, end %+v\n%s", r.err, r.end, r.log)
	}
}

// localStart answers what is asked about the first offset on the leader's own disk.
func (w *world) localStart(of func() int64) {
	w.fake.ControlKey(int16(kmsg.ListOffsets), func(req kmsg.Request) (kmsg.Response, error, bool) {
		w.fake.KeepControl()
		list := req.(*kmsg.ListOffsetsRequest)
		if list.Topics[0].Partitions[0].Timestamp != -4 {
			return nil, nil, false
		}
		return kafkatest.Listed(list, of()), nil, true
	})
}

// TestRemote has records in remote storage that a broker answers without, for a while or
// for good: they were not compacted away.
func TestRemote(t *testing.T) {
	t.Parallel()
	t.Run("they come", func(t *testing.T) {
		w := newWorld(t, 1, "t", 1)
		w.produce("t", 0, 5)
		w.localStart(func() int64 { return 4 })
		fetches := w.answerEmpty(5, 12)
		w.want(w.fetch(nil, nil), "t/0", upTo(5), 0, 5)
		if *fetches < 12 {
			t.Errorf("only %d fetches", *fetches)
		}
	})
	t.Run("they do not come", func(t *testing.T) {
		w := newWorld(t, 1, "t", 1)
		w.produce("t", 0, 5)
		w.localStart(func() int64 { return 4 })
		w.answerEmpty(5, 1<<30)
		r := w.fetch(func(c *Config) { c.Timeout = 2 * time.Second }, nil)
		if r.err == nil || r.end != nil || !strings.Contains(r.err.Error(), "offsets 0 to 3, which are in remote storage") {
			t.Errorf("%v, end %+v", r.err, r.end)
		}
	})
	t.Run("while following", func(t *testing.T) {
		w := newWorld(t, 1, "t", 1)
		w.produce("t", 0, 5)
		w.localStart(func() int64 { return 4 })
		w.answerEmpty(5, 20)
		f := w.follow(func(c *Config) { c.PointEvery = time.Hour })
		if at := f.until(0, "point"); at != f.until(0, "rec t/0 4")+2 {
			t.Errorf("the point is frame %d", at)
		}
		f.end()
	})
	for name, c := range map[string]struct {
		tiered string // the topic's config
		says   string // or else it is done
	}{
		"a broker that does not know, a topic without":     {"", ""},
		"a broker that does not know, a topic that has it": {"true", "does not say whether they are in remote storage"},
	} {
		t.Run(name, func(t *testing.T) {
			versions := kversion.Stable()
			versions.SetMaxKeyVersion(int16(kmsg.ListOffsets), 7)
			w := newWorldOf(t, []kfake.Opt{kfake.NumBrokers(1), kfake.MaxVersions(versions)}, "t", 1)
			w.produce("t", 0, 5)
			w.answerEmpty(5, 1<<30)
			w.fake.ControlKey(int16(kmsg.DescribeConfigs), func(req kmsg.Request) (kmsg.Response, error, bool) {
				w.fake.KeepControl()
				resp := req.ResponseKind().(*kmsg.DescribeConfigsResponse)
				r := kmsg.NewDescribeConfigsResponseResource()
				r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeTopic, "t"
				if c.tiered != "" {
					set := kmsg.NewDescribeConfigsResponseResourceConfig()
					set.Name, set.Value, set.Source = "remote.storage.enable", &c.tiered, kmsg.ConfigSourceDynamicTopicConfig
					r.Configs = append(r.Configs, set)
				}
				resp.Resources = append(resp.Resources, r)
				return resp, nil, true
			})
			r := w.fetch(func(c *Config) { c.Timeout = 2 * time.Second }, nil)
			if c.says == "" {
				w.want(r, "t/0", nil, 0, 5)
				if !strings.Contains(r.log, "t/0: offsets 0 to 4 no longer hold records") {
					t.Errorf("said %s", r.log)
				}
			} else if r.err == nil || r.end != nil || !strings.Contains(r.err.Error(), c.says) {
				t.Errorf("%v, end %+v", r.err, r.end)
			}
		})
	}
}

// TestFollowNothingYet makes no restore point while there is nothing.
func TestFollowNothingYet(t *testing.T) {
	w := newWorld(t, 1, "other", 1)
	began := time.Now()
	f := w.follow(func(c *Config) { c.PointEvery = 50 * time.Millisecond })
	time.Sleep(2 * lookEvery) // a point would be due
	w.create("t", 1)
	w.connect(kgo.MetadataMaxAge(time.Second))
	w.produce("t", 0, 1)
	f.until(f.until(0, "rec t/0 0"), "point")
	first := slices.Index(f.end(), "point")
	if topic := slices.Index(f.frames, "topic t of 1"); first < topic {
		t.Errorf("a point is frame %d, the topic frame %d", first, topic)
	}
	for _, p := range f.points {
		if at := time.UnixMilli(p.Time); at.Before(began.Add(-time.Second)) || at.After(time.Now()) {
			t.Errorf("a point is of %s", at)
		}
	}
}
