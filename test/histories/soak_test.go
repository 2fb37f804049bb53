package histories

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

var (
	soakFor   = flag.Duration("soak", 0, "run TestSoak for so long")
	soakRound = flag.Duration("soak-round", 5*time.Minute, "how often TestSoak prunes, compacts, verifies and restores")
)

// A soak is a long run: writers, two pipes that follow into one backup, one of which has its
// stages killed, and a mirror. Every round prunes or compacts the backup, verifies and
// restores it. Topics expire in Kafka all the while.
type soak struct {
	*world
	t      *testing.T
	dir    string
	topics []topicPlan
	ledger *ledger
	began  time.Time
	seed   uint64

	mu      sync.Mutex
	tail    *content           // all that has been readable since the beginning
	usages  map[string][]usage // by command
	sum     total
	verdict []string // a line for each round
}

func (s *soak) backup() string { return filepath.Join(s.dir, "backup") }

const soakPattern = `^soak\.`

// TestSoak is for hours: -soak 2h.
func TestSoak(t *testing.T) {
	if *soakFor == 0 {
		t.Skip("-soak says for how long")
	}
	if runtime.GOOS != "linux" {
		t.Skip("it looks into /proc")
	}
	w := startWorld(t, 1, 256)
	s := &soak{
		world: w, t: t, dir: t.TempDir(), topics: []topicPlan{{"soak.a", 3, 1}, {"soak.b", 2, 1}}, ledger: &ledger{all: make(map[string]*written)},
		began: time.Now(), seed: *oneSeed, tail: newContent(), usages: make(map[string][]usage), sum: total{events: make(map[kind]int), runs: make(map[string]int)},
	}
	if s.seed == 0 {
		s.seed = uint64(s.began.UnixMilli())
	}
	t.Logf("seed %d", s.seed)
	err := s.create(t.Context(), s.topics, "retention.ms=600000", "segment.bytes=1048576", "retention.bytes=-1")
	if err == nil {
		err = s.run(t.Context())
	}
	if err != nil {
		t.Error(err)
	}
	s.report()
}

// run runs everything until the time is over.
func (s *soak) run(ctx context.Context) error {
	errOver := errors.New("the time is over")
	ctx, cancel := context.WithTimeoutCause(ctx, *soakFor, errOver)
	defer cancel()
	follow := func(j *job) ([]string, error) {
		cursor, err := j.once("kbk-catalog cursor " + s.backup())
		return []string{
			fmt.Sprintf("kbk-fetch -t %s --from %s --follow --refresh 2s --point-every 30s", soakPattern, cursor),
			"kbk-pack --segment-age 5s", "kbk-push --checkpoint 5s --compact-after 100 " + s.backup(),
		}, err
	}
	mirror := func(*job) ([]string, error) {
		return []string{fmt.Sprintf("kbk-fetch -t %s --follow --refresh 2s", soakPattern), "kbk-produce --create-topics --no-configs --offsets exact --prefix mirror."}, nil
	}
	steady, struck, mirrored := s.job("steady"), s.job("struck"), s.job("mirror")
	all := []func(context.Context) error{
		s.read,
		func(ctx context.Context) error { return s.keepUp(ctx, steady, follow, false) },
		func(ctx context.Context) error { return s.keepUp(ctx, struck, follow, true) },
		func(ctx context.Context) error { return s.keepUp(ctx, mirrored, mirror, false) },
		func(ctx context.Context) error { return s.strike(ctx, struck) },
		func(ctx context.Context) error { return s.look(ctx, steady, mirrored) },
		s.rounds,
	}
	for i := range 4 {
		w := &writer{
			name: fmt.Sprint("soak-w", i), rng: rand.New(rand.NewPCG(s.seed, uint64(i))), topics: s.topics, ledger: s.ledger, connect: s.connect,
			committed: i%2 == 1, idle: 150 * time.Millisecond,
		}
		all = append(all, w.write)
	}
	if err := together(ctx, all...); !errors.Is(err, errOver) {
		return err
	}
	return nil
}

func (s *soak) job(name string) *job { return &job{name: name, dir: s.dir, env: s.env()} }

// keepUp has a pipe run all the time: anew where a stage of it was killed.
func (s *soak) keepUp(ctx context.Context, j *job, lines func(*job) ([]string, error), mayEnd bool) error {
	defer j.stop()
	for ctx.Err() == nil {
		commands, err := lines(j)
		if err != nil {
			return fmt.Errorf("%s: %w", j.name, err)
		}
		p, err := j.start(commands...)
		if err != nil {
			return err
		}
		select {
		case <-p.ended:
		case <-ctx.Done():
			return s.interrupt(j, p)
		}
		status, err := p.wait()
		if err != nil {
			return err
		}
		s.sum.run(fmt.Sprint(j.name, ", status ", status))
		if end := status[len(status)-1]; !mayEnd || !slices.Contains(status, killed) || end != 3 && end != killed {
			return fmt.Errorf("status %d of %s\n%s", status, j.name, p)
		}
	}
	return nil
}

