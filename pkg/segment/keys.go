package segment

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"filippo.io/age/armor"
	"filippo.io/age/plugin"
	"filippo.io/age/tag"
	"github.com/urfave/cli/v2"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sync/semaphore"
	"golang.org/x/term"

	"github.com/kbkio/kbk/pkg/command"
)

const (
	// workFactor is the binary logarithm of scrypt's cost for a passphrase. The age tool
	// takes 18, once for a file: 0.9 s and 256 MiB. Each segment is a file, so kbk takes
	// 15: 0.08 s and 32 MiB. What that makes easier to guess, three bits of a passphrase
	// make up for; docs/encryption.md says so.
	workFactor = 15
	// maxWorkFactor is the largest that is opened: 4 s and 1 GiB.
	maxWorkFactor = 20
	// scryptMemory bounds the memory for passphrases that are tried at once.
	scryptMemory = 256 << 20

	maxKeyFile = 16 << 20 // bytes; the age tool's bound
)

// Keys says where the keys are.
type Keys struct {
	Recipients      []string // as age takes them: age1…, ssh-…
	RecipientsFiles []string // with one of these in a line
	Identities      []string // files
	PassphraseFiles []string
}

// RecipientFlags say to whom segments are encrypted.
func RecipientFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "recipient", Aliases: []string{"r"}, Usage: "encrypt to the age `RECIPIENT` age1… or ssh-…; may be repeated", EnvVars: []string{"KBK_RECIPIENT"}},
		&cli.StringSliceFlag{Name: "recipients-file", Aliases: []string{"R"}, Usage: "encrypt to the recipients in `FILE`; may be repeated", EnvVars: []string{"KBK_RECIPIENTS_FILE"}},
	}
}

// IdentityFlags say with what segments are opened. The passphrase is for both ways.
func IdentityFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "identity", Aliases: []string{"i"}, Usage: "decrypt with the age identities or the SSH key in `FILE`; may be repeated", EnvVars: []string{"KBK_IDENTITY"}},
		&cli.StringSliceFlag{Name: "passphrase-file", Usage: "encrypt or decrypt with the passphrase in `FILE`; to decrypt, may be repeated", EnvVars: []string{"KBK_PASSPHRASE_FILE"}},
	}
}

// KeysOf reads the flags of [RecipientFlags], if the command has them, and of [IdentityFlags].
func KeysOf(c *cli.Context) Keys {
	return Keys{
		Recipients: c.StringSlice("recipient"), RecipientsFiles: c.StringSlice("recipients-file"),
		Identities: c.StringSlice("identity"), PassphraseFiles: c.StringSlice("passphrase-file"),
	}
}

// A keyError is about the keys that were given, not about a segment.
type keyError struct{ err error }

func (e *keyError) Error() string { return e.err.Error() }
func (e *keyError) Unwrap() error { return e.err }

// Encryption returns whom to encrypt to; nobody where no key is named. That they can be
// encrypted to, all together, has been tried.
func (k Keys) Encryption(env *command.Env) ([]age.Recipient, error) {
	var to []age.Recipient
	for _, s := range k.Recipients {
		r, err := recipient(s, env)
		switch {
		case strings.HasPrefix(strings.ToUpper(s), "AGE-"):
			return nil, command.Usagef("-r takes a recipient, which is public, and was given an identity, which is secret")
		case err != nil:
			return nil, command.Usagef("-r %q is not a recipient: %w", s, err)
		}
		to = append(to, r)
	}
	for _, name := range k.RecipientsFiles {
		rs, err := recipientsFile(name, env)
		if err != nil {
			return nil, command.WithStatus(command.Usage, fmt.Errorf("recipients file %s: %w", name, err))
		}
		to = append(to, rs...)
	}
	switch n := len(k.PassphraseFiles); {
	case n > 0 && len(to) > 0:
		return nil, command.WithHint(command.Usagef("a passphrase and recipients cannot be mixed: in age's format a passphrase stands alone"),
			"to restore with a passphrase, encrypt to a recipient whose identity file has one: age-keygen | age -p > key.age")
	case n > 1:
		return nil, command.Usagef("there can only be one passphrase to encrypt with")
	case n == 1:
		p, err := k.passphrases()
		if err != nil {
			return nil, err
		}
		return []age.Recipient{p[0]}, nil
	case len(to) == 0 && len(k.Identities) > 0:
		return nil, command.WithHint(command.Usagef("-i is for -d: nothing would be encrypted"), "to encrypt, give a recipient with -r")
	case len(to) == 0:
		return nil, nil
	}
	if _, err := age.Encrypt(io.Discard, to...); err != nil {
		return nil, command.WithStatus(command.Usage, fmt.Errorf("recipients: %w", err))
	}
	return to, nil
}

