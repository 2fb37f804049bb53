package catalog

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kbkio/kbk/pkg/command"
)

var statusNow = time.Date(2026, 11, 28, 8, 0, 0, 0, time.UTC)

// hoursAgo is a time in milliseconds since the epoch.
func hoursAgo(h float64) *int64 {
	ms := statusNow.Add(-time.Duration(h * float64(time.Hour))).UnixMilli()
	return &ms
}

// healthy is the status of a topic whose newest restore point is so many hours old.
func healthy(name string, hours float64) StatusTopic {
	return StatusTopic{Name: name, ID: "id", Newest: true, Partitions: 2, NewestPoint: &StatusPoint{"p", *hoursAgo(hours)},
		CoveredAt: hoursAgo(hours), NewestMoment: hoursAgo(hours), LastRuns: []StatusRun{{Run: "r", Time: *hoursAgo(hours), Ended: "finished"}}}
}

// byWorkers makes of the first topic one that workers store, who wrote to the log last so many
// hours ago, and of the oldest partition so many; of the others none is left.
func byWorkers(newest, oldest float64) func(r *Status) {
	return func(r *Status) {
		t := &r.Topics[0]
		t.NewestPoint, t.NewestMoment, t.NewestCommit, t.CoveredAt = nil, nil, hoursAgo(newest), hoursAgo(oldest)
		t.ByWorkers, t.Workers = []int32{0, 1}, []string{"g"}
		r.Topics = r.Topics[:1]
	}
}

