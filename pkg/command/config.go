package command

import (
	"errors"
	"fmt"
	"io"
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

// sections are those that a configuration file may have: the cluster's, and one for
// each command.
var sections = []string{ClusterSection, "fetch", "filter", "pack", "push", "pull", "produce", "offsets", "catalog"}

func configFlag() cli.Flag {
	return &cli.StringFlag{Name: "config", Usage: "take what is not given here from `FILE`, in YAML", EnvVars: []string{"KBK_CONFIG"}}
}

// A file is a configuration file: by section and name, one value or several.
type file map[string]map[string]values

type values []string

// UnmarshalYAML reads a scalar as it is written, or a list of them.
func (v *values) UnmarshalYAML(n *yaml.Node) error {
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

// configFile is the file that --config or KBK_CONFIG names; without one, nothing.
func configFile(c *cli.Context) (file, error) {
	name := c.String("config")
	if name == "" {
		return nil, nil
	}
	f, err := readConfig(name)
	if err != nil {
		return nil, WithStatus(Usage, fmt.Errorf("--config %s: %w", name, err))
	}
	return f, nil
}

func readConfig(name string) (file, error) {
	r, err := os.Open(name)
	if err != nil {
		return nil, errors.Unwrap(err) // the name is said
	}
	defer r.Close()
	return decodeConfig(r)
}

func decodeConfig(r io.Reader) (file, error) {
	var f file
	if err := yaml.NewDecoder(r).Decode(&f); err != nil && !errors.Is(err, io.EOF) {
		return nil, yamlError(err)
	}
	for section := range f {
		if !slices.Contains(sections, section) {
			return nil, fmt.Errorf("section %q is not known%s", section, Nearest(section, sections))
		}
	}
	return f, nil
}

// quoted is what YAML's messages quote of the file: it may be a password.
var quoted = regexp.MustCompile("`[^`]*`|'[^']*'|\"[^\"]*\"")

// yamlError says what is wrong with a file, and where, and nothing that is in it.
func yamlError(err error) error {
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
	out := make(map[string]string)
	for key, v := range f[name] {
		if len(v) > 0 {
			out[key] = v[len(v)-1]
		}
	}
	return out, nil
}

// fill gives the flags that were not given on the command line their values from the
// environment, KBK_FETCH_TIMEOUT for --timeout of kbk-fetch, and from the file. The file
// may have others of all the flags there are.
func fill(c *cli.Context, app string, flags, all []cli.Flag) error {
	f, err := configFile(c)
	if err != nil {
		return err
	}
	section := strings.TrimPrefix(app, "kbk-")
	given := f[section]
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
		env := "KBK_" + strings.ToUpper(strings.ReplaceAll(section+"_"+name, "-", "_"))
		if v, ok := os.LookupEnv(env); ok {
			vals, from = values{v}, env
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
