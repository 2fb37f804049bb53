// Package sign makes and checks the signatures of log entries: detached files in
// OpenSSH's format (PROTOCOL.sshsig), as `ssh-keygen -Y sign` makes them and
// `ssh-keygen -Y verify` checks them.
package sign

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// Namespace is what kbk's signatures are for, as `ssh-keygen -Y verify -n` wants to
// know it: a signature made for something else is not one of a log entry.
const Namespace = "kbk-log"

// ErrPassphrase is the error for a private key that is encrypted, when no
// passphrase was given and no agent holds the key.
var ErrPassphrase = errors.New("the key is encrypted")

// A Key signs messages.
type Key struct {
	signer ssh.Signer
	agent  net.Conn // that the signer asks, or nil
}

// LoadKey reads the private key in file, in a format of OpenSSH's or in PEM. An
// encrypted one is opened with passphrase. When there is none, or when file holds a
// public key, the agent at SSH_AUTH_SOCK must have the private half, as for
// `ssh-keygen -Y sign -f`. Close the key after use.
func LoadKey(file string, passphrase []byte) (k *Key, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("signing key %s: %w", file, err)
		}
	}()
	data, err := os.ReadFile(file)
	if err != nil {
		if cause := errors.Unwrap(err); cause != nil {
			err = cause // the path is in the message already
		}
		return nil, err
	}
	if block, _ := pem.Decode(data); block == nil {
		public, _, _, _, err := ssh.ParseAuthorizedKey(data)
		if err != nil {
			return nil, errors.New("holds no SSH key")
		}
		return fromAgent(public)
	}
	signer, err := ssh.ParsePrivateKey(data)
	if missing, ok := errors.AsType[*ssh.PassphraseMissingError](err); ok {
		if len(passphrase) == 0 {
			if missing.PublicKey != nil && os.Getenv("SSH_AUTH_SOCK") != "" {
				if k, err := fromAgent(missing.PublicKey); err == nil {
					return k, nil
				}
			}
			return nil, ErrPassphrase
		}
		signer, err = ssh.ParsePrivateKeyWithPassphrase(data, passphrase)
	}
	if err != nil {
		return nil, fmt.Errorf("%s", strings.TrimPrefix(err.Error(), "ssh: "))
	}
	return &Key{signer: signer}, nil
}

// fromAgent returns the key of the running ssh-agent whose public half is given.
func fromAgent(public ssh.PublicKey) (*Key, error) {
	socket := os.Getenv("SSH_AUTH_SOCK")
	if socket == "" {
		return nil, errors.New("it is the public half, and there is no ssh-agent (SSH_AUTH_SOCK) to sign with the private one")
	}
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return nil, fmt.Errorf("ssh-agent: %w", err)
	}
	signers, err := agent.NewClient(conn).Signers()
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("ssh-agent: %w", err)
	}
	for _, s := range signers {
		if bytes.Equal(s.PublicKey().Marshal(), public.Marshal()) {
			return &Key{signer: s, agent: conn}, nil
		}
	}
	conn.Close()
	return nil, fmt.Errorf("the ssh-agent does not hold it (%s)", ssh.FingerprintSHA256(public))
}

// Close lets go of the agent.
func (k *Key) Close() error {
	if k.agent == nil {
		return nil
	}
	return k.agent.Close()
}

// Fingerprint returns the fingerprint of the public key as ssh-keygen -l prints it.
func (k *Key) Fingerprint() string { return ssh.FingerprintSHA256(k.signer.PublicKey()) }

// Signers returns the key as the only one that may sign.
func (k *Key) Signers() Signers {
	return Signers{{principals: "*", key: k.signer.PublicKey().Marshal()}}
}

// Sign returns the armored signature of message, a text file.
func (k *Key) Sign(message []byte) ([]byte, error) {
	s, err := sshsig.Sign(bytes.NewReader(message), k.signer, sshsig.HashSHA512, Namespace)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	return sshsig.Armor(s), nil
}
