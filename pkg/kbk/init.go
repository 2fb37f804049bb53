package kbk

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/urfave/cli/v2"
	"go.yaml.in/yaml/v3"

	"github.com/kbkio/kbk/pkg/command"
)

//go:embed kbk.yaml.tmpl
var fileTemplate string

func initSpec() command.Spec {
	return command.Spec{
		Name: "init", Usage: "write a kbk.yaml to begin with", Args: "[PROFILE]", MaxArgs: 1,
		Description: `Writes a file with one profile, nightly unless another name is given, and with comments that
say what else there is. It never overwrites a file.`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "brokers", Aliases: []string{"b"}, Value: "localhost:9092", Usage: "`HOST:PORT,…` of one or more brokers of the cluster"},
			&cli.StringFlag{Name: "command-config", Usage: "`FILE` with the properties of the connection, as Kafka's own tools take it"},
			&cli.StringFlag{Name: "store", Value: "/var/backups/kafka/nightly", Usage: "`REMOTE` for the backup: a folder, or REMOTE:PATH as rclone knows it"},
			&cli.StringSliceFlag{Name: "topic", Aliases: []string{"t"}, Usage: "back up `TOPIC`: a name, or a regular expression that begins with ^; repeatable", DefaultText: "^, all topics"},
			&cli.StringFlag{Name: "recipients-file", Aliases: []string{"R"}, Usage: "encrypt to the age recipients in `FILE`"},
			&cli.StringFlag{Name: "identity", Aliases: []string{"i"}, Usage: "decrypt with the age identities in `FILE`"},
		},
		Action: func(_ context.Context, c *cli.Context, env *command.Env) error {
			v := initial{
				Profile: "nightly", Brokers: c.String("brokers"), CommandConfig: c.String("command-config"), Store: c.String("store"),
				Topics: c.StringSlice("topic"), RecipientsFile: c.String("recipients-file"), Identity: c.String("identity"),
			}
			if c.NArg() > 0 {
				v.Profile = c.Args().First()
			}
			if err := v.whole(); err != nil {
				return err
			}
			text, err := v.file()
			if err != nil {
				return err
			}
			path := configPath(c)
			if err := create(path, text); err != nil {
				return err
			}
			env.Log.Info(fmt.Sprintf("wrote %s: look through it, then run kbk doctor %s", path, v.Profile))
			return nil
		},
	}
}

// initial is what a new file says.
type initial struct {
	Profile, Brokers, CommandConfig, Store, RecipientsFile, Identity string
	Topics                                                           []string
}

// whole makes paths whole, as cron and systemd run a profile in another folder.
func (v *initial) whole() error {
	for _, path := range []*string{&v.CommandConfig, &v.Store, &v.RecipientsFile, &v.Identity} {
		if *path == "" || path == &v.Store && strings.Contains(*path, ":") { // REMOTE:PATH
			continue
		}
		abs, err := filepath.Abs(*path)
		if err != nil {
			return err
		}
		*path = abs
	}
	return nil
}

// file is its text.
func (v initial) file() ([]byte, error) {
	if len(v.Topics) == 0 {
		v.Topics = []string{"^"}
	}
	t := template.Must(template.New("kbk.yaml").Funcs(template.FuncMap{"yaml": inline}).Parse(fileTemplate))
	var b bytes.Buffer
	err := t.Execute(&b, v)
	return b.Bytes(), err
}

// inline is a value, or a list of them, as YAML on one line.
func inline(v any) (string, error) {
	var n yaml.Node
	if err := n.Encode(v); err != nil {
		return "", err
	}
	n.Style |= yaml.FlowStyle
	if strings.Contains(n.Value, "\n") {
		n.Style = yaml.DoubleQuotedStyle
	}
	out, err := yaml.Marshal(&n)
	return strings.TrimSpace(string(out)), err
}

// create writes a file that is not there yet, and that only its owner may read: it is where
// passwords may be put. Its folder is created, too.
func create(path string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return command.WithHint(command.Usagef("%s already exists", path), "give another name with --config, or change what is there")
	}
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Close())
}
