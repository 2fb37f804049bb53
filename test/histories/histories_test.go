// Package histories lets writers, backups, a mirror and restores run on three real brokers
// while brokers, connections and the stages of the pipes hang, are killed and are cut off,
// leaders move and partitions are reassigned; and holds what comes of it against what the
// writers know.
//
//	go test ./test/histories -timeout 30m             for ten minutes, as CI does
//	go test ./test/histories -histories 1s            one history
//	go test ./test/histories -timeout 2h -histories 1h -random
//	go test ./test/histories -seed 1795849188         one of them again
//
// The seed decides what happens, and when. How the processes then come to run is up to the
// machine: a seed that has failed need not fail again.
package histories

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

var (
	length  = flag.Duration("histories", 10*time.Minute, "begin histories for so long")
	oneSeed = flag.Uint64("seed", 0, "play this one alone; 0: 1, 2 and so on")
	random  = flag.Bool("random", false, "take seeds by the time instead")
	writing = flag.Duration("writing", 20*time.Second, "how long a history's writers write")
	restore = flag.Duration("restoring", 12*time.Second, "how long faults go on while backups are restored")
	keep    = flag.String("keep", "", "keep the files of histories in this folder")
)

// patience is how long things may take that take seconds, on a machine that has other
// things to do.
const patience = 3 * time.Minute

var bin string // the folder of the commands

func TestMain(m *testing.M) {
	flag.Parse()
	status, err := testAll(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "histories:", err)
		os.Exit(1)
	}
	os.Exit(status)
}

func testAll(m *testing.M) (status int, err error) {
	if bin = os.Getenv("KBK_BIN"); bin == "" {
		if bin, err = os.MkdirTemp("", "kbk-histories-"); err != nil {
			return 0, err
		}
		defer os.RemoveAll(bin)
		if out, err := exec.Command("make", "-C", "../..", "commands", "BIN="+bin).CombinedOutput(); err != nil {
			return 0, fmt.Errorf("build the commands: %w\n%s", err, out)
		}
	}
	return m.Run(), nil
}

// A total is what all histories together have come to.
type total struct {
	mu       sync.Mutex
	events   map[kind]int
	runs     map[string]int // what was run, by what came of it
	compared tally
}

func (s *total) event(k kind) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events[k]++
}

func (s *total) run(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.runs[what]++
}

func (s *total) compare(t tally) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.compared.add(t)
}

func (s *total) String() string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(s.events)) {
		fmt.Fprintf(&b, "\n%6d × %s", s.events[k], k)
	}
	for _, k := range slices.Sorted(maps.Keys(s.runs)) {
		fmt.Fprintf(&b, "\n%6d × %s", s.runs[k], k)
	}
	return fmt.Sprintf("records: %s%s", &s.compared, b.String())
}

func TestHistories(t *testing.T) {
	w := startWorld(t, 3, 256)
	sum := &total{events: make(map[kind]int), runs: make(map[string]int)}
	began, n, notJudged := time.Now(), 0, 0
	for seed := max(*oneSeed, 1); n == 0 || *oneSeed == 0 && time.Since(began) < *length && !t.Failed(); n++ {
		if *random && *oneSeed == 0 {
			seed = uint64(time.Now().UnixMilli())
		}
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			defer func() {
				if t.Skipped() {
					notJudged++
				}
			}()
			play(t, w, seed, sum)
		})
		seed++
	}
	t.Logf("%d histories in %s, %d of them not judged\n%s", n, time.Since(began).Round(time.Second), notJudged, sum)
	if notJudged > 1+n/4 {
		t.Errorf("%d of %d histories say nothing about kbk", notJudged, n)
	}
}

// play plays one history.
func play(t *testing.T, w *world, seed uint64, sum *total) {
	p := newPlan(seed, *writing, *restore)
	dir := t.TempDir()
	if *keep != "" {
		dir = filepath.Join(*keep, fmt.Sprint(seed))
	}
	h := &history{world: w, plan: p, dir: dir, sum: sum, ledger: &ledger{all: make(map[string]*written)}, t: t}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	// What failed comes last: of a long log, often only the end is at hand.
	t.Logf("again: go test ./test/histories -seed %d\n%s", seed, p)
	err := h.play(ctx)
	var kafka *kafkaError
	switch {
	case errors.As(err, &kafka) && !t.Failed():
		t.Log(err)
		first, _, _ := strings.Cut(err.Error(), "\n")
		t.Skip(first)
	case err != nil:
		t.Errorf("seed %d: %v", seed, err)
	}
}
