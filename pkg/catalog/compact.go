package catalog

import (
	"context"

	"github.com/kbkio/kbk/pkg/command"
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