// TestJudge has for each thing that may be wrong the verdict, the first line, and the codes
// of what is found.
func TestJudge(t *testing.T) {
	type change = func(r *Status)
	topic := func(f func(t *StatusTopic)) change { return func(r *Status) { f(&r.Topics[0]) } }
	live := func(l StatusLive) change { return topic(func(t *StatusTopic) { t.Cluster = &l }) }
	for _, c := range []struct {
		name    string
		change  change
		summary string
		codes   string
		whole   bool // the first topic is
	}{
		{"nothing", func(*Status) {}, "good: newest restore point is 6 h old", "", true},
		{"just not too old", topic(func(t *StatusTopic) { *t = healthy("orders", 26) }), "good: newest restore point is 6 h old", "", true},
		{"only snapshots of the cluster", func(r *Status) { r.Topics, r.ClusterSnapshot = nil, hoursAgo(3) }, "good: newest snapshot of the cluster is 3 h old", "", false},
		{"only snapshots of the cluster, too old", func(r *Status) { r.Topics, r.ClusterSnapshot = nil, hoursAgo(50) },
			"stale: newest snapshot of the cluster is 50 h old, --max-age 26h", "stale/cluster_snapshot_too_old", false},
		{"a topic is asked for, and there are only snapshots of the cluster", func(r *Status) { r.Topics, r.ClusterSnapshot, r.selected = nil, hoursAgo(3), true },
			"missing: the backup has none of the topics that were asked for", "missing/no_topics", false},
		{"all too old", func(r *Status) { r.Topics = []StatusTopic{healthy("orders", 31), healthy("payments", 40)} },
			"stale: newest restore point is 31 h old, --max-age 26h", "stale/point_too_old", true},
		{"some too old", func(r *Status) { r.Topics = append(r.Topics, healthy("a", 27), healthy("b", 99)) },
			"stale: a: newest restore point that includes all of it is 27 h old, --max-age 26h (and 1 more like this)", "stale/point_too_old stale/point_too_old", true},
		{"no point at all", func(r *Status) {
			for i := range r.Topics {
				x := &r.Topics[i]
				x.NewestPoint, x.CoveredAt, x.NewestMoment, x.WithoutPoint = nil, nil, nil, []int32{0, 1}
			}
		}, "stale: there is no restore point", "stale/no_point", true},
		{"no point of a topic", topic(func(x *StatusTopic) {
			x.NewestPoint, x.CoveredAt, x.NewestMoment, x.WithoutPoint = nil, nil, nil, []int32{0, 1}
		}),
			"stale: orders: no restore point includes it", "stale/no_point", true},
		{"no point of a partition", topic(func(x *StatusTopic) { x.CoveredAt, x.WithoutPoint = nil, []int32{1} }),
			"stale: orders: no restore point includes partition 1", "stale/no_point", true},
		{"a partition behind the others", topic(func(x *StatusTopic) { x.CoveredAt = hoursAgo(30) }),
			"stale: orders: newest restore point that includes all of it is 30 h old, --max-age 26h", "stale/point_too_old", true},
		{"by workers", byWorkers(0.5, 6), "good: workers stored something 30 min ago; orders: workers of group g store it and make no restore points: what they have stored counts", "note/by_workers", true},
		{"by workers, too old", byWorkers(30, 31), "stale: workers have stored nothing for 30 h, --max-age 26h; -b tells whether there was anything to store; orders: workers of group g store it and make no restore points: what they have stored counts",
			"stale/commit_too_old note/by_workers", true},
		{"by workers, a partition too old", byWorkers(1, 31), "stale: orders: workers have stored nothing of some partitions for 31 h, --max-age 26h; -b tells whether there was anything to store; orders: workers of group g store it and make no restore points: what they have stored counts",
			"stale/commit_too_old note/by_workers", true},
		{"by workers, and all that Kafka has", func(r *Status) {
			byWorkers(30, 0)(r)
			r.Cluster, r.Topics[0].Cluster = new(StatusCluster), &StatusLive{State: "same"}
		}, "good: workers stored something 30 h ago; Kafka has no more; orders: workers of group g store it and make no restore points: what they have stored counts", "note/by_workers", true},
		{"by workers, and behind Kafka", func(r *Status) {
			byWorkers(30, 30)(r)
			r.Cluster, r.Topics[0].Cluster = new(StatusCluster), &StatusLive{State: "same", Behind: 7}
		}, "stale: workers have stored nothing for 30 h, --max-age 26h; orders: workers of group g store it and make no restore points: what they have stored counts", "stale/commit_too_old note/by_workers", true},
		{"one partition by workers", func(r *Status) {
			x := &r.Topics[0]
			x.ByWorkers, x.Workers, x.CoveredAt, x.NewestCommit, x.WithoutPoint = []int32{1}, []string{"g", "h"}, nil, hoursAgo(1), []int32{0}
		}, "stale: orders: no restore point includes partition 0; orders: workers of group g, h store partition 1 and make no restore points: what they have stored counts", "stale/no_point note/by_workers", true},
		{"by workers, a clock ahead", func(r *Status) {
			byWorkers(1, 1)(r)
			r.Topics[0].CoveredAt, r.Topics[0].NewestCommit = nil, nil
			r.Topics = append(r.Topics, healthy("a", 1))
		}, "unknown: orders: what its workers have stored has times ahead of this machine's clock: how old it is is not known; orders: workers of group g store it and make no restore points: what they have stored counts",
			"unknown/age_unknown note/by_workers", true},
		{"a clock ahead, and an earlier point", topic(func(x *StatusTopic) { x.ClockAhead = 2 * 3600 }),
			"good: newest restore point is 6 h old; orders: its newest restore point has a time 2 h ahead of this machine's clock", "note/clock_ahead", true},
		{"a clock ahead, and nothing else", topic(func(x *StatusTopic) { x.ClockAhead, x.CoveredAt, x.NewestMoment = 2*3600, nil, nil }),
			"unknown: orders: all its restore points have times ahead of this machine's clock: how old they are is not known; orders: its newest restore point has a time 2 h ahead of this machine's clock",
			"unknown/age_unknown note/clock_ahead", true},
		{"an old incarnation", func(r *Status) {
			old := healthy("orders", 5000)
			old.ID, old.Newest, old.LastRuns[0].Ended = "old", false, "not ended"
			r.Topics = append(r.Topics, old)
		}, "good: newest restore point is 6 h old", "", true},
		{"an old incarnation with loss", func(r *Status) {
			old := healthy("orders", 5000)
			old.ID, old.Newest, old.Lost = "old", false, 3
			r.Topics = append(r.Topics, old)
		}, `loss: orders (old, deleted): 3 offsets are lost: they could not be read`, "loss/lost", true},
		{"lost", topic(func(x *StatusTopic) { x.Lost = 300 }), "loss: orders: 300 offsets are lost: they could not be read", "loss/lost", false},
		{"lost, says the last run", topic(func(x *StatusTopic) { x.Losses = []string{"orders/1: no leader"} }), "loss: orders: the last run: orders/1: no leader", "loss/last_run_lost", false},
		{"a hole", topic(func(x *StatusTopic) { x.Holes = 1 }), "damaged: orders: 1 offset not backed up", "damaged/hole", false},
		{"filtered", topic(func(x *StatusTopic) { x.Filtered = 5 }), "good: newest restore point is 6 h old; orders: 5 offsets are in the backup only as filters have left them", "note/filtered", false},
		{"under way", topic(func(x *StatusTopic) {
			x.LastRuns = append(x.LastRuns, StatusRun{Time: *hoursAgo(1), Ended: "not ended"})
		}),
			"good: newest restore point is 6 h old; orders: the last run has not ended: it is under way, or was killed (last log entry 60 min ago)", "note/run_not_ended", true},
		{"interrupted", topic(func(x *StatusTopic) { x.LastRuns[0].Ended = "interrupted" }),
			"good: newest restore point is 6 h old; orders: the last run was interrupted, 6 h ago", "note/run_interrupted", true},
		{"damaged", func(r *Status) { r.Damage = []string{"log/x: its checksum is wrong"} }, "damaged: log/x: its checksum is wrong", "damaged/log_damaged", true},
		{"damaged, and no topics", func(r *Status) { r.Damage, r.Topics = []string{"log/x: its checksum is wrong"}, nil },
			"damaged: log/x: its checksum is wrong", "damaged/log_damaged", false},
		{"no backup", func(r *Status) { r.NoBackup, r.Topics = true, nil }, "missing: there is no backup in nightly", "missing/no_backup", false},
		{"no topic", func(r *Status) { r.Topics = nil }, "missing: the backup has none of the topics that were asked for", "missing/no_topics", false},
		{"no such topic", func(r *Status) { r.Unmatched = []string{`topic "x" is not there`} }, `missing: topic "x" is not there`, "missing/topic_not_found", true},
		{"all that Kafka has", live(StatusLive{State: "same"}), "good: newest restore point is 6 h old; Kafka has no more", "", true},
		{"behind", live(StatusLive{State: "same", Behind: 1204}), "good: newest restore point is 6 h old; Kafka has 1,204 offsets more", "", true},
		{"expired", live(StatusLive{State: "same", Behind: 9, Expired: 7}), "loss: orders: 7 offsets were deleted in Kafka since the last run, and are not in the backup", "loss/expired", false},
		{"partitions missing", live(StatusLive{State: "same", Behind: 9, Missing: []int32{3, 4}}), "missing: orders: partitions 3, 4 are not in the backup", "missing/partitions_missing", false},
		{"empty partitions missing", live(StatusLive{State: "same", Empty: []int32{3}}), "good: newest restore point is 6 h old; Kafka has no more", "", true},
		{"begins later", live(StatusLive{State: "same", Earlier: 5}), "good: newest restore point is 6 h old; Kafka has no more; orders: 5 offsets before the first one of the backup are still in Kafka", "note/begins_later", false},
		{"cut off", live(StatusLive{State: "same", CutOff: []int32{1}}),
			"good: newest restore point is 6 h old; Kafka has no more; orders: partition 1 is shorter in Kafka than in the backup: records were cut off there", "note/cut_off", true},
		{"created again", live(StatusLive{State: "recreated", Behind: 5}),
			"missing: orders: it was deleted and created again, and nothing of the new topic is in the backup: it has 5 offsets", "missing/recreated", false},
		{"created again, empty", live(StatusLive{State: "recreated"}),
			"good: newest restore point is 6 h old; Kafka has no more; orders: it was deleted and created again; the new topic is empty", "note/recreated", false},
		{"deleted, long ago", func(r *Status) {
			r.Topics[0] = healthy("orders", 5000)
			r.Topics[0].Cluster = &StatusLive{State: "deleted"}
		}, "good: newest restore point is 6 h old; Kafka has no more; orders: it is no longer in the cluster", "note/deleted", true},
		{"all deleted", func(r *Status) {
			r.Topics = []StatusTopic{healthy("orders", 5000)}
			r.Topics[0].Cluster = &StatusLive{State: "deleted"}
		}, "stale: newest restore point is 208 d old, --max-age 26h; orders: it is no longer in the cluster", "stale/point_too_old note/deleted", true},
		{"not known", live(StatusLive{State: "unknown", Error: "refused"}), "unknown: orders: not compared with the cluster: refused", "unknown/offsets_unknown", true},
		{"partly known", live(StatusLive{State: "same", Error: "orders/1: no leader"}), "unknown: orders: not all of it was compared with the cluster: orders/1: no leader", "unknown/offsets_unknown", true},
		{"no cluster", func(r *Status) { r.Cluster = &StatusCluster{Error: "no broker"} }, "unknown: not compared with the cluster: no broker", "unknown/cluster_unknown", true},
		{"not in the backup", func(r *Status) {
			r.Cluster = &StatusCluster{NotInBackup: []StatusMissing{{Name: "a", Offsets: 3}, {Name: "b", Offsets: 1}, {Name: "c"}, {Name: "d", Error: "refused"}}}
		}, "missing: a: it is not in the backup; Kafka has 3 offsets of it (and 2 more like this); c: it is not in the backup, and empty",
			"missing/not_in_backup missing/not_in_backup missing/not_in_backup note/not_in_backup", true},
		{"several things", func(r *Status) {
			r.Topics[0].Lost, r.Topics[1].Holes = 2, 1
			r.Cluster = &StatusCluster{Error: "no broker"}
		}, "damaged: payments: 1 offset not backed up; orders: 2 offsets are lost: they could not be read; not compared with the cluster: no broker",
			"damaged/hole loss/lost unknown/cluster_unknown", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &Status{Backup: "nightly", Checked: statusNow, MaxAge: "26h", MaxAgeSeconds: 26 * 3600, Topics: []StatusTopic{healthy("orders", 6), healthy("payments", 6)}}
			c.change(r)
			r.judge()
			if r.Summary != c.summary {
				t.Errorf("%s\nwant\n%s", r.Summary, c.summary)
			}
			if verdict, _, _ := strings.Cut(c.summary, ":"); r.Verdict != verdict {
				t.Errorf("the verdict is %q, want %q", r.Verdict, verdict)
			}
			var codes []string
			for _, f := range slices.Concat(r.Problems, r.Notes) {
				codes = append(codes, f.Kind+"/"+f.Code)
			}
			if got := strings.Join(codes, " "); got != c.codes {
				t.Errorf("found %s, want %s", got, c.codes)
			}
			if len(r.Topics) > 0 && r.Topics[0].Whole != c.whole {
				t.Errorf("whole is %v", r.Topics[0].Whole)
			}
			want := map[string]int{isGood: command.OK, isDamaged: command.Corrupt}
			status, other := want[r.Verdict]
			if !other {
				status = command.Loss
			}
			if got := statusOfVerdict(r.Verdict); got != status {
				t.Errorf("status %d", got)
			}
		})
	}
}

