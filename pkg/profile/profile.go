// Package profile says what a profile of kbk.yaml is, and which pipes follow from it. It
// runs none of them.
package profile

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/kbkio/kbk/pkg/command"
)

// A File is a configuration file, as [command.ConfigFile], and its profiles.
type File struct {
	*command.ConfigFile
	Path     string // as the stages get it
	profiles map[string]*Profile
}

// A Profile says what is backed up, where to, and how it comes back. What it leaves out the
// stages take from their own sections of the file.
type Profile struct {
	Name          string
	Cluster       string // of the section clusters; empty: the section cluster
	Store         string
	Topics        []string
	ExcludeTopics []string
	Groups        []string
	ExcludeGroups []string

	Filters bool     // the records go through kbk-filter
	Filter  []string // with these flags, beside those of the section

	Snapshots bool     // what the cluster has besides records is backed up, too
	Snapshot  []string // with these flags of kbk-cluster snapshot

	Recipients     []string
	RecipientFiles []string
	Identities     []string
	PassphraseFile string

	Sign               string
	SignPassphraseFile string
	AllowedSigners     string

	Retention []string // flags of kbk-catalog prune; none: nothing is pruned
	Verify    string   // how the backup is verified after each run; see [verification]
	MaxAge    string

	Targets map[string]Target
	Mirror  string // the target that kbk mirror keeps up
}

// A Target is where a backup is restored to.
type Target struct {
	Cluster           string // of the section clusters; empty: the section cluster
	Prefix            string // of the topics' names
	Offsets           string // new or exact; empty: what the section produce says
	ReplicationFactor string
	Groups            bool   // consumer groups are carried over, too
	Config            string // the file that has the cluster; empty: the profile's
}

// Load reads a file.
func Load(path string) (*File, error) {
	config, err := command.ReadConfig(path)
	if err != nil {
		return nil, err
	}
	f := &File{ConfigFile: config, Path: path, profiles: make(map[string]*Profile)}
	if err := f.load(); err != nil {
		return nil, command.Usagef("--config %s: %w", path, err)
	}
	return f, nil
}

func (f *File) load() error {
	var all map[string]yaml.Node
	if err := f.Profiles.Decode(&all); err != nil && f.Profiles.Kind != 0 {
		return fmt.Errorf("profiles: %w", command.YAMLError(err))
	}
	for name, node := range all {
		p := &Profile{Name: name}
		if err := p.decode(&node); err != nil {
			return fmt.Errorf("profiles: %s: %w", name, err)
		}
		if err := f.complete(p); err != nil {
			return fmt.Errorf("profiles: %s: %w", name, err)
		}
		f.profiles[name] = p
	}
	return nil
}

// Profile is a profile by its name.
func (f *File) Profile(name string) (*Profile, error) {
	p, ok := f.profiles[name]
	if !ok {
		err := command.Usagef("%s has no profile %q%s", f.Path, name, command.Nearest(name, f.Names()))
		return nil, command.WithHint(err, "its profiles: "+strings.Join(f.Names(), ", "))
	}
	return p, nil
}

// Names are those of all profiles.
func (f *File) Names() []string { return slices.Sorted(maps.Keys(f.profiles)) }

// entry reads one value of a profile or of what is in it.
type entry func(*yaml.Node) error

func one(to *string) entry {
	return func(n *yaml.Node) error {
		if n.Kind != yaml.ScalarNode {
			return fmt.Errorf("line %d: one value is expected", n.Line)
		}
		*to = n.Value
		return nil
	}
}

func some(to *[]string) entry {
	return func(n *yaml.Node) error {
		*to = []string{} // said, and empty, is not left out
		return read(n, (*command.Values)(to))
	}
}

func yes(to *bool) entry {
	return func(n *yaml.Node) error {
		if n.Decode(to) != nil {
			return fmt.Errorf("line %d: true or false is expected", n.Line)
		}
		return nil
	}
}

// read reads a value. The error has nothing that is in the file.
func read(n *yaml.Node, to any) error {
	if err := n.Decode(to); err != nil {
		return command.YAMLError(err)
	}
	return nil
}

// flags reads flags of a command by their names: a value, several, or true.
func flags(to *[]string) entry {
	return func(n *yaml.Node) error {
		return each(n, func(name string, value *yaml.Node) error {
			var vals command.Values
			if err := read(value, &vals); err != nil {
				return err
			}
			for _, v := range vals {
				*to = append(*to, "--"+name+"="+v)
			}
			return nil
		})
	}
}

// each calls do for each name of a mapping, in the order of the file.
func each(n *yaml.Node, do func(name string, value *yaml.Node) error) error {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: names with values are expected", n.Line)
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if err := do(n.Content[i].Value, n.Content[i+1]); err != nil {
			return err
		}
	}
	return nil
}

// decode reads names with values, all of which must be known.
func decode(n *yaml.Node, known map[string]entry) error {
	return each(n, func(name string, value *yaml.Node) error {
		take, ok := known[name]
		if !ok {
			return fmt.Errorf("%q is not known%s", name, command.Nearest(name, slices.Sorted(maps.Keys(known))))
		}
		if value.Kind == yaml.AliasNode {
			value = value.Alias
		}
		if err := take(value); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	})
}

