package histories

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
)

// A history is one that is played: writers, and jobs that back up, mirror and restore what
// they write.
type history struct {
	*world
	plan   plan
	dir    string
	sum    *total
	ledger *ledger
	t      *testing.T

	jobs  map[string]*job
	truth *content      // what the topics hold in the end
	calm  chan struct{} // closed when that is known: there are no writers and no faults any more

	mu        sync.Mutex
	committed map[place][]int64 // what has been committed for the group, in order
}

func (h *history) group() string   { return fmt.Sprintf("readers-%d", h.plan.seed) }
func (h *history) pattern() string { return fmt.Sprintf(`^h%d\.`, h.plan.seed) }

func (h *history) names(prefix string) (names []string) {
	for _, t := range h.plan.topics {
		names = append(names, prefix+t.name)
	}
	return names
}

func (h *history) play(ctx context.Context) error {
	h.calm, h.committed, h.jobs = make(chan struct{}), make(map[place][]int64), make(map[string]*job)
	for _, all := range []map[string]int{h.plan.writingJobs(), h.plan.restoreJobs()} {
		for name := range all {
			h.jobs[name] = &job{name: name, dir: h.dir, env: h.env()}
			defer h.jobs[name].stop()
		}
	}
	if err := os.MkdirAll(h.dir, 0o755); err != nil {
		return err
	}
	if err := h.create(ctx, h.plan.topics); err != nil {
		return fmt.Errorf("creating topics: %w", err)
	}
	defer h.deleteTopics()
	if err := h.write(ctx); err != nil {
		return h.ofKafka(ctx, err)
	}
	if err := h.looked(); err != nil {
		return err
	}
	return h.restore(ctx)
}

func (h *history) deleteTopics() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, prefix := range []string{"", "mirror.", "restore.", "exact."} {
		err := until(ctx, "topics are deleted", func() (bool, error) {
			_, err := h.adm.DeleteTopics(ctx, h.names(prefix)...)
			return err == nil, err
		})
		if err != nil {
			h.t.Error(err)
		}
	}
}

// A kafkaError says that Kafka itself is not right. Nothing can be said of kbk then.
type kafkaError struct{ err error }

func (e *kafkaError) Error() string { return "Kafka itself is not right: " + e.err.Error() }
func (e *kafkaError) Unwrap() error { return e.err }

// ofKafka turns an error of kbk into one of Kafka if Kafka lacks records that it has acknowledged. A
// command that follows such a log, and stops because it is another one, may be right.
func (h *history) ofKafka(ctx context.Context, err error) error {
	var is *kafkaError
	if errors.As(err, &is) || h.truth != nil {
		return err
	}
	if errors.Join(h.awaitInSync(ctx), h.awaitStable(ctx, h.plan.topics, h.leftOpen)) != nil {
		return err
	}
	if _, lacks := h.whatKafkaHolds(ctx); errors.As(lacks, &is) {
		return &kafkaError{fmt.Errorf("%w\n%w", is.err, err)}
	}
	return err
}

// together runs functions at once, and ends when all have. The first that fails ends the
// others.
func together(ctx context.Context, all ...func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var running sync.WaitGroup
	for _, f := range all {
		running.Go(func() {
			if err := f(ctx); err != nil {
				cancel(err)
			}
		})
	}
	running.Wait()
	return context.Cause(ctx)
}

// write lets writers write while faults happen and jobs run, and returns when the jobs have
// come to the end of what was written.
func (h *history) write(ctx context.Context) error {
	following := h.follow
	if h.plan.workers {
		following = func(ctx context.Context) error { return together(ctx, h.worker("worker-1"), h.worker("worker-2")) }
	}
	return together(ctx, h.backups, following, h.mirror, func(ctx context.Context) error {
		if err := h.writers(ctx); err != nil {
			return err
		}
		if err := h.awaitInSync(ctx); err != nil {
			return &kafkaError{err}
		}
		if err := h.awaitStable(ctx, h.plan.topics, h.leftOpen); err != nil {
			return &kafkaError{err}
		}
		truth, err := h.whatKafkaHolds(ctx)
		if err != nil {
			return err
		}
		h.truth = truth
		if err := h.commitAgain(ctx); err != nil {
			return err
		}
		close(h.calm)
		return nil
	})
}

