//go:debug randseednop=0

// Package simulate plays random histories: a cluster in memory is written to, backed up,
// pruned, copied and restored by the commands' own code, while stores fail and processes are
// killed. A model beside it knows what must be there.
package simulate

import (
	"context"
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	mathrand "math/rand"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"

	"filippo.io/age"
	"golang.org/x/crypto/ssh"

	"github.com/kbkio/kbk/pkg/sign"
	"github.com/kbkio/kbk/pkg/store"
)

var (
	seeds   = flag.Int("seeds", 300, "how many histories are played")
	seed    = flag.Uint64("seed", 1, "the first seed; 0: by the time")
	crashes = flag.Int("crashes", 2, "of how many histories all crash points are looked at")
	steps   = flag.Int("steps", 14, "how long a history is")

	split  = flag.Int("processes", runtime.NumCPU(), "how many processes share the seeds")
	stride = flag.Uint64("stride", 1, "how far one seed is from the next")
)

// A step is one thing that happens, in a way that its own seed decides: so a history can be
// shortened without changing what is left of it.
type step struct {
	kind string
	seed uint64
}

var kinds = []struct {
	name   string
	weight int
	do     func(w *world)
}{
	{"produce", 8, (*world).produce},
	{"back up", 8, (*world).backUp},
	{"two at once", 3, (*world).twoAtOnce},
	{"maintain", 3, (*world).maintain},
	{"restore", 2, func(w *world) { w.check("backup", w.vaults[0]) }},
	{"restore point", 2, (*world).restorePoint},
	{"recover", 1, (*world).recovery},
	{"copy", 2, (*world).copyOver},
	{"damage", 2, (*world).damage},
	{"recreate", 1, (*world).recreate},
	{"expire", 1, (*world).expire},
	{"retain", 1, (*world).retain},
	{"delete a group", 1, (*world).deleteGroup},
	{"workers", 2, (*world).workers},
	{"commit", 2, (*world).commit},
	{"lead", 1, (*world).lead},
	{"wait", 1, (*world).wait},
	{"compact Kafka", 1, (*world).compact},
	{"follow", 2, (*world).follow},
	{"restore a window", 2, (*world).restoreWindow},
	{"take a snapshot", 2, (*world).takeSnapshot},
}

// history is what happens, from a seed.
func history(seed uint64, n int) (h []step) {
	rng := rand.New(rand.NewPCG(seed, 0))
	var deck []string
	for _, k := range kinds {
		for range k.weight {
			deck = append(deck, k.name)
		}
	}
	for range n {
		h = append(h, step{deck[rng.IntN(len(deck))], rng.Uint64()})
	}
	return append(h, step{"restore", rng.Uint64()})
}

// play plays a history, and returns what went wrong.
func play(t *testing.T, seed uint64, h []step) (w *world, err error) {
	return played(t, seed, func(w *world) {
		for _, s := range h {
			w.rng = rand.New(rand.NewPCG(s.seed, 3))
			w.pass(time.Duration(1+w.rng.IntN(10_000)) * time.Millisecond)
			for _, k := range kinds {
				if k.name == s.kind {
					k.do(w)
				}
			}
		}
	})
}

// played makes a world, and returns what went wrong in it. The cluster and all that talks to
// it live in a bubble of their own; what is done to stores is done outside of it.
func played(t *testing.T, seed uint64, do func(w *world)) (w *world, err error) {
	cryptotest.SetGlobalRandom(t, seed) // of ids
	//lint:ignore SA1019 the fake cluster draws leaders from it
	mathrand.Seed(int64(seed))
	w = newWorld(t, rand.New(rand.NewPCG(seed, 2)))
	go func() {
		defer close(w.outside)
		synctest.Test(t, func(*testing.T) { err = w.live(do) })
	}()
	for do := range w.outside {
		do()
	}
	return w, err
}

func (w *world) live(do func(w *world)) (err error) {
	defer func() {
		switch x := recover().(type) {
		case nil:
		case broken:
			err = x.error
		case trouble:
			err = fmt.Errorf("of the simulation: %w", x.error)
		default:
			all := make([]byte, 1<<20)
			err = fmt.Errorf("panic: %v\n%s", x, all[:runtime.Stack(all, true)])
		}
		w.close()
	}()
	w.begin()
	do(w)
	return nil
}

// shorten drops steps for as long as what is left still fails.
func shorten(t *testing.T, seed uint64, h []step, until time.Time) []step {
	fails := func(h []step) bool {
		for range 2 { // goroutines run much alike, and not alike
			if _, err := play(t, seed, h); err != nil {
				return true
			}
		}
		return false
	}
	for size := len(h) / 2; size > 0; size /= 2 {
		for at := 0; at+size <= len(h) && time.Now().Before(until); {
			if shorter := slices.Delete(slices.Clone(h), at, at+size); fails(shorter) {
				h = shorter
			} else {
				at += size
			}
		}
	}
	return h
}

