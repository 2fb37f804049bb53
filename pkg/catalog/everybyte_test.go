package catalog

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/commitlog"
	"github.com/kbkio/kbk/pkg/cursor"
	"github.com/kbkio/kbk/pkg/pack"
	"github.com/kbkio/kbk/pkg/partitions"
	"github.com/kbkio/kbk/pkg/pull"
	"github.com/kbkio/kbk/pkg/push"
	"github.com/kbkio/kbk/pkg/segment"
	"github.com/kbkio/kbk/pkg/sign"
	"github.com/kbkio/kbk/pkg/store"
)

var (
	damageCases = flag.Int("damage-cases", 400, "how many damages TestEveryByte does, at random; 0: all there are")
	damageSeed  = flag.Uint64("damage-seed", 0, "with this seed; 0: another each time")
	damageShare = flag.String("damage-share", "1/1", "which part of them, as 2/7")
)

// TestEveryByte damages a small backup in every way that one byte, one file or two files
// can be: a bit of each byte flipped, and all of them, each two neighbours swapped, each file
// cut at each length, removed, exchanged with another and replaced by another. verify --deep
// names the damage, or every answer is what it was. No answer is wrong with status 0, and
// with --skip-damaged none is more than what is there.
func TestEveryByte(t *testing.T) {
	seed := *damageSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	w := newWhole(t)
	rng := rand.New(rand.NewPCG(seed, 0))
	all := w.damages(rng)
	cases := slices.Clone(all)
	if n := *damageCases; n > 0 && n < len(all) {
		rng.Shuffle(len(cases), func(i, j int) { cases[i], cases[j] = cases[j], cases[i] })
		cases = cases[:n]
	}
	var share, shares int
	if _, err := fmt.Sscanf(*damageShare, "%d/%d", &share, &shares); err != nil || share < 1 || share > shares {
		t.Fatalf("-damage-share=%s is not as 2/7", *damageShare)
	}
	var mine []damage
	for i := share - 1; i < len(cases); i += shares {
		mine = append(mine, cases[i])
	}
	cases = mine
	t.Logf("seed %d: %d of %d damages of %d bytes in %d files", seed, len(cases), len(all), w.size(), len(w.files))
	var next atomic.Int64
	var mu sync.Mutex
	sums := make(map[string]int)
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			d := w.copied(t)
			for i := next.Add(1) - 1; i < int64(len(cases)) && !t.Failed(); i = next.Add(1) - 1 {
				became, err := d.try(t.Context(), cases[i])
				if err != nil {
					t.Errorf("%v: %v", cases[i], err)
				}
				mu.Lock()
				sums[became]++
				mu.Unlock()
			}
		})
	}
	workers.Wait()
	for _, became := range slices.Sorted(maps.Keys(sums)) {
		t.Logf("%6d %s", sums[became], became)
	}
}

// A damage is one thing that happens to a backup.
type damage struct {
	kind  string
	file  string
	at    int // the bit, the byte or the length
	other string
}

func (d damage) String() string {
	if d.other != "" {
		return fmt.Sprintf("%s %s, %s", d.kind, d.file, d.other)
	}
	return fmt.Sprintf("%s %s, %d", d.kind, d.file, d.at)
}

// apply returns what the file has afterwards, and the other one. nil: it is gone.
func (d damage) apply(files map[string][]byte) map[string][]byte {
	data := bytes.Clone(files[d.file])
	switch d.kind {
	case "flip a bit of":
		data[d.at/8] ^= 1 << (d.at % 8)
	case "change a byte of":
		data[d.at] ^= 0xff
	case "swap two bytes of":
		data[d.at], data[d.at+1] = data[d.at+1], data[d.at]
	case "cut":
		data = data[:d.at]
	case "remove":
		data = nil
	case "exchange":
		return map[string][]byte{d.file: files[d.other], d.other: data}
	case "replace":
		data = files[d.other]
	}
	return map[string][]byte{d.file: data}
}

// A whole backup, and what is said of it.
type whole struct {
	dir     string
	files   map[string][]byte
	last    string // the entry that was written last
	key     age.Identity
	signers sign.Signers
	want    *testimony
}