// whatKafkaHolds reads the topics, in which all that was acknowledged must be. If something is
// missing it reads them once more: it may be the test's own client that has left it out.
func (h *history) whatKafkaHolds(ctx context.Context) (*content, error) {
	for again := false; ; again = true {
		truth, err := h.consume(ctx, h.names("")...)
		if err != nil {
			return nil, err
		}
		if len(truth.dropped) > 0 {
			h.t.Logf("franz-go's consumer shows what Kafka has aborted: %s", strings.Join(truth.dropped, "\n\t"))
			h.sum.run("history in which the test's consumer shows aborted transactions")
		}
		t := h.ledger.hold(truth)
		if t.leaked > 0 {
			// Seen once: the commands then have to show what Kafka shows to any consumer.
			h.t.Logf("Kafka shows transactions that their writers never asked to commit: %s", &t)
			h.sum.run("history in which Kafka committed what its writer had given up")
			t.leaked = 0
		}
		switch {
		case !t.bad():
			return truth, nil
		case again:
			return nil, &kafkaError{fmt.Errorf("it does not hold what it has acknowledged: %s%s", &t, truth.bounds())}
		}
		h.t.Logf("read once more, because of %s%s", &t, truth.bounds())
		h.sum.run("topics read twice, because the first time lacked records")
	}
}

// writers runs writers and the group until the planned faults are over.
func (h *history) writers(ctx context.Context) error {
	writing, stop := context.WithCancel(ctx)
	var all sync.WaitGroup
	errs := make([]error, 5)
	for i := range 4 {
		w := &writer{
			name: fmt.Sprintf("h%d-w%d", h.plan.seed, i), rng: rand.New(rand.NewPCG(h.plan.seed, 100+uint64(i))),
			topics: h.plan.topics, ledger: h.ledger, connect: h.connect, committed: i%2 == 1,
		}
		all.Go(func() { errs[i] = w.write(writing) })
	}
	all.Go(func() { errs[4] = h.readers(writing) })
	err := h.happen(ctx, h.plan.writing, h.plan.topics, h.jobs, h.sum.event)
	stop()
	all.Wait()
	return errors.Join(append(errs, err)...)
}

// readers commits offsets for the group, as consumers would that come forward.
func (h *history) readers(ctx context.Context) error {
	rng := rand.New(rand.NewPCG(h.plan.seed, 200))
	for pause(ctx, time.Duration(200+rng.IntN(300))*time.Millisecond) {
		for at, end := range h.ends(ctx, h.plan.topics) {
			from := h.lastCommitted(at)
			if end <= from {
				continue
			}
			// Noted before it is asked for: whether a commit that failed was one nobody knows.
			offset := from + rng.Int64N(end-from+1)
			h.mu.Lock()
			h.committed[at] = append(h.committed[at], offset)
			h.mu.Unlock()
			_ = h.commit(context.WithoutCancel(ctx), h.group(), at, offset)
		}
	}
	return nil
}

