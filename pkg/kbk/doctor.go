package kbk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/pipeline"
	"github.com/kbkio/kbk/pkg/profile"
)

func doctorSpec() command.Spec {
	return command.Spec{
		Name: "doctor", Usage: "test what profiles need, and say what to do", Args: "[PROFILE]", MaxArgs: 1,
		Description: `Looks at the commands, keys, clusters, rights, clocks and the store that a profile needs, or
all profiles. Each line begins with "ok", or says what is wrong and what to do. To try the
store it writes a small object there and deletes it again; nothing else is changed.`,
		Action: func(ctx context.Context, c *cli.Context, env *command.Env) error {
			f, names, err := load(c)
			if err != nil {
				return err
			}
			d := &doctor{ctx: ctx, env: env, out: os.Stdout, file: f, clusters: make(map[string]*clusterFacts)}
			defer d.close()
			d.stages()
			for _, name := range names {
				p, err := f.Profile(name)
				if err != nil {
					return err
				}
				d.profile(p)
			}
			if ctx.Err() != nil || stopped(env) {
				return command.Stopped("not all was tried")
			}
			if d.failed != nil {
				return d.failed
			}
			if d.wrong > 0 {
				return fmt.Errorf("%s wrong: see above", things(d.wrong))
			}
			return nil
		},
	}
}

func (d *doctor) close() {
	for _, f := range d.clusters {
		if f.client != nil {
			f.client.Close()
		}
	}
}

func things(n int) string {
	if n == 1 {
		return "1 thing is"
	}
	return fmt.Sprintf("%d things are", n)
}

// A finding is a line of the doctor's.
type finding struct {
	what string
	do   string // empty: it is as it should be
}

func ok(f string, args ...any) finding { return finding{what: fmt.Sprintf(f, args...)} }

// wrong is a finding for an error, and what to do about it, or else the error's hint.
func wrong(err error, do string) finding {
	if do == "" {
		do = command.HintOf(err)
	}
	if do == "" {
		do = "fix it, then run kbk doctor again"
	}
	return finding{err.Error(), do}
}

// doctor prints findings as they come.
type doctor struct {
	ctx      context.Context
	env      *command.Env
	out      io.Writer
	file     *profile.File
	clusters map[string]*clusterFacts // what was asked for already
	wrong    int
	failed   error // of printing
}

func (d *doctor) say(about string, findings ...finding) {
	for _, f := range findings {
		text := "ok     " + about + ": " + f.what
		if f.do != "" {
			d.wrong++
			text = "wrong  " + about + ": " + f.what + "; " + f.do
		}
		if _, err := fmt.Fprintln(d.out, command.Printable(text)); err != nil && d.failed == nil {
			d.failed = err
		}
	}
}

// commands are those that the pipes of profiles consist of.
var commands = []string{"kbk-fetch", "kbk-filter", "kbk-pack", "kbk-push", "kbk-pull", "kbk-produce", "kbk-offsets", "kbk-cluster", "kbk-catalog"}

// stages looks for the commands, and at their versions.
func (d *doctor) stages() {
	own := command.FullVersion()
	fine := true
	for _, name := range commands {
		path, err := pipeline.Find(name)
		if err != nil {
			d.say("commands", wrong(err, ""))
			fine = false
			continue
		}
		raw, err := exec.CommandContext(d.ctx, path, "--version").Output()
		if err != nil {
			d.say("commands", wrong(fmt.Errorf("%s --version: %w", path, err), "install the commands of kbk again"))
			fine = false
			continue
		}
		if f := sameVersion(path, string(raw), own); f.do != "" {
			d.say("commands", f)
			fine = false
		}
	}
	if fine {
		d.say("commands", ok("all are there, of version %s", own))
	}
}

// sameVersion compares what a command prints of its version, as in "kbk-fetch version
// v0.2.0", with kbk's own.
func sameVersion(path, printed, own string) finding {
	line, _, _ := strings.Cut(printed, "\n")
	_, version, _ := strings.Cut(line, " version ")
	if version == own {
		return ok("%s", path)
	}
	return finding{fmt.Sprintf("%s is of version %s, and kbk of %s", path, version, own), "install all commands from one release"}
}

// profile tries all that a profile needs.
func (d *doctor) profile(p *profile.Profile) {
	b := profile.Builder{File: d.file, Output: []string{"--quiet", "--log-format", "text"}}
	d.say(p.Name+": keys", d.keys(b, p)...)
	d.say(p.Name+": store", d.store(b, p)...)
	source := d.cluster(p.Cluster)
	d.say(p.Name+": cluster "+clusterName(p.Cluster), source.findings...)
	if source.reached {
		d.say(p.Name+": rights to back up", rightsToRead(p, source)...)
	}
	for _, name := range d.targets(p) {
		t, err := d.file.Target(p, name)
		if err != nil {
			d.say(p.Name+": target "+name, wrong(err, ""))
			continue
		}
		facts := d.cluster(t.Cluster)
		about := p.Name + ": target " + name
		d.say(about, facts.findings...)
		if facts.reached {
			d.say(about+": rights to restore", rightsToWrite(t, name == p.Mirror, facts, d.mayCreate(t, source.selected(p)))...)
		}
	}
}

