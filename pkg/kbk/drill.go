package kbk

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/urfave/cli/v2"
	"go.yaml.in/yaml/v3"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/kafka"
	"github.com/kbkio/kbk/pkg/pipeline"
	"github.com/kbkio/kbk/pkg/profile"
)

func drillSpec() command.Spec {
	return command.Spec{
		Name: "drill", Usage: "restore a backup as a test, and compare every record", Args: "PROFILE", MaxArgs: 1,
		Description: `Restores the backup, reads what was restored, compares every record with the backup, prints
what came of it, and deletes it again. Without --to that is in a broker that kbk itself starts
for the time, on this machine.`,
		Flags: append(restoreFlags(),
			targetFlag("restore to this `TARGET` of the profile, or to this cluster of the section clusters, under names of its own"),
			printFlag()),
		Action: func(ctx context.Context, c *cli.Context, env *command.Env) error {
			p, b, r, err := openRestore(c)
			if err != nil {
				return err
			}
			r.Target.Prefix = scratchPrefix(p.Name)
			if c.String("to") == "" && c.Bool("print") {
				return command.WithHint(command.Usagef("a broker of kbk's own is only there while kbk drill runs"), "give --to TARGET to have the pipes printed")
			}
			d := &drill{env: env, builder: b, profile: p, restore: r}
			if c.Bool("print") {
				return d.print(os.Stdout)
			}
			if c.String("to") == "" {
				stop, err := d.embed()
				if err != nil {
					return err
				}
				defer stop()
			}
			return d.run(ctx, os.Stdout)
		},
	}
}

// scratchPrefix is what the topics of a drill are called by. No two drills share it.
func scratchPrefix(profile string) string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // it never fails
	return "kbk-drill-" + profile + "-" + hex.EncodeToString(b[:]) + "."
}

// A drill restores, compares and cleans up.
type drill struct {
	env     *command.Env
	builder profile.Builder
	profile *profile.Profile
	restore profile.Restore
	own     bool // the target is a broker of its own, and goes with it
}

// embeddedCluster is the name of that broker in a configuration file of its own.
const embeddedCluster = "embedded"

// embed starts a broker, and makes it the target. Its records are in a temporary folder.
func (d *drill) embed() (stop func(), err error) {
	dir, err := os.MkdirTemp("", "kbk-drill-")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(dir)
		}
	}()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.DataDir(filepath.Join(dir, "data")))
	if err != nil {
		return nil, fmt.Errorf("start a broker: %w", err)
	}
	config := filepath.Join(dir, "kbk.yaml")
	text, err := yaml.Marshal(map[string]any{"clusters": map[string]any{embeddedCluster: map[string]string{"bootstrap.servers": strings.Join(cluster.ListenAddrs(), ",")}}})
	if err == nil {
		err = os.WriteFile(config, text, 0o600)
	}
	if err != nil {
		cluster.Close()
		return nil, err
	}
	d.own = true
	d.restore.Target = profile.Target{Cluster: embeddedCluster, Config: config, Prefix: d.restore.Target.Prefix, ReplicationFactor: "1"}
	return func() {
		cluster.Close()
		os.RemoveAll(dir)
	}, nil
}

// print prints what [drill.run] does, for sh.
func (d *drill) print(out io.Writer) error {
	stored, restored := d.restore.Target.Prefix+"stored", d.restore.Target.Prefix+"restored"
	steps := d.builder.Drill(d.profile, d.restore, stored, restored)
	steps = append(steps, pipeline.Step{Stages: []pipeline.Stage{{Name: "diff", Args: []string{stored, restored}}}})
	_, err := fmt.Fprintf(out, "%s# Then delete the topics whose names begin with %s\n", pipeline.Script(steps, pipeline.Called), d.restore.Target.Prefix)
	return err
}

