package command

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
	"github.com/xrash/smetrics"
	"go.yaml.in/yaml/v3"
)

// ClusterSection is the section of a configuration file that says how to reach the
// cluster.
const ClusterSection = "cluster"

// clustersSection has other clusters by their names, and profilesSection what the command
// kbk reads.
const (
	clustersSection = "clusters"
	profilesSection = "profiles"
)

// sections are those that a configuration file may have beside these two: the cluster's,
// and one for each command.
var sections = []string{ClusterSection, "fetch", "filter", "pack", "push", "pull", "produce", "offsets", clusterCommand, "catalog", "import"}

// clusterCommand is the command whose section would have the name of the cluster's; it has its own
// whole name instead.
const clusterCommand = "kbk-cluster"

// sectionOf is the section of a command.
func sectionOf(app string) string {
	if app == clusterCommand {
		return app
	}
	return strings.TrimPrefix(app, "kbk-")
}

func configFlag() cli.Flag {
	return &cli.StringFlag{Name: "config", Usage: "read values that are not set here from `FILE`, in YAML", EnvVars: []string{"KBK_CONFIG"}}
}

// A ConfigFile is what a file of --config says.
type ConfigFile struct {
	Sections map[string]map[string]Values // by section and name
	Clusters map[string]map[string]Values // by the cluster's name and that of the property
	Profiles yaml.Node                    // the section of that name, for the command kbk
}

// Values are one value or several.
type Values []string

// UnmarshalYAML reads a scalar as it is written, or a list of them.
func (v *Values) UnmarshalYAML(n *yaml.Node) error {
	list := []*yaml.Node{n}
	if n.Kind == yaml.SequenceNode {
		list = n.Content
	}
	for _, n := range list {
		if n.Kind != yaml.ScalarNode {
			return fmt.Errorf("line %d: neither a value nor a list of values", n.Line)
		}
		*v = append(*v, n.Value)
	}
	return nil
}

// configFile is the file that --config or KBK_CONFIG names; without one, an empty one.
func configFile(c *cli.Context) (*ConfigFile, error) {
	name := c.String("config")
	if name == "" {
		return new(ConfigFile), nil
	}
	return ReadConfig(name)
}

// ReadConfig reads a file as --config names it.
func ReadConfig(name string) (*ConfigFile, error) {
	f, err := readConfig(name)
	if err != nil {
		return nil, WithStatus(Usage, fmt.Errorf("--config %s: %w", name, err))
	}
	return f, nil
}

func readConfig(name string) (*ConfigFile, error) {
	r, err := os.Open(name)
	if err != nil {
		return nil, errors.Unwrap(err) // the name is said
	}
	defer r.Close()
	return decodeConfig(r)
}

func decodeConfig(r io.Reader) (*ConfigFile, error) {
	var raw map[string]yaml.Node
	if err := yaml.NewDecoder(r).Decode(&raw); err != nil && !errors.Is(err, io.EOF) {
		return nil, YAMLError(err)
	}
	f := &ConfigFile{Sections: make(map[string]map[string]Values)}
	for _, name := range slices.Sorted(maps.Keys(raw)) {
		node := raw[name]
		var err error
		switch {
		case name == profilesSection:
			f.Profiles = node
		case name == clustersSection:
			err = node.Decode(&f.Clusters)
		case slices.Contains(sections, name):
			var section map[string]Values
			err = node.Decode(&section)
			f.Sections[name] = section
		default:
			known := slices.Concat(sections, []string{clustersSection, profilesSection})
			return nil, fmt.Errorf("section %q is not known%s", name, Nearest(name, known))
		}
		if err != nil {
			return nil, YAMLError(err)
		}
	}
	return f, nil
}

// quoted is what YAML's messages quote of the file: it may be a password.
var quoted = regexp.MustCompile("`[^`]*`|'[^']*'|\"[^\"]*\"")

// YAMLError says what is wrong with a file, and where, and nothing that is in it.
func YAMLError(err error) error {
	var types *yaml.TypeError
	if errors.As(err, &types) && len(types.Errors) > 0 {
		if line, _, ok := strings.Cut(types.Errors[0], ": cannot unmarshal"); ok {
			return fmt.Errorf("%s: neither a section nor a name with a value", line)
		}
		err = errors.New(types.Errors[0])
	}
	text := strings.ReplaceAll(strings.TrimPrefix(err.Error(), "yaml: "), "\n", " ")
	return errors.New(quoted.ReplaceAllString(text, "…"))
}

// Section is a section of the configuration file as it stands there; of a list the last
// value counts. Without a file it is empty.
func Section(c *cli.Context, name string) (map[string]string, error) {
	f, err := configFile(c)
	if err != nil {
		return nil, err
	}
	return Last(f.Sections[name]), nil
}

// Cluster is the section of a cluster that has a name, in the same way. One that is not
// in the file is an error.
func Cluster(c *cli.Context, name string) (map[string]string, error) {
	f, err := configFile(c)
	if err != nil {
		return nil, err
	}
	properties, ok := f.Clusters[name]
	switch {
	case c.String("config") == "":
		return nil, Usagef("--cluster %s: there is no --config file that has it", name)
	case !ok:
		return nil, Usagef("--cluster %s: %s has no cluster of that name%s", name, c.String("config"), Nearest(name, slices.Sorted(maps.Keys(f.Clusters))))
	}
	return Last(properties), nil
}

// Last has of each name of a section the last value.
func Last(section map[string]Values) map[string]string {
	out := make(map[string]string)
	for key, v := range section {
		if len(v) > 0 {
			out[key] = v[len(v)-1]
		}
	}
	return out
}

// fill gives the flags that were not given on the command line their values from the
// environment, KBK_FETCH_TIMEOUT for --timeout of kbk-fetch, and from the file. The file
// may have others of all the flags there are.
func fill(c *cli.Context, app string, flags, all []cli.Flag) error {
	section := sectionOf(app)
	f := new(ConfigFile)
	if slices.Contains(sections, section) {
		var err error
		if f, err = configFile(c); err != nil {
			return err
		}
	}
	given := f.Sections[section]
	var names []string
	for _, flag := range all {
		names = append(names, flag.Names()[0])
	}
	for _, flag := range flags {
		name := flag.Names()[0]
		if c.IsSet(name) || name == "help" || name == "version" || name == "config" {
			continue
		}
		vals, from := given[name], fmt.Sprintf("--config %s: %s: %s", c.String("config"), section, name)
		env := "KBK_" + strings.ToUpper(strings.ReplaceAll(strings.TrimPrefix(app, "kbk-")+"_"+name, "-", "_"))
		if v, ok := os.LookupEnv(env); ok {
			vals, from = Values{v}, env
		}
		for _, v := range vals {
			if err := c.Set(name, v); err != nil {
				return Usagef("%s: %w", from, err)
			}
		}
	}
	for name := range given {
		if !slices.Contains(names, name) {
			return Usagef("--config %s: %s: %q is not known%s", c.String("config"), section, name, Nearest(name, names))
		}
	}
	return nil
}

// Nearest is a suggestion for an error about a name: "; did you mean x?", or nothing
// where none of the known ones is like it.
func Nearest(name string, known []string) string {
	best, distance := "", min(len(name)/2, 4)+1
	for _, k := range known {
		if d := smetrics.WagnerFischer(name, k, 1, 1, 1); d < distance {
			best, distance = k, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", best)
}