// recipient parses what the age tool takes after -r.
func recipient(s string, env *command.Env) (age.Recipient, error) {
	switch {
	case strings.HasPrefix(s, "age1tag1"), strings.HasPrefix(s, "age1tagpq1"):
		return tag.ParseRecipient(s)
	case strings.HasPrefix(s, "age1pq1"):
		return age.ParseHybridRecipient(s)
	case strings.HasPrefix(s, "age1") && strings.Count(s, "1") > 1: // bech32's data has no 1
		return plugin.NewRecipient(s, pluginUI(env))
	case strings.HasPrefix(s, "age1"):
		return age.ParseX25519Recipient(s)
	case strings.HasPrefix(s, "ssh-"):
		return agessh.ParseRecipient(s)
	}
	return nil, errors.New("recipients begin with age1 or ssh-")
}

func recipientsFile(name string, env *command.Env) ([]age.Recipient, error) {
	raw, err := keyFile(name)
	if err != nil {
		return nil, err
	}
	var to []age.Recipient
	for n, line := range keyLines(raw) {
		r, err := recipient(line, env)
		if err == nil {
			to = append(to, r)
			continue
		}
		// A user's public keys, as sshd and code hosts list them, may hold some of a type
		// that age cannot encrypt to.
		if key, _, _, _, sshErr := ssh.ParseAuthorizedKey([]byte(line)); sshErr == nil {
			env.Log.Warn(fmt.Sprintf("recipients file %s: line %d: an SSH key of type %s is left out: age cannot encrypt to it", name, n, key.Type()))
			continue
		}
		return nil, fmt.Errorf("line %d is not a recipient", n) // not what is there: it may be a secret
	}
	if len(to) == 0 {
		return nil, errors.New("there are no recipients in it")
	}
	return to, nil
}

// Decryption returns what to open segments with. It asks for passphrases that it needs,
// and was not given, on the terminal.
func (k Keys) Decryption(ctx context.Context, env *command.Env) ([]age.Identity, error) {
	words, err := k.passphrases()
	if err != nil {
		return nil, err
	}
	var keys []age.Identity
	for _, p := range words {
		keys = append(keys, p)
	}
	for _, name := range k.Identities {
		ids, err := identityFile(ctx, env, name, words)
		if err != nil {
			if command.StatusOf(err) == command.Interrupted {
				return nil, err
			}
			return nil, command.WithStatus(command.Usage, fmt.Errorf("identity file %s: %w", name, err))
		}
		keys = append(keys, ids...)
	}
	return keys, nil
}

func (k Keys) passphrases() ([]*passphrase, error) {
	var out []*passphrase
	for _, name := range k.PassphraseFiles {
		p, err := passphraseFile(name)
		if err != nil {
			return nil, command.WithStatus(command.Usage, fmt.Errorf("passphrase file %s: %w", name, err))
		}
		out = append(out, p)
	}
	return out, nil
}

// identityFile reads what the age tool takes after -i: identities, one in a line, or
// that encrypted with a passphrase; or an SSH private key.
func identityFile(ctx context.Context, env *command.Env, name string, words []*passphrase) ([]age.Identity, error) {
	raw, err := keyFile(name)
	if err != nil {
		return nil, err
	}
	text := bytes.TrimSpace(raw)
	switch armored := bytes.HasPrefix(text, []byte(armor.Header)); {
	case armored, bytes.HasPrefix(raw, []byte("age-encryption.org/")):
		var plain []byte
		err := withPassphrase(ctx, env, name, words, func(p *passphrase) error {
			var src io.Reader = bytes.NewReader(raw)
			if armored {
				src = armor.NewReader(src)
			}
			r, err := age.Decrypt(src, p)
			if none := new(age.NoIdentityMatchError); errors.As(err, &none) && !slices.Contains(none.StanzaTypes, "scrypt") {
				return errors.New("it is encrypted, but not with a passphrase")
			}
			if err != nil {
				return err
			}
			plain, err = io.ReadAll(r)
			return err
		})
		if err != nil {
			return nil, err
		}
		return identities(plain, env)
	case bytes.HasPrefix(text, []byte("-----BEGIN")):
		id, err := agessh.ParseIdentity(raw)
		if errors.As(err, new(*ssh.PassphraseMissingError)) {
			err = withPassphrase(ctx, env, name, words, func(p *passphrase) (err error) {
				id, err = sshIdentity(raw, p.words)
				return err
			})
		}
		if err != nil {
			return nil, fmt.Errorf("SSH key: %w", err)
		}
		return []age.Identity{id}, nil
	}
	return identities(raw, env)
}

