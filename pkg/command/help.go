package command

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/urfave/cli/v2"
)

// helpWidth is how many columns help takes: those of a terminal that nobody has widened.
const helpWidth = 80

// A FlagGroup is flags that help shows together, under a name.
type FlagGroup struct {
	Name  string
	Flags []string
}

// sharedGroups are those of flags that several commands have. They come after a command's own.
var sharedGroups = []FlagGroup{
	{"Connection", []string{"brokers", "cluster", "X", "command-config"}},
	{"Limits", []string{"max-rate", "max-records", "max-frame", "max-batch", "memory", "timeout"}},
	{"Monitoring", []string{"metrics", "keep-alive", "heartbeat"}},
	{"Output and configuration", []string{"config", "quiet", "verbose", "log-format", "help", "version"}},
}

func init() {
	cli.HelpPrinter = func(w io.Writer, _ string, data any) { fmt.Fprint(w, helpOf(data)) }
}

// helpOf is the help of an application or of one of its commands.
func helpOf(data any) string {
	var b strings.Builder
	switch d := data.(type) {
	case *cli.App:
		heading(&b, d.Name, d.Usage, d.UsageText, d.Description)
		if len(d.Commands) > 0 {
			b.WriteString("\nCommands:\n")
			for _, c := range d.Commands {
				entry(&b, c.Name, c.Usage)
			}
			fmt.Fprintf(&b, "\nRun %s COMMAND --help for the flags of a command.\n", d.Name)
		}
		flagsHelp(&b, groupsOf(d.Metadata), d.Flags, true)
	case *cli.Command:
		heading(&b, d.HelpName, d.Usage, d.UsageText, d.Description)
		flagsHelp(&b, nil, d.Flags, false)
	}
	b.WriteString("\n" + exitStatus)
	return b.String()
}

const groupsKey = "groups"

func groupsOf(metadata map[string]any) []FlagGroup {
	groups, _ := metadata[groupsKey].([]FlagGroup)
	return groups
}

// heading is what comes before the flags: the pipes that the command stands in come first.
func heading(b *strings.Builder, name, usage, synopsis, description string) {
	examples, prose := examplesOf(description)
	b.WriteString(wrap(name+": "+usage, "", ""))
	if len(examples) > 0 {
		b.WriteString("\n")
		for _, line := range examples {
			b.WriteString(pipe(line))
		}
	}
	fmt.Fprintf(b, "\nUsage: %s\n", synopsis)
	for _, p := range prose {
		b.WriteString("\n" + wrap(p, "", ""))
	}
}

// examplesOf takes a description apart: lines that are indented are examples, the others
// are paragraphs.
func examplesOf(description string) (examples, prose []string) {
	for paragraph := range strings.SplitSeq(strings.TrimSpace(description), "\n\n") {
		if strings.HasPrefix(paragraph, "   ") {
			for line := range strings.Lines(paragraph) {
				examples = append(examples, strings.TrimSpace(line))
			}
		} else if paragraph != "" {
			prose = append(prose, paragraph)
		}
	}
	return examples, prose
}

// pipe is an example, broken behind its stages where it is too wide.
func pipe(line string) string {
	const indent = "  "
	stages := strings.SplitAfter(line, " | ")
	out, width := indent, len(indent)
	for i, stage := range stages {
		n := utf8.RuneCountInString(strings.TrimRight(stage, " "))
		if i > 0 && width+n > helpWidth {
			out = strings.TrimRight(out, " ") + "\n" + indent + indent
			width = 2 * len(indent)
		}
		out += stage
		width += utf8.RuneCountInString(stage)
	}
	return strings.TrimRight(out, " ") + "\n"
}