// newWhole makes a backup that has all that there can be: a snapshot with an index and
// restore points, entries, signatures, segments in plain and encrypted, a consumer group.
func newWhole(t *testing.T) *whole {
	key := signingKey(t)
	id, err := age.GenerateX25519Identity()
	ok(t, err)
	w := &whole{dir: filepath.Join(t.TempDir(), "b"), files: make(map[string][]byte), key: id, signers: key.Signers()}
	for i, r := range []struct {
		from, next [2]int64
		to         []age.Recipient
	}{
		{next: [2]int64{5, 3}}, {[2]int64{5, 3}, [2]int64{8, 3}, nil}, {[2]int64{8, 3}, [2]int64{8, 5}, []age.Recipient{id.Recipient()}}, {[2]int64{8, 5}, [2]int64{10, 5}, nil},
	} {
		if i == 2 {
			ok(t, Compact(t.Context(), signingStore(t, w.dir, key), Signing{Signs: true, Signers: key.Signers()}, env()))
		}
		var records, segments bytes.Buffer
		out := format.NewWriter(&records)
		ok(t, out.WriteHeader(&format.Header{Content: format.ContentRecords, Source: &format.Source{Cluster: "c"}}))
		ok(t, out.Write(&format.Topic{Name: "t", ID: "id", Partitions: 2}))
		for p := range int32(2) {
			ok(t, out.Write(&format.Mark{Topic: "t", Partition: p, Next: r.from[p]}))
			for o := r.from[p]; o < r.next[p]; o++ {
				ok(t, out.WriteRecord(&format.Record{Topic: "t", Partition: p, Offset: o, Timestamp: o * 10, Value: fmt.Append(nil, "value ", o)}))
			}
			ok(t, out.Write(&format.Mark{Topic: "t", Partition: p, Next: r.next[p]}))
		}
		ok(t, out.Write(&format.Group{ID: "g", Offsets: map[string]map[int32]format.GroupOffset{"t": {0: {Offset: r.next[0]}}}}))
		ok(t, out.Write(&format.Point{Time: int64(100 * (i + 1))}))
		ok(t, out.Close(new(format.End)))
		packing := pack.Config{SegmentSize: 1 << 20, Memory: 64 << 20, Level: 1, MaxFrame: 1 << 20, Codec: segment.CodecOf("zstd"), Recipients: r.to}
		ok(t, pack.Pack(t.Context(), packing, env(), &records, &segments))
		pushing := push.Config{Remote: w.dir, Key: key, Signers: key.Signers(), Transfers: 1, Checkpoint: time.Hour, CheckpointSegments: 1000, MaxFrame: 1 << 20}
		ok(t, push.Run(t.Context(), pushing, env(), &segments, io.Discard))
	}
	ok(t, filepath.WalkDir(w.dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		at, err := filepath.Rel(w.dir, name)
		if err == nil {
			w.files[at], err = os.ReadFile(name)
		}
		return err
	}))
	entries := entriesOf(t, w.dir)
	slices.Sort(entries)
	w.last = filepath.Join(commitlog.LogDir, filepath.Base(entries[len(entries)-1]))
	want, err := w.copied(t).ask(t.Context(), w.signers)
	ok(t, err)
	if w.want = want; want.verify != command.OK || want.pull.status != command.OK || len(want.pull.records) != 15 {
		t.Fatalf("%+v", want)
	}
	return w
}

func (w *whole) size() (n int) {
	for _, data := range w.files {
		n += len(data)
	}
	return n
}

// damages are all that TestEveryByte does.
func (w *whole) damages(rng *rand.Rand) (all []damage) {
	names := slices.Sorted(maps.Keys(w.files))
	for _, name := range names {
		data := w.files[name]
		for i := range data {
			all = append(all, damage{kind: "flip a bit of", file: name, at: 8*i + rng.IntN(8)},
				damage{kind: "change a byte of", file: name, at: i}, damage{kind: "cut", file: name, at: i})
			if i+1 < len(data) && data[i] != data[i+1] {
				all = append(all, damage{kind: "swap two bytes of", file: name, at: i})
			}
		}
		all = append(all, damage{kind: "remove", file: name})
		for _, other := range names {
			if name < other {
				all = append(all, damage{kind: "exchange", file: name, other: other})
			}
			if name != other {
				all = append(all, damage{kind: "replace", file: name, other: other})
			}
		}
	}
	return all
}

