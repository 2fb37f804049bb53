package push

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/kbkio/kbk/pkg/commitlog"
	"github.com/kbkio/kbk/pkg/compaction"
	"github.com/kbkio/kbk/pkg/sign"
	"github.com/kbkio/kbk/pkg/store"
)

// An appender writes the entries of one run. It belongs to the committer.
//
// The first entry says what the run saw of the log when it began, and decides which backup
// it is: where the log has no id yet, the run gives it one. Several runs may do so at
// once, and a store cannot tell who was first. So whoever has given an id looks once more
// behind its first entry: of any two the one that was later finds the other's id, and writes
// that both are one. It looks again behind its last entry, in case that one was killed
// before it could. The id goes into manifest.json before the first entry: there a run finds
// it by name that begins before the store lists that entry.
type appender struct {
	store    *store.Store
	run      *commitlog.Run
	began    *store.Log // as it was when the run began
	manifest bool       // may be written
	backup   string     // its id
	founded  bool       // this run has given it one
	joined   []string   // other ids that it has written to be of the same backup
	own      []string   // files of the entries that it has written
}

// append writes e as the run's next entry, not before now, and returns its hash.
func (a *appender) append(ctx context.Context, e *commitlog.Entry, now time.Time) (sha string, err error) {
	if len(a.own) == 0 {
		if err := a.identify(ctx); err != nil {
			return "", err
		}
		e.Seen, e.Joins = a.began.Seen(), slices.Clone(a.joined)
	}
	e.Backup = a.backup
	a.run.Stamp(e, now)
	if sha, err = a.store.AppendEntry(ctx, e); err != nil {
		return "", err
	}
	a.run.Advance(sha)
	a.own = append(a.own, commitlog.EntryPath(e.ID))
	return sha, nil
}

// identify finds out the id of the backup, or gives it one.
func (a *appender) identify(ctx context.Context) error {
	if a.backup = a.began.ID(); a.backup != "" {
		return nil
	}
	others, err := a.store.BackupIDs(ctx, a.began.Files)
	if err != nil {
		return err
	}
	if len(others) > 0 {
		a.backup = others[0]
		return nil
	}
	if err := a.giveID(ctx); err != nil || !a.manifest {
		return err
	}
	return a.agree(ctx)
}

// giveID gives the backup an id.
func (a *appender) giveID(ctx context.Context) error {
	a.backup, a.founded = commitlog.NewBackup(), true
	if !a.manifest {
		return nil
	}
	return a.store.WriteManifest(ctx, commitlog.NewManifest(a.backup, time.Now()))
}

// agree takes another id for the one that this run has given, if manifest.json has another
// one by now. A third run may have taken this one before, so the first entry says that they
// are one.
func (a *appender) agree(ctx context.Context) error {
	now, err := a.store.BackupIDs(ctx, a.began.Files)
	if err != nil || len(now) == 0 || slices.Contains(now, a.backup) {
		return err
	}
	a.joined = append([]string{a.backup}, now[1:]...)
	a.backup = now[0]
	return nil
}

// joins returns, behind the first and the last entry of a run that gave the backup its id,
// what the next entry has to say: which ids other runs gave it at the same time.
func (a *appender) joins(ctx context.Context, last bool) ([]string, error) {
	if !a.founded || len(a.own) > 1 && !last {
		return nil, nil
	}
	known := commitlog.Files{Entries: slices.Concat(a.began.Files.Entries, a.own), Snapshots: a.began.Files.Snapshots}
	others, err := a.store.BackupIDs(ctx, known)
	others = slices.DeleteFunc(others, func(id string) bool { return id == a.backup || slices.Contains(a.joined, id) })
	a.joined = append(a.joined, others...)
	return others, err
}

// compactBytes is how large the entries of a log may be together before it is compacted:
// every run reads them. Those of a cluster of thousands of topics have a megabyte each.
var compactBytes int64 = 16 << 20

// A compactor folds the log into a snapshot when so many entries, or such large ones, have
// come together.
type compactor struct {
	store   *store.Store
	log     *slog.Logger
	after   int   // entries; 0: never
	entries int   // in the log, that no snapshot stands for
	bytes   int64 // of them, but for those of this run
	key     *sign.Key
	signers sign.Signers
}

func newCompactor(cfg Config, st *store.Store, log *store.Log, to *slog.Logger) *compactor {
	c := &compactor{store: st, log: to, after: cfg.CompactAfter, entries: log.Unfolded, bytes: log.Bytes, key: cfg.Key, signers: cfg.Signers}
	if c.signers == nil && c.key != nil { // a snapshot that is signed stands for nothing that is not
		c.signers = c.key.Signers()
	}
	return c
}

// entry says that there is another entry, and compacts if it is time. Whatever comes of it,
// what the run has stored is safe.
func (c *compactor) entry(ctx context.Context) {
	if c.entries++; c.after == 0 || c.entries < c.after && c.bytes+c.store.Appended() < compactBytes {
		return
	}
	c.entries, c.bytes = 0, -c.store.Appended() // or when as many have come again
	err := c.compact(ctx)
	switch {
	case errors.Is(err, compaction.ErrConcurrent):
		c.log.Debug("the log was not compacted", "why", err)
	case err != nil && ctx.Err() == nil:
		c.log.Warn("the log was not compacted; what this run has stored is safe", "why", err)
	}
}

func (c *compactor) compact(ctx context.Context) error {
	r, err := compaction.Read(ctx, c.store, store.LogOptions{Signed: c.signers.Check()})
	if err != nil {
		return err
	}
	if err := r.MaySign(c.key != nil); err != nil {
		return err
	}
	return r.Write(ctx, nil, c.log)
}