// flagsHelp lists the flags by groups: a command's own, then those that are in no group,
// then those that several commands have.
func flagsHelp(b *strings.Builder, own []FlagGroup, flags []cli.Flag, version bool) {
	grouped := make(map[string]bool)
	for _, g := range slices.Concat(own, sharedGroups) {
		for _, name := range g.Flags {
			grouped[name] = true
		}
	}
	var rest []string
	for _, f := range flags {
		if name := f.Names()[0]; !grouped[name] {
			rest = append(rest, name)
		}
	}
	shown := make(map[string]bool) // by the first group that has it
	for _, g := range slices.Concat(own, []FlagGroup{{"Flags", rest}}, sharedGroups) {
		var text strings.Builder
		for _, name := range g.Flags {
			for _, f := range flags {
				if f.Names()[0] == name && !shown[name] {
					shown[name] = true
					entry(&text, flagNames(f), flagText(f))
				}
			}
			switch {
			case shown[name]:
			case name == "help":
				entry(&text, "-h, --help", "show help")
			case name == "version" && version:
				entry(&text, "-v, --version", "print the version and the commit")
			}
		}
		if text.Len() > 0 {
			b.WriteString("\n" + g.Name + ":\n" + text.String())
		}
	}
}

// flagNames are the names of a flag, short ones first, and its placeholder.
func flagNames(f cli.Flag) string {
	names := slices.Clone(f.Names())
	slices.SortStableFunc(names, func(a, b string) int { return min(len(a), 2) - min(len(b), 2) })
	for i, name := range names {
		names[i] = dashed(name)
	}
	text := strings.Join(names, ", ")
	placeholder, _ := usageOf(f)
	if strings.HasPrefix(placeholder, "[=") { // a flag that may stand alone
		return text + placeholder
	}
	if doc, ok := f.(cli.DocGenerationFlag); ok && doc.TakesValue() {
		text += " " + cmp.Or(placeholder, "VALUE")
	}
	return text
}

// flagText is what help says of a flag, with its default and its variable.
func flagText(f cli.Flag) string {
	_, text := usageOf(f)
	doc, ok := f.(cli.DocGenerationFlag)
	if !ok {
		return text
	}
	if def := strings.Trim(doc.GetDefaultText(), `"`); doc.TakesValue() && def != "" {
		text += " (default: " + def + ")"
	}
	for _, env := range doc.GetEnvVars() {
		text += " [$" + env + "]"
	}
	return text
}

// entry is a name, and what it is beside it, or below it where it is wide.
func entry(b *strings.Builder, name, text string) {
	const column = 26
	first := "  " + name
	if n := utf8.RuneCountInString(first); n <= column-2 {
		first += strings.Repeat(" ", column-n)
	} else {
		b.WriteString(first + "\n")
		first = strings.Repeat(" ", column)
	}
	b.WriteString(wrap(text, first, strings.Repeat(" ", column)))
}

// wrap fills lines with the words of a text: the first one behind first, others behind indent.
func wrap(text, first, indent string) string {
	var b strings.Builder
	line, words := first, 0
	for _, word := range strings.Fields(text) {
		if words > 0 && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > helpWidth {
			b.WriteString(strings.TrimRight(line, " ") + "\n")
			line, words = indent, 0
		}
		if words > 0 {
			line += " "
		}
		line += word
		words++
	}
	return b.String() + strings.TrimRight(line, " ") + "\n"
}

// unknownFlag begins what package flag says of a flag that is not defined.
const unknownFlag = "flag provided but not defined: -"

// wordsOfFlags are flags of every command that people also try as words: kbk help, kbk version.
var wordsOfFlags = []string{"--help", "--version"}

// usageError suggests the flag that may be meant by one that is mistyped, or else gives the hint.
func usageError(flags []cli.Flag, hint string) cli.OnUsageErrorFunc {
	known := append(slices.Clone(wordsOfFlags), "-h", "-v")
	for _, f := range flags {
		for _, n := range f.Names() {
			known = append(known, dashed(n))
		}
	}
	return func(_ *cli.Context, err error, _ bool) error {
		name, ok := strings.CutPrefix(err.Error(), unknownFlag)
		if !ok {
			return WithStatus(Usage, err)
		}
		suggestion := nearestFlag(dashed(name), known)
		err = WithStatus(Usage, errors.New("unknown flag "+dashed(name)+suggestion))
		if suggestion == "" {
			return WithHint(err, hint)
		}
		return err
	}
}

// nearestFlag is Nearest for flags. One letter is like every other letter, so of flags with one
// letter only the other case is suggested.
func nearestFlag(flag string, known []string) string {
	if len(flag) > len("-x") {
		return Nearest(flag, known)
	}
	for _, k := range known {
		if strings.EqualFold(k, flag) {
			return fmt.Sprintf("; did you mean %q?", k)
		}
	}
	return ""
}