func (p *Profile) decode(n *yaml.Node) error {
	return decode(n, map[string]entry{
		"cluster":              one(&p.Cluster),
		"store":                one(&p.Store),
		"topics":               some(&p.Topics),
		"exclude-topics":       some(&p.ExcludeTopics),
		"groups":               some(&p.Groups),
		"exclude-groups":       some(&p.ExcludeGroups),
		"filter":               p.decodeFilter,
		"cluster-snapshot":     p.decodeSnapshot,
		"recipients":           some(&p.Recipients),
		"recipients-files":     some(&p.RecipientFiles),
		"identities":           some(&p.Identities),
		"passphrase-file":      one(&p.PassphraseFile),
		"sign":                 one(&p.Sign),
		"sign-passphrase-file": one(&p.SignPassphraseFile),
		"allowed-signers":      one(&p.AllowedSigners),
		"retention":            flags(&p.Retention),
		"verify":               one(&p.Verify),
		"max-age":              one(&p.MaxAge),
		"targets":              p.decodeTargets,
		"mirror":               one(&p.Mirror),
	})
}

func (p *Profile) decodeFilter(n *yaml.Node) error {
	p.Filters = true
	return flags(&p.Filter)(n)
}

// decodeSnapshot reads true, false, or flags of kbk-cluster snapshot.
func (p *Profile) decodeSnapshot(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		return yes(&p.Snapshots)(n)
	}
	p.Snapshots = true
	return flags(&p.Snapshot)(n)
}

func (p *Profile) decodeTargets(n *yaml.Node) error {
	p.Targets = make(map[string]Target)
	return each(n, func(name string, value *yaml.Node) error {
		var t Target
		err := decode(value, map[string]entry{
			"cluster":            one(&t.Cluster),
			"prefix":             one(&t.Prefix),
			"offsets":            one(&t.Offsets),
			"replication-factor": one(&t.ReplicationFactor),
			"groups":             yes(&t.Groups),
		})
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		p.Targets[name] = t
		return nil
	})
}

// complete takes what decides about the pipes, and the profile leaves out, from the sections
// of the commands, and refuses what cannot be.
func (f *File) complete(p *Profile) error {
	fetch := f.Sections["fetch"]
	for name, to := range map[string]*[]string{"topic": &p.Topics, "exclude": &p.ExcludeTopics, "groups": &p.Groups, "exclude-groups": &p.ExcludeGroups} {
		if *to == nil {
			*to = fetch[name]
		}
	}
	if p.Groups == nil {
		p.Groups = []string{"^"}
	}
	if len(f.Sections["filter"]) > 0 { // a mask that is said there is meant
		p.Filters = true
	}
	switch {
	case strings.Trim(p.Name, nameChars) != "" || p.Name == "":
		return fmt.Errorf("a profile's name has letters, digits, dots, dashes and underscores")
	case p.Store == "":
		return fmt.Errorf("it has no store")
	case len(p.Topics) == 0:
		return fmt.Errorf("it has no topics")
	case p.Cluster != "" && f.Clusters[p.Cluster] == nil:
		return fmt.Errorf("cluster: %w", f.noCluster(p.Cluster))
	}
	if option := secretOf(p.Store); option != "" {
		return command.WithHint(fmt.Errorf("store: the connection string has %s, and everybody on the machine can see a command line", option),
			"put it into rclone's configuration, or into a variable such as RCLONE_S3_"+strings.ToUpper(option))
	}
	if _, err := verification(p.Verify, 1); err != nil {
		return err
	}
	for name, t := range p.Targets {
		if t.Cluster != "" && f.Clusters[t.Cluster] == nil {
			return fmt.Errorf("targets: %s: cluster: %w", name, f.noCluster(t.Cluster))
		}
		if t.Offsets != "" && t.Offsets != "new" && t.Offsets != "exact" {
			return fmt.Errorf("targets: %s: offsets: %q is neither new nor exact", name, t.Offsets)
		}
	}
	if p.Mirror != "" {
		if _, err := f.Target(p, p.Mirror); err != nil {
			return fmt.Errorf("mirror: %w", err)
		}
	}
	return nil
}

const nameChars = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"

func (f *File) noCluster(name string) error {
	known := slices.Sorted(maps.Keys(f.Clusters))
	return fmt.Errorf("the section clusters has no %q%s", name, command.Nearest(name, known))
}

// Target is a target of the profile by its name, or else a cluster of the file. Without a
// name it is the cluster that the profile backs up.
func (f *File) Target(p *Profile, name string) (Target, error) {
	if name == "" {
		return Target{Cluster: p.Cluster}, nil
	}
	if t, ok := p.Targets[name]; ok {
		return t, nil
	}
	if _, ok := f.Clusters[name]; ok {
		return Target{Cluster: name}, nil
	}
	known := slices.Concat(slices.Sorted(maps.Keys(p.Targets)), slices.Sorted(maps.Keys(f.Clusters)))
	return Target{}, fmt.Errorf("%q is neither a target of the profile %s nor a cluster of %s%s", name, p.Name, f.Path, command.Nearest(name, known))
}

// secretOf is the option of a connection string that looks like a secret, or "".
func secretOf(remote string) string {
	if !strings.HasPrefix(remote, ":") {
		remote = ":" + remote // NAME,option=value:path
	}
	for _, part := range strings.FieldsFunc(remote, func(r rune) bool { return r == ',' || r == ':' }) {
		name, _, found := strings.Cut(part, "=")
		if !found {
			continue
		}
		for _, word := range []string{"secret", "pass", "token", "credentials", "sas_url", "account_key", "key_pem", "api_key", "application_key"} {
			if strings.Contains(name, word) && !strings.HasSuffix(name, "_file") && !strings.HasSuffix(name, "_command") {
				return name
			}
		}
		if name == "key" {
			return name
		}
	}
	return ""
}
