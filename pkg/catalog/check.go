package catalog

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/store"
)

func checkSpec() command.Spec {
	return command.Spec{
		Name: "check", Usage: "try whether a remote can hold a backup", Args: "REMOTE", MaxArgs: 1,
		Description: `Writes a small object, reads it, lists it, writes over it, and deletes it. Each that works is a
line on standard output. What fails is an error, and the exit status is 1.`,
		Action: func(ctx context.Context, c *cli.Context, _ *command.Env) error {
			return with(ctx, c, store.Options{}, func(st *store.Store) error { return Check(ctx, st, os.Stdout) })
		},
	}
}

// checkFolder is where the object is: a folder in which there is nothing else is listed at
// once. A disk keeps the folder.
const checkFolder = "check"

// Check tries what backups and kbk-catalog need of a remote. It deletes what it has
// written, if it may.
func Check(ctx context.Context, st *store.Store, out io.Writer) error {
	var id [8]byte
	_, _ = rand.Read(id[:]) // it never fails
	path := checkFolder + "/" + hex.EncodeToString(id[:])
	if _, err := st.WriteFile(ctx, path, []byte("kbk tries this store")); err != nil {
		return command.WithHint(err, "the user needs the right to write there")
	}
	failed := tryObject(ctx, st, path, out)
	if err := st.Remove(ctx, []string{path}); err != nil {
		failed = errors.Join(failed, command.WithHint(fmt.Errorf("%w; %s stays there", err, path), "kbk-catalog prune, compact and repair need the right to delete"))
	}
	if failed != nil {
		return failed
	}
	_, err := fmt.Fprintln(out, "objects can be written, read, listed, replaced and deleted")
	return err
}

// tryObject does all with an object that is there but delete it.
func tryObject(ctx context.Context, st *store.Store, path string, out io.Writer) error {
	got, err := st.ReadLoose(ctx, path)
	if err != nil {
		return command.WithHint(err, "the user needs the right to read there")
	}
	if !bytes.Equal(got, []byte("kbk tries this store")) {
		return fmt.Errorf("%s: what is read there is not what was written", st.Path(path))
	}
	listed := false
	err = st.List(ctx, checkFolder, func(p string, _ int64) error {
		listed = listed || p == path
		return nil
	})
	switch {
	case err != nil:
		return command.WithHint(err, "the user needs the right to list there")
	case !listed:
		return fmt.Errorf("%s: it was written, and is not listed", st.Path(path))
	}
	if _, err := st.WriteFile(ctx, path, []byte("kbk has replaced it")); err != nil {
		return command.WithHint(err, "where nothing may be replaced, give kbk-push --no-manifest")
	}
	return nil
}
