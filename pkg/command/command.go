// Package command is what the kbk commands have in common: how they start and
// end, what they print, the exit statuses, standard input and output, signals,
// and the flags that several of them take.
package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/metrics"
)

// Env is what a command's action gets besides its flags.
type Env struct {
	Name string // the command's name
	Log  *slog.Logger
	// Stop is closed on the first SIGINT or SIGTERM: a source ends its stream
	// properly. The context that goes with it ends on the second.
	Stop <-chan struct{}
	// Counters are what the command counts of its work, for whoever shows it.
	Counters metrics.Counters

	screen    *screen       // where to draw; nil: nowhere
	heartbeat time.Duration // how often to say how it goes where nothing is drawn; 0: never
}

// An Action does a command's work. Its context ends when the command is to stop
// at once.
type Action func(ctx context.Context, c *cli.Context, env *Env) error

// Spec describes one command.
type Spec struct {
	Name        string
	Usage       string // one line
	Args        string // synopsis of the arguments, empty where there are none
	MaxArgs     int
	Description string
	Flags       []cli.Flag
	Groups      []FlagGroup // of the flags, as help shows them
	Action      Action
	// Values says which values there are for a shell that completes a line, by the flag or by
	// the placeholder that help has for them, such as TOPIC. Files and remotes are known.
	// A command of several has those of the whole where it has none of its own.
	Values map[string]Completer
	// Metrics opens the page that --metrics asks for; nil: the command has none.
	Metrics PageOpener
	// Commands makes it a command of several, as git is: kbk-offsets plan. Then it has
	// no arguments, flags and action of its own.
	Commands []Spec
}

const exitStatus = `Exit status:
  0    done
  1    failed
  2    wrong usage or configuration
  3    truncated or corrupt input
  4    done, but with loss, which was reported
  130  interrupted; what was done until then is complete
  141  the command downstream ended early; its status says why
`

// App makes the urfave/cli application of a command.
func App(s Spec) *cli.App {
	app := &cli.App{
		Name:            s.Name,
		Usage:           s.Usage,
		Version:         Version(),
		ArgsUsage:       s.Args,
		UsageText:       synopsis(s.Name, s),
		Description:     s.Description,
		HideHelpCommand: true,
		// A comma is a character like any other in a regular expression.
		DisableSliceFlagSeparator: true,
		Metadata:                  map[string]any{groupsKey: s.Groups},
		ExitErrHandler:            func(*cli.Context, error) {}, // Main prints and exits
	}
	if len(s.Commands) > 0 {
		app.OnUsageError = usageError(nil, "flags stand behind the command: run "+s.Name+" COMMAND --help")
		app.Action = func(c *cli.Context) error {
			hint := "run " + s.Name + " --help"
			names := slices.Clone(wordsOfFlags)
			for _, sub := range s.Commands {
				names = append(names, sub.Name)
			}
			if c.NArg() == 0 {
				return WithHint(WithStatus(Usage, errors.New("no command")), hint)
			}
			return WithHint(WithStatus(Usage, fmt.Errorf("unknown command %q%s", c.Args().First(), Nearest(c.Args().First(), names))), hint)
		}
		var all []cli.Flag // a configuration file has one section for all commands
		own := make([][]cli.Flag, len(s.Commands))
		for i, sub := range s.Commands {
			own[i] = flags(sub)
			all = append(all, own[i]...)
		}
		for i, sub := range s.Commands {
			if sub.Values == nil {
				sub.Values = s.Values
			}
			app.Commands = append(app.Commands, &cli.Command{
				Name:            sub.Name,
				Usage:           sub.Usage,
				ArgsUsage:       sub.Args,
				UsageText:       synopsis(s.Name+" "+sub.Name, sub),
				Description:     sub.Description,
				Flags:           own[i],
				HideHelpCommand: true,
				OnUsageError:    usageError(own[i], "run "+s.Name+" "+sub.Name+" --help"),
				Action:          action(s.Name, sub, own[i], all),
			})
		}
		return app
	}
	app.Flags = flags(s)
	app.OnUsageError = usageError(app.Flags, "run "+s.Name+" --help")
	app.Action = action(s.Name, s, app.Flags, app.Flags)
	return app
}

func synopsis(name string, s Spec) string {
	if len(s.Commands) > 0 {
		return name + " COMMAND [flags]"
	}
	return strings.TrimSpace(name + " [flags] " + s.Args)
}

// flags are a command's own and those that all commands have.
func flags(s Spec) []cli.Flag {
	all := append(s.Flags, outputFlags()...)
	if s.Metrics != nil {
		all = append(all, metricsFlags()...)
	}
	for _, f := range all {
		if b, ok := f.(*cli.BoolFlag); ok {
			b.DisableDefaultText = true // that a switch is off by default goes without saying
		}
	}
	return all
}

// action is what urfave/cli calls for the command s of the program name, which has all
// flags, and the command its own of them.
func action(name string, s Spec, own, all []cli.Flag) cli.ActionFunc {
	return func(c *cli.Context) error {
		if c.NArg() > s.MaxArgs {
			extra := c.Args().Get(s.MaxArgs)
			err := WithStatus(Usage, fmt.Errorf("unexpected argument %q%s", extra, Nearest(extra, wordsOfFlags)))
			return WithHint(err, "run "+c.Command.HelpName+" --help")
		}
		given := givenFlags(c, own)
		if err := fill(c, name, own, all); err != nil {
			return err
		}
		if answered(c, s) {
			return nil
		}
		env, err := newEnv(name, c)
		if err != nil {
			return err
		}
		ctx, stop, release := signals(c.Context, env.Log)
		defer release()
		env.Stop = stop
		page, err := openPage(ctx, c, env, s.Metrics)
		if err != nil {
			return err
		}
		c.Context = context.WithValue(c.Context, logKey{}, env.Log)
		c.Context = context.WithValue(c.Context, givenKey{}, given)
		if page == nil {
			return s.Action(ctx, c, env)
		}
		err = s.Action(page.Context, c, env)
		page.Ended(StatusOf(err))
		return err
	}
}

