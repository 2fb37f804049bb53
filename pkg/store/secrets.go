package store

import (
	"cmp"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/rclone/rclone/fs"
	"github.com/rclone/rclone/fs/config/obscure"
	"github.com/rclone/rclone/fs/fspath"
)

// DisplayName is [Store.Name] of a remote that is not open yet: remote without the parameters of a connection string.
func DisplayName(remote string) string {
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

// secrets returns what replaces the credentials of remote, and of any remotes that it
// is made of, wherever rclone or a server repeats them: those in a connection string,
// in rclone's configuration and in RCLONE_* variables. It is nil when there are none.
func secrets(remote string) *strings.Replacer {
	values := secretValues(remote, 0)
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

// maxNesting bounds how deep remotes are looked for in remotes: one may name itself.
const maxNesting = 8

func secretValues(remote string, depth int) []string {
	parsed, err := fspath.Parse(remote)
	if err != nil || parsed.Name == "" || depth > maxNesting {
		return nil
	}
	var values []string
	note := func(value string, secret bool) {
		values = append(values, secretValues(value, depth+1)...)
		// The remotes that union and combine are made of: a:x folder=b:y
		if words := strings.Fields(value); len(words) > 1 || strings.Contains(value, "=") {
			for _, w := range words {
				_, behind, _ := strings.Cut(w, "=")
				values = append(values, secretValues(w, depth+1)...)
				values = append(values, secretValues(behind, depth+1)...)
			}
		}
		if !secret {
			return
		}
		forms := []string{value}
		if plain, err := obscure.Reveal(value); err == nil { // as rclone keeps passwords
			forms = append(forms, plain)
		}
		for _, f := range forms {
			if len(f) > 2 { // "1" or "no" is no secret, and is in any message
				quoted := strconv.Quote(f)
				values = append(values, f, quoted[1:len(quoted)-1])
			}
		}
	}
	backend, _, _, settings, err := fs.ConfigFs(remote)
	if err != nil {
		backend = nil
	}
	for key, value := range parsed.Config {
		// Of a remote that is not known the type is not either: then all is secret.
		var opt *fs.Option
		if backend != nil {
			opt = backend.Options.Get(key)
		}
		note(value, opt == nil || isSecret(opt))
	}
	if backend == nil {
		return values
	}
	for i := range backend.Options {
		opt := &backend.Options[i]
		if value, ok := settings.Get(opt.Name); ok && value != "" {
			note(value, isSecret(opt))
		}
	}
	return values
}

// isSecret tells whether an option of a backend holds a credential. rclone also marks
// who and where as sensitive: without them few messages would help.
func isSecret(opt *fs.Option) bool {
	switch opt.Name {
	case "host", "port", "user", "domain", "region", "key_file", "service_account_file":
		return opt.IsPassword
	}
	return opt.IsPassword || opt.Sensitive
}

// What URLs carry may be made for one request, and is in no setting.
var (
	userInfo  = regexp.MustCompile(`(://[^/\s:@]*:)[^/\s@]+@`)
	signature = regexp.MustCompile(`(?i)([?&](?:sig|[a-z_-]*(?:signature|credential|token|key))=)[^&\s"']+`)
)

// rulers are what Azure's library draws between the lines of an error.
var rulers = regexp.MustCompile(`\s*-{20,}\s*`)

// hide takes secrets out of the text of err, and what is no text at all.
func hide(err error, secrets *strings.Replacer) error {
	text := err.Error()
	if secrets != nil {
		text = secrets.Replace(text)
	}
	text = userInfo.ReplaceAllString(text, "${1}…@")
	text = signature.ReplaceAllString(text, "${1}…")
	text = strings.TrimSuffix(rulers.ReplaceAllString(text, ": "), ": ")
	if text == err.Error() {
		return err
	}
	return &redacted{text, err}
}

// A redacted error is another with another text: without the secrets in it, or in a user's words.
type redacted struct {
	text string
	err  error
}

func (r *redacted) Error() string { return r.text }
func (r *redacted) Unwrap() error { return r.err }
