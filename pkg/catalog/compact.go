package catalog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/dustin/go-humanize"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/commitlog"
	"github.com/kbkio/kbk/pkg/compaction"
	"github.com/kbkio/kbk/pkg/store"
)

// Compact folds the log of a backup into a snapshot. signed says that the store signs
// what it writes to the log.
func Compact(ctx context.Context, st *store.Store, signed bool, env *command.Env) error {
	r, err := rewrite(ctx, st, signed)
	if err != nil {
		return err
	}
	if len(r.Foldable()) == 0 {
		env.Log.Info(st.Name() + ": there is nothing to compact")
		return nil
	}
	return r.Write(ctx, nil, env.Log)
}

// Prune says what r does not keep, and deletes it if really is set.
func Prune(ctx context.Context, st *store.Store, keep commitlog.Retention, really, signed bool, env *command.Env, out io.Writer) error {
	r, err := rewrite(ctx, st, signed || !really)
	if err != nil {
		return err
	}
	gone, points, err := prune(ctx, st, r, keep)
	if err != nil {
		return err
	}
	if err := printGone(gone, points, out); err != nil {
		return err
	}
	var size int64
	for i := range gone {
		size += gone[i].Size
	}
	what := fmt.Sprintf("%s and %s, %s", command.Count(int64(len(points)), "restore point"), command.Count(int64(len(gone)), "segment"), humanize.IBytes(uint64(size)))
	switch {
	case len(gone)+len(points) == 0:
		env.Log.Info(st.Name() + ": there is nothing to prune")
		return nil
	case !really:
		env.Log.Info(what + " would go; --yes deletes them")
		return nil
	}
	if err := r.Write(ctx, gone, env.Log); err != nil {
		return err
	}
	env.Log.Info("deleted " + what)
	return nil
}

// rewrite reads the log for a new snapshot. signed says that what is written is signed.
func rewrite(ctx context.Context, st *store.Store, signed bool) (*compaction.Rewrite, error) {
	r, err := compaction.Read(ctx, st, store.LogOptions{})
	if err != nil {
		return nil, err
	}
	if r.Entries() == 0 {
		return nil, noBackup(st)
	}
	if !signed && len(r.Files.Signatures) > 0 {
		return nil, command.WithHint(command.Usagef("%s: the log is signed", st.Name()), "give --sign KEY: what stands for signed entries is to be signed too")
	}
	return r, nil
}

// prune lets go, in memory, of what is not to be kept.
func prune(ctx context.Context, st *store.Store, r *compaction.Rewrite, keep commitlog.Retention) (gone []commitlog.Segment, dropped []commitlog.RestorePoint, err error) {
	all := r.Points()
	kept, before := keep.Points(all)
	if before.IsZero() {
		return nil, nil, command.WithHint(fmt.Errorf("%s has no restore points to go by", st.Name()), "--older-than goes by the age of records")
	}
	isKept := make(map[string]bool)
	for _, p := range kept {
		isKept[p.Entry] = true
	}
	for _, p := range all {
		if !isKept[p.Entry] {
			dropped = append(dropped, p)
		}
	}
	needs := commitlog.Needs{}
	left := new(bytes.Buffer)
	add, end, err := commitlog.WriteMoments(left)
	if err != nil {
		return nil, nil, err
	}
	seen := 0
	err = r.EachMoment(ctx, func(m *commitlog.Moment) error {
		if !isKept[m.Entry] {
			return nil
		}
		seen++
		needs.Add(m)
		return add(m)
	})
	if err = errors.Join(err, end()); err != nil {
		return nil, nil, err
	}
	if seen < len(isKept) {
		return nil, nil, fmt.Errorf("%w: only %d of %d restore points can be read", commitlog.ErrCorrupt, seen, len(isKept))
	}
	gone = r.Prune(before, needs)
	if len(dropped) > 0 { // all that are left go into one file
		r.ReplaceMoments(left, kept)
	}
	return gone, dropped, nil
}

func printGone(gone []commitlog.Segment, points []commitlog.RestorePoint, out io.Writer) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if len(points) > 0 {
		fmt.Fprintln(table, "RESTORE POINT\tTIME")
		for _, p := range points {
			fmt.Fprintf(table, "%s\t%s\n", p.Entry, when(p.Time))
		}
	}
	if len(points) > 0 && len(gone) > 0 {
		fmt.Fprintln(table)
	}
	if len(gone) > 0 {
		fmt.Fprintln(table, "TOPIC\tPARTITION\tOFFSETS\tSEGMENTS\tSIZE\tNEWEST RECORD")
	}
	for i := 0; i < len(gone); {
		first, size, newest, j := &gone[i], int64(0), gone[i].MaxTimestamp, i
		for ; j < len(gone) && gone[j].Topic == first.Topic && gone[j].TopicID == first.TopicID && gone[j].Partition == first.Partition; j++ {
			size += gone[j].Size
			newest = max(newest, gone[j].MaxTimestamp)
		}
		fmt.Fprintf(table, "%s\t%d\t%d to %d\t%d\t%s\t%s\n", first.Topic, first.Partition, first.From, gone[j-1].Next-1, j-i, humanize.IBytes(uint64(size)), when(newest))
		i = j
	}
	return table.Flush()
}