// A damaged backup is a copy, to which one damage after the other is done.
type damaged struct {
	*whole
	dir   string
	store *store.Store
}

func (w *whole) copied(t *testing.T) *damaged {
	d := &damaged{whole: w, dir: filepath.Join(t.TempDir(), "b")}
	ok(t, d.write(w.files))
	d.store = open(t, d.dir)
	return d
}

// write writes files, and removes those that are nil.
func (d *damaged) write(files map[string][]byte) error {
	var errs []error
	for name, data := range files {
		name = filepath.Join(d.dir, name)
		if data == nil {
			errs = append(errs, os.Remove(name))
			continue
		}
		errs = append(errs, os.MkdirAll(filepath.Dir(name), 0o700), os.WriteFile(name, data, 0o600))
	}
	return errors.Join(errs...)
}

// try does a damage, asks, and puts the files back. It says in words what became of it.
func (d *damaged) try(ctx context.Context, what damage) (became string, err error) {
	changed := what.apply(d.files)
	if err := d.write(changed); err != nil {
		return "", err
	}
	defer func() {
		back := make(map[string][]byte)
		for name := range changed {
			back[name] = d.files[name]
		}
		err = errors.Join(err, d.write(back))
	}()
	var signers sign.Signers
	if what.at%2 == 0 || strings.HasSuffix(what.file, commitlog.SignatureSuffix) {
		signers = d.signers // without them nobody looks at signatures
	}
	got, err := d.ask(ctx, signers)
	if err != nil {
		return "", err
	}
	return d.want.judge(got, what, d.last)
}

// A testimony is what the commands say of a backup.
type testimony struct {
	verify   int // status
	unlisted int64
	pull     restore
	skipping restore
	point    restore
	cursor   said
	upTo     said // cursor --skip-damaged
	show     said
	list     said
}

// everyTopic matches all.
func everyTopic() *partitions.Matcher {
	m, err := partitions.Selection{}.Compile()
	if err != nil {
		panic(err) // there is nothing in it
	}
	return m
}

// said is what a command has printed, if its status is 0 or 4.
type said struct {
	text   string
	status int
}

// A restore is what comes out of a pull and a pack -d.
type restore struct {
	frames  string            // of the pull, as they were
	records map[string]string // by partition and offset
	covered map[string]bool   // offsets of the whole backup that the marks say were read
	status  int
}

// ask fails where a command does so with another status than the table of damages has.
func (d *damaged) ask(ctx context.Context, signers sign.Signers) (*testimony, error) {
	a := new(testimony)
	var errs []error
	status := func(what string, err error) int {
		s := command.StatusOf(err)
		if s == command.Failed && store.IsDamage(err) { // as the commands do
			s = command.Corrupt
		}
		if s != command.OK && s != command.Loss && s != command.Corrupt {
			errs = append(errs, fmt.Errorf("%s: status %d: %w", what, s, err))
		}
		return s
	}
	say := func(what string, do func(out io.Writer) error) said {
		var out bytes.Buffer
		err := do(&out)
		return said{strings.ReplaceAll(out.String(), d.dir, "DIR"), status(what, err)}
	}
	strict, skip := store.LogOptions{Signed: signers.Check()}, store.LogOptions{Signed: signers.Check(), SkipDamaged: true}
	verdict := say("verify --deep", func(out io.Writer) error {
		return Verify(ctx, d.store, VerifyConfig{Deep: true, Identities: []age.Identity{d.key}, Signers: signers, Transfers: 1, Memory: 1 << 20, JSON: true}, env(), out)
	})
	lines := strings.Split(strings.TrimSpace(verdict.text), "\n")
	var v Verdict
	errs = append(errs, json.Unmarshal([]byte(lines[len(lines)-1]), &v))
	a.verify, a.unlisted = verdict.status, v.Unlisted
	a.cursor = say("cursor", func(out io.Writer) error { return Cursor(ctx, d.store, strict, false, env(), out) })
	a.upTo = say("cursor --skip-damaged", func(out io.Writer) error { return Cursor(ctx, d.store, skip, false, env(), out) })
	a.show = say("show", func(out io.Writer) error { return Show(ctx, d.store, strict, everyTopic(), false, true, env(), out) })
	a.list = say("list", func(out io.Writer) error { return List(ctx, d.store, 0, true, env(), out) })
	cfg := pull.Config{Remote: d.dir, Transfers: 1, Memory: 1 << 20, Signers: signers}
	var err error
	a.pull, err = d.restore(ctx, cfg, status)
	errs = append(errs, err)
	cfg.At = at(250)
	a.point, err = d.restore(ctx, cfg, status)
	errs = append(errs, err)
	cfg.At, cfg.SkipDamaged = nil, true
	a.skipping, err = d.restore(ctx, cfg, status)
	return a, errors.Join(append(errs, err)...)
}

