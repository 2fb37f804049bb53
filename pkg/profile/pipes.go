package profile

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/pipeline"
)

// A Builder turns profiles into pipes.
type Builder struct {
	File   *File
	Output []string // flags that all stages get, such as --quiet
}

// stage is a command with the configuration file and these arguments. Empty ones are left
// out.
func (b Builder) stage(name string, args ...[]string) pipeline.Stage {
	s := pipeline.Stage{Name: name}
	words := strings.Fields(name) // kbk-catalog prune
	s.Name, s.Args = words[0], words[1:]
	s.Args = append(slices.Clone(s.Args), "--config", b.File.Path)
	s.Args = append(s.Args, b.Output...)
	for _, a := range args {
		s.Args = append(s.Args, a...)
	}
	return s
}

// flag is a flag with each of the values.
func flag(name string, values ...string) []string {
	var out []string
	for _, v := range values {
		if v != "" {
			out = append(out, name, v)
		}
	}
	return out
}

// when is the words, if it is so.
func when(so bool, words ...string) []string {
	if !so {
		return nil
	}
	return words
}

func cluster(name string) []string { return flag("--cluster", name) }

// Backup is a run of kbk backup: the pipe, and what comes when it has ended well. weekday is
// today's.
func (b Builder) Backup(p *Profile, weekday time.Weekday) []pipeline.Step {
	signers := flag("--allowed-signers", p.AllowedSigners)
	sign := slices.Concat(flag("--sign", p.Sign), flag("--sign-passphrase-file", p.SignPassphraseFile))
	stages := []pipeline.Stage{
		b.stage("kbk-catalog cursor", when(p.Filters, "--filtered"), signers, []string{p.Store}),
		b.fetch(p, "-"),
	}
	if p.Filters {
		stages = append(stages, b.stage("kbk-filter", p.Filter))
	}
	stages = append(stages,
		b.pack(p),
		b.stage("kbk-push", sign, signers, []string{p.Store}))
	var steps []pipeline.Step
	if p.Snapshots { // before the records: it then belongs to their restore point
		steps = append(steps, pipeline.Step{What: "the snapshot of the cluster", Out: pipeline.Nowhere, Apart: true, Stages: []pipeline.Stage{
			b.stage("kbk-cluster snapshot", cluster(p.Cluster), p.Snapshot),
			b.pack(p),
			b.stage("kbk-push", sign, signers, []string{p.Store})}})
	}
	steps = append(steps, pipeline.Step{What: "the backup", Stages: stages, Out: pipeline.Nowhere})
	if len(p.Retention) > 0 {
		steps = append(steps, pipeline.Step{What: "the retention", Stages: []pipeline.Stage{
			b.stage("kbk-catalog prune", []string{"--yes"}, p.Retention, sign, signers, []string{p.Store})}})
	}
	if how, _ := verification(p.Verify, weekday); how != nil {
		var keys []string
		if len(how) > 0 { // of --deep
			keys = slices.Concat(flag("-i", p.Identities...), b.passphrase(p))
		}
		steps = append(steps, pipeline.Step{What: "the verification", Stages: []pipeline.Stage{
			b.stage("kbk-catalog verify", how, keys, signers, []string{p.Store})}})
	}
	return steps
}

func (b Builder) pack(p *Profile) pipeline.Stage {
	return b.stage("kbk-pack", flag("-r", p.Recipients...), flag("-R", p.RecipientFiles...), b.passphrase(p))
}

// passphrase encrypts where there are no recipients: the two cannot be mixed.
func (b Builder) passphrase(p *Profile) []string {
	if len(p.Recipients)+len(p.RecipientFiles) > 0 {
		return nil
	}
	return flag("--passphrase-file", p.PassphraseFile)
}

// fetch reads the source of a profile from where a cursor says. Batches are taken where
// nothing has to look into records.
func (b Builder) fetch(p *Profile, from string) pipeline.Stage {
	return b.stage("kbk-fetch", cluster(p.Cluster), flag("-t", p.Topics...), flag("--exclude", p.ExcludeTopics...),
		flag("--groups", p.Groups...), when(len(p.Groups) > 0, flag("--exclude-groups", p.ExcludeGroups...)...),
		flag("--from", from), when(b.batches(p), "--batches"))
}

func (b Builder) batches(p *Profile) bool {
	said := b.File.Sections["fetch"]["batches"]
	return !p.Filters && !slices.Equal(said, command.Values{"false"})
}

// verification is the flags of kbk-catalog verify for what a profile says: log, deep,
// weekday, or a part as --deep takes it; nil where nothing is to be verified.
func verification(how string, weekday time.Weekday) ([]string, error) {
	switch {
	case how == "" || how == "no":
		return nil, nil
	case how == "log":
		return []string{}, nil
	case how == "deep":
		return []string{"--deep"}, nil
	case how == "weekday":
		n := int(weekday) // Sunday is 0, and the last day
		if n == 0 {
			n = 7
		}
		return []string{fmt.Sprintf("--deep=%d/7", n)}, nil
	case part.MatchString(how):
		return []string{"--deep=" + how}, nil
	}
	return nil, fmt.Errorf("verify: %q is not no, log, deep, weekday, or a part such as 5%% or 10GiB", how)
}

var part = regexp.MustCompile(`^([0-9]+/[0-9]+|[0-9.]+%|[0-9.]+ *[kKMGTP]i?B)(@[0-9]+)?$`)

// A Restore says what of a backup comes back, and where.
type Restore struct {
	At     string   // a time; empty: all that is there
	Topics []string // empty: all that are there
	Target Target
}

