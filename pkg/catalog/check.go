package catalog

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/store"
	"github.com/kbkio/kbk/pkg/timespec"
)

func checkSpec() command.Spec {
	return command.Spec{
		Name: "check", Usage: "test whether a remote can hold a backup", Args: "REMOTE", MaxArgs: 1,
		Description: `Writes a small object, reads it, lists it, writes over it, and deletes it, and compares the
store's clock with that of this machine. Each that works is a line on standard output. What
fails is an error, and the exit status is 1.`,
		Action: func(ctx context.Context, c *cli.Context, _ *command.Env) error {
			return with(ctx, c, store.Options{StoreTimes: true}, func(st *store.Store) error { return Check(ctx, st, os.Stdout) })
		},
	}
}

// checkFolder is where the objects are: a folder in which there is nothing else is listed at
// once.
const checkFolder = "check"

// Check tries what backups and kbk-catalog need of a remote. It deletes what it has
// written, if it may, and the folders that it has made.
func Check(ctx context.Context, st *store.Store, out io.Writer) error {
	var id [8]byte
	_, _ = rand.Read(id[:]) // it never fails
	path := checkFolder + "/" + hex.EncodeToString(id[:])
	isNew := !st.HasFolder(ctx, "")
	defer func() {
		st.RemoveFolder(ctx, checkFolder)
		if isNew {
			st.RemoveFolder(ctx, "")
		}
	}()
	if _, err := st.WriteFile(ctx, path, []byte("kbk tries this store")); err != nil {
		return command.WithHint(err, "the user needs the right to write there")
	}
	failed := tryObject(ctx, st, path)
	clock, clockErr := compareClock(ctx, st, path+"-time")
	if err := st.Remove(ctx, []string{path, path + "-time"}); err != nil {
		failed = errors.Join(failed, command.WithHint(fmt.Errorf("%w; %s stays there", err, path), "kbk-catalog prune, compact and repair need the right to delete"))
	} else if failed == nil {
		failed = tryList(ctx, st, path, false)
	}
	if failed != nil {
		return failed
	}
	for _, line := range []string{
		"objects can be written, read, listed, replaced and deleted",
		"listings show at once what was written and deleted: writers see one another by them, and need no locks",
		clock,
	} {
		if line == "" { // it is the error
			break
		}
		if _, printErr := fmt.Fprintln(out, line); printErr != nil {
			return fmt.Errorf("print what was tried: %w", printErr)
		}
	}
	return clockErr
}

// tryObject does all with an object that is there but delete it.
func tryObject(ctx context.Context, st *store.Store, path string) error {
	if err := tryRead(ctx, st, path, "kbk tries this store"); err != nil {
		return err
	}
	if err := tryList(ctx, st, path, true); err != nil {
		return err
	}
	if _, err := st.WriteFile(ctx, path, []byte("kbk has replaced it")); err != nil {
		return command.WithHint(err, "where nothing may be replaced, give kbk-push --no-manifest")
	}
	return tryRead(ctx, st, path, "kbk has replaced it")
}

func tryRead(ctx context.Context, st *store.Store, path, want string) error {
	got, err := st.ReadLoose(ctx, path)
	if err != nil {
		return command.WithHint(err, "the user needs the right to read there")
	}
	if string(got) != want {
		return fmt.Errorf("%s: what is read there is not what was written last", st.Path(path))
	}
	return nil
}

// tryList looks whether an object is listed, as it is to be when it was just written, or
// not when it was just deleted.
func tryList(ctx context.Context, st *store.Store, path string, want bool) error {
	listed := false
	err := st.List(ctx, checkFolder, func(p string, _ int64) error {
		listed = listed || p == path
		return nil
	})
	const hint = "kbk needs a store whose listings are up to date: a run does not know of objects that they do not show"
	switch {
	case err != nil:
		return command.WithHint(err, "the user needs the right to list there")
	case want && !listed:
		return command.WithHint(fmt.Errorf("%s: it was written, and is not listed", st.Path(path)), hint)
	case listed && !want:
		return command.WithHint(fmt.Errorf("%s: it was deleted, and is still listed", st.Path(path)), hint)
	}
	return nil
}

// compareClock says how the store's clock and this machine's are to each other.
func compareClock(ctx context.Context, st *store.Store, path string) (line string, err error) {
	before := time.Now()
	at, known, err := st.StoreTime(ctx, path)
	if err != nil {
		return "", command.WithHint(err, "the user needs the right to write there")
	}
	return clocks(at, known, before, time.Now())
}

// clocks is what to say of a store's clock that was read between two moments; it is an error
// where that and this machine's are too far apart.
func clocks(at time.Time, known bool, before, after time.Time) (line string, err error) {
	if !known {
		return "the store's clock was not compared: the store does not tell its time", nil
	}
	// Many stores tell whole seconds.
	if apart := timespec.Apart(at, before.Truncate(time.Second), after); apart > timespec.MaxApart {
		return "", command.WithHint(fmt.Errorf("the store's clock and that of this machine are %s apart", apart.Round(time.Second)), "let both follow the same time servers (NTP)")
	}
	return fmt.Sprintf("the store's clock and this machine's differ by less than %s", timespec.MaxApart), nil
}