// commitAgain commits once more what was asked for last: it may have failed.
func (h *history) commitAgain(ctx context.Context) error {
	for at := range h.committed {
		err := until(ctx, "offsets are committed", func() (bool, error) {
			err := h.commit(ctx, h.group(), at, h.lastCommitted(at))
			return err == nil, err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (h *history) lastCommitted(at place) int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	if all := h.committed[at]; len(all) > 0 {
		return all[len(all)-1]
	}
	return 0
}

func (h *history) isCalm() bool {
	select {
	case <-h.calm:
		return true
	default:
		return false
	}
}

// backups backs up once and again, from where the run before has ended, and once when all
// is calm.
func (h *history) backups(ctx context.Context) error {
	j := h.jobs["backup"]
	for ctx.Err() == nil {
		last := h.isCalm()
		cursor, err := j.once("kbk-catalog cursor " + h.backup(j))
		if err != nil {
			return fmt.Errorf("the cursor of a backup: %w", err)
		}
		before := h.ends(ctx, h.plan.topics)
		// Records in one run, batches in the next: a backup may hold both.
		p, err := j.start(fmt.Sprintf("kbk-fetch -t %s --groups %s --from %s%s", h.pattern(), h.group(), cursor, batches(j.runs%2 == 1)), "kbk-pack", "kbk-push "+h.backup(j))
		if err != nil {
			return err
		}
		status, err := p.wait()
		if err != nil {
			return err
		}
		h.sum.run(fmt.Sprint("backup, status ", status))
		switch end := status[len(status)-1]; {
		case end == 0:
			if err := h.covered(j, h.backup(j), before); err != nil {
				return fmt.Errorf("a backup ended with status 0: %w\n%s", err, p)
			}
			if last {
				return nil
			}
		case !last && p.isToRunAgain():
		case last, !slices.Contains(status, killed), end != 3 && end != killed:
			return fmt.Errorf("status %d of a backup\n%s", status, p)
		}
	}
	return nil
}

// batches is the flag that has record batches go through a pipe whole.
func batches(yes bool) string {
	if yes {
		return " --batches"
	}
	return ""
}

func (h *history) backup(j *job) string { return filepath.Join(h.dir, j.name+".backup") }

// covered wants a backup to have what was stable at a moment.
func (h *history) covered(j *job, backup string, ends map[place]int64) error {
	c, err := cursorOf(j, backup)
	if err != nil {
		return err
	}
	for at, end := range ends {
		if c[at] < end {
			return fmt.Errorf("%s: the backup goes to %d, and %d was stable before", at, c[at], end)
		}
	}
	return nil
}

// cursorOf is how far a backup goes.
func cursorOf(j *job, backup string) (map[place]int64, error) {
	name, err := j.once("kbk-catalog cursor " + backup)
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var c struct {
		Topics map[string]struct{ Partitions map[int32]int64 }
	}
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, fmt.Errorf("the cursor: %w", err)
	}
	out := make(map[place]int64)
	for topic, of := range c.Topics {
		for p, next := range of.Partitions {
			out[place{topic, p}] = next
		}
	}
	return out, nil
}

// follow backs up with --follow, and begins anew where a stage was killed.
func (h *history) follow(ctx context.Context) error {
	j := h.jobs["follow"]
	return h.forever(ctx, j, func() ([]string, error) {
		cursor, err := j.once("kbk-catalog cursor " + h.backup(j))
		return []string{
			fmt.Sprintf("kbk-fetch -t %s --groups %s --from %s --follow --refresh 1s --point-every 3s%s", h.pattern(), h.group(), cursor, batches(h.plan.batches)),
			"kbk-pack --segment-age 500ms", "kbk-push --checkpoint 1s " + h.backup(j),
		}, err
	}, func() (bool, error) {
		if err := h.covered(j, h.backup(j), h.truth.ends); err != nil {
			return false, err
		}
		err := h.hasGroup(j)
		return err == nil, err
	})
}

// worker backs up what a consumer group deals out to it, with another one into one backup.
func (h *history) worker(name string) func(context.Context) error {
	j := h.jobs[name]
	backup := h.followed()
	return func(ctx context.Context) error {
		return h.forever(ctx, j, func() ([]string, error) {
			receipts := filepath.Join(h.dir, fmt.Sprintf("%s-%d.receipts", name, j.runs))
			return []string{
				fmt.Sprintf("kbk-fetch -t %s --follow --refresh 1s --group workers-%d --session-timeout 6s --receipts %s%s", h.pattern(), h.plan.seed, receipts, batches(h.plan.batches)),
				"kbk-pack --segment-age 500ms", fmt.Sprintf("kbk-push --checkpoint 1s --receipts %s %s", receipts, backup),
			}, syscall.Mkfifo(receipts, 0o600)
		}, func() (bool, error) {
			err := h.covered(j, backup, h.truth.ends)
			return err == nil, err
		})
	}
}

// followed is the backup that is made by following.
func (h *history) followed() string {
	if h.plan.workers {
		return filepath.Join(h.dir, "workers.backup")
	}
	return h.backup(h.jobs["follow"])
}

// mirror writes what it follows to other topics, at the same offsets.
func (h *history) mirror(ctx context.Context) error {
	return h.forever(ctx, h.jobs["mirror"], func() ([]string, error) {
		return []string{
			fmt.Sprintf("kbk-fetch -t %s --follow --refresh 1s%s", h.pattern(), batches(h.plan.batches)),
			"kbk-produce --create-topics --offsets exact --prefix mirror.",
		}, nil
	}, func() (bool, error) {
		for at, log := range h.truth.logs {
			ends, err := h.adm.ListEndOffsets(ctx, "mirror."+at.topic)
			if err != nil {
				return false, err
			}
			if end, _ := ends.Lookup("mirror."+at.topic, at.partition); end.Offset <= log[len(log)-1].offset {
				return false, fmt.Errorf("mirror.%s ends at %d", at, end.Offset)
			}
		}
		return true, nil
	})
}

// forever runs a pipe that follows, anew where a stage of it was killed, until all is calm
// and it has everything. Then it is interrupted.
func (h *history) forever(ctx context.Context, j *job, lines func() ([]string, error), hasAll func() (bool, error)) error {
	for ctx.Err() == nil {
		commands, err := lines()
		if err != nil {
			return err
		}
		p, err := j.start(commands...)
		if err != nil {
			return err
		}
		whole := false
		select {
		case <-ctx.Done():
			return nil
		case <-p.ended:
		case <-h.calm:
			if err := until(ctx, j.name+" has all", hasAll); err != nil {
				return fmt.Errorf("%w\n%s", err, p)
			}
			whole = true
			if err := p.stages[0].signal(syscall.SIGTERM); err != nil {
				return err
			}
		}
		status, err := p.wait()
		if err != nil {
			return err
		}
		h.sum.run(fmt.Sprint(j.name, ", status ", status))
		struck := slices.Contains(status, killed)
		switch end := status[len(status)-1]; {
		case whole && !struck && end == 130:
			return nil
		case p.isToRunAgain():
		case !struck, end != 3 && end != killed:
			return fmt.Errorf("status %d of %s\n%s", status, j.name, p)
		}
	}
	return nil
}

// openThen is what kbk says of offsets behind a transaction that has been open for a minute.
const openThen = "hidden behind a transaction that is open since"

// read reads a backup, all of which must be there.
func (h *history) read(backup string) (*content, error) {
	return h.pull(backup, "", func(status []int, lost []string) bool { return slices.Equal(status, []int{0, 0}) && len(lost) == 0 })
}

// readPoint reads what belongs to a restore point of a backup. A transaction may have been open
// then.
func (h *history) readPoint(backup, id string) (*content, error) {
	return h.pull(backup, "--point "+id, func(status []int, lost []string) bool {
		if slices.ContainsFunc(lost, func(what string) bool { return !strings.Contains(what, openThen) }) {
			return false
		}
		return len(lost) == 0 && slices.Equal(status, []int{0, 0}) || len(lost) > 0 && slices.Equal(status, []int{4, 4})
	})
}

func (h *history) pull(backup, flags string, asItMay func(status []int, lost []string) bool) (*content, error) {
	p, err := startPipe(backup+"-read", h.env(), "kbk-pull "+flags+" "+backup, "kbk-pack -d")
	if err != nil {
		return nil, err
	}
	status, err := p.wait()
	if err != nil {
		return nil, err
	}
	c, err := readStream(p.output)
	if err == nil && !asItMay(status, c.lost) {
		err = fmt.Errorf("status %d, lost %q", status, c.lost)
	}
	if err != nil {
		return nil, fmt.Errorf("%w\n%s", err, p)
	}
	return c, nil
}

// looked looks into the backups and the mirror.
func (h *history) looked() error {
	for _, backup := range []string{h.backup(h.jobs["backup"]), h.followed()} {
		name := filepath.Base(backup)
		if _, err := h.jobs["backup"].once("kbk-catalog verify --deep " + backup); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		got, err := h.read(backup)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		h.same(name, h.truth, got, true)
		if err := h.points(backup); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	got, err := h.consume(h.t.Context(), h.names("mirror.")...)
	if err != nil {
		return err
	}
	h.same("mirror", h.truth.as(func(s string) string { return "mirror." + s }), got, true)
	return nil
}

// A report is what of the output of kbk-catalog show is looked at.
type report struct {
	Points []struct{ ID string }
	Groups []struct {
		ID      string
		Offsets map[string]map[int32]struct{ Offset int64 }
	}
}

func (h *history) show(backup string) (r report, err error) {
	name, err := h.jobs["backup"].once("kbk-catalog show --json " + backup)
	if err != nil {
		return r, err
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(b, &r)
}

// hasGroup wants a backup to have what was committed last.
func (h *history) hasGroup(j *job) error {
	shown, err := h.show(h.backup(j))
	if err != nil {
		return err
	}
	for at := range h.committed {
		want, found := h.lastCommitted(at), false
		for _, g := range shown.Groups {
			found = found || g.ID == h.group() && g.Offsets[at.topic][at.partition].Offset == want
		}
		if !found {
			return fmt.Errorf("the group is at %d of %s; the backup has %v", want, at, shown.Groups)
		}
	}
	return nil
}

// points looks at some of a backup's restore points: each is a moment of the topics and of
// the group.
func (h *history) points(backup string) error {
	shown, err := h.show(backup)
	if err != nil {
		return err
	}
	if len(shown.Points) == 0 {
		if h.plan.workers && backup == h.followed() {
			return nil
		}
		return errors.New("it has no restore points")
	}
	rng := rand.New(rand.NewPCG(h.plan.seed, 300))
	for range 2 {
		id := shown.Points[rng.IntN(len(shown.Points))].ID
		got, err := h.readPoint(backup, id)
		if err != nil {
			return fmt.Errorf("point %s: %w", id, err)
		}
		h.same(filepath.Base(backup)+", point "+id, h.truth.below(got.ends), got, true)
		if err := h.moment(got); err != nil {
			return fmt.Errorf("point %s: %w", id, err)
		}
	}
	h.sum.run("restore point compared")
	return nil
}

// moment wants the group's offsets in a stream to be such as were committed, and not ahead
// of the records.
func (h *history) moment(c *content) error {
	g := c.groups[h.group()]
	if g == nil {
		return nil // it had not begun
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for topic, of := range g.Offsets {
		for p, o := range of {
			at := place{topic, p}
			if !slices.Contains(h.committed[at], o.Offset) {
				return fmt.Errorf("%s: %d was never committed", at, o.Offset)
			}
			if o.Offset > c.ends[at] {
				return fmt.Errorf("%s: the group is at %d, and the records end at %d", at, o.Offset, c.ends[at])
			}
		}
	}
	return nil
}

// same compares, and notes what it finds.
func (h *history) same(what string, want, got *content, exact bool) {
	t := compare(want, got, exact, h.ledger.wasAborted)
	h.sum.compare(t)
	if t.bad() {
		h.t.Errorf("%s: %s", what, &t)
	}
}

// restore restores both backups while faults happen, and looks at what is there then.
func (h *history) restore(ctx context.Context) error {
	maps := make(map[string]string)
	var mu sync.Mutex
	restored := func(name, from, flags string) func(context.Context) error {
		return func(ctx context.Context) error {
			output, err := h.restored(ctx, h.jobs[name], from, flags)
			mu.Lock()
			defer mu.Unlock()
			maps[name] = output
			return err
		}
	}
	err := together(ctx, restored("restore", h.backup(h.jobs["backup"]), ""), restored("exact", h.followed(), "--offsets exact"), func(ctx context.Context) error {
		return h.happen(ctx, h.plan.restore, h.plan.topics, h.jobs, h.sum.event)
	})
	notInSync := h.awaitInSync(ctx)
	if err != nil {
		return errors.Join(err, notInSync)
	}
	if notInSync != nil {
		return &kafkaError{notInSync}
	}
	for _, name := range []string{"restore", "exact"} {
		rename := func(topic string) string { return name + "." + topic }
		got, err := h.consume(ctx, h.names(name+".")...)
		if err != nil {
			return err
		}
		h.same(name, h.truth.as(rename), got, name == "exact")
		if name == "restore" || !h.plan.workers { // backups by workers have no groups
			if err := h.carryOver(ctx, name, maps[name], rename, got); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		for at, end := range h.truth.ends {
			if there := got.ends[place{rename(at.topic), at.partition}]; name == "exact" && there != end {
				h.t.Errorf("%s.%s ends at %d, and the source at %d", name, at, there, end)
			}
		}
	}
	return nil
}

// restored runs the line of a restore until it ends well, and returns the map.
func (h *history) restored(ctx context.Context, j *job, backup, flags string) (string, error) {
	pace := max(100, h.truth.records()/8) // it takes eight seconds
	for tries := 0; ctx.Err() == nil; tries++ {
		p, err := j.start("kbk-pull "+backup, "kbk-pack -d"+batches(h.plan.batches), fmt.Sprintf("kbk-produce --create-topics --prefix %s. --max-records %d %s", j.name, pace, flags))
		if err != nil {
			return "", err
		}
		status, err := p.wait()
		if err != nil {
			return "", err
		}
		h.sum.run(fmt.Sprint(j.name, ", status ", status))
		switch end := status[len(status)-1]; {
		case end == 0:
			return p.output, nil
		case tries < 20 && p.isToRunAgain():
		case !slices.Contains(status, killed), end != 3 && end != killed, tries == 20:
			return "", fmt.Errorf("status %d of a restore\n%s", status, p)
		}
	}
	return "", ctx.Err()
}

// carryOver carries the group over to a restored topic, and wants it to go on with the
// record that it would have read in the source.
func (h *history) carryOver(ctx context.Context, name, m string, rename func(string) string, got *content) error {
	j, group := h.jobs[name], name+"-"+h.group()
	plan, err := j.once(fmt.Sprintf("kbk-offsets translate --map %s --rename-group %s=%s", m, h.group(), group))
	if err != nil {
		return err
	}
	p, err := startPipe(filepath.Join(h.dir, name+"-apply"), h.env(), "cat "+plan, "kbk-offsets apply --undo "+filepath.Join(h.dir, name+".undo"))
	if err != nil {
		return err
	}
	if status, err := p.wait(); err != nil || status[1] != 0 {
		return errors.Join(err, fmt.Errorf("status %d\n%s", status, p))
	}
	var there kadm.OffsetResponses
	err = until(ctx, "the offsets of "+group+" are there", func() (bool, error) {
		there, err = h.adm.FetchOffsets(ctx, group)
		err = cmp.Or(err, there.Error())
		return err == nil, err
	})
	if err != nil {
		return err
	}
	for at := range h.committed {
		from, to := h.lastCommitted(at), place{rename(at.topic), at.partition}
		o, ok := there.Lookup(to.topic, to.partition)
		want, more := h.truth.next(at, from)
		next, moreThere := got.next(to, o.At)
		if !ok || more != moreThere || want.id != next.id {
			h.t.Errorf("%s: the group was at %d of %s, before %q; it is at %d of %s, before %q", name, from, at, want.id, o.At, to, next.id)
		}
	}
	h.sum.run("group carried over")
	return nil
}