// targets are those that the profile names.
func (d *doctor) targets(p *profile.Profile) []string {
	var names []string
	for name := range p.Targets {
		names = append(names, name)
	}
	if p.Mirror != "" && !slices.Contains(names, p.Mirror) {
		names = append(names, p.Mirror)
	}
	slices.Sort(names)
	return names
}

func clusterName(name string) string {
	if name == "" {
		return "of the section cluster"
	}
	return name
}

// sample is a stream of one record, as a file.
func sample() (*os.File, error) {
	f, err := os.CreateTemp("", "kbk-doctor-")
	if err != nil {
		return nil, err
	}
	os.Remove(f.Name())
	w := format.NewWriter(f)
	err = errors.Join(
		w.WriteHeader(&format.Header{ID: "kbk-doctor", Created: time.Now().UnixMilli(), Content: "records", Source: &format.Source{Tool: "kbk doctor"}}),
		w.WriteRecord(&format.Record{Topic: "kbk-doctor", Value: []byte("a sample")}),
		w.Close(&format.End{Records: 1}))
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	return f, err
}

// keys packs a record as the profile says, and opens it again where it has the identities.
func (d *doctor) keys(b profile.Builder, p *profile.Profile) []finding {
	in, err := sample()
	if err != nil {
		return []finding{wrong(err, "")}
	}
	defer in.Close()
	packed, err := os.CreateTemp("", "kbk-doctor-")
	if err != nil {
		return []finding{wrong(err, "")}
	}
	defer packed.Close()
	os.Remove(packed.Name())
	pack, unpack := b.Keys(p)
	if err := d.try(pack, in, packed); err != nil {
		return []finding{wrong(fmt.Errorf("encrypting a record failed: %w", err), "")}
	}
	for _, name := range []string{p.Sign, p.SignPassphraseFile, p.AllowedSigners} {
		if name == "" {
			continue
		}
		f, err := os.Open(name)
		if err != nil {
			return []finding{wrong(err, "make the file readable for this user")}
		}
		f.Close()
	}
	if _, err := packed.Seek(0, io.SeekStart); err != nil {
		return []finding{wrong(err, "")}
	}
	err = d.try(unpack, packed, nil)
	switch {
	case err == nil:
		return []finding{ok("a record that was packed as in a backup can be opened again")}
	case len(p.Identities) == 0 && p.PassphraseFile == "":
		return []finding{ok("a record can be encrypted; whether it can be opened again was not tried, because the profile has no identities")}
	}
	return []finding{wrong(fmt.Errorf("a record that was packed as in a backup cannot be opened again: %w", err), "the identities must be those of the recipients")}
}

// store asks the command that knows stores.
func (d *doctor) store(b profile.Builder, p *profile.Profile) []finding {
	out, err := os.CreateTemp("", "kbk-doctor-")
	if err != nil {
		return []finding{wrong(err, "")}
	}
	defer out.Close()
	os.Remove(out.Name())
	failed := d.try(b.Check(p), nil, out)
	text, err := readAgain(out)
	if err != nil {
		return []finding{wrong(err, "")}
	}
	var all []finding
	for _, l := range strings.Split(strings.TrimSpace(text), "\n") {
		if l != "" {
			all = append(all, ok("%s", l))
		}
	}
	if failed != nil {
		all = append(all, wrong(failed, ""))
	}
	return all
}

func readAgain(f *os.File) (string, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	b, err := io.ReadAll(f)
	return string(b), err
}

// try runs a stage. Its error is what the stage says on standard error.
func (d *doctor) try(s pipeline.Stage, in, out *os.File) error {
	path, err := pipeline.Find(s.Name)
	if err != nil {
		return err
	}
	said, err := os.CreateTemp("", "kbk-doctor-")
	if err != nil {
		return err
	}
	defer said.Close()
	os.Remove(said.Name())
	cmd := exec.CommandContext(d.ctx, path, s.Args...)
	cmd.Stderr = said
	if in != nil {
		cmd.Stdin = in
	}
	if out != nil {
		cmd.Stdout = out
	}
	if err = cmd.Run(); err == nil {
		return nil
	}
	text, readErr := readAgain(said)
	return messageOf(s.Name, text, errors.Join(err, readErr))
}

// messageOf is the error, with its hint, in what a command has said; or else how it ended.
func messageOf(name, said string, ended error) error {
	var message, hint string
	for _, l := range strings.Split(said, "\n") {
		if m, ok := strings.CutPrefix(l, name+": error: "); ok {
			message = m
		}
		if h, ok := strings.CutPrefix(l, name+": hint: "); ok {
			hint = h
		}
	}
	if message == "" {
		return fmt.Errorf("%s: %w", name, ended)
	}
	return command.WithHint(errors.New(message), hint)
}
