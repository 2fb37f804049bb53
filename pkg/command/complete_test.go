package command

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/urfave/cli/v2"
)

// completable is a command whose values tell what was typed before them.
func completable() *cli.App {
	return App(Spec{
		Name: "kbk-x", Args: "REMOTE", MaxArgs: 1,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "brokers", Aliases: []string{"b"}},
			&cli.StringSliceFlag{Name: "topic", Aliases: []string{"t"}, Usage: "read `TOPIC`"},
			&cli.StringFlag{Name: "isolation"},
			&cli.StringFlag{Name: "key", Usage: "the key in `FILE`"},
			&cli.StringFlag{Name: "slow"},
			&cli.BoolFlag{Name: "yes"},
		},
		Values: map[string]Completer{
			"isolation": OneOf("read_committed", "read_uncommitted"),
			"TOPIC": func(_ context.Context, c *cli.Context) []string {
				return []string{"orders", "other", "of-" + c.String("brokers") + c.Args().First()}
			},
			"slow": func(context.Context, *cli.Context) []string { select {} },
		},
		Action: func(context.Context, *cli.Context, *Env) error { return errors.New("the command ran") },
	})
}

func TestComplete(t *testing.T) {
	t.Setenv("RCLONE_CONFIG", os.DevNull)
	t.Setenv("RCLONE_CONFIG_S3_TYPE", "s3")
	for _, test := range []struct{ typed, want string }{
		{"--bro", "--brokers"},
		{"--brokers x --bro", ""},          // given
		{"-b x --bro", ""},                 // by its other name
		{"-t a --topic b --to", "--topic"}, // which may be repeated
		{"-t o", "orders other of-"},
		{"-b h:1 -t of", "of-h:1"},
		{"--brokers=h:1 --topic=of", "--topic=of-h:1"},
		{"backup: -b h:1 -t of", "of-h:1backup:"}, // the argument, wherever it stands
		{"-b h:1 backup: --yes -t of", "of-h:1backup:"},
		{"-t x -- -backup -t o", ""}, // two arguments, which is one too many
		{"--isolation ", "read_committed read_uncommitted"},
		{"--isolation read_u", "read_uncommitted"},
		{"--isolation=read_u", "--isolation=read_uncommitted"},
		{"--key ", ":files"},
		{"--log-format j", "json"},
		{"s", "s3: :files"},
		{"--yes s", "s3: :files"},
		{"-- -", ":files"},
		{"remote ", ""},         // no second argument
		{"--nonsense -t o", ""}, // what is wrong is said when the line is run
		{"--yes --n", ""},
	} {
		var out bytes.Buffer
		if err := complete(completable(), strings.Split(test.typed, " "), &out); err != nil {
			t.Errorf("%q: %v", test.typed, err)
		}
		var got []string
		for line := range strings.Lines(out.String()) {
			word, _, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
			got = append(got, word)
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("%q: %q, want %q", test.typed, got, test.want)
		}
	}
}

// TestCompleteInTime gives up what does not answer.
func TestCompleteInTime(t *testing.T) {
	began := time.Now()
	var out bytes.Buffer
	if err := complete(completable(), []string{"--slow", ""}, &out); err != nil || out.Len() > 0 {
		t.Errorf("%q, %v", out.String(), err)
	}
	if took := time.Since(began); took > 3*time.Second { // a second, where the machine is not busy
		t.Errorf("it took %v", took)
	}
}

func TestRemotes(t *testing.T) {
	files := map[string]string{
		"/home/a/.config/rclone/rclone.conf": "# mine\n[s3]\ntype = s3\n\n[my disk]\ntype = local\n",
		"/home/a/.rclone.conf":               "[old]\n",
		"/etc/sealed.conf":                   "# Encrypted rclone configuration File\n\nRCLONE_ENCRYPT_V0:\nAAAA\n",
	}
	read := func(name string) ([]byte, error) {
		if text, ok := files[name]; ok {
			return []byte(text), nil
		}
		return nil, os.ErrNotExist
	}
	for _, test := range []struct {
		env  []string
		want string
	}{
		{[]string{"HOME=/home/a"}, "my disk: s3:"},
		{[]string{"HOME=/home/b"}, ""},
		{[]string{"HOME=/home/a", "RCLONE_CONFIG=/nowhere"}, ""},
		{[]string{"HOME=/home/a", "RCLONE_CONFIG=", "RCLONE_CONFIG_MINIO_TYPE=s3", "RCLONE_CONFIG_MINIO_ENDPOINT=x"}, "minio:"},
		{[]string{"RCLONE_CONFIG=/etc/sealed.conf"}, ""},
		{nil, ""},
	} {
		if got := strings.Join(Remotes(test.env, read), " "); got != test.want {
			t.Errorf("%q: %q, want %q", test.env, got, test.want)
		}
	}
}