// interrupt ends a pipe as Ctrl-C does.
func (s *soak) interrupt(j *job, p *pipe) error {
	if err := p.stages[0].signal(syscall.SIGTERM); err != nil {
		return err
	}
	status, err := p.wait()
	if err == nil && status[len(status)-1] != 130 && !slices.Contains(status, killed) {
		err = fmt.Errorf("status %d of %s\n%s", status, j.name, p)
	}
	return err
}

// strike kills stages of a pipe at random moments, or has them hang.
func (s *soak) strike(ctx context.Context, j *job) error {
	rng := rand.New(rand.NewPCG(s.seed, 50))
	for pause(ctx, within(rng, 20*time.Second, 2*time.Minute)) {
		e := event{kind: stageKilled, stage: rng.IntN(3)}
		if rng.IntN(3) == 0 {
			e.kind, e.lasts = stagePaused, within(rng, time.Second, 20*time.Second)
		}
		s.sum.event(e.kind)
		if err := strike(ctx, j.stage(e.stage), e); err != nil {
			return err
		}
	}
	return nil
}

// look notes what the commands that are not killed take.
func (s *soak) look(ctx context.Context, jobs ...*job) error {
	for pause(ctx, min(30*time.Second, *soakFor/40)) {
		for _, j := range jobs {
			for i := range 3 {
				st := j.stage(i)
				if st == nil {
					continue
				}
				u, err := usageOf(st.Process.Pid, time.Since(s.began))
				if err != nil {
					continue // it has ended; who runs it will say so
				}
				name := j.name + ", " + filepath.Base(st.Path)
				s.mu.Lock()
				s.usages[name] = append(s.usages[name], u)
				s.mu.Unlock()
			}
		}
	}
	return nil
}

// read reads all that becomes readable.
func (s *soak) read(ctx context.Context) error {
	var names []string
	for _, t := range s.topics {
		names = append(names, t.name)
	}
	cl, err := s.connect(kgo.ConsumeTopics(names...), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords())
	if err != nil {
		return err
	}
	defer cl.Close()
	for ctx.Err() == nil {
		fetches := cl.PollFetches(ctx)
		s.mu.Lock()
		fetches.EachRecord(func(r *kgo.Record) {
			at := place{r.Topic, r.Partition}
			if !r.Attrs.IsControl() {
				s.tail.add(at, entry{r.Offset, string(r.Key), digestOf(r), r.ProducerID})
			}
			s.tail.ends[at] = r.Offset + 1
		})
		s.mu.Unlock()
	}
	return nil
}

// rounds does a round every few minutes.
func (s *soak) rounds(ctx context.Context) error {
	for n := 1; pause(ctx, *soakRound-time.Since(s.began)%*soakRound); n++ {
		began := time.Now()
		// A round that has begun comes to its end.
		line, err := s.round(context.WithoutCancel(ctx), n)
		if err != nil {
			return fmt.Errorf("round %d: %w", n, err)
		}
		line = fmt.Sprintf("%s: %s, in %s", time.Since(s.began).Round(time.Second), line, time.Since(began).Round(time.Second))
		s.t.Log(line)
		s.mu.Lock()
		s.verdict = append(s.verdict, line)
		s.mu.Unlock()
	}
	return nil
}

