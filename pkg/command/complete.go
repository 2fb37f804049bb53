package command

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
)

// completeArg, as the first argument, asks a command for what may stand in place of the last
// one, as far as that is typed. The scripts for shells in pkg/kbk/completions do so.
const completeArg = "__complete"

// filesLine tells them that the name of a file may stand there too.
const filesLine = ":files"

// patience is how long a cluster or a store may take to answer: with the start of the command
// a shell waits for less than a second.
const patience = 800 * time.Millisecond

// A Completer says which values there are. The flags and arguments that have been typed are in
// c. It only reads.
type Completer func(ctx context.Context, c *cli.Context) []string

// OneOf is a [Completer] of values that are always the same.
func OneOf(values ...string) Completer {
	return func(context.Context, *cli.Context) []string { return values }
}

// A candidate is what may stand in place of the word that is being typed.
type candidate struct{ word, about string }

// A wish is what the words that are typed leave open.
type wish struct {
	candidates []candidate // flags or commands
	// Where a value is wanted: the flag that it is of and the placeholder that stands for it
	// in help, such as FILE. Of an argument only the latter is known.
	flag, placeholder string
	prefix            string   // stays before each value: --flag=
	typed             string   // the value as far as it is typed
	given             []string // the words of the command line before it that are whole, flags first
}

// wanted decides what the last of the words is to be. The name of the program is not among
// them.
func wanted(app *cli.App, words []string) (w wish) {
	if len(words) == 0 {
		words = []string{""}
	}
	before, last := words[:len(words)-1], words[len(words)-1]
	flags, args := app.Flags, app.ArgsUsage
	w.typed = last
	if len(app.Commands) > 0 {
		if len(before) == 0 {
			for _, c := range app.Commands {
				w.candidates = append(w.candidates, candidate{c.Name, c.Usage})
			}
			if strings.HasPrefix(last, "-") {
				w.candidates = flagCandidates(nil, nil)
			}
			return w
		}
		command := app.Command(before[0])
		if command == nil {
			return w
		}
		w.given = before[:1]
		flags, args, before = command.Flags, command.ArgsUsage, before[1:]
	}
	var operands []string
	defer func() { w.given = append(append(slices.Clip(w.given), "--"), operands...) }()
	onlyOperands, seen := false, make(map[string]bool)
	for i := 0; i < len(before); i++ {
		word := before[i]
		switch {
		case onlyOperands, len(word) < 2, word[0] != '-':
			operands = append(operands, word)
			continue
		case word == "--":
			onlyOperands = true
			continue
		}
		seen[strings.SplitN(strings.TrimLeft(word, "-"), "=", 2)[0]] = true
		if !takesNext(flags, word) {
			w.given = append(slices.Clip(w.given), word)
			continue
		}
		if i++; i == len(before) {
			w.flag, w.placeholder = valueOf(flags, word)
			return w
		}
		w.given = append(slices.Clip(w.given), word, before[i])
	}
	if name, value, ok := strings.Cut(last, "="); ok && !onlyOperands && strings.HasPrefix(last, "-") {
		w.flag, w.placeholder = valueOf(flags, name)
		w.prefix, w.typed = name+"=", value
		return w
	}
	if strings.HasPrefix(last, "-") && !onlyOperands {
		w.candidates = flagCandidates(flags, seen)
		return w
	}
	if fields := strings.Fields(args); len(operands) < len(fields) {
		w.placeholder = strings.Trim(fields[len(operands)], "[]….")
	}
	return w
}

// valueOf is the name of a flag, and the placeholder of its value.
func valueOf(flags []cli.Flag, word string) (name, placeholder string) {
	for _, f := range flags {
		if slices.Contains(f.Names(), strings.TrimLeft(word, "-")) {
			placeholder, _ = usageOf(f)
			return f.Names()[0], placeholder
		}
	}
	return "", ""
}

var quotedName = regexp.MustCompile("`([^`]*)`")

// usageOf is what help says of a flag, and the placeholder in it.
func usageOf(f cli.Flag) (placeholder, usage string) {
	doc, ok := f.(cli.DocGenerationFlag)
	if !ok {
		return "", ""
	}
	if m := quotedName.FindStringSubmatch(doc.GetUsage()); m != nil {
		placeholder = m[1]
	}
	return placeholder, strings.ReplaceAll(doc.GetUsage(), "`", "")
}

// flagCandidates are the flags by their long names. One that is given already is left out,
// unless it may be given again.
func flagCandidates(flags []cli.Flag, seen map[string]bool) []candidate {
	var out []candidate
	for _, f := range flags {
		_, again := f.(cli.DocGenerationSliceFlag)
		if !again && slices.ContainsFunc(f.Names(), func(name string) bool { return seen[name] }) {
			continue
		}
		_, about := usageOf(f)
		out = append(out, candidate{dashed(f.Names()[0]), about})
	}
	return append(out, candidate{"--help", "show help"}, candidate{"--version", "print the version"})
}

