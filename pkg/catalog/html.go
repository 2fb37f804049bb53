package catalog

import (
	"context"
	"errors"
	"os"

	"github.com/kbkio/kbk/pkg/partitions"
	"github.com/kbkio/kbk/pkg/store"
)

// HTML writes a page about a backup to a file.
func HTML(ctx context.Context, st *store.Store, m *partitions.Matcher, file string) error {
	_, _, _ = st, m, file
	_ = os.Stdout
	return errors.New("to be written")
}
