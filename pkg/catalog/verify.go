package catalog

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"filippo.io/age"
	"github.com/dustin/go-humanize"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/commitlog"
	"github.com/kbkio/kbk/pkg/segment"
	"github.com/kbkio/kbk/pkg/sign"
	"github.com/kbkio/kbk/pkg/statusline"
	"github.com/kbkio/kbk/pkg/store"
)

// VerifyConfig says how to verify.
type VerifyConfig struct {
	Deep       bool           // read what is in the segments
	Part       Part           // of them only these
	Identities []age.Identity // of segments that are encrypted; without any they are not opened
	Signers    sign.Signers   // who may sign; nil: signatures are not looked at
	Transfers  int
	Memory     int64 // bytes of segments that are held
	JSON       bool
	Report     string                               // a page or a JSON file, too; empty: none
	Sign       func(message []byte) ([]byte, error) // signs the report; nil: nobody does
}

// A Problem is one thing that is not as it was written.
type Problem struct {
	Kind string `json:"kind"` // "log", "signature", "hole", "missing", "size", "content" or "lost"
	What string `json:"what"` // an entry, a partition, an object
	Why  string `json:"why"`
}

// A Verdict is the last line of what [Verify] prints, also when all is well. Segments is the
// sum of Bad, Opened, Unopened and Unread.
type Verdict struct {
	Verdict  string `json:"verdict"`  // "good", "loss" or "damaged"
	Problems int    `json:"problems"` // not as it was written
	Losses   int    `json:"losses"`   // as it was written, but it never had all
	Pruned   int64  `json:"pruned"`   // offsets that were let go on purpose
	Segments int64  `json:"segments"` // that the log lists
	Bytes    int64  `json:"bytes"`
	Part     string `json:"part,omitempty"` // which of them were to be read, as --deep= takes it
	Read     int64  `json:"read"`           // to their end
	ReadSize int64  `json:"read_bytes"`
	Opened   int64  `json:"opened"`                      // and what is in them is what it should be
	Unopened int64  `json:"not_opened"`                  // what was stored, but encrypted, and no key was given
	Unread   int64  `json:"not_read"`                    // there with the right size
	Bad      int64  `json:"bad"`                         // not there, of another size, or not what was stored
	Signed   int64  `json:"signed"`                      // good signatures
	Unlisted int64  `json:"not_listed"`                  // objects that no log entry lists
	Clusters int64  `json:"cluster_snapshots,omitempty"` // that the log lists
}

// String is the verdict for people.
func (v *Verdict) String() string {
	var b strings.Builder
	b.WriteString(v.Verdict + ": ")
	if v.Problems > 0 {
		b.WriteString(command.Count(int64(v.Problems), "problem") + "; ")
	}
	if v.Losses > 0 {
		b.WriteString(command.Count(int64(v.Losses), "loss") + "; ")
	}
	fmt.Fprintf(&b, "%s, %s: %s bad", command.Count(v.Segments, "segment"), humanize.IBytes(uint64(v.Bytes)), humanize.Comma(v.Bad))
	for _, x := range []struct {
		n    int64
		what string
	}{
		{v.Opened, "opened and good"},
		{v.Unopened, "as stored, but encrypted and not opened"},
		{v.Unread, "there with the right size, and not read"},
	} {
		if x.n > 0 {
			fmt.Fprintf(&b, ", %s %s", humanize.Comma(x.n), x.what)
		}
	}
	if v.Clusters > 0 {
		fmt.Fprintf(&b, "; %s of the cluster", command.Count(v.Clusters, "snapshot"))
	}
	if v.Unlisted > 0 {
		fmt.Fprintf(&b, "; %s that nothing lists", command.Count(v.Unlisted, "object"))
	}
	return b.String()
}

// A verifier gathers problems.
type verifier struct {
	cfg   VerifyConfig
	store *store.Store
	env   *command.Env
	out   io.Writer

	display *command.Display

	mu       sync.Mutex
	problems int
	losses   int
	pruned   int64 // offsets
	writeErr error
	report   *verifyReport // nil where none is to be written

	signed, segments, read, opened, sealed, bad int64
	bytes, readBytes                            int64
	litter                                      []string // objects that nothing lists: the first few
	litterCount, litterBytes                    int64
	clusters, sealedClusters                    int64 // snapshots of clusters, and those that were not opened
}

// namedLitter is how many objects that nothing lists are named one by one.
const namedLitter = 10

func (v *verifier) found(kind, what, f string, args ...any) {
	v.print(Problem{kind, what, fmt.Sprintf(f, args...)})
}

