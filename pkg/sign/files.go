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
		&cli.StringFlag{Name: "sign-passphrase-file", Usage: "read the passphrase of that key from `FILE`", EnvVars: []string{"KBK_SIGN_PASSPHRASE_FILE"}},
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

// SignersFlag is --allowed-signers.
func SignersFlag() cli.Flag {
	return &cli.StringFlag{Name: "allowed-signers", Usage: "every file of the log must be signed by one of the SSH keys in `FILE` (ssh-keygen(1), ALLOWED SIGNERS)"}
}

// SignersFromFlags returns the keys that [SignersFlag] names, or nil: nobody looks at
// signatures.
func SignersFromFlags(c *cli.Context) (Signers, error) {
	file := c.String("allowed-signers")
	if file == "" {
		return nil, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, command.WithStatus(command.Usage, fmt.Errorf("allowed signers: %w", err))
	}
	defer f.Close()
	s, err := ReadSigners(f)
	if err == nil && len(s) == 0 {
		err = fmt.Errorf("allowed signers: %s names no key", file)
	}
	if err != nil {
		err = command.WithStatus(command.Usage, err)
	}
	return s, err
}
