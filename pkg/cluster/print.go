package cluster

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/cluster/change"
	"github.com/kbkio/kbk/pkg/command"
)

var actions = map[change.Action]string{change.Add: "add", change.Alter: "alter", change.Remove: "remove"}

// colours of actions, on a terminal.
var colours = map[change.Action]string{change.Add: "\x1b[32m", change.Alter: "\x1b[33m", change.Remove: "\x1b[31m"}

// printChanges shows changes by kind, with how many there are at the end.
func printChanges(out io.Writer, changes []change.Change) error {
	f, ok := out.(*os.File)
	coloured := ok && term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	w := bufio.NewWriter(out)
	kind := ""
	for _, c := range changes {
		if c.Kind != kind {
			kind = c.Kind
			fmt.Fprintln(w, kind)
		}
		text := line(c)
		if coloured {
			text = colours[c.Action] + text + "\x1b[0m"
		}
		fmt.Fprintln(w, "  "+text)
	}
	fmt.Fprintln(w, summary(changes))
	return w.Flush()
}

// line is a change for people.
func line(c change.Change) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%c %s", c.Action, command.Printable(c.Name))
	var details []string
	for _, d := range c.Details {
		details = append(details, detail(c.Action, d, len(c.Details) > 1))
	}
	if len(details) > 0 {
		b.WriteString("  " + strings.Join(details, "; "))
	}
	if c.Lacks != "" {
		b.WriteString("  (cannot be applied: " + command.Printable(c.Lacks) + ")")
	}
	return b.String()
}

func detail(a change.Action, d change.Detail, named bool) string {
	show := func(v *string) string {
		if v == nil {
			return "(not shown)"
		}
		return command.Printable(*v)
	}
	text := ""
	switch a {
	case change.Add:
		text = show(d.After)
	case change.Remove:
		text = show(d.Before)
	default:
		text = show(d.Before) + " → " + show(d.After)
	}
	if named {
		text = command.Printable(d.Field) + ": " + text
	}
	return text
}

// summary counts changes.
func summary(changes []change.Change) string {
	n := make(map[change.Action]int64)
	var lacking int64
	for _, c := range changes {
		if c.Lacks != "" {
			lacking++
		} else {
			n[c.Action]++
		}
	}
	if len(changes) == 0 {
		return "no differences"
	}
	text := fmt.Sprintf("%d to add, %d to change, %d that the snapshot does not have", n[change.Add], n[change.Alter], n[change.Remove])
	if lacking > 0 {
		text += fmt.Sprintf(", %d that cannot be applied", lacking)
	}
	return text
}

// printJSON writes changes as JSON, one a line.
func printJSON(out io.Writer, changes []change.Change) error {
	type field struct {
		Field  string  `json:"field"`
		Before *string `json:"before"`
		After  *string `json:"after"`
	}
	w := bufio.NewWriter(out)
	e := json.NewEncoder(w)
	for _, c := range changes {
		row := struct {
			Kind    string      `json:"kind"`
			Action  string      `json:"action"`
			Name    string      `json:"name"`
			ACL     *format.ACL `json:"acl,omitempty"`
			Details []field     `json:"details,omitempty"`
			Lacks   string      `json:"lacks,omitempty"`
		}{c.Kind, actions[c.Action], c.Name, nil, nil, c.Lacks}
		for _, f := range []format.Encoder{c.Before, c.After} {
			if a, ok := f.(*format.ACL); ok {
				row.ACL = a
			}
		}
		for _, d := range c.Details {
			row.Details = append(row.Details, field{d.Field, d.Before, d.After})
		}
		if err := e.Encode(row); err != nil {
			return err
		}
	}
	return w.Flush()
}
