package histories

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// A plan is what happens in a history. All of it follows from the seed.
type plan struct {
	seed    uint64
	workers bool // two share the partitions as a consumer group, instead of one that follows
	batches bool // go through all pipes but those of the one-shot backup
	topics  []topicPlan
	writing []event // while there are writers
	restore []event // while the backups are restored
}

type topicPlan struct {
	name       string
	partitions int32
	replicas   int16
}

// An event is a fault, or a change to the cluster, and how long it lasts.
type event struct {
	at, lasts time.Duration
	kind      kind
	broker    int
	job       string // whose stage is meant
	stage     int
	seed      uint64 // decides what else there is to decide
}

type kind string

const (
	brokerHangs    kind = "a broker hangs"
	brokerKilled   kind = "a broker is killed"
	brokerStopped  kind = "a broker is stopped"
	brokerIsolated kind = "a broker is cut off from the others"
	allHang        kind = "all brokers hang"
	clientCut      kind = "connections to a broker are reset"
	clientSilent   kind = "connections to a broker are silent"
	clientUnheard  kind = "answers of a broker are lost"
	clientSlow     kind = "connections to a broker are slow"
	stagePaused    kind = "a stage hangs"
	stageKilled    kind = "a stage is killed"
	leadersMove    kind = "leaders move"
	reassigned     kind = "partitions are reassigned"
)

// writingJobs are the jobs that run while there are writers, and how many stages each has.
func (p plan) writingJobs() map[string]int {
	if p.workers {
		return map[string]int{"backup": 3, "worker-1": 3, "worker-2": 3, "mirror": 2}
	}
	return map[string]int{"backup": 3, "follow": 3, "mirror": 2}
}

// restoreJobs are those that run while backups are restored.
func (p plan) restoreJobs() map[string]int { return map[string]int{"restore": 3, "exact": 3} }

// newPlan makes a plan. Faults of one sort come one after the other, those of different
// sorts at once: a broker hangs while a connection to another is cut and a stage is killed.
func newPlan(seed uint64, writing, restore time.Duration) plan {
	rng := rand.New(rand.NewPCG(seed, 13))
	p := plan{seed: seed, workers: seed%3 == 0, batches: seed%2 == 0, topics: []topicPlan{
		{fmt.Sprintf("h%d.three", seed), 3, 3},
		{fmt.Sprintf("h%d.two", seed), 2, 2},
	}}
	p.writing = timeline(rng, writing, p.writingJobs())
	p.restore = timeline(rng, restore, p.restoreJobs())
	return p
}

func timeline(rng *rand.Rand, whole time.Duration, jobs map[string]int) (all []event) {
	names := make([]string, 0, len(jobs))
	for name := range jobs {
		names = append(names, name)
	}
	slices.Sort(names)
	sorts := []struct {
		kinds       []kind
		least, most time.Duration // how long each lasts
		pause       time.Duration // up to so long between two
	}{
		{[]kind{brokerHangs, brokerHangs, brokerKilled, brokerKilled, brokerStopped, brokerIsolated, brokerIsolated, allHang}, time.Second, 6 * time.Second, 4 * time.Second},
		{[]kind{clientCut, clientSilent, clientUnheard, clientSlow}, time.Second / 2, 5 * time.Second, 3 * time.Second},
		{[]kind{stagePaused, stageKilled, stageKilled}, time.Second / 5, 3 * time.Second, 2 * time.Second},
		{[]kind{leadersMove, reassigned}, 0, 0, 3 * time.Second},
	}
	for _, s := range sorts {
		for at := within(rng, 0, s.pause); at < whole; at += within(rng, 0, s.pause) {
			e := event{at: at, lasts: within(rng, s.least, s.most), kind: s.kinds[rng.IntN(len(s.kinds))], broker: rng.IntN(3), seed: rng.Uint64()}
			e.job = names[rng.IntN(len(names))]
			e.stage = rng.IntN(jobs[e.job])
			e.lasts = min(e.lasts, whole-at)
			at += e.lasts
			all = append(all, e)
		}
	}
	slices.SortStableFunc(all, func(a, b event) int { return int(a.at - b.at) })
	return all
}

func within(rng *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(rng.Int64N(int64(most-least)+1))
}

func (e event) String() string {
	s := fmt.Sprintf("%5.1fs %s", e.at.Seconds(), e.kind)
	switch e.kind {
	case stagePaused, stageKilled:
		s += fmt.Sprintf(": %s, stage %d", e.job, e.stage)
	case leadersMove, reassigned, allHang:
	default:
		s += fmt.Sprintf(": %d", e.broker)
	}
	if e.lasts > 0 && e.kind != stageKilled {
		s += fmt.Sprintf(", for %.1fs", e.lasts.Seconds())
	}
	return s
}

func (p plan) String() string {
	var b strings.Builder
	for _, part := range []struct {
		name   string
		events []event
	}{{"while there are writers", p.writing}, {"while backups are restored", p.restore}} {
		fmt.Fprintf(&b, "%s:\n", part.name)
		for _, e := range part.events {
			fmt.Fprintf(&b, "\t%s\n", e)
		}
	}
	return b.String()
}