func (v *verifier) print(p Problem) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if p.Kind == lost {
		v.losses++
	} else {
		v.problems++
	}
	v.report.add(p)
	var err error
	if v.cfg.JSON {
		err = json.NewEncoder(v.out).Encode(p)
	} else {
		_, err = fmt.Fprintf(v.out, "%s: %s: %s\n", p.Kind, p.What, p.Why)
	}
	v.writeErr = errors.Join(v.writeErr, err)
}

// Verify looks for what is not as it was written, prints it, and returns an error of
// status [command.Corrupt] when there is anything.
func Verify(ctx context.Context, st *store.Store, cfg VerifyConfig, env *command.Env, out io.Writer) error {
	began := time.Now()
	v := &verifier{cfg: cfg, store: st, env: env, out: out}
	if cfg.Report != "" {
		v.report = newReport(st.Name(), cfg, began)
	}
	v.display = env.NewDisplay(nil, statusline.Plan{Flow: []statusline.Size{{Of: statusline.In, Name: "verified"}}, Input: "the store"})
	defer v.display.Close()
	v.out = v.display.Beside(out)
	v.display.Doing("reading the log of " + st.Name())
	log, err := st.ReadLog(ctx, store.LogOptions{SkipDamaged: true, Signed: cfg.Signers.Check()})
	if err != nil {
		return err
	}
	if log.Entries() == 0 && len(log.Damage) == 0 {
		return v.noLog(ctx)
	}
	env.Counters.Ready()
	v.report.of(log.State)
	v.ofLog(log)
	state := log.State
	if err := v.moments(ctx, state); err != nil {
		return err
	}
	for _, t := range state.Manifest().Topics {
		for _, p := range t.Partitions {
			for _, h := range p.Holes {
				v.found("hole", fmt.Sprintf("%s/%d", t.Name, p.Partition), "offsets %d to %d are not backed up", h[0], h[1]-1)
			}
		}
	}
	v.absent(state)
	v.display.Doing("listing the objects of " + st.Name())
	bad, err := v.objects(ctx, state)
	if err != nil {
		return err
	}
	if err := v.snapshots(ctx, state); err != nil {
		return err
	}
	if cfg.Deep {
		if err := v.contents(ctx, state, bad); err != nil {
			return err
		}
	}
	if v.segments+v.clusters == 0 && len(v.litter) > 0 && v.problems == 0 {
		v.found("log", commitlog.LogDir, "it lists no segment, and there are objects")
	}
	v.sum(began)
	return v.verdict()
}

// lost is the kind of what a backup never had. That is no damage, and no more success.
const lost = "lost"

// absent says what the backup is without although it is as it was written: what was lost
// before it could be read, and what was pruned.
func (v *verifier) absent(state *commitlog.State) {
	told := make(map[string]bool) // a line may be of many partitions
	for _, t := range state.Manifest().Topics {
		pruned := int64(0)
		for _, p := range t.Partitions {
			name := fmt.Sprintf("%s/%d", t.Name, p.Partition)
			lines := state.Losses(t.Name, t.ID, p.Partition)
			says := func(r [2]int64, line string) bool { return commitlog.TellsOf(line, t.Name, p.Partition, r) }
			for _, line := range lines {
				hole := slices.ContainsFunc(p.Holes, func(h [2]int64) bool { return says(h, line) }) // of a copy
				if told[line] || hole {
					continue
				}
				told[line] = true
				if what, why, ok := strings.Cut(line, ": "); ok {
					v.found(lost, what, "%s", why)
				} else {
					v.found(lost, name, "%s", line)
				}
			}
			for _, l := range p.Lost {
				if !slices.ContainsFunc(lines, func(line string) bool { return says(l, line) }) {
					v.found(lost, name, "offsets %d to %d were deleted before they were backed up", l[0], l[1]-1)
				}
			}
			pruned += total(p.Gone)
		}
		if v.pruned += pruned; pruned > 0 {
			v.env.Log.Info(fmt.Sprintf("%s: %s pruned", t.Name, command.Count(pruned, "offset")))
		}
	}
}

// ofLog says what reading the log has shown.
func (v *verifier) ofLog(log *store.Log) {
	for _, d := range slices.Concat(log.Damage, log.Doubts) {
		v.found(string(d.Kind), d.Name, "%v", d.Err)
	}
	for _, name := range log.Mended {
		v.found("log", name, "one bit is wrong; it is read as it was written, and kbk-catalog repair puts it back")
	}
	v.signed = int64(log.Signed)
	if log.Unsealed > 0 {
		v.env.Log.Info(command.Count(int64(log.Unsealed), "file") + " of the log, of an earlier version, without a checksum of their own; kbk-catalog compact replaces them")
	}
	log.Damage, log.Doubts, log.Mended = nil, nil, nil
	log.Warn(v.env.Log)
}