// round looks after the backup, and restores it.
func (s *soak) round(ctx context.Context, n int) (string, error) {
	j := s.job(fmt.Sprint("round-", n))
	defer os.RemoveAll(j.dir + "/" + j.name)
	maintain := "kbk-catalog compact " + s.backup()
	if n%2 == 0 {
		maintain = "kbk-catalog prune --keep-last 3 --yes " + s.backup()
	}
	if err := s.untilItIsAlone(j, maintain); err != nil {
		return "", err
	}
	verify := "kbk-catalog verify " + s.backup()
	if n%3 == 0 {
		verify = "kbk-catalog verify --deep " + s.backup()
	}
	if _, err := j.once(verify); err != nil {
		return "", err
	}
	starts, err := s.starts(ctx)
	if err != nil {
		return "", err
	}
	cursor, err := cursorOf(j, s.backup())
	if err != nil {
		return "", err
	}
	prefix := fmt.Sprintf("r%d.", n)
	p, err := j.start("kbk-pull "+s.backup(), "kbk-pack -d", "kbk-produce --create-topics --no-configs --prefix "+prefix)
	if err != nil {
		return "", err
	}
	if status, err := p.waitFor(4 * patience); err != nil || slices.Max(status) != 0 { // it has all that was written
		return "", errors.Join(err, fmt.Errorf("status %d\n%s", status, p))
	}
	var names []string
	for _, t := range s.topics {
		names = append(names, prefix+t.name)
	}
	got, err := s.consume(ctx, names...)
	if err != nil {
		return "", err
	}
	if _, err := s.adm.DeleteTopics(ctx, names...); err != nil {
		return "", err
	}
	t, err := s.compare(ctx, got.as(func(name string) string { return strings.TrimPrefix(name, prefix) }), starts, cursor)
	if err != nil {
		return "", err
	}
	s.sum.compare(t)
	if t.bad() {
		return "", fmt.Errorf("%s", &t)
	}
	files, entries, bytes := stored(s.backup())
	return fmt.Sprintf("%d records restored and compared; the backup has %d objects, %d of them in its log, %.0f MiB", got.records(), files, entries, float64(bytes)/(1<<20)), nil
}

// untilItIsAlone runs what may fail beside another one of its kind: kbk-push compacts, too.
func (s *soak) untilItIsAlone(j *job, line string) (err error) {
	for range 10 {
		if _, err = j.once(line); err == nil {
			s.sum.run(strings.Join(strings.Fields(line)[:2], " "))
			return nil
		}
		s.sum.run(strings.Join(strings.Fields(line)[:2], " ") + " beside another one, status 1")
		if !strings.Contains(err.Error(), "status 1\n") {
			return err
		}
	}
	return err
}

// starts is where the topics' logs start.
func (s *soak) starts(ctx context.Context) (map[place]int64, error) {
	out := make(map[place]int64)
	for _, t := range s.topics {
		listed, err := s.listed(ctx, t.name, s.adm.ListStartOffsets)
		if err != nil {
			return nil, err
		}
		maps.Copy(out, listed)
	}
	return out, nil
}

// compare holds what was restored against what was readable: all from the first record on
// that Kafka has, or that was restored, up to where the backup was.
func (s *soak) compare(ctx context.Context, got *content, starts, cursor map[place]int64) (t tally, err error) {
	err = until(ctx, "the reader has come to where the backup is", func() (bool, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		for at, next := range cursor {
			if s.tail.ends[at] < next {
				return false, fmt.Errorf("%s: it is at %d of %d", at, s.tail.ends[at], next)
			}
		}
		return true, nil
	})
	if err != nil {
		return t, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for at, log := range s.tail.logs {
		first, behind := starts[at], cursor[at]
		where := make(map[string]int64)
		for _, e := range log {
			where[e.id] = e.offset
		}
		if restored := got.logs[at]; len(restored) > 0 {
			first = min(first, where[restored[0].id])
			behind = max(behind, where[restored[len(restored)-1].id]+1)
		}
		var want []entry
		for _, e := range log {
			if e.offset >= first && e.offset < behind {
				want = append(want, e)
			}
		}
		t.compareLog(at, want, got.logs[at], false, s.ledger.wasAborted)
	}
	return t, nil
}

// stored counts a backup's objects, those of its log, and their bytes.
func stored(dir string) (files, entries int, bytes int64) {
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil // it is being deleted
		}
		files++
		if filepath.Base(filepath.Dir(path)) == "log" {
			entries++
		}
		if info, err := d.Info(); err == nil {
			bytes += info.Size()
		}
		return nil
	})
	return files, entries, bytes
}

// report prints the table, and holds what the commands took against what may be.
func (s *soak) report() {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b strings.Builder
	fmt.Fprintf(&b, "%s, seed %d\n%s\n%s\n", time.Since(s.began).Round(time.Second), s.seed, strings.Join(s.verdict, "\n"), &s.sum)
	b.WriteString("| command | MiB | grows in an hour by | threads | by | open files | by |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: |\n")
	names := make([]string, 0, len(s.usages))
	for name := range s.usages {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		all := withoutBeginning(s.usages[name])
		fmt.Fprintf(&b, "| %s |", name)
		for _, v := range []func(usage) float64{rss, threads, fds} {
			fmt.Fprintf(&b, " %.1f | %.1f |", average(all, v), slope(all, v))
		}
		b.WriteString("\n")
		if err := flat(name, s.usages[name]); err != nil {
			s.t.Error(err)
		}
	}
	s.t.Log(b.String())
}