func (d *damaged) restore(ctx context.Context, cfg pull.Config, status func(string, error) int) (r restore, err error) {
	var segments, records bytes.Buffer
	if r.status = status("pull", pull.Run(ctx, cfg, env(), &segments)); r.status == command.Corrupt {
		return r, nil
	}
	if r.frames, err = untimed(segments.Bytes()); err != nil {
		return r, err
	}
	if d.want != nil && r.frames == d.want.pull.frames { // then it is the same unpacked
		r.records, r.covered = d.want.pull.records, d.want.pull.covered
		return r, nil
	}
	err = pack.Unpack(ctx, pack.Config{Memory: 64 << 20, MaxFrame: 1 << 20, Identities: []age.Identity{d.key}}, env(), &segments, &records)
	if s := command.StatusOf(err); s != r.status {
		return r, fmt.Errorf("pull ends with status %d, and pack -d with %w", r.status, err)
	}
	return r, r.read(records.Bytes())
}

// untimed are the frames of a stream, but for those that have times.
func untimed(stream []byte) (string, error) {
	in := format.NewReader(bytes.NewReader(stream), 1<<20)
	if _, err := in.Header(); err != nil {
		return "", err
	}
	var frames strings.Builder
	for {
		f, err := in.Next()
		if err == io.EOF {
			return frames.String(), nil
		}
		if err != nil {
			return "", err
		}
		if f.Kind != format.KindEnd {
			frames.Write(f.Raw)
		}
	}
}

// read reads a stream of records, and what its marks say was read.
func (r *restore) read(stream []byte) error {
	r.records, r.covered = make(map[string]string), make(map[string]bool)
	next := make(map[string]int64)
	cover := func(part string, to int64, anew bool) {
		if from, known := next[part]; known && !anew {
			for o := from; o < min(to, 1000); o++ {
				r.covered[fmt.Sprintf("%s %d", part, o)] = true
			}
		}
		next[part] = to
	}
	in := format.NewReader(bytes.NewReader(stream), 1<<20)
	if _, err := in.Header(); err != nil {
		return err
	}
	for {
		f, err := in.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		switch f.Kind {
		case format.KindRec:
			part := fmt.Sprintf("%s/%d", f.Topic, f.Partition)
			k := fmt.Sprintf("%s %d", part, f.Offset)
			if _, twice := r.records[k]; twice {
				return fmt.Errorf("%s comes twice", k)
			}
			r.records[k] = string(f.Raw)
			cover(part, f.Offset+1, false)
		case format.KindMark:
			m, err := format.DecodeMark(f.Raw)
			if err != nil {
				return err
			}
			part := fmt.Sprintf("%s/%d", m.Topic, m.Partition)
			cover(part, m.Next, m.Begins)
			for _, l := range m.Lost {
				for o := l[0]; o < min(l[1], 1000); o++ {
					delete(r.covered, fmt.Sprintf("%s %d", part, o))
				}
			}
		}
	}
}

