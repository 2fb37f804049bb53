package segment

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
	"filippo.io/age/armor"
	"filippo.io/age/plugin"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/test/need"
)

// TestMain makes this program a plugin of age, when it is run under the name of one.
func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) != "age-plugin-upside" {
		os.Exit(m.Run())
	}
	p, err := plugin.New("upside")
	if err != nil {
		panic(err)
	}
	p.HandleRecipient(func([]byte) (age.Recipient, error) { return upsideDown{}, nil })
	p.HandleIdentity(func(data []byte) (age.Identity, error) {
		if string(data) == "lost" {
			return nil, errors.New("the device is not there")
		}
		return upsideDown{}, nil
	})
	p.RegisterFlags(nil)
	flag.Parse()
	os.Exit(p.Main())
}

// upsideDown is a cipher for a test: it turns the file key round.
type upsideDown struct{}

func (upsideDown) Wrap(key []byte) ([]*age.Stanza, error) {
	return []*age.Stanza{{Type: "upside", Body: turned(key)}}, nil
}

func (upsideDown) Unwrap(stanzas []*age.Stanza) ([]byte, error) {
	for _, s := range stanzas {
		if s.Type == "upside" {
			return turned(s.Body), nil
		}
	}
	return nil, age.ErrIncorrectIdentity
}

func turned(b []byte) []byte {
	out := make([]byte, 0, len(b))
	for i := len(b); i > 0; i-- {
		out = append(out, b[i-1])
	}
	return out
}

// file writes a file of its own and returns its path.
func file(t testing.TB, content string) string {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "key-")
	ok(t, err)
	_, err = f.WriteString(content)
	ok(t, err)
	ok(t, f.Close())
	return f.Name()
}

// locked encrypts with a passphrase, as age -p does.
func locked(t testing.TB, words, content string, armored bool) string {
	t.Helper()
	p, err := newPassphrase(words)
	ok(t, err)
	var b bytes.Buffer
	e, err := age.Encrypt(&b, p)
	ok(t, err)
	_, err = io.WriteString(e, content)
	ok(t, err)
	ok(t, e.Close())
	if armored {
		var text strings.Builder
		a := armor.NewWriter(&text)
		_, err = a.Write(b.Bytes())
		ok(t, err)
		ok(t, a.Close())
		return text.String()
	}
	return b.String()
}

// TestKeys encrypts to, and opens with, all that flags may name; some of it by way of
// other keys that do not fit, as when keys are rotated.
func TestKeys(t *testing.T) {
	need.Tools(t, "ssh-keygen")
	dir := t.TempDir()
	self, err := os.Executable()
	ok(t, err)
	ok(t, os.Symlink(self, filepath.Join(dir, "age-plugin-upside")))
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	key, other := generate(t), generate(t)
	hybrid, err := age.GenerateHybridIdentity()
	ok(t, err)
	words, more := file(t, "a b c\nnot this\n"), file(t, "d e f\r\n")
	ssh := func(words string) string {
		path := filepath.Join(t.TempDir(), "id")
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", words, "-f", path).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v %s", err, out)
		}
		return path
	}
	open, shut := ssh(""), ssh("a b c")
	id := fmt.Sprintf("# made by a test\n\n%s\n", key)
	for name, c := range map[string]struct{ to, from Keys }{
		"X25519":               {Keys{Recipients: []string{key.Recipient().String()}}, Keys{Identities: []string{file(t, id)}}},
		"second of two files":  {Keys{Recipients: []string{key.Recipient().String()}}, Keys{Identities: []string{file(t, other.String()), file(t, id)}}},
		"one of two":           {Keys{Recipients: []string{other.Recipient().String(), key.Recipient().String()}}, Keys{Identities: []string{file(t, id)}}},
		"hybrid":               {Keys{Recipients: []string{hybrid.Recipient().String()}}, Keys{Identities: []string{file(t, id+hybrid.String())}}},
		"recipients file":      {Keys{RecipientsFiles: []string{file(t, "# us\n"+other.Recipient().String()+"\r\n"+key.Recipient().String())}}, Keys{Identities: []string{file(t, id)}}},
		"passphrase":           {Keys{PassphraseFiles: []string{words}}, Keys{PassphraseFiles: []string{more, words}, Identities: []string{file(t, id)}}},
		"locked identity":      {Keys{Recipients: []string{key.Recipient().String()}}, Keys{Identities: []string{file(t, locked(t, "a b c", id, false))}, PassphraseFiles: []string{words}}},
		"locked, armored":      {Keys{Recipients: []string{key.Recipient().String()}}, Keys{Identities: []string{file(t, locked(t, "d e f", id, true))}, PassphraseFiles: []string{words, more}}},
		"SSH":                  {Keys{RecipientsFiles: []string{open + ".pub"}}, Keys{Identities: []string{open}}},
		"SSH with passphrase":  {Keys{RecipientsFiles: []string{shut + ".pub"}}, Keys{Identities: []string{shut}, PassphraseFiles: []string{words}}},
		"plugin":               {Keys{Recipients: []string{plugin.EncodeRecipient("upside", []byte("x"))}}, Keys{Identities: []string{file(t, plugin.EncodeIdentity("upside", []byte("x")))}}},
		"plugin behind others": {Keys{Recipients: []string{plugin.EncodeRecipient("upside", nil), key.Recipient().String()}}, Keys{Identities: []string{file(t, other.String()+"\n"+plugin.EncodeIdentity("upside", []byte("y")))}}},
	} {
		t.Run(name, func(t *testing.T) {
			to, err := c.to.Encryption(testEnv())
			ok(t, err)
			from, err := c.from.Decryption(t.Context(), testEnv())
			ok(t, err)
			m, data := sealed(t, 200, to...)
			if n, err := opened(t, m, data, from...); err != nil || n != 200 {
				t.Errorf("%d records, %v", n, err)
			}
		})
	}

	// What a plugin says reaches the user, and is not about the segment.
	to, err := Keys{Recipients: []string{plugin.EncodeRecipient("upside", nil)}}.Encryption(testEnv())
	ok(t, err)
	m, data := sealed(t, 2, to...)
	from, err := Keys{Identities: []string{file(t, plugin.EncodeIdentity("upside", []byte("lost")))}}.Decryption(t.Context(), testEnv())
	ok(t, err)
	if _, err := opened(t, m, data, from...); err == nil || command.StatusOf(err) != command.Failed || !strings.Contains(err.Error(), "the device is not there") {
		t.Errorf("status %d: %v", command.StatusOf(err), err)
	}
	ok(t, os.Remove(filepath.Join(dir, "age-plugin-upside")))
	if _, err := opened(t, m, data, from...); err == nil || command.StatusOf(err) != command.Failed || !strings.Contains(err.Error(), `age-plugin-upside`) {
		t.Errorf("status %d: %v", command.StatusOf(err), err)
	}
	if _, err := (Keys{Recipients: []string{plugin.EncodeRecipient("upside", nil)}}).Encryption(testEnv()); command.StatusOf(err) != command.Usage {
		t.Errorf("status %d: %v", command.StatusOf(err), err)
	}
}