// run returns when what was restored is deleted again, also after a failure or a signal.
func (d *drill) run(ctx context.Context, out io.Writer) (err error) {
	if !d.own {
		defer func() { err = d.after(err, d.clean(context.WithoutCancel(ctx))) }()
	}
	r := &pipeline.Runner{Find: pipeline.Find, Stop: d.env.Stop}
	var digests [3]bytes.Buffer
	var loss error
	for i, step := range d.builder.Drill(d.profile, d.restore, "", "") {
		if stopped(d.env) {
			return command.Stopped("the drill of " + d.profile.Name + " was stopped")
		}
		var to io.Writer
		if i > 0 {
			to = &digests[i]
		}
		got, err := r.Run(ctx, step, to)
		if err == nil {
			err = explain(step.What+" of "+d.profile.Name, got)
		}
		switch status := command.StatusOf(err); {
		case status == command.Interrupted:
			return command.Stopped("the drill of " + d.profile.Name + " was stopped")
		case status == command.Loss:
			loss = err
		case err != nil:
			return err
		}
	}
	if err := report(d.profile.Name, digests[1].String(), digests[2].String(), out); err != nil {
		return err
	}
	return loss
}

// after is the error of a drill that has cleaned up, or could not.
func (d *drill) after(drilled, cleaned error) error {
	if cleaned == nil {
		return drilled
	}
	cleaned = command.WithHint(fmt.Errorf("delete what the drill has restored: %w", cleaned), "delete the topics whose names begin with "+d.restore.Target.Prefix)
	if drilled == nil {
		return cleaned
	}
	d.env.Log.Warn(cleaned.Error(), "hint", command.HintOf(cleaned))
	return drilled
}

// cleanUpTime is how long deleting may take, also after a signal.
const cleanUpTime = 30 * time.Second

// clean deletes the drill's topics, and returns when they are gone from the metadata.
func (d *drill) clean(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, cleanUpTime)
	defer cancel()
	cfg, err := kafka.FromFile(d.builder.File.ConfigFile, d.restore.Target.Cluster, "produce", "kbk", d.env.Log)
	if err != nil {
		return err
	}
	cl, err := kafka.NewClient(ctx, cfg)
	if err != nil {
		return err
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	all, err := adm.ListTopics(ctx)
	if err != nil {
		return err
	}
	var names []string
	for _, name := range all.Names() {
		if strings.HasPrefix(name, d.restore.Target.Prefix) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	deleted, err := adm.DeleteTopics(ctx, names...)
	if err != nil {
		return err
	}
	return deleted.Error()
}

// report compares the digests of what was stored and of what was restored, prints a line
// for each topic, and is an error where they differ.
func report(name, stored, restored string, out io.Writer) error {
	a, err := parseDigests(stored)
	if err != nil {
		return err
	}
	b, err := parseDigests(restored)
	if err != nil {
		return err
	}
	lines, differ := comparison(a, b)
	for _, l := range lines {
		if _, err := fmt.Fprintln(out, l); err != nil {
			return err
		}
	}
	switch {
	case len(a) == 0 && len(b) == 0:
		return errors.New("the drill of " + name + " compared nothing: the backup has no records there")
	case differ > 0:
		return fmt.Errorf("the drill of %s failed: what came back of %s is not what the backup has", name, command.Count(int64(differ), "partition"))
	}
	return nil
}

// comparison has a line for each topic whose partitions are the same, and one for each
// partition that is not.
func comparison(stored, restored map[partition]line) (lines []string, differ int) {
	type total struct {
		partitions, records int64
		same                bool
	}
	all := maps.Clone(stored)
	maps.Copy(all, restored)
	topics := make(map[string]*total)
	for _, at := range slices.SortedFunc(maps.Keys(all), compare) {
		t := topics[at.topic]
		if t == nil {
			t = &total{same: true}
			topics[at.topic] = t
		}
		a, b := stored[at], restored[at]
		t.partitions++
		t.records += a.records
		if a == b {
			continue
		}
		differ++
		t.same = false
		text := fmt.Sprintf("%s/%d: the backup has %s, and %d came back", at.topic, at.number, command.Count(a.records, "record"), b.records)
		if a.records == b.records {
			text = fmt.Sprintf("%s/%d: %s, which are not the same", at.topic, at.number, command.Count(a.records, "record"))
		}
		lines = append(lines, text)
	}
	for _, name := range slices.Sorted(maps.Keys(topics)) {
		if t := topics[name]; t.same {
			lines = append(lines, fmt.Sprintf("%s: all %s in %s came back the same", name, command.Count(t.records, "record"), command.Count(t.partitions, "partition")))
		}
	}
	return lines, differ
}