// judge holds what was said of a damaged backup against what was said of the whole one.
func (want *testimony) judge(got *testimony, what damage, last string) (became string, err error) {
	var wrong []string
	differs := func(name string, g, w said) {
		if g.status == command.OK && g.text != w.text {
			wrong = append(wrong, name+" says\n"+g.text+"\ninstead of\n"+w.text)
		}
	}
	// The entry that was written last can go without a trace in the log: nothing that is left
	// names it. Its objects are named.
	lastGone := what.kind == "remove" && what.file == last
	if !lastGone {
		differs("cursor", got.cursor, want.cursor)
		differs("show", got.show, want.show)
		for name, pair := range map[string][2]restore{"pull": {got.pull, want.pull}, "pull --at": {got.point, want.point}, "pull --skip-damaged": {got.skipping, want.skipping}} {
			if pair[0].status == command.OK && pair[0].frames != pair[1].frames {
				wrong = append(wrong, name+" gives something else with status 0")
			}
		}
	} else if got.unlisted == 0 {
		wrong = append(wrong, "verify does not name the objects of the entry that is gone")
	}
	if what.file == commitlog.ManifestName || what.other == commitlog.ManifestName {
		if got.list.status == command.OK && got.list.text != want.list.text && got.list.text != `{"path":""}`+"\n" && got.list.text != "" {
			wrong = append(wrong, "list says "+got.list.text)
		}
	} else {
		differs("list", got.list, want.list)
	}
	wrong = append(wrong, want.pull.more(got.skipping)...)
	if strings.HasPrefix(what.file, commitlog.LogDir) && !strings.HasPrefix(what.other, commitlog.TopicsDir) { // a cursor goes by the log alone
		wrong = append(wrong, beyond(got.upTo, got.skipping, want)...)
	}
	same := got.pull.status == command.OK && got.point.status == command.OK && got.cursor.status == command.OK && got.show.status == command.OK
	switch {
	case len(wrong) > 0:
		return "", errors.New(strings.Join(wrong, "; "))
	case lastGone:
		became = "the last entry is gone: its objects are named"
	case got.verify == command.OK && !same:
		return "", fmt.Errorf("verify finds nothing, and pull ends with status %d, pull --at %d, cursor %d, show %d", got.pull.status, got.point.status, got.cursor.status, got.show.status)
	case got.verify == command.OK:
		became = "not named, and nothing changed"
	case same:
		became = "named, and nothing changed"
	case got.skipping.status == command.OK:
		became = "named and refused; --skip-damaged gives all"
	default:
		became = "named and refused"
	}
	return what.kind + ": " + became, nil
}

// more says what of a restore with --skip-damaged is not of the whole one, and what it says
// was read and has not.
func (whole restore) more(got restore) (wrong []string) {
	if got.status == command.Corrupt {
		return nil
	}
	for k, raw := range got.records {
		if whole.records[k] != raw {
			wrong = append(wrong, k+" is altered with --skip-damaged")
		}
	}
	for k := range whole.records {
		if _, there := got.records[k]; !there && got.covered[k] {
			wrong = append(wrong, k+" is missing with --skip-damaged, where a mark says that it was read")
		}
	}
	return wrong
}

// beyond says where a cursor with --skip-damaged is behind records that are missing.
func beyond(upTo said, got restore, want *testimony) (wrong []string) {
	if upTo.status == command.Corrupt || got.status == command.Corrupt {
		return nil
	}
	c, err := cursor.Read(strings.NewReader(upTo.text))
	if err != nil {
		return []string{err.Error()}
	}
	for name, t := range c.Topics {
		for p, next := range t.Partitions {
			for o := range next {
				k := fmt.Sprintf("%s/%d %d", name, p, o)
				if _, there := got.records[k]; !there && want.pull.records[k] != "" {
					wrong = append(wrong, fmt.Sprintf("cursor --skip-damaged begins at %d, and %s is missing", next, k))
				}
			}
		}
	}
	return wrong
}