// noLog is what to say of a remote without a log: where there are objects, it has lost it.
func (v *verifier) noLog(ctx context.Context) error {
	var objects int64
	count := func(string, int64) error { objects++; return nil }
	err := v.store.List(ctx, commitlog.TopicsDir, count)
	if err == nil {
		err = v.store.List(ctx, commitlog.ClusterDir, count)
	}
	switch {
	case err != nil:
		return err
	case objects == 0:
		return noBackup(v.store)
	}
	v.found("log", commitlog.LogDir, "it is empty, and there are %s", command.Count(objects, "object"))
	return v.verdict()
}

// sumUp is the verdict on what was looked at.
func (v *verifier) sumUp() *Verdict {
	words := "good"
	switch {
	case v.problems > 0:
		words = "damaged"
	case v.losses > 0:
		words = "loss"
	}
	return &Verdict{
		Verdict: words, Problems: v.problems, Losses: v.losses, Pruned: v.pruned, Segments: v.segments, Bytes: v.bytes, Part: v.cfg.Part.String(),
		Read: v.read, ReadSize: v.readBytes, Opened: v.opened, Unopened: v.sealed, Unread: v.segments - v.bad - v.opened - v.sealed, Bad: v.bad,
		Signed: v.signed, Unlisted: v.litterCount, Clusters: v.clusters,
	}
}

// verdict prints the verdict and writes the report. It is an error of status
// [command.Corrupt] when anything was found, and of status [command.Loss] when that is only
// what was lost.
func (v *verifier) verdict() error {
	sum := v.sumUp()
	var err error
	if v.cfg.JSON {
		err = json.NewEncoder(v.out).Encode(sum)
	} else {
		_, err = fmt.Fprintln(v.out, sum)
	}
	if v.writeErr = errors.Join(v.writeErr, err); v.writeErr != nil {
		v.writeErr = fmt.Errorf("print what was found: %w", v.writeErr)
	}
	if v.report != nil {
		v.writeErr = errors.Join(v.writeErr, v.report.write(sum, time.Now()))
	}
	switch {
	case v.writeErr != nil:
		return v.writeErr
	case v.problems > 0:
		return command.WithHint(command.WithStatus(command.Corrupt, fmt.Errorf("%s: %s", v.store.Name(), command.Count(int64(v.problems), "problem"))),
			"kbk-catalog repair shows what can be done")
	case v.losses > 0:
		return command.WithStatus(command.Loss, fmt.Errorf("%s: all is as it was written, but %s: see above", v.store.Name(), command.Count(int64(v.losses), "loss")))
	}
	return nil
}

// moments reads the restore points that were compacted.
func (v *verifier) moments(ctx context.Context, state *commitlog.State) error {
	files, open := state.Moments()
	if open != nil {
		files = append(files[:len(files):len(files)], *open)
	}
	for _, f := range files {
		err := v.store.ReadFile(ctx, f, func(r io.Reader) error {
			return commitlog.ReadMoments(r, func(*commitlog.Moment) error { return nil })
		})
		if store.IsDamage(err) {
			v.found("log", f.Path, "%v", err)
		} else if err != nil {
			return err
		}
	}
	return nil
}

// A pathKey stands for a path: there may be a million.
type pathKey [16]byte

func keyOf(path string) pathKey {
	sum := sha256.Sum256([]byte(path))
	return pathKey(sum[:16])
}

