package sign

import (
	"bytes"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kbkio/kbk/test/need"
)

// keygen runs the real ssh-keygen in dir.
func keygen(t *testing.T, dir, stdin string, args ...string) (string, error) {
	t.Helper()
	need.Tools(t, "ssh-keygen")
	cmd := exec.Command("ssh-keygen", args...)
	cmd.Dir, cmd.Stdin = dir, strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// newKey makes a key pair in dir and returns the file of the private one.
func newKey(t *testing.T, dir, name, passphrase string, args ...string) string {
	t.Helper()
	if out, err := keygen(t, dir, "", append(args, "-q", "-N", passphrase, "-C", "a comment", "-f", name)...); err != nil {
		t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
	return filepath.Join(dir, name)
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func signers(t *testing.T, text string) Signers {
	t.Helper()
	s, err := ReadSigners(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestWithKeygen wants ssh-keygen to accept what kbk signs, kbk what ssh-keygen
// signs, and both to refuse the same.
func TestWithKeygen(t *testing.T) {
	const message = "{\n  \"version\": 1\n}\n"
	for name, args := range map[string][]string{
		"ed25519": {"-t", "ed25519"},
		"ecdsa":   {"-t", "ecdsa", "-b", "384"},
		"rsa":     {"-t", "rsa", "-b", "3072"},
		"pem":     {"-t", "rsa", "-b", "3072", "-m", "PEM"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			file := newKey(t, dir, "key", "", args...)
			allowed := "backup@example.org " + read(t, file+".pub")
			write(t, filepath.Join(dir, "allowed"), "# who may sign\n\n"+allowed)
			key, err := LoadKey(file, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer key.Close()
			sig, err := key.Sign([]byte(message))
			if err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, "ours.sig"), string(sig))
			if out, err := keygen(t, dir, "", "-l", "-f", "key.pub"); err != nil || !strings.Contains(out, key.Fingerprint()) {
				t.Errorf("fingerprint is %s, ssh-keygen says %s", key.Fingerprint(), out)
			}
			verify := []string{"-Y", "verify", "-f", "allowed", "-I", "backup@example.org", "-n", Namespace, "-s"}
			if out, err := keygen(t, dir, message, append(verify, "ours.sig")...); err != nil {
				t.Errorf("ssh-keygen refuses it: %v\n%s", err, out)
			}
			if _, err := keygen(t, dir, message+" ", append(verify, "ours.sig")...); err == nil {
				t.Error("ssh-keygen accepts it for another message")
			}

			write(t, filepath.Join(dir, "message"), message)
			if out, err := keygen(t, dir, "", "-Y", "sign", "-q", "-f", "key", "-n", Namespace, "message"); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			for _, file := range []string{"ours.sig", "message.sig"} {
				sig := []byte(read(t, filepath.Join(dir, file)))
				who, err := signers(t, allowed).Verify(Namespace, []byte(message), sig, time.Now())
				if err != nil || who != "backup@example.org" {
					t.Errorf("%s: by %q, %v", file, who, err)
				}
				if _, err := signers(t, allowed).Verify(Namespace, []byte(message+" "), sig, time.Now()); !errors.Is(err, ErrSignature) {
					t.Errorf("%s of another message: %v", file, err)
				}
			}
		})
	}
}

func TestVerifyRefuses(t *testing.T) {
	dir := t.TempDir()
	file := newKey(t, dir, "key", "", "-t", "ed25519")
	other := newKey(t, dir, "other", "", "-t", "ed25519")
	public := read(t, file+".pub")
	key, err := LoadKey(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	message := []byte("message")
	sig, err := key.Sign(message)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		name, allowed string
		want          error
	}{
		{"plain", "a " + public, nil},
		{"second line", "b " + read(t, other+".pub") + "a " + public, nil},
		{"quoted", `"a b" ` + public, nil},
		{"nobody", "", ErrSigner},
		{"other key", "a " + read(t, other+".pub"), ErrSigner},
		{"namespace", `a namespaces="file,kbk-log" ` + public, nil},
		{"pattern", `a namespaces="kbk-*" ` + public, nil},
		{"other namespace", `a namespaces="file,git" ` + public, ErrSigner},
		{"taken away", `a namespaces="*,!kbk-log" ` + public, ErrSigner},
		{"no class", `a namespaces="kbk-lo[g]" ` + public, ErrSigner},
		{"authority", "a cert-authority " + public, ErrSigner},
		{"valid", `a valid-after="20261121",valid-before="20261122120001Z" ` + public, nil},
		{"too early", `a valid-after="202611211201Z" ` + public, ErrSigner},
		{"in the last second", `a valid-before="20261121120000Z" ` + public, nil},
		{"too late", `a valid-before="20261121115959Z" ` + public, ErrSigner},
		{"too late, and again in time", `a valid-before="20261121Z" ` + public + "a " + public, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := signers(t, test.allowed).Verify(Namespace, message, sig, now); !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
			// The real one, at the same time.
			write(t, filepath.Join(dir, "allowed"), test.allowed)
			write(t, filepath.Join(dir, "sig"), string(sig))
			who := "a"
			if test.name == "quoted" {
				who = "a b"
			}
			out, err := keygen(t, dir, string(message), "-Y", "verify", "-f", "allowed", "-I", who, "-n", Namespace, "-s", "sig", "-Overify-time=20261121120000Z")
			if (err == nil) != (test.want == nil) && test.name != "quoted" { // two principals there
				t.Errorf("ssh-keygen sees it differently: %v\n%s", err, out)
			}
		})
	}

	all := signers(t, "a "+public)
	if _, err := all.Verify("file", message, sig, now); !errors.Is(err, ErrSignature) {
		t.Errorf("for another namespace: %v", err)
	}
	whole, _ := pem.Decode(sig)
	for i := range sig {
		bad := bytes.Clone(sig)
		bad[i] ^= 1
		if block, _ := pem.Decode(bad); block != nil && bytes.Equal(block.Bytes, whole.Bytes) {
			continue // it says the same
		}
		if _, err := all.Verify(Namespace, message, bad, now); !errors.Is(err, ErrSignature) && !errors.Is(err, ErrSigner) {
			t.Errorf("byte %d flipped: %v", i, err)
		}
	}
	for _, cut := range []int{0, 1, len(sig) / 2} {
		if _, err := all.Verify(Namespace, message, sig[:cut], now); !errors.Is(err, ErrSignature) {
			t.Errorf("cut to %d bytes: %v", cut, err)
		}
	}
}

func TestReadSignersRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"a":                          "line 1: there is no key",
		"# x\n\na ssh-ed25519 AAAA":  "line 3: not a list of principals",
		`"a ssh-ed25519 AAAA`:        "a quote is not closed",
		"ssh-ed25519 AAAAC3NzaC1lZA": "line 1: not a list",
	} {
		if _, err := ReadSigners(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
	dir := t.TempDir()
	public := read(t, newKey(t, dir, "key", "", "-t", "ed25519")+".pub")
	for options, want := range map[string]string{`valid-after="tomorrow"`: "not a time", `frobnicate="x"`: "not known"} {
		if _, err := ReadSigners(strings.NewReader("a " + options + " " + public)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", options, err, want)
		}
	}
}

func TestLoadKey(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("SSH_AUTH_SOCK", "")
	locked := newKey(t, dir, "locked", "open sesame", "-t", "ed25519")
	write(t, filepath.Join(dir, "rubbish"), "hello\n")
	for _, test := range []struct{ name, file, passphrase, want string }{
		{"right passphrase", locked, "open sesame", ""},
		{"no passphrase", locked, "", "the key is encrypted"},
		{"wrong passphrase", locked, "wrong", "decryption password incorrect"},
		{"public half without an agent", locked + ".pub", "", "there is no ssh-agent"},
		{"no key", filepath.Join(dir, "rubbish"), "", "holds no SSH key"},
		{"no file", filepath.Join(dir, "nothing"), "", "no such file"},
	} {
		key, err := LoadKey(test.file, []byte(test.passphrase))
		if test.want == "" {
			if err != nil {
				t.Errorf("%s: %v", test.name, err)
			} else {
				key.Close()
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Count(err.Error(), test.file) != 1 {
			t.Errorf("%s: got %v, want %q", test.name, err, test.want)
		}
	}
}

// TestAgent signs with keys that only a real ssh-agent can open.
func TestAgent(t *testing.T) {
	need.Tools(t, "ssh-agent", "ssh-add")
	dir := t.TempDir()
	file := newKey(t, dir, "key", "", "-t", "ed25519")
	rsa := newKey(t, dir, "rsa", "", "-t", "rsa", "-b", "3072")
	stranger := newKey(t, dir, "stranger", "", "-t", "ed25519")
	socket := filepath.Join(dir, "agent")
	agent := exec.Command("ssh-agent", "-D", "-a", socket)
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = agent.Process.Kill()
		_ = agent.Wait()
	}()
	t.Setenv("SSH_AUTH_SOCK", socket)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		out, err := exec.Command("ssh-add", "-q", file, rsa).CombinedOutput()
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("ssh-add: %v\n%s", err, out)
		}
	}
	// As people have it: the file is encrypted, the agent has it open.
	if out, err := keygen(t, dir, "", "-q", "-p", "-N", "open sesame", "-f", "key"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, name := range []string{file, file + ".pub", rsa + ".pub"} {
		key, err := LoadKey(name, nil)
		if err != nil {
			t.Fatal(err)
		}
		sig, err := key.Sign([]byte("message"))
		if err != nil {
			t.Fatal(err)
		}
		allowed := signers(t, "a "+read(t, strings.TrimSuffix(name, ".pub")+".pub"))
		if _, err := allowed.Verify(Namespace, []byte("message"), sig, time.Now()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := key.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := LoadKey(stranger+".pub", nil); err == nil || !strings.Contains(err.Error(), "does not hold it") {
		t.Errorf("got %v", err)
	}
}