// TestBadKeys wants an error in one line that says what to do, and no secret in it.
func TestBadKeys(t *testing.T) {
	key := generate(t)
	hybrid, err := age.GenerateHybridIdentity()
	ok(t, err)
	secret := key.String()
	public := key.Recipient().String()
	words := file(t, "a b c")
	lockedTo := func() string {
		var b bytes.Buffer
		e, err := age.Encrypt(&b, key.Recipient())
		ok(t, err)
		ok(t, e.Close())
		return b.String()
	}()
	for want, k := range map[string]Keys{
		"was given an identity, which is secret": {Recipients: []string{secret}},
		`-r "age1x" is not a recipient`:          {Recipients: []string{"age1x"}},
		`begin with age1 or ssh-`:                {Recipients: []string{"me"}},
		"no such file":                           {RecipientsFiles: []string{"nowhere"}},
		"line 2 is not a recipient":              {RecipientsFiles: []string{file(t, public+"\n"+secret)}},
		"there are no recipients in it":          {RecipientsFiles: []string{file(t, "# none\n")}},
		"cannot be mixed":                        {Recipients: []string{public}, PassphraseFiles: []string{words}},
		"can't mix post-quantum":                 {Recipients: []string{public, hybrid.Recipient().String()}},
		"only be one passphrase":                 {PassphraseFiles: []string{words, words}},
		"its first line is empty":                {PassphraseFiles: []string{file(t, "\nx")}},
		"nothing would be encrypted":             {Identities: []string{file(t, secret)}},
	} {
		_, err := k.Encryption(testEnv())
		refused(t, err, want, secret)
	}
	for want, k := range map[string]Keys{
		"no such file or directory":         {Identities: []string{"nowhere"}},
		"line 1 is a recipient":             {Identities: []string{file(t, public)}},
		"line 2 is not an identity":         {Identities: []string{file(t, secret+"\n"+secret[:60])}},
		"line 1 is not an identity":         {Identities: []string{file(t, "hello")}},
		"there are no identities in it":     {Identities: []string{file(t, "")}},
		"the passphrase does not open it":   {Identities: []string{file(t, locked(t, "other", secret, false))}, PassphraseFiles: []string{words}},
		"encrypted, but not with a passphr": {Identities: []string{file(t, lockedTo)}, PassphraseFiles: []string{words}},
		"SSH key: ":                         {Identities: []string{file(t, "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n")}},
	} {
		_, err := k.Decryption(t.Context(), testEnv())
		refused(t, err, want, secret)
	}
}

func refused(t *testing.T, err error, want, secret string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) || command.StatusOf(err) != command.Usage ||
		strings.Contains(err.Error(), secret[:50]) || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v, status %d; want %q", err, command.StatusOf(err), want)
	}
}

// TestUnsupportedSSHKey leaves out, and tells of, what age cannot encrypt to.
func TestUnsupportedSSHKey(t *testing.T) {
	need.Tools(t, "ssh-keygen")
	path := filepath.Join(t.TempDir(), "id")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", path).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v %s", err, out)
	}
	ecdsa, err := os.ReadFile(path + ".pub")
	ok(t, err)
	var log bytes.Buffer
	env := testEnv()
	env.Log = slog.New(slog.NewTextHandler(&log, nil))
	to, err := Keys{RecipientsFiles: []string{file(t, string(ecdsa)+generate(t).Recipient().String())}}.Encryption(env)
	if err != nil || len(to) != 1 || !strings.Contains(log.String(), "line 1: an SSH key of type ecdsa-sha2-nistp256 is left out") {
		t.Errorf("%d recipients, %v; %s", len(to), err, &log)
	}
}

// TestAskStops ends a question when the command is to end. Without a terminal there is
// none to begin with.
func TestAskStops(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := ask(ctx, testEnv(), "key.age"); err == nil {
		t.Error("an answer came from nowhere")
	}
}