func dashed(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}

// complete prints the candidates, a line each, with a tab before what they are.
func complete(app *cli.App, words []string, out io.Writer) error {
	w := wanted(app, words)
	files := false
	if w.candidates == nil {
		var values []string
		values, files = w.values(app)
		for _, v := range values {
			w.candidates = append(w.candidates, candidate{word: v})
		}
	}
	text := bufio.NewWriter(out)
	for _, c := range w.candidates {
		if !strings.HasPrefix(c.word, w.typed) || strings.ContainsAny(c.word, "\t\n") {
			continue
		}
		fmt.Fprint(text, w.prefix+c.word)
		if c.about != "" {
			fmt.Fprint(text, "\t"+c.about)
		}
		fmt.Fprintln(text)
	}
	if files {
		fmt.Fprintln(text, filesLine)
	}
	return text.Flush()
}

// values are those that may stand there, and whether files may.
func (w wish) values(app *cli.App) (values []string, files bool) {
	switch {
	case w.flag == "log-format":
		return []string{"text", "json"}, false
	case w.placeholder == "REMOTE":
		return Remotes(os.Environ(), os.ReadFile), true
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	app.Writer, app.ErrWriter = io.Discard, io.Discard
	answer := make(chan []string, 1)
	go func() { // which is left behind where a library waits whatever its context says
		asked := &question{of: w}
		// What is wrong with the line is said when it is run.
		_ = app.RunContext(context.WithValue(ctx, questionKey{}, asked), append([]string{app.Name}, w.given...))
		answer <- asked.values
	}()
	select {
	case values = <-answer:
	case <-ctx.Done():
	}
	return values, strings.Contains(w.placeholder, "FILE")
}

// AskAnother asks the program at path what may stand behind the last of its arguments, as a
// shell does, and returns the words.
func AskAnother(ctx context.Context, path string, args ...string) []string {
	args = append(append([]string{completeArg}, args...), "")
	out, err := exec.CommandContext(ctx, path, args...).Output()
	if err != nil {
		return nil
	}
	var words []string
	for line := range strings.Lines(string(out)) {
		if line = strings.TrimSuffix(line, "\n"); line != filesLine {
			word, _, _ := strings.Cut(line, "\t")
			words = append(words, word)
		}
	}
	return words
}

// A question goes with the context of an application to its [action], which answers it
// instead of doing its work.
type question struct {
	of     wish
	values []string
}

type questionKey struct{}

// answered answers the question that a context has, if it has one.
func answered(c *cli.Context, s Spec) bool {
	q, ok := c.Context.Value(questionKey{}).(*question)
	if !ok {
		return false
	}
	for _, key := range []string{q.of.flag, q.of.placeholder} {
		if complete := s.Values[key]; complete != nil && key != "" {
			q.values = complete(c.Context, c)
			break
		}
	}
	return true
}

// Remotes are the names of rclone's remotes, with a colon behind each. They are read from
// the environment and from rclone's file by read, without rclone. A file that is encrypted
// shows none.
func Remotes(environ []string, read func(string) ([]byte, error)) []string {
	env := make(map[string]string)
	names := make(map[string]bool)
	for _, kv := range environ {
		key, value, _ := strings.Cut(kv, "=")
		env[key] = value
		if name, ok := strings.CutPrefix(key, "RCLONE_CONFIG_"); ok {
			if name, ok = strings.CutSuffix(name, "_TYPE"); ok && name != "" {
				names[strings.ToLower(name)] = true
			}
		}
	}
	for _, file := range rcloneFiles(env) {
		text, err := read(file)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			line = strings.TrimSpace(line)
			if len(line) > 2 && line[0] == '[' && line[len(line)-1] == ']' {
				names[line[1:len(line)-1]] = true
			}
		}
		break
	}
	out := slices.Sorted(maps.Keys(names))
	for i := range out {
		out[i] += ":"
	}
	return out
}

// rcloneFiles are the files that rclone looks for, in its order.
func rcloneFiles(env map[string]string) []string {
	if file, ok := env["RCLONE_CONFIG"]; ok {
		return []string{file}
	}
	var files []string
	if runtime.GOOS == "windows" {
		files = append(files, filepath.Join(env["APPDATA"], "rclone", "rclone.conf"))
	}
	if dir := env["XDG_CONFIG_HOME"]; dir != "" {
		files = append(files, filepath.Join(dir, "rclone", "rclone.conf"))
	}
	if home := env["HOME"]; home != "" {
		files = append(files, filepath.Join(home, ".config", "rclone", "rclone.conf"), filepath.Join(home, ".rclone.conf"))
	}
	return files
}
