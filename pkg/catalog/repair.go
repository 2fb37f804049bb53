package catalog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/urfave/cli/v2"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/commitlog"
	"github.com/kbkio/kbk/pkg/compaction"
	"github.com/kbkio/kbk/pkg/segment"
	"github.com/kbkio/kbk/pkg/store"
)

func repairSpec() command.Spec {
	return command.Spec{
		Name: "repair", Usage: "make a damaged log readable", Args: "REMOTE", MaxArgs: 1,
		Description: `Says what can be done about damaged files of the log, and what cannot; with --yes does it. What is
in a segment is read out of it, and listed anew; damaged files are kept below damaged/ in the
backup. What is lost is a hole, which a whole run fills while Kafka has the records.`,
		Flags: append(append([]cli.Flag{
			&cli.BoolFlag{Name: "deep", Usage: "read all segments, too; one that is not what was stored counts as missing"},
			&cli.BoolFlag{Name: "unlisted", Usage: "list objects that nothing lists, even if the log is not damaged"},
			&cli.BoolFlag{Name: "yes", Usage: "repair; without it, repair prints what it would do"},
			command.MaxFrameFlag(),
		}, segment.IdentityFlags()...), signFlags()...),
		Action: func(ctx context.Context, c *cli.Context, env *command.Env) error {
			cfg := RepairConfig{Deep: c.Bool("deep"), Unlisted: c.Bool("unlisted"), Really: c.Bool("yes"), MaxFrame: command.SizeOf(c, "max-frame")}
			var err error
			if cfg.Identities, err = segment.KeysOf(c).Decryption(ctx, env); err != nil {
				return err
			}
			return rewriting(ctx, c, func(st *store.Store, s Signing) error {
				cfg.Signing = s
				return Repair(ctx, st, cfg, env, os.Stdout)
			})
		},
	}
}

// RepairConfig says how to repair.
type RepairConfig struct {
	Deep       bool // read all segments
	Unlisted   bool // list what nothing lists, even where the log is not damaged
	Really     bool
	Identities []age.Identity // of segments that are encrypted
	MaxFrame   int64
	Signing    Signing
}

// DamagedDir is where repair keeps files that cannot be read.
const DamagedDir = "damaged"

// A repair is what can be done about a damaged backup.
type repair struct {
	mend    []string            // files in which one bit is wrong
	aside   []store.Damage      // files that cannot be read
	gone    []store.Damage      // files that tell of others which are not there
	missing []commitlog.Segment // that are listed, and are not there
	found   []commitlog.Segment // that are there, and that nothing lists
	opaque  []Problem           // objects of which it cannot be told what they are
	points  []commitlog.RestorePoint
	// Snapshots of clusters, likewise.
	missingClusters, foundClusters []commitlog.ClusterSnapshot
	open                           error // why runs that go on will not come to a point
}

// Repair says what can be done about a damaged log, and does it if it is told to.
func Repair(ctx context.Context, st *store.Store, cfg RepairConfig, env *command.Env, out io.Writer) error {
	opts := store.LogOptions{SkipDamaged: true, Signed: cfg.Signing.check()}
	r, err := compaction.Read(ctx, st, opts)
	if err != nil {
		return err
	}
	if err := r.MaySign(cfg.Signing.Signs || !cfg.Really); err != nil {
		return err
	}
	fix, err := diagnose(ctx, st, r, cfg)
	if err != nil {
		return err
	}
	if err := fix.print(out); err != nil {
		return err
	}
	switch {
	case fix.nothing():
		if r.Entries() == 0 && len(fix.opaque) == 0 {
			return noBackup(st)
		}
		env.Log.Info(st.Name() + ": there is nothing to repair")
		return nil
	case !cfg.Really:
		env.Log.Info("nothing was changed; --yes does it")
		return nil
	}
	if err := fix.act(ctx, st, r, opts, env); err != nil {
		return command.WithHint(err, "run it again: what was done until now stays valid")
	}
	if fix.lossy() {
		return command.WithHint(command.WithStatus(command.Loss, errors.New("repaired, but what only the damaged files held is lost")),
			"kbk-catalog verify shows the holes; a whole run fills them while Kafka has the records")
	}
	env.Log.Info(st.Name() + " is repaired")
	return nil
}