// unpacked are the stages that read a backup, as batches where that is asked for.
func (b Builder) unpacked(p *Profile, r Restore, batches bool) []pipeline.Stage {
	return []pipeline.Stage{
		b.stage("kbk-pull", flag("--at", r.At), flag("-t", r.Topics...), flag("--allowed-signers", p.AllowedSigners), []string{p.Store}),
		b.unpack(p, batches),
	}
}

func (b Builder) unpack(p *Profile, batches bool) pipeline.Stage {
	recompress := b.File.Sections["pack"]["recompress"] != nil // which does not go with -d
	return b.stage("kbk-pack", []string{"-d"}, b.batchesAs("pack", batches), when(recompress, "--recompress=false"),
		flag("-i", p.Identities...), flag("--passphrase-file", p.PassphraseFile))
}

// batchesAs says whether a command writes batches, whatever its section says.
func (b Builder) batchesAs(section string, on bool) []string {
	if on {
		return []string{"--batches"}
	}
	return when(b.File.Sections[section]["batches"] != nil, "--batches=false")
}

func (b Builder) produce(t Target, more ...[]string) pipeline.Stage {
	return b.of(t).stage("kbk-produce", cluster(t.Cluster), []string{"--create-topics"}, flag("--prefix", t.Prefix), flag("--offsets", t.Offsets),
		flag("--replication-factor", t.ReplicationFactor), slices.Concat(more...))
}

// of is for stages that connect to a target: it may be in a file of its own.
func (b Builder) of(t Target) Builder {
	if t.Config != "" {
		b.File = &File{ConfigFile: new(command.ConfigFile), Path: t.Config}
	}
	return b
}

// Restore is a run of kbk restore.
func (b Builder) Restore(p *Profile, r Restore) []pipeline.Step {
	stages := append(b.unpacked(p, r, true), b.produce(r.Target))
	if r.Target.Groups {
		stages = append(stages, b.stage("kbk-offsets translate"), b.stage("kbk-offsets apply", cluster(r.Target.Cluster)))
	}
	return []pipeline.Step{{What: "the restore", Stages: stages, Out: pipeline.Nowhere}}
}

// Mirror keeps a target the same as the profile's cluster.
func (b Builder) Mirror(p *Profile, t Target) []pipeline.Step {
	names := make([]string, len(p.Topics))
	for i, topic := range p.Topics {
		names[i] = topic
		if !strings.HasPrefix(topic, "^") { // a name may have partitions, as in orders:0,3-5
			names[i], _, _ = strings.Cut(topic, ":")
		}
	}
	fetch := b.fetch(p, "-")
	fetch.Args = append(fetch.Args, "--follow")
	if b.File.Sections["fetch"]["point-every"] == nil {
		fetch.Args = append(fetch.Args, "--point-every", "30s")
	}
	stages := []pipeline.Stage{b.stage("kbk-offsets cursor", cluster(t.Cluster), flag("-t", names...)), fetch}
	if p.Filters {
		stages = append(stages, b.stage("kbk-filter", p.Filter))
	}
	t.Prefix, t.Offsets = "", "exact"
	stages = append(stages, b.produce(t, []string{"--add-partitions"}))
	return []pipeline.Step{{What: "the mirror", Stages: stages, Out: pipeline.Nowhere}}
}

// Status looks at the backup of a profile, and at its cluster.
func (b Builder) Status(p *Profile, more ...string) []pipeline.Step {
	return []pipeline.Step{{What: "the status", Stages: []pipeline.Stage{
		b.stage("kbk-catalog status", cluster(p.Cluster), flag("-t", p.Topics...), flag("--exclude", p.ExcludeTopics...), flag("--max-age", p.MaxAge), flag("--allowed-signers", p.AllowedSigners), more, []string{p.Store})}}}
}

// Keys are the stages that encrypt and decrypt as those of a backup and a restore do.
func (b Builder) Keys(p *Profile) (pack, unpack pipeline.Stage) {
	return b.pack(p), b.unpack(p, false)
}

// Check tries the store.
func (b Builder) Check(p *Profile) pipeline.Stage {
	return b.stage("kbk-catalog check", []string{p.Store})
}

// scratchConfigs keep what a drill restores until it has been compared.
var scratchConfigs = []string{"--topic-config", "cleanup.policy=delete", "--topic-config", "retention.ms=-1", "--topic-config", "retention.bytes=-1"}

// Drill restores into topics whose names begin with the target's prefix, and writes what is
// in the backup and what was restored as digests to two files: [pipeline.Step].Out of the
// second and of the third step.
func (b Builder) Drill(p *Profile, r Restore, stored, restored string) []pipeline.Step {
	r.Target.Offsets, r.Target.Groups = "", false
	digest := func(more ...string) pipeline.Stage {
		return pipeline.Stage{Name: "kbk", Args: append([]string{"digest"}, more...)}
	}
	read := b.of(r.Target).stage("kbk-fetch", cluster(r.Target.Cluster), flag("-t", "^"+regexp.QuoteMeta(r.Target.Prefix)), b.of(r.Target).batchesAs("fetch", false))
	return []pipeline.Step{
		{What: "the restore", Stages: append(b.unpacked(p, r, true), b.produce(r.Target, scratchConfigs)), Out: pipeline.Nowhere},
		{What: "the backup's digests", Stages: append(b.unpacked(p, r, false), digest()), Out: stored},
		{What: "the digests of what was restored", Stages: []pipeline.Stage{read, digest("--prefix", r.Target.Prefix)}, Out: restored},
	}
}
