package sign

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/kbkio/kbk/pkg/command"
)

// Flags are --sign and --sign-passphrase-file.
func Flags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "sign", Usage: "sign what is written to the log with the SSH key in `FILE`"},
		&cli.StringFlag{Name: "sign-passphrase-file", Usage: "the passphrase of that key is in `FILE`", EnvVars: []string{"KBK_SIGN_PASSPHRASE_FILE"}},
	}
}

// FromFlags returns the key that [Flags] name, or nil. Close it after use.
func FromFlags(c *cli.Context) (*Key, error) {
	file, passphraseFile := c.String("sign"), c.String("sign-passphrase-file")
	if file == "" {
		if passphraseFile != "" && c.IsSet("sign-passphrase-file") {
			return nil, command.Usagef("--sign-passphrase-file is of no use without --sign")
		}
		return nil, nil
	}
	var passphrase []byte
	if passphraseFile != "" {
		text, err := os.ReadFile(passphraseFile)
		if err != nil {
			return nil, command.WithStatus(command.Usage, fmt.Errorf("passphrase of the signing key: %w", err))
		}
		passphrase = bytes.TrimRight(text, "\r\n")
	}
	key, err := LoadKey(file, passphrase)
	if err != nil {
		err = command.WithStatus(command.Usage, err)
	}
	if errors.Is(err, ErrPassphrase) {
		err = command.WithHint(err, "give --sign-passphrase-file, or add the key to an ssh-agent")
	}
	return key, err
}