// TestMain starts what lives as long as the process does, rclone above all: it must not begin
// in a bubble of virtual time.
func TestMain(m *testing.M) {
	if !tagged {
		os.Exit(runTagged())
	}
	flag.Parse()
	runtime.GOMAXPROCS(1) // goroutines run in much the same order each time, and processes of it side by side
	debug.SetGCPercent(400)
	signal.Notify(make(chan os.Signal, 1), syscall.SIGUSR2) // starts the goroutine that deals signals out
	at, _ := newStorage(false).attach(faults{}, nil)
	st, err := store.Open(context.Background(), at)
	if err != nil {
		panic(err)
	}
	if err := st.List(context.Background(), "", func(string, int64) error { return nil }); err != nil {
		panic(err)
	}
	makeKeys()
	status := m.Run()
	_ = st.Close()
	os.Exit(status)
}

// runTagged runs the same tests, built with the tag that they need, and returns their status.
func runTagged() int {
	cmd := exec.Command("go", append([]string{"test", "-tags", "synctests", "-count=1", "-args"}, os.Args[1:]...)...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		fmt.Fprintf(os.Stderr, "go test -tags synctests ./test/simulate: %v\n", err)
		return 1
	}
	return 0
}

// The keys that segments are encrypted and entries signed with.
var (
	identity   *age.X25519Identity
	signingKey *sign.Key
)

func makeKeys() {
	var err error
	if identity, err = age.GenerateX25519Identity(); err != nil {
		panic(err)
	}
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		panic(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		panic(err)
	}
	f, err := os.CreateTemp("", "kbk-simulate")
	if err != nil {
		panic(err)
	}
	defer os.Remove(f.Name())
	if err := errors.Join(pem.Encode(f, block), f.Close()); err != nil {
		panic(err)
	}
	if signingKey, err = sign.LoadKey(f.Name(), nil); err != nil {
		panic(err)
	}
}

func firstSeed() uint64 {
	if *seed == 0 {
		return uint64(time.Now().UnixNano()) % 1_000_000
	}
	return *seed
}

// TestHistories plays histories. A failing one says how to play it again.
func TestHistories(t *testing.T) {
	if *split > 1 {
		inProcesses(t, *split)
		return
	}
	first := firstSeed()
	began := time.Now()
	var compared int64
	failed := 0
	for i := range uint64(*seeds) {
		seed := first + i*(*stride)
		w, err := play(t, seed, history(seed, *steps))
		if compared += w.compared; err == nil {
			continue
		}
		report(t, seed, w, err)
		if failed++; failed == 5 {
			break
		}
	}
	t.Logf("%d seeds from %d: %d records compared, %d failed, in %s", *seeds, first, compared, failed, time.Since(began).Round(time.Millisecond))
}

// report looks for the shortest history that fails, and prints it.
func report(t *testing.T, seed uint64, w *world, err error) {
	short := shorten(t, seed, history(seed, *steps), time.Now().Add(time.Minute))
	again, shortErr := play(t, seed, short)
	if shortErr == nil {
		again, shortErr = w, err
	}
	t.Errorf("seed %d at commit %s: %v\nthe shortest history that fails, of %d steps: %v\n%s\nagain: make simulate SEEDS=1 SEED=%d",
		seed, commit(), err, len(short), shortErr, strings.Join(again.log, "\n"), seed)
	if !testing.Verbose() {
		return
	}
	t.Log(again.texts.String())
	for i, v := range again.vaults {
		for _, name := range v.names() {
			t.Logf("store %d: %s, %d bytes", i, name, len(v.objects[name].data))
			if strings.HasSuffix(name, ".json") {
				t.Logf("%s", v.objects[name].data)
			}
		}
	}
}

// commit is what is tried.
func commit() string {
	out, err := exec.Command("git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*").Output()
	if err != nil {
		return "devel"
	}
	return strings.TrimSpace(string(out))
}

// inProcesses deals the seeds out to processes of their own: one runs on one core, so that it
// does the same again.
func inProcesses(t *testing.T, n int) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	first := firstSeed()
	t.Logf("seeds from %d, in %d processes", first, n)
	var all sync.WaitGroup
	for i := range n {
		mine := (*seeds - i + n - 1) / n
		if mine <= 0 {
			continue
		}
		all.Go(func() {
			cmd := exec.Command(self, "-test.run=^TestHistories$", "-test.timeout=2h", fmt.Sprint("-test.v=", testing.Verbose()), "-processes=1",
				fmt.Sprint("-seeds=", mine), fmt.Sprint("-seed=", first+uint64(i)), fmt.Sprint("-stride=", n), fmt.Sprint("-steps=", *steps))
			out, err := cmd.CombinedOutput()
			t.Logf("%s", out)
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}