func sshIdentity(pem []byte, words string) (age.Identity, error) {
	key, err := ssh.ParseRawPrivateKeyWithPassphrase(pem, []byte(words))
	if err != nil {
		return nil, err
	}
	switch key := key.(type) {
	case *ed25519.PrivateKey:
		return agessh.NewEd25519Identity(*key)
	case *rsa.PrivateKey:
		return agessh.NewRSAIdentity(key)
	}
	return nil, fmt.Errorf("age knows no SSH key of type %T", key)
}

func identities(raw []byte, env *command.Env) ([]age.Identity, error) {
	var ids []age.Identity
	for n, line := range keyLines(raw) {
		var id age.Identity
		var err error
		switch {
		case strings.HasPrefix(line, "AGE-PLUGIN-"):
			var p *plugin.Identity
			if p, err = plugin.NewIdentity(line, pluginUI(env)); err == nil {
				id = &pluginIdentity{id: p}
			}
		case strings.HasPrefix(line, "AGE-SECRET-KEY-PQ-1"):
			id, err = age.ParseHybridIdentity(line)
		case strings.HasPrefix(line, "AGE-SECRET-KEY-1"):
			id, err = age.ParseX25519Identity(line)
		case strings.HasPrefix(line, "age1"), strings.HasPrefix(line, "ssh-"):
			return nil, fmt.Errorf("line %d is a recipient, and not the identity that opens what is encrypted to it", n)
		default:
			err = errors.New("of no kind that is known")
		}
		if err != nil {
			return nil, fmt.Errorf("line %d is not an identity", n) // not why: that quotes the secret
		}
		ids = append(ids, id)
	}
	if len(ids) == 0 {
		return nil, errors.New("there are no identities in it")
	}
	return ids, nil
}

// A pluginIdentity asks a plugin one thing at a time: behind it may be a single device,
// and a person who touches it.
type pluginIdentity struct {
	mu sync.Mutex
	id *plugin.Identity
}

// Unwrap implements age.Identity.
func (p *pluginIdentity) Unwrap(stanzas []*age.Stanza) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	key, err := p.id.Unwrap(stanzas)
	if err != nil && !errors.Is(err, age.ErrIncorrectIdentity) {
		return nil, &keyError{err}
	}
	return key, err
}

// A passphrase is scrypt both ways, within the memory that there is room for.
type passphrase struct {
	words string
	to    *age.ScryptRecipient
	from  *age.ScryptIdentity
}

func newPassphrase(words string) (*passphrase, error) {
	to, err := age.NewScryptRecipient(words)
	if err != nil {
		return nil, err
	}
	from, err := age.NewScryptIdentity(words)
	if err != nil {
		return nil, err
	}
	to.SetWorkFactor(workFactor)
	from.SetMaxWorkFactor(maxWorkFactor)
	return &passphrase{words, to, from}, nil
}

// scryptRoom is one for all passphrases of the process.
var scryptRoom = semaphore.NewWeighted(scryptMemory)

// Wrap implements age.Recipient.
func (p *passphrase) Wrap(fileKey []byte) (stanzas []*age.Stanza, err error) {
	err = within(workFactor, func() error {
		stanzas, err = p.to.Wrap(fileKey)
		return err
	})
	return stanzas, err
}