// objects holds the listing of the store against the log. It returns the objects that
// need not be read.
func (v *verifier) objects(ctx context.Context, state *commitlog.State) (bad map[pathKey]bool, err error) {
	want := make(map[pathKey]int64)
	for seg := range state.Segments() {
		want[keyOf(seg.Path)] = seg.Size
		v.segments++
		v.bytes += seg.Size
	}
	bad = make(map[pathKey]bool)
	err = v.store.List(ctx, commitlog.TopicsDir, func(path string, size int64) error {
		key := keyOf(path)
		expected, listed := want[key]
		switch {
		case !listed:
			v.unlisted(path, size)
			return nil
		case size >= 0 && size != expected:
			bad[key] = true
			v.bad++
			v.found("size", path, "%s instead of %s", command.Count(size, "byte"), humanize.Comma(expected))
		}
		delete(want, key)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(want) == 0 {
		return bad, nil
	}
	for seg := range state.Segments() {
		if key := keyOf(seg.Path); has(want, key) {
			bad[key] = true
			v.bad++
			v.found("missing", seg.Path, "the log lists it, and it is not there")
		}
	}
	return bad, nil
}

// unlisted notes an object that nothing lists.
func (v *verifier) unlisted(path string, size int64) {
	if v.litterCount++; len(v.litter) < namedLitter {
		v.litter = append(v.litter, path)
	}
	v.litterBytes += max(size, 0)
}

func has[K comparable, V any](m map[K]V, k K) bool {
	_, ok := m[k]
	return ok
}

// contents reads the segments that are to be read.
func (v *verifier) contents(ctx context.Context, state *commitlog.State, bad map[pathKey]bool) error {
	chosen := v.cfg.Part.choose(state.Segments())
	var size int64
	for seg := range state.Segments() {
		if chosen(seg.Path) {
			size += seg.Size
		}
	}
	v.display.Expect(&format.Header{Total: &format.Total{Bytes: size}})
	v.display.Doing("")
	opener := segment.NewOpener(v.cfg.Identities, 1<<30)
	room := semaphore.NewWeighted(v.cfg.Memory)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(v.cfg.Transfers)
	for seg := range state.Segments() {
		if !chosen(seg.Path) || bad[keyOf(seg.Path)] {
			continue
		}
		select {
		case <-v.env.Stop:
			_ = g.Wait()
			return command.Stopped("not everything was verified")
		default:
		}
		weight := min(seg.Size, v.cfg.Memory)
		if err := room.Acquire(gctx, weight); err != nil {
			break // whoever failed says why
		}
		g.Go(func() error {
			defer room.Release(weight)
			err := v.content(gctx, opener, seg)
			v.mu.Lock()
			defer v.mu.Unlock()
			v.read, v.readBytes = v.read+1, v.readBytes+seg.Size
			v.env.Counters.Segments.Add(1)
			v.env.Counters.BytesIn.Add(seg.Size)
			v.env.Counters.Records.Add(seg.Records)
			return err
		})
	}
	return errors.Join(g.Wait(), ctx.Err())
}

func (v *verifier) content(ctx context.Context, opener *segment.Opener, seg commitlog.Segment) error {
	sealed := seg.Cipher != "" && len(v.cfg.Identities) == 0 // then the checksum is all that can be told
	data, err := v.store.ReadSegment(ctx, seg)
	if err != nil && !store.IsDamage(err) {
		return err
	}
	if err == nil && !sealed {
		err = opener.Verify(seg.Frame(), data)
	}
	if err != nil {
		v.found("content", seg.Path, "%v", err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case err != nil:
		v.bad++
	case sealed:
		v.sealed++
	default:
		v.opened++
	}
	return nil
}

// sum says what was looked at, and what could not be.
func (v *verifier) sum(began time.Time) {
	log := v.env.Log
	if v.litterCount > 0 {
		for _, path := range v.litter {
			log.Warn(path + " is in no log entry")
		}
		log.Warn(fmt.Sprintf("%s, %s, are in no log entry: left behind by a killed run, a run is under way, or an entry is gone",
			command.Count(v.litterCount, "object"), humanize.IBytes(uint64(v.litterBytes))))
	}
	if v.sealed > 0 {
		log.Warn(command.Count(v.sealed, "segment") + " are encrypted and were not opened: give -i")
	}
	if v.sealedClusters > 0 {
		log.Warn(command.Count(v.sealedClusters, "snapshot") + " of the cluster are encrypted and were not opened: give -i")
	}
	how := "listed with the right size"
	switch {
	case v.cfg.Deep && v.cfg.Part == (Part{}):
		how = fmt.Sprintf("read, %s opened", command.Count(v.opened, "segment"))
	case v.cfg.Deep:
		how += fmt.Sprintf("; read %s: %s of %s, %s", v.cfg.Part.describe(), humanize.Comma(v.read), command.Count(v.segments, "segment"), humanize.IBytes(uint64(v.readBytes)))
	}
	if v.cfg.Signers != nil {
		how += fmt.Sprintf("; %s of the log", command.Count(v.signed, "good signature"))
	}
	log.Info(fmt.Sprintf("verified %s, %s, %s", command.Count(v.segments, "segment"), humanize.IBytes(uint64(v.bytes)), how),
		"in", time.Since(began).Round(time.Millisecond))
}
