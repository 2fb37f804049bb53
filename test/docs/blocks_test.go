package docs

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
	"go.yaml.in/yaml/v3"
	"mvdan.cc/sh/v3/syntax"

	"github.com/kbkio/kbk/test/docs/markdown"
)

// documents are all Markdown files of the project.
func documents(t *testing.T) (all []string) {
	t.Helper()
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/*/*.md", "format/*.md", "contrib/*.md", "contrib/*/*.md"} {
		files, err := filepath.Glob("../../" + pattern)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, files...)
	}
	if len(all) < 25 {
		t.Fatalf("only %d documents", len(all))
	}
	return all
}

// TestBlocks checks every block of code in the documents as far as that can be done without
// running it: its syntax, and that the commands of kbk in it have the flags that are given.
// test/e2e, TestDocuments, runs the blocks of sh that are not marked norun.
func TestBlocks(t *testing.T) {
	for _, file := range documents(t) {
		blocks, err := markdown.Blocks(file)
		if err != nil {
			t.Error(err)
			continue
		}
		for i, b := range blocks {
			if (b.NoRun != "" || b.Status != 0) && b.Lang != "sh" {
				t.Errorf("%s: norun and status are for blocks of sh", b.Where())
			}
			switch b.Lang {
			case "sh":
				checkShell(t, b, b.Text)
			case "console":
				checkShell(t, b, typed(b.Text))
			case "crontab":
				checkShell(t, b, crontab(t, b))
			case "ini":
				checkShell(t, b, started(b.Text))
			case "output":
				if i == 0 || blocks[i-1].Lang != "sh" || blocks[i-1].NoRun != "" {
					t.Errorf("%s: no block of sh that is run stands before this output", b.Where())
				}
			case "yaml":
				checkYAML(t, b)
			case "json":
				if !json.Valid([]byte(b.Text)) {
					t.Errorf("%s: this is not JSON", b.Where())
				}
			case "text", "cddl", "abnf", "promql", "hex", "go", "python", "js", "c", "jq": // nothing of a shell
				if strings.HasPrefix(b.Text, "kbk") && b.Lang == "text" {
					if word, _, _ := strings.Cut(b.Text, " "); app(word) != nil {
						t.Errorf("%s: this is a block of sh", b.Where())
					}
				}
			default:
				t.Errorf("%s: the language %q of the block is not known to this test", b.Where(), b.Lang)
			}
		}
	}
}

