package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/kbkio/kbk/pkg/store/internal/initenv"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/rclone/rclone/fs"
	"github.com/rclone/rclone/fs/accounting"
	"github.com/rclone/rclone/fs/config"
	"github.com/rclone/rclone/fs/config/configfile"
	"github.com/rclone/rclone/fs/fspath"
	"github.com/rclone/rclone/lib/atexit"
)

func init() { initenv.Restore() }

// startRclone makes rclone, which expects to be a program, a library: it gets the
// user's settings, and neither asks, nor logs, nor exits, nor handles signals.
var startRclone = sync.OnceValue(func() error {
	atexit.IgnoreSignals()
	fs.SetLogger(lastWords{})
	if err := fs.GlobalOptionsInit(); err != nil {
		return fmt.Errorf("settings in RCLONE_* variables: %w", err)
	}
	ctx := context.Background()
	ci := fs.GetConfig(ctx)
	ci.AskPassword = false
	ci.LogLevel = fs.LogLevelCritical
	if _, set := os.LookupEnv("RCLONE_LOW_LEVEL_RETRIES"); !set {
		// rclone's default of 10 multiplies with those of a backend's own library: S3
		// takes four minutes to say that nobody listens. The retrier has more patience,
		// and says what it waits for.
		ci.LowLevelRetries = 3
	}
	if _, set := os.LookupEnv("RCLONE_TIMEOUT"); !set {
		// After so long without a byte a request has failed. rclone's default of five minutes
		// is for objects that a store puts together while the client waits; segments are small.
		ci.Timeout = fs.Duration(time.Minute)
	}
	if path, ok := os.LookupEnv("RCLONE_CONFIG"); ok {
		if err := config.SetConfigPath(path); err != nil {
			return fmt.Errorf("RCLONE_CONFIG: %w", err)
		}
	}
	configfile.Install()
	// rclone would exit at a file that it cannot read: look first.
	if err := config.Data().Load(); err != nil && !errors.Is(err, config.ErrorConfigFileNotFound) {
		return fmt.Errorf("rclone's configuration %s: %w", config.GetConfigPath(), err)
	}
	accounting.Start(ctx)
	return nil
})

// lastWords is the handler of rclone's log. Errors come back as errors, so it keeps
// silent, unless rclone is about to end the process and nobody else will say why.
type lastWords struct{}

func (lastWords) Enabled(_ context.Context, level slog.Level) bool {
	return level >= fs.SlogLevelCritical
}

func (lastWords) Handle(_ context.Context, r slog.Record) error {
	_, err := fmt.Fprintln(os.Stderr, "rclone:", r.Message)
	return err
}

func (h lastWords) WithAttrs([]slog.Attr) slog.Handler { return h }
func (h lastWords) WithGroup(string) slog.Handler      { return h }

// newFs makes rclone's view of the folder at remote.
func newFs(ctx context.Context, remote string) (fs.Fs, error) {
	parsed, err := fspath.Parse(remote)
	if err != nil {
		return nil, err
	}
	if parsed.Path != "" && !strings.HasSuffix(remote, "/") {
		// It is a folder. Without the slash S3 is asked whether it is a file, which costs
		// a request, and a refusal of it reads as "is a file".
		remote += "/"
	}
	f, err := fs.NewFs(ctx, remote)
	switch {
	case errors.Is(err, fs.ErrorNotFoundInConfigFile):
		return nil, command.WithHint(fmt.Errorf("no remote of this name in rclone's configuration (%s)", config.GetConfigPath()),
			fmt.Sprintf("set it up there, or in variables such as %s=s3; docs/how-to/back-up-to-s3.md has examples", fs.ConfigToEnv(parsed.Name, "type")))
	case errors.Is(err, fs.ErrorIsFile):
		return nil, errors.New("is a file, not a folder")
	case err != nil:
		return nil, err
	}
	// Without a bucket the folders of a backup would each become one.
	inner := fs.UnWrapFs(f)
	if feat := inner.Features(); feat.BucketBased && !feat.Overlay && inner.Root() == "" {
		return nil, errors.New("names no bucket")
	}
	return f, nil
}
