package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/cluster/registry"
	"github.com/kbkio/kbk/pkg/command"
)

// schemaIDs says which ids the schemas have in the target, where they are others than in the
// snapshot: the records still have those. It writes them for kbk-filter, a file for each context.
func (l *live) schemaIDs(ctx context.Context, cfg ApplyConfig, p *planned, log *slog.Logger) error {
	if !slices.Contains(p.kinds, format.ClusterSchemas) {
		return nil
	}
	now, err := registry.Read(ctx, l.registry)
	if err != nil {
		return fmt.Errorf("look at the ids of schemas: %w", err)
	}
	ids, missing := registry.IDs(registry.Of(p.want), now)
	for _, what := range missing {
		log.Warn(what)
	}
	var files []error
	for _, name := range slices.Sorted(maps.Keys(ids)) {
		file := cfg.SchemaIDs
		if name != "." {
			file += "." + name
		}
		if cfg.SchemaIDs != "" {
			files = append(files, os.WriteFile(file, []byte(registry.FormatIDs(ids[name])), 0o666))
			log.Info(fmt.Sprintf("%s in the target: %s lists them for kbk-filter --schema-id-map", command.Count(int64(len(ids[name])), "schema id")+" differ", file))
		}
	}
	switch err := errors.Join(files...); {
	case err != nil:
		return err
	case len(missing) > 0:
		return command.WithStatus(command.Loss, fmt.Errorf("done, but %s not in the target", command.Count(int64(len(missing)), "schema id")))
	case len(ids) > 0 && cfg.SchemaIDs == "":
		return command.WithHint(command.WithStatus(command.Loss, errors.New("done, but schemas have other ids in the target, and records have the old ones")),
			"run it again with --schema-ids FILE, and restore the records through kbk-filter --schema-id-map FILE")
	}
	return nil
}