// TestSetAge has partitions with points, with workers and with both, and what counts of them.
func TestSetAge(t *testing.T) {
	const now, limit = 1000, 1100
	point := func(at int64) *partitionPoints { return &partitionPoints{at: at, known: at <= limit} }
	for name, c := range map[string]struct {
		ages     []partitionAge
		caughtUp map[int32]bool
		want     string // covered, newest point, newest commit, without a point, by workers
	}{
		"points":                           {[]partitionAge{{0, point(5), false, 0}, {1, point(7), false, 0}}, nil, "5 7 - [] []"},
		"one without a point":              {[]partitionAge{{0, point(5), false, 0}, {1, nil, false, 0}}, nil, "- 5 - [1] []"},
		"one with a point ahead":           {[]partitionAge{{0, point(5), false, 0}, {1, point(2000), false, 0}}, nil, "- 5 - [] []"},
		"workers":                          {[]partitionAge{{0, nil, true, 5}, {1, nil, true, 7}}, nil, "5 - 7 [] [0 1]"},
		"workers after a point":            {[]partitionAge{{0, point(5), true, 9}}, nil, "9 5 9 [] [0]"},
		"a worker whose clock was behind":  {[]partitionAge{{0, point(5), true, 3}}, nil, "5 5 3 [] [0]"},
		"a worker whose clock is ahead":    {[]partitionAge{{0, nil, true, 2000}}, nil, "- - - [] [0]"},
		"a worker, and one without either": {[]partitionAge{{0, nil, true, 5}, {1, nil, false, 0}}, nil, "- - 5 [1] [0]"},
		"one that Kafka has no more of":    {[]partitionAge{{0, nil, true, 5}, {1, nil, true, 7}}, map[int32]bool{0: true}, "7 - 7 [] [0 1]"},
		"all that Kafka has":               {[]partitionAge{{0, nil, true, 5}}, map[int32]bool{0: true}, "1000 - 5 [] [0]"},
		"points that Kafka has no more of": {[]partitionAge{{0, point(5), false, 0}}, map[int32]bool{0: true}, "5 5 - [] []"},
	} {
		t.Run(name, func(t *testing.T) {
			x := StatusTopic{ages: c.ages, Cluster: &StatusLive{caughtUp: c.caughtUp}}
			x.setAge(now, limit)
			text := func(at *int64) string {
				if at == nil {
					return "-"
				}
				return fmt.Sprint(*at)
			}
			if got := fmt.Sprint(text(x.CoveredAt), " ", text(x.NewestMoment), " ", text(x.NewestCommit), " ", x.WithoutPoint, " ", x.ByWorkers); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
}

// TestNewestPoint goes by the order of the log, and does not take a time of the future for
// one of now.
func TestNewestPoint(t *testing.T) {
	for _, c := range []struct {
		hours  []float64 // ago, in the order of the log
		newest int
		at     string // the time that counts
	}{
		{[]float64{3, 2, 1}, 2, "1"},
		{[]float64{1, 2}, 1, "1"}, // the second one's clock was behind
		{[]float64{3, -2}, 1, "3"},
		{[]float64{-2, 3}, 1, "3"},
		{[]float64{-0.01}, 0, "-0.01"}, // clocks are not the same to the second
		{[]float64{-2}, 0, "not known"},
	} {
		p := partitionPoints{newest: placedPoint{place: -1}}
		for i, h := range slices.Backward(c.hours) { // files of points come in any order
			p.add(placedPoint{i, StatusPoint{fmt.Sprint(i), *hoursAgo(h)}}, newPoints(statusNow).limit)
		}
		got := "not known"
		if p.known {
			got = fmt.Sprint(statusNow.Sub(time.UnixMilli(p.at)).Hours())
		}
		if p.newest.place != c.newest || got != c.at {
			t.Errorf("%v: point %d, %s; want %d, %s", c.hours, p.newest.place, got, c.newest, c.at)
		}
	}
}