// typed is what stands behind the prompts of a session, with the lines that go on.
func typed(session string) (lines string) {
	more := false
	for _, line := range strings.Split(session, "\n") {
		if after, ok := strings.CutPrefix(line, "$ "); ok {
			line = after
		} else if !more {
			continue
		}
		lines += line + "\n"
		more = strings.HasSuffix(line, "|") || strings.HasSuffix(line, `\`) || strings.HasSuffix(line, "&&")
	}
	return lines
}

// crontab is the commands of lines of a crontab.
func crontab(t *testing.T, b markdown.Block) (lines string) {
	t.Helper()
	for _, line := range strings.Split(strings.TrimSpace(b.Text), "\n") {
		fields := strings.Fields(line)
		switch {
		case line == "" || strings.HasPrefix(line, "#") || strings.Contains(fields[0], "="):
		case len(fields) < 6:
			t.Errorf("%s: %q is no line of a crontab", b.Where(), line)
		case strings.Contains(strings.ReplaceAll(line, `\%`, ""), "%"):
			t.Errorf("%s: in %q, cron takes the %% for the end of the line", b.Where(), line)
		default:
			lines += strings.ReplaceAll(strings.Join(fields[5:], " "), `\%`, "%") + "\n"
		}
	}
	return lines
}

// started is the commands that a systemd unit starts.
func started(unit string) (lines string) {
	for _, line := range strings.Split(unit, "\n") {
		if name, command, ok := strings.Cut(line, "="); ok && strings.HasPrefix(name, "Exec") {
			lines += command + "\n"
		}
	}
	return lines
}

func checkYAML(t *testing.T, b markdown.Block) {
	t.Helper()
	for d := yaml.NewDecoder(strings.NewReader(b.Text)); ; {
		var v any
		if err := d.Decode(&v); err != nil {
			if err.Error() != "EOF" {
				t.Errorf("%s: %v", b.Where(), err)
			}
			return
		}
	}
}

// checkShell parses a block of shell, and holds the flags of kbk's commands in it to those
// that there are.
func checkShell(t *testing.T, b markdown.Block, text string) {
	t.Helper()
	cmd := exec.Command("bash", "-n")
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%s: bash -n: %v\n%s", b.Where(), err, out)
		return
	}
	tree, err := syntax.NewParser().Parse(strings.NewReader(text), b.File)
	if err != nil {
		t.Errorf("%s: %v", b.Where(), err)
		return
	}
	syntax.Walk(tree, func(node syntax.Node) bool {
		if call, ok := node.(*syntax.CallExpr); ok {
			checkCall(t, b, words(call))
		}
		return true
	})
}

// words is the words of a command, those that the shell replaces as they stand there.
func words(call *syntax.CallExpr) (all []string) {
	for _, w := range call.Args {
		text := w.Lit()
		if text == "" {
			text = "$"
			if len(w.Parts) == 1 {
				switch p := w.Parts[0].(type) {
				case *syntax.SglQuoted:
					text = p.Value
				case *syntax.DblQuoted:
					if len(p.Parts) == 1 {
						if lit, ok := p.Parts[0].(*syntax.Lit); ok {
							text = lit.Value
						}
					}
				}
			} else if lit, ok := w.Parts[0].(*syntax.Lit); ok { // --flag=$(…)
				text = lit.Value
			}
		}
		all = append(all, text)
	}
	return all
}

func app(name string) *cli.App {
	i := slices.IndexFunc(apps, func(a *cli.App) bool { return a.Name == name })
	if i < 0 {
		return nil
	}
	return apps[i]
}

// before are commands that start the one that stands behind them.
var before = []string{"sudo", "exec", "nohup", "time", "timeout", "env", "command"}

func checkCall(t *testing.T, b markdown.Block, argv []string) {
	t.Helper()
	for len(argv) > 0 && (slices.Contains(before, argv[0]) || strings.Contains(argv[0], "=") || strings.HasPrefix(argv[0], "-")) {
		argv = argv[1:]
		if len(argv) > 1 && argv[0] != "" && argv[0][0] >= '0' && argv[0][0] <= '9' { // timeout 10
			argv = argv[1:]
		}
	}
	if len(argv) == 0 || !strings.HasPrefix(filepath.Base(argv[0]), "kbk") {
		return
	}
	name := filepath.Base(argv[0])
	a := app(name)
	if a == nil {
		if strings.HasPrefix(name, "kbk-") && filepath.Ext(name) == "" && !strings.Contains(argv[0], "/") {
			t.Errorf("%s: there is no command %s", b.Where(), name)
		}
		return
	}
	flags, argv := a.Flags, argv[1:]
	if len(a.Commands) > 0 {
		if len(argv) == 0 || argv[0] == "…" || strings.HasPrefix(argv[0], "--help") || strings.HasPrefix(argv[0], "--version") {
			return
		}
		c := a.Command(argv[0])
		if c == nil {
			t.Errorf("%s: %s has no command %s", b.Where(), name, argv[0])
			return
		}
		name, flags, argv = name+" "+c.Name, c.Flags, argv[1:]
	}
	for i := 0; i < len(argv); i++ {
		dashed, _, assigned := strings.Cut(argv[i], "=")
		if dashed == "-" || !strings.HasPrefix(dashed, "-") {
			continue
		}
		f := flagNamed(flags, dashed)
		switch {
		case f != nil:
			if doc, ok := f.(cli.DocGenerationFlag); ok && doc.TakesValue() && !assigned && !optional(f) {
				i++
				if i == len(argv) {
					t.Errorf("%s: %s: %s has no value", b.Where(), name, dashed)
				}
			}
		case dashed == "--help" || dashed == "-h" || dashed == "--version":
		default:
			t.Errorf("%s: %s has no flag %s", b.Where(), name, dashed)
		}
	}
}

// optional says of a flag that it may stand without a value, such as --deep.
func optional(f cli.Flag) bool {
	g, ok := f.(*cli.GenericFlag)
	if !ok {
		return false
	}
	b, ok := g.Value.(interface{ IsBoolFlag() bool })
	return ok && b.IsBoolFlag()
}

func flagNamed(flags []cli.Flag, dashed string) cli.Flag {
	name := strings.TrimLeft(dashed, "-")
	for _, f := range flags {
		if slices.Contains(f.Names(), name) && (len(name) == 1) == (len(dashed) == 2) {
			return f
		}
	}
	return nil
}

// TestLinks wants every relative link of a document to lead to a file that is there, and its
// fragment to a heading.
func TestLinks(t *testing.T) {
	for _, file := range documents(t) {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(raw), -1) {
			target, fragment, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, ":") {
				continue
			}
			to := file
			if target != "" {
				to = filepath.Join(filepath.Dir(file), target)
			}
			page, err := os.ReadFile(to)
			if info, serr := os.Stat(to); serr == nil && info.IsDir() && fragment == "" {
				continue
			}
			if err != nil {
				t.Errorf("%s: the link %s leads nowhere", file, m[1])
			} else if fragment != "" && !slices.Contains(headings(string(page)), fragment) {
				t.Errorf("%s: %s has no heading #%s", file, to, fragment)
			}
		}
	}
}

// TestManExamples checks the commands in the indented blocks of the man pages.
func TestManExamples(t *testing.T) {
	pages, err := filepath.Glob("../../docs/man/*.md")
	if err != nil || len(pages) != len(apps) {
		t.Fatalf("%d pages: %v", len(pages), err)
	}
	checked := 0
	for _, page := range pages {
		for _, b := range indented(t, page) {
			if strings.Contains(b.Text, "kbk") && shellStart.MatchString(b.Text) {
				checkShell(t, b, b.Text)
				checked++
			}
		}
	}
	if checked < 15 {
		t.Errorf("only %d examples", checked)
	}
}

// shellStart is how a block of the man pages begins that is one of shell.
var shellStart = regexp.MustCompile(`^(kbk|zstd|age|ssh-keygen|rclone|export|read|cat|while|for|mkfifo)[ -]`)

// indented is the blocks of code that are indented by four spaces behind an empty line.
func indented(t *testing.T, page string) (all []markdown.Block) {
	t.Helper()
	raw, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var open *markdown.Block
	lines := strings.Split(string(raw), "\n")
	for i, line := range lines {
		text, code := strings.CutPrefix(line, "    ")
		switch {
		case code && open == nil && i > 0 && lines[i-1] == "":
			open = &markdown.Block{File: page, Line: i + 1, Text: text + "\n"}
		case code && open != nil:
			open.Text += text + "\n"
		case open != nil:
			all, open = append(all, *open), nil
		}
	}
	if open != nil {
		all = append(all, *open)
	}
	return all
}

// TestIndex wants every page to be in the index of the documentation.
func TestIndex(t *testing.T) {
	raw, err := os.ReadFile("../../docs/README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, pattern := range []string{"../../docs/*.md", "../../docs/*/*.md"} {
		pages, err := filepath.Glob(pattern)
		if err != nil || len(pages) == 0 {
			t.Fatalf("%s: %d pages, %v", pattern, len(pages), err)
		}
		for _, page := range pages {
			name := strings.TrimPrefix(page, "../../docs/")
			if name != "README.md" && !strings.Contains(string(raw), "]("+name+")") {
				t.Errorf("docs/README.md has no link to %s", name)
			}
		}
	}
}