// diagnose finds out what can be done.
func diagnose(ctx context.Context, st *store.Store, r *compaction.Rewrite, cfg RepairConfig) (*repair, error) {
	fix := &repair{mend: r.Mended, open: r.OpenLost}
	for _, d := range r.Damage {
		if d.Whole {
			fix.gone = append(fix.gone, d)
		} else {
			fix.aside = append(fix.aside, d)
		}
	}
	var err error
	if fix.points, err = r.DropUnreadable(ctx); err != nil {
		return nil, err
	}
	want := make(map[pathKey]int64)
	for seg := range r.Segments() {
		want[keyOf(seg.Path)] = seg.Size
	}
	here := make(map[pathKey]bool)
	var unlisted []string
	err = st.List(ctx, commitlog.TopicsDir, func(path string, size int64) error {
		key := keyOf(path)
		expected, listed := want[key]
		switch {
		case !listed:
			unlisted = append(unlisted, path)
		case size < 0 || size == expected:
			here[key] = true
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for seg := range r.Segments() {
		if !here[keyOf(seg.Path)] {
			fix.missing = append(fix.missing, seg)
			continue
		}
		if !cfg.Deep {
			continue
		}
		if _, err := st.ReadSegment(ctx, seg); store.IsDamage(err) {
			fix.missing = append(fix.missing, seg)
		} else if err != nil {
			return nil, err
		}
	}
	snapshots, err := fix.diagnoseSnapshots(ctx, st, r.State, cfg)
	if err != nil {
		return nil, err
	}
	if len(fix.aside)+len(fix.gone) == 0 && r.Entries() > 0 && !cfg.Unlisted {
		return fix, nil // what is not listed is what a killed run left behind, or one that is under way
	}
	slices.Sort(unlisted)
	opener := segment.NewOpener(cfg.Identities, cfg.MaxFrame)
	for _, path := range slices.Concat(unlisted, snapshots) {
		if cfg.Signing.Signers != nil && !cfg.Signing.Unsigned { // whoever lists it signs for it
			fix.opaque = append(fix.opaque, Problem{"content", path, "nobody has signed for it; --sign-unsigned lists it"})
			continue
		}
		data, err := st.ReadLoose(ctx, path)
		if err != nil && !store.IsDamage(err) {
			return nil, err
		}
		if err == nil {
			err = fix.list(opener, path, data)
		}
		if err != nil {
			fix.opaque = append(fix.opaque, Problem{"content", path, err.Error()})
		}
	}
	sortByAge(fix.found)
	return fix, nil
}

// list finds out what the log would say of an object, and notes it as found.
func (f *repair) list(opener *segment.Opener, path string, data []byte) error {
	if strings.HasPrefix(path, commitlog.ClusterDir+"/") {
		s, err := describeSnapshot(opener, path, data)
		if err == nil {
			f.foundClusters = append(f.foundClusters, s)
		}
		return err
	}
	seg, err := describe(opener, path, data)
	if err == nil {
		f.found = append(f.found, seg)
	}
	return err
}

// describe reads out of an object what the log would say of it.
func describe(opener *segment.Opener, name string, data []byte) (seg commitlog.Segment, err error) {
	codec, cipher, ok := commitlog.Layers(path.Base(name))
	if !ok {
		return seg, errors.New("it is not named like a segment")
	}
	m, err := opener.Describe(codec, cipher, data)
	if err != nil {
		return seg, err
	}
	if seg, err = commitlog.SegmentOf(m, commitlog.WriterOf(name)); err == nil && seg.Path != name {
		err = fmt.Errorf("by its content, it should be %s", seg.Path)
	}
	return seg, err
}

// sortByAge puts incarnations of a topic in the order in which their records were written:
// the log goes by the order in which it speaks of them.
func sortByAge(segments []commitlog.Segment) {
	first := make(map[string]int64) // of an incarnation
	for i := range segments {
		s := &segments[i]
		if t, ok := first[s.TopicID]; !ok || s.MinTimestamp < t {
			first[s.TopicID] = s.MinTimestamp
		}
	}
	slices.SortStableFunc(segments, func(a, b commitlog.Segment) int {
		return cmp.Or(strings.Compare(a.Topic, b.Topic), cmp.Compare(first[a.TopicID], first[b.TopicID]), strings.Compare(a.TopicID, b.TopicID),
			cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.From, b.From))
	})
}

func (f *repair) nothing() bool {
	return len(f.mend)+len(f.aside)+len(f.gone)+len(f.missing)+len(f.found)+len(f.points)+len(f.missingClusters)+len(f.foundClusters) == 0 && f.open == nil
}

// lossy tells whether something is not to be had back.
func (f *repair) lossy() bool {
	return len(f.aside)+len(f.gone)+len(f.missing)+len(f.points)+len(f.opaque)+len(f.missingClusters) > 0 || f.open != nil
}

func (f *repair) print(out io.Writer) error {
	var b strings.Builder
	for _, name := range f.mend {
		fmt.Fprintf(&b, "put back: %s: one bit\n", name)
	}
	for _, d := range f.aside {
		fmt.Fprintf(&b, "set aside: %s: %v\n", d.Name, d.Err)
	}
	for _, d := range f.gone {
		fmt.Fprintf(&b, "lost: %v\n", d.Err)
	}
	for i := range f.found {
		s := &f.found[i]
		fmt.Fprintf(&b, "list: %s: %s, offsets %d to %d of topic id %q\n", s.Path, command.Count(s.Records, "record"), s.From, s.Next-1, s.TopicID)
	}
	for i := range f.foundClusters {
		s := reportSnapshot(&f.foundClusters[i])
		fmt.Fprintf(&b, "list: %s: the cluster at %s: %s\n", f.foundClusters[i].Path, when(s.Time), s.holds())
	}
	for i := range f.missingClusters {
		fmt.Fprintf(&b, "forget: %s: it is not there, or is not what was stored\n", f.missingClusters[i].Path)
	}
	for i := range f.missing {
		fmt.Fprintf(&b, "forget: %s: it is not there, or is not what was stored\n", f.missing[i].Path)
	}
	for _, p := range f.opaque {
		fmt.Fprintf(&b, "leave alone: %s: %s\n", p.What, printable(p.Why))
	}
	for _, p := range f.points {
		fmt.Fprintf(&b, "lost: restore point %s: its file cannot be read\n", p.Entry)
	}
	if f.open != nil {
		fmt.Fprintf(&b, "lost: restore points that runs which have not ended will come to: %v\n", f.open)
	}
	if len(f.aside)+len(f.gone) > 0 {
		b.WriteString("lost: what only these files held: restore points, consumer groups, how to create topics, and offsets that were scanned and hold no record\n")
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// act does it. At every moment of it the backup is as readable as before, or more.
func (f *repair) act(ctx context.Context, st *store.Store, r *compaction.Rewrite, opts store.LogOptions, env *command.Env) error {
	for _, d := range f.aside {
		data, err := st.ReadLoose(ctx, d.Name)
		if store.IsDamage(err) { // it is gone, or not even its bytes are to be had
			continue
		}
		if err == nil {
			_, err = st.WriteFile(ctx, path.Join(DamagedDir, d.Name), data)
		}
		if err != nil {
			return err
		}
	}
	for _, name := range f.mend {
		data, err := st.ReadLoose(ctx, name)
		if err != nil {
			return err
		}
		if original, mended := commitlog.Mended(data); mended {
			if _, err := st.WriteFile(ctx, name, original); err != nil {
				return err
			}
		}
	}
	if err := f.relist(ctx, st, r); err != nil {
		return err
	}
	if !f.lossy() {
		return nil
	}
	// A snapshot takes the place of what is damaged.
	again, err := compaction.Read(ctx, st, opts)
	if err != nil {
		return err
	}
	if _, err := again.DropUnreadable(ctx); err != nil {
		return err
	}
	lost := make(map[string]bool)
	for i := range f.missing {
		lost[f.missing[i].Path] = true
	}
	for i := range f.missingClusters {
		lost[f.missingClusters[i].Path] = true
	}
	again.LoseClusters(func(s *commitlog.ClusterSnapshot) bool { return lost[s.Path] })
	again.LoseSegments(func(s *commitlog.Segment) bool { return lost[s.Path] })
	return again.Write(ctx, nil, env.Log)
}

// listedAtOnce is how many segments an entry of a repair lists.
const listedAtOnce = 1000

// relist writes entries that list what was found.
func (f *repair) relist(ctx context.Context, st *store.Store, r *compaction.Rewrite) error {
	run := commitlog.NewRun()
	backup, seen := cmp.Or(r.ID(), commitlog.NewBackup()), r.Seen()
	for left, clusters := f.found, f.foundClusters; len(left)+len(clusters) > 0; clusters = nil {
		n := min(len(left), listedAtOnce)
		e := &commitlog.Entry{
			Backup: backup, Seen: seen, Tool: "kbk-catalog " + command.Version() + " repair", Filters: []string{},
			Segments: left[:n], ClusterSnapshots: clusters, Final: n == len(left),
		}
		run.Stamp(e, r.After(time.Now()))
		sha, err := st.AppendEntry(ctx, e)
		if err != nil {
			return err
		}
		run.Advance(sha)
		left, seen = left[n:], nil
	}
	return nil
}