type givenKey struct{}

// givenFlags are the flags that the command line alone has set, or set to something else
// than the environment has.
func givenFlags(c *cli.Context, flags []cli.Flag) (names []string) {
	for _, f := range flags {
		name := f.Names()[0]
		set := c.IsSet(name)
		if doc, ok := f.(cli.DocGenerationFlag); ok && set {
			set = !slices.ContainsFunc(doc.GetEnvVars(), func(env string) bool { return os.Getenv(env) == fmt.Sprint(c.Value(name)) })
		}
		if set {
			names = append(names, name)
		}
	}
	return names
}

// Given says whether a flag stands on the command line, and does not come from the
// environment or a file.
func Given(c *cli.Context, name string) bool {
	given, _ := c.Context.Value(givenKey{}).([]string)
	return slices.Contains(given, name)
}

type logKey struct{}

// Log is the logger of the command that c is of, for packages whose flags it has.
func Log(c *cli.Context) *slog.Logger {
	if log, ok := c.Context.Value(logKey{}).(*slog.Logger); ok {
		return log
	}
	return slog.New(slog.DiscardHandler)
}

// Main runs app with the process's arguments and exits with its status.
func Main(app *cli.App) {
	os.Exit(run(app, os.Args))
}

func run(app *cli.App, args []string) int {
	if len(args) > 1 && args[1] == completeArg {
		return StatusOf(complete(app, args[2:], os.Stdout))
	}
	lingerer := new(lingerer)
	err := atOnce(app.RunContext(context.WithValue(context.Background(), lingererKey{}, lingerer), flagsFirst(app, args)))
	if err != nil {
		if asJSON.Load() || speaks(err, placeInPipe()) {
			report(app, err)
		}
		fail(app.Name, err)
	}
	lingerer.linger(StatusOf(err))
	return StatusOf(err)
}

// report prints err, and its hint, on standard error.
func report(app *cli.App, err error) {
	log := logger(app.Name, os.Stderr, slog.LevelWarn, asJSON.Load())
	message, hint := said(err), HintOf(err)
	loss, _ := errors.AsType[*lossError](err)
	if asJSON.Load() {
		if hint != "" {
			log = log.With("hint", hint)
		}
		if loss != nil {
			log = log.With("losses", loss.losses)
		}
		if f, ok := errors.AsType[*format.FailError](err); ok {
			log = log.With("failed", f.By, "why", f.Why)
		}
		log.Error(message, "status", StatusOf(err))
		return
	}
	if loss != nil && len(loss.losses) > 1 { // a line each, where a person reads them
		for _, l := range loss.losses {
			log.Warn("lost: " + l)
		}
		message = fmt.Sprintf("%s: see the %d lines above", loss.what, len(loss.losses))
	}
	if StatusOf(err) == Interrupted {
		log.Warn(message)
	} else {
		log.Error(message)
	}
	if hint != "" {
		fmt.Fprintf(os.Stderr, "%s: hint: %s\n", app.Name, Printable(hint))
	}
}

// Stdin returns standard input as a stage reads it. A terminal is refused.
func Stdin() (*os.File, error) {
	if term.IsTerminal(int(os.Stdin.Fd())) {
		return nil, WithHint(WithStatus(Usage, errors.New("standard input is a terminal")),
			"a stream is expected there: put this command behind a pipe, or redirect a file into it")
	}
	growPipe(os.Stdin)
	piped.Store(isPipe(os.Stdin))
	return os.Stdin, nil
}

// Stdout returns standard output as a stage writes it. A terminal is refused: a
// stream is binary.
func Stdout() (*os.File, error) {
	if StdoutIsTerminal() {
		return nil, WithHint(WithStatus(Usage, errors.New("standard output is a terminal")),
			"the stream is binary: pipe it into the next command, or redirect it into a file")
	}
	growPipe(os.Stdout)
	outPiped.Store(isPipe(os.Stdout))
	return os.Stdout, nil
}

// Text returns standard output for what people may read.
func Text() *os.File {
	growPipe(os.Stdout)
	return os.Stdout
}

// StdoutIsTerminal says whether a person would see what is written to standard output.
func StdoutIsTerminal() bool { return term.IsTerminal(int(os.Stdout.Fd())) }

// ByProduct returns where a command writes what is of use to the next one, but not
// why it was called: the file, if one is named, else standard output, but nowhere
// if that is a terminal.
func ByProduct(file string) (io.WriteCloser, error) {
	if file != "" {
		if info, err := os.Stat(file); err == nil && info.Mode()&os.ModeNamedPipe != 0 {
			p := &fifo{name: file}
			return p, p.open()
		}
		return os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o666)
	}
	if StdoutIsTerminal() {
		return nowhere{io.Discard}, nil
	}
	growPipe(os.Stdout)
	return os.Stdout, nil
}

type nowhere struct{ io.Writer }

// Close implements io.Closer.
func (nowhere) Close() error { return nil }
