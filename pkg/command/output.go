package command

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"unicode/utf8"

	"github.com/dustin/go-humanize"
	"github.com/dustin/go-humanize/english"
	"github.com/urfave/cli/v2"
)

// asJSON is how the last error of the process is printed too, after the flags
// that say so are gone.
var asJSON atomic.Bool

func outputFlags() []cli.Flag {
	return []cli.Flag{
		configFlag(),
		&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "print nothing but warnings and errors", EnvVars: []string{"KBK_QUIET"}},
		&cli.BoolFlag{Name: "verbose", Usage: "print more about what is being done", EnvVars: []string{"KBK_VERBOSE"}},
		&cli.StringFlag{Name: "log-format", Value: "text", Usage: "how messages are printed: text or json", EnvVars: []string{"KBK_LOG_FORMAT"}},
	}
}

func newEnv(name string, c *cli.Context) (*Env, error) {
	level := slog.LevelInfo
	switch {
	case c.Bool("quiet"):
		level = slog.LevelWarn
	case c.Bool("verbose"):
		level = slog.LevelDebug
	}
	switch f := c.String("log-format"); f {
	case "text":
	case "json":
		asJSON.Store(true)
	default:
		return nil, Usagef("--log-format %q is neither text nor json", f)
	}
	e := &Env{Name: name, Log: logger(name, os.Stderr, level, asJSON.Load())}
	if level < slog.LevelWarn {
		if !asJSON.Load() {
			e.screen = terminal()
		}
		if e.screen == nil {
			e.heartbeat = heartbeat
		}
	}
	return e, nil
}

func logger(name string, w io.Writer, level slog.Level, json bool) *slog.Logger {
	if json {
		return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level})).With("command", name)
	}
	return slog.New(&textHandler{name: name, level: level, w: w, mu: new(sync.Mutex)})
}

// textHandler prints a message as people expect it of a Unix command:
//
//	kbk-fetch: warning: what happened (where=there)
type textHandler struct {
	name  string
	level slog.Level
	attrs []slog.Attr
	mu    *sync.Mutex
	w     io.Writer
}

func (h *textHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level }

func (h *textHandler) Handle(_ context.Context, r slog.Record) error {
	var b bytes.Buffer
	if h.w == io.Writer(os.Stderr) && terminal() != nil {
		b.WriteString(clearLine)
	}
	b.WriteString(h.name + ": ")
	switch {
	case r.Level >= slog.LevelError:
		b.WriteString("error: ")
	case r.Level >= slog.LevelWarn:
		b.WriteString("warning: ")
	}
	b.WriteString(Printable(r.Message))
	attrs := h.attrs[:len(h.attrs):len(h.attrs)]
	r.Attrs(func(a slog.Attr) bool {
		attrs = append(attrs, a)
		return true
	})
	for i, a := range attrs {
		open := " "
		if i == 0 {
			open = " ("
		}
		v := a.Value.String()
		if strings.ContainsAny(v, " \"\n\r\t") {
			v = strconv.Quote(v)
		}
		v = Printable(v)
		fmt.Fprintf(&b, "%s%s=%s", open, a.Key, v)
	}
	if len(attrs) > 0 {
		b.WriteByte(')')
	}
	b.WriteByte('\n')
	h.mu.Lock()
	defer h.mu.Unlock()
	_, err := h.w.Write(b.Bytes())
	return err
}

func (h *textHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *h
	c.attrs = append(h.attrs[:len(h.attrs):len(h.attrs)], attrs...)
	return &c
}

// WithGroup implements slog.Handler. Messages to people have no groups.
func (h *textHandler) WithGroup(string) slog.Handler { return h }

// Printable is s on one line, and with an escape, as in a Go string, for each character
// that does not show or that a terminal might act on: names come from elsewhere.
func Printable(s string) string {
	harmless := func(r rune) bool { return r == ' ' || strconv.IsPrint(r) }
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }), " ")
	if utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !harmless(r) }) < 0 {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		if harmless(r) && (r != utf8.RuneError || n > 1) {
			b.WriteString(s[:n])
		} else {
			quoted := strconv.Quote(s[:n])
			b.WriteString(quoted[1 : len(quoted)-1])
		}
		s = s[n:]
	}
	return b.String()
}

// Count writes a number of things as messages do: 1 segment, 2,147 records.
func Count(n int64, thing string) string {
	return humanize.Comma(n) + " " + english.PluralWord(int(n), thing, "")
}

// Partitions names partitions as messages do: partition 0; partitions 0, 1, 2, 3, 4 and 7 more.
func Partitions(partitions []int32) string {
	const most = 5
	var names []string
	for _, n := range partitions[:min(len(partitions), most)] {
		names = append(names, strconv.Itoa(int(n)))
	}
	text := "partitions " + strings.Join(names, ", ")
	switch {
	case len(partitions) == 1:
		text = "partition " + names[0]
	case len(partitions) > most:
		text += fmt.Sprintf(" and %d more", len(partitions)-most)
	}
	return text
}
