package command

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// flagsFirst puts the flags of a command line before its arguments, where package flag
// looks for them. What stands behind -- is arguments.
func flagsFirst(app *cli.App, args []string) []string {
	own, known := min(len(args), 1), app.Flags
	if len(app.Commands) > 0 {
		if len(args) < 2 {
			return args
		}
		command := app.Command(args[1])
		if command == nil {
			return args
		}
		own, known = 2, command.Flags
	}
	rest := args[own:]
	var flags, operands []string
	for i := 0; i < len(rest); i++ {
		arg := rest[i]
		switch {
		case arg == "--":
			operands, i = append(operands, rest[i+1:]...), len(rest)
		case len(arg) < 2 || arg[0] != '-': // - is standard input
			operands = append(operands, arg)
		default:
			flags = append(flags, arg)
			if i++; takesNext(known, arg) && i < len(rest) {
				flags = append(flags, rest[i])
			} else {
				i--
			}
		}
	}
	out := append(slices.Clone(args[:own]), flags...)
	if slices.ContainsFunc(operands, func(s string) bool { return strings.HasPrefix(s, "-") && s != "-" }) {
		out = append(out, "--")
	}
	return append(out, operands...)
}

// takesNext says whether the argument behind a flag is its value.
func takesNext(known []cli.Flag, arg string) bool {
	name := strings.TrimPrefix(strings.TrimPrefix(arg, "-"), "-")
	if strings.Contains(name, "=") {
		return false
	}
	for _, f := range known {
		if slices.Contains(f.Names(), name) {
			doc, ok := f.(cli.DocGenerationFlag)
			return ok && doc.TakesValue()
		}
	}
	return false
}