// Unwrap implements age.Identity.
func (p *passphrase) Unwrap(stanzas []*age.Stanza) (fileKey []byte, err error) {
	factor := 0 // where it is none, age says so at once
	if len(stanzas) == 1 && stanzas[0].Type == "scrypt" && len(stanzas[0].Args) == 2 {
		factor, _ = strconv.Atoi(stanzas[0].Args[1])
	}
	if factor > maxWorkFactor {
		return nil, &keyError{command.Usagef("its passphrase asks for a work factor of %d, and %d is the most that is done", factor, maxWorkFactor)}
	}
	err = within(max(factor, 0), func() error {
		fileKey, err = p.from.Unwrap(stanzas)
		return err
	})
	return fileKey, err
}

// within runs f when there is room for scrypt with this factor: 128·r·N bytes, where
// age's r is 8 (RFC 7914, section 2).
func within(factor int, f func() error) error {
	need := min(int64(1024)<<factor, scryptMemory)
	if err := scryptRoom.Acquire(context.Background(), need); err != nil {
		return err
	}
	defer scryptRoom.Release(need)
	return f()
}

// withPassphrase tries open with each of words, and if none fits, with what a person
// types, until one does.
func withPassphrase(ctx context.Context, env *command.Env, name string, words []*passphrase, open func(*passphrase) error) error {
	for _, p := range words {
		if err := open(p); !isWrong(err) {
			return err
		}
	}
	typed, err := ask(ctx, env, name)
	switch {
	case command.StatusOf(err) == command.Interrupted:
		return err
	case err != nil && len(words) > 0:
		return errWrong
	case err != nil:
		return command.WithHint(fmt.Errorf("it has a passphrase: %w", err), "give it with --passphrase-file")
	}
	p, err := newPassphrase(typed)
	if err != nil {
		return err
	}
	if err := open(p); !isWrong(err) {
		return err
	}
	return errWrong
}

var errWrong = errors.New("the passphrase does not open it")

func isWrong(err error) bool {
	return errors.Is(err, age.ErrIncorrectIdentity) || errors.Is(err, x509.IncorrectPasswordError)
}

// ask asks on the terminal that a person has, wherever standard input and output are.
func ask(ctx context.Context, env *command.Env, name string) (string, error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return "", errors.New("there is no terminal to ask for it")
	}
	defer tty.Close()
	state, err := term.GetState(int(tty.Fd()))
	if err != nil {
		return "", err
	}
	type answer struct {
		words []byte
		err   error
	}
	got := make(chan answer, 1)
	fmt.Fprintf(tty, "%s: passphrase of %s: ", env.Name, name)
	go func() {
		words, err := term.ReadPassword(int(tty.Fd()))
		got <- answer{words, err}
	}()
	defer fmt.Fprintln(tty)
	select {
	case a := <-got:
		return string(a.words), a.err
	case <-env.Stop:
	case <-ctx.Done():
	}
	_ = term.Restore(int(tty.Fd()), state) // the read goes on: show what is typed again
	return "", command.Stopped("nothing was read")
}

// pluginUI lets a plugin talk to a person: through the log, and on the terminal.
func pluginUI(env *command.Env) *plugin.ClientUI {
	return plugin.NewTerminalUI(
		func(f string, v ...any) { env.Log.Info(fmt.Sprintf(f, v...)) },
		func(f string, v ...any) { env.Log.Warn(fmt.Sprintf(f, v...)) })
}

// passphraseFile takes the first line of a file for a passphrase.
func passphraseFile(name string) (*passphrase, error) {
	raw, err := keyFile(name)
	if err != nil {
		return nil, err
	}
	words, _, _ := strings.Cut(string(raw), "\n")
	if words = strings.TrimSuffix(words, "\r"); words == "" {
		return nil, errors.New("its first line is empty")
	}
	return newPassphrase(words)
}

func keyFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, errors.Unwrap(err) // the name is said already
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err == nil && len(raw) > maxKeyFile {
		err = fmt.Errorf("it is larger than %d bytes: this is not a file of keys", maxKeyFile)
	}
	return raw, err
}

// keyLines are the lines of a file of keys, by their number, but for comments.
func keyLines(raw []byte) iter.Seq2[int, string] {
	return func(yield func(int, string) bool) {
		n := 0
		for line := range strings.Lines(string(raw)) {
			n++
			if line = strings.TrimRight(line, "\r\n"); line == "" || line[0] == '#' {
				continue
			}
			if !yield(n, line) {
				return
			}
		}
	}
}
