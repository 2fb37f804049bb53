package store

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"github.com/rclone/rclone/fs"
	"github.com/rclone/rclone/fs/fspath"
)

// displayName returns remote without the parameters of a connection string.
func displayName(remote string) string {
	parsed, err := fspath.Parse(remote)
	if err == nil && len(parsed.Config) == 0 {
		return remote
	}
	if err != nil {
		name, _, params := strings.Cut(remote, ",")
		if !params {
			return remote
		}
		return name + ",…"
	}
	return parsed.Name + ",…:" + parsed.Path
}

// secrets returns what replaces the credentials in the connection string remote,
// and in any inside it, wherever rclone or a server repeats them. It is nil when
// there are none.
func secrets(remote string) *strings.Replacer {
	values := secretValues(remote)
	if len(values) == 0 {
		return nil
	}
	// The replacer takes the first that matches: the longest must come first.
	slices.SortFunc(values, func(a, b string) int { return cmp.Compare(len(b), len(a)) })
	var pairs []string
	for _, v := range values {
		pairs = append(pairs, v, "…")
	}
	return strings.NewReplacer(pairs...)
}

func secretValues(remote string) []string {
	parsed, err := fspath.Parse(remote)
	if err != nil {
		return nil
	}
	var backend *fs.RegInfo
	if typ, ok := strings.CutPrefix(parsed.Name, ":"); ok {
		backend, _ = fs.Find(typ)
	}
	var values []string
	for key, value := range parsed.Config {
		values = append(values, secretValues(value)...)
		// Of a remote with a name the type is not known here: then all is secret.
		var opt *fs.Option
		if backend != nil {
			opt = backend.Options.Get(key)
		}
		if opt != nil && !opt.IsPassword && !opt.Sensitive {
			continue
		}
		if len(value) > 2 { // "1" or "no" is no secret, and is in any message
			quoted := strconv.Quote(value)
			values = append(values, value, quoted[1:len(quoted)-1])
		}
	}
	return values
}

// hide takes secrets out of the text of err.
func hide(err error, secrets *strings.Replacer) error {
	if secrets == nil {
		return err
	}
	if text := secrets.Replace(err.Error()); text != err.Error() {
		return &redacted{text, err}
	}
	return err
}

// A redacted error is another whose text had secrets in it.
type redacted struct {
	text string
	err  error
}

func (r *redacted) Error() string { return r.text }
func (r *redacted) Unwrap() error { return r.err }
