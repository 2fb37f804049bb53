package catalog

import (
	"context"
	"errors"
	"time"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/compaction"
	"github.com/kbkio/kbk/pkg/store"
)

// Compact folds the log of a backup into a snapshot.
func Compact(ctx context.Context, st *store.Store, s Signing, env *command.Env) error {
	r, err := rewrite(ctx, st, s, env)
	if err != nil {
		return err
	}
	if err := r.MaySign(s.Signs); err != nil {
		return err
	}
	if len(r.Foldable()) == 0 {
		env.Log.Info(st.Name() + ": there is nothing to compact")
		return nil
	}
	return r.Write(ctx, nil, env.Log)
}

// rewrite reads the log for a new snapshot.
func rewrite(ctx context.Context, st *store.Store, s Signing, env *command.Env) (*compaction.Rewrite, error) {
	r, err := compaction.Read(ctx, st, store.LogOptions{Signed: s.check()})
	switch {
	case errors.Is(err, store.ErrUnsigned):
		return nil, command.WithHint(err, "--allowed-signers names the keys of others who may; --sign-unsigned signs for what has no signature")
	case store.IsDamage(err):
		return nil, command.WithHint(err, "kbk-catalog repair shows what can be done")
	case err != nil:
		return nil, err
	case r.Entries() == 0:
		return nil, noBackup(st)
	}
	r.Log.Warn(env.Log)
	return r, nil
}

// check is the [store.LogOptions] Signed of who may rewrite a log.
func (s Signing) check() func(data, signature []byte, at time.Time) error {
	check := s.Signers.Check()
	if check == nil || !s.Unsigned {
		return check
	}
	return func(data, signature []byte, at time.Time) error {
		if signature == nil {
			return nil
		}
		return check(data, signature, at)
	}
}
