// Package stores drives the built kbk-push and kbk-pull against real storage servers,
// all of them on loopback: see docs/remotes.md for which. The servers that are not
// in rclone are pinned in the folder tools and installed into bin/test.
package stores

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/ncw/swift/v2/swifttest"
	"github.com/rclone/rclone/fs/config/obscure"
	"github.com/rclone/rclone/fs/rc"

	"github.com/kbkio/kbk/pkg/receipt"
	"github.com/kbkio/kbk/pkg/store"
)

var bin string // the folder of the commands

func TestMain(m *testing.M) {
	status, err := testAll(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "stores:", err)
		os.Exit(1)
	}
	os.Exit(status)
}

func testAll(m *testing.M) (status int, err error) {
	if os.Getenv(listVar) != "" {
		return m.Run(), nil
	}
	// Not the remotes, nor the credentials, of whoever runs the tests.
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "RCLONE_") || strings.HasPrefix(name, "AWS_") {
			os.Unsetenv(name)
		}
	}
	os.Setenv("RCLONE_CONFIG", "")
	if bin = os.Getenv("KBK_BIN"); bin == "" {
		if bin, err = os.MkdirTemp("", "kbk-stores-"); err != nil {
			return 0, err
		}
		defer os.RemoveAll(bin)
		if out, err := exec.Command("make", "-C", "../..", "commands", "BIN="+bin).CombinedOutput(); err != nil {
			return 0, fmt.Errorf("build the commands: %w\n%s", err, out)
		}
	}
	// Makes rclone a library in this process too, for its servers and for listing.
	s, err := store.Open(context.Background(), os.TempDir())
	if err != nil {
		return 0, err
	}
	defer s.Close()
	return m.Run(), nil
}

// A result is what a command that has ended leaves.
type result struct {
	stdout []byte
	stderr string
	status int
	wall   time.Duration
}

// try runs one of the commands. What it prints must be tidy, and hold no secret.
func try(t *testing.T, name string, stdin []byte, args ...string) result {
	t.Helper()
	return tryEnv(t, nil, name, stdin, args...)
}

func tryEnv(t *testing.T, env []string, name string, stdin []byte, args ...string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), filepath.Join(bin, name), args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &stdout, &stderr
	cmd.Env = append(os.Environ(), env...)
	began := time.Now()
	err := cmd.Run()
	r := result{stdout: stdout.Bytes(), stderr: stderr.String(), wall: time.Since(began)}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		r.status = exit.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(r.stderr) {
		if !strings.HasPrefix(line, name+": ") {
			t.Errorf("a line that is not under the name of %s: %q", name, line)
		}
	}
	for _, s := range []string{secret, wrong, obscured, obscuredWrong} {
		if strings.Contains(r.stderr, s) || strings.Contains(string(r.stdout), s) {
			t.Errorf("%s printed a secret:\n%s", name, r.stderr)
		}
	}
	return r
}

// run is try for what must go well.
func run(t *testing.T, name string, stdin []byte, args ...string) result {
	t.Helper()
	r := try(t, name, stdin, args...)
	if r.status != 0 {
		t.Fatalf("%s %s ended with %d\n%s", name, strings.Join(args, " "), r.status, r.stderr)
	}
	return r
}

// failure is all that a command may print that fails before it has done anything.
var failure = regexp.MustCompile(`^(kbk-[a-z]+): error: [^\n]+\n(kbk-[a-z]+: hint: [^\n]+\n)?$`)

var (
	obscured      = obscure.MustObscure(secret)
	obscuredWrong = obscure.MustObscure(wrong)
)

// A remote is a storage server and what a user types to get there.
type remote struct {
	right string
	// With credentials that are wrong, and what is said of them. Empty where the server
	// knows no credentials.
	wrong, refusal string
	hash           string // that uploads are verified by; "" for reading them again
	clock          bool   // it tells the time of its clock
}

// remotes start a server each. Some are reached by connection strings, some through
// rclone's configuration file, some by RCLONE_CONFIG_* variables.
var remotes = map[string]func(t *testing.T) remote{
	"local": func(t *testing.T) remote {
		return remote{right: filepath.Join(t.TempDir(), "deep", "nightly"), hash: "sha256"}
	},
	"s3 by versitygw": func(t *testing.T) remote {
		endpoint := versitygw(t)
		configure(t, "[s3]", "type = s3", "provider = Other", "access_key_id = "+user, "secret_access_key = "+secret, "endpoint = "+endpoint,
			"[bad]", "type = s3", "provider = Other", "access_key_id = "+user, "secret_access_key = "+wrong, "endpoint = "+endpoint)
		return remote{right: "s3:bucket/nightly", wrong: "bad:bucket/nightly", refusal: "SignatureDoesNotMatch", hash: "md5", clock: true}
	},
	"s3 by rclone": func(t *testing.T) remote {
		addr := serve(t, "s3", t.TempDir(), rc.Params{"auth_key": []string{user + "," + secret}})
		at := func(key string) string {
			return fmt.Sprintf(":s3,provider=Rclone,access_key_id=%s,secret_access_key=%s,endpoint='http://%s':bucket/nightly", user, key, addr)
		}
		return remote{right: at(secret), wrong: at(wrong), refusal: "SignatureDoesNotMatch", hash: "md5", clock: true}
	},
	"azure blob by azurite": func(t *testing.T) remote {
		// The account and the key are Azurite's, the same everywhere, and no secret.
		endpoint := azurite(t)
		const key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
		at := func(key string) string {
			return fmt.Sprintf(":azureblob,account=devstoreaccount1,key='%s',endpoint='%s':bucket/nightly", key, endpoint)
		}
		return remote{right: at(key), wrong: at("d3Jvbmc0d3Jvbmc0d3Jvbmc0"), refusal: "AuthorizationFailure", hash: "md5", clock: true}
	},
	"gcs by fake-gcs-server": func(t *testing.T) remote {
		endpoint := fakeGCS(t)
		made, err := http.Post(endpoint+"b", "application/json", strings.NewReader(`{"name": "bucket"}`))
		must(t, err)
		must(t, made.Body.Close())
		return remote{right: fmt.Sprintf(":gcs,anonymous,endpoint='%s':bucket/nightly", endpoint), hash: "md5"}
	},
	"swift by swifttest": func(t *testing.T) remote {
		auth := swiftServer(t)
		for name, key := range map[string]string{"GOOD": swifttest.TEST_ACCOUNT, "BAD": wrong} {
			prefix := "RCLONE_CONFIG_" + name
			t.Setenv(prefix+"_TYPE", "swift")
			t.Setenv(prefix+"_USER", swifttest.TEST_ACCOUNT)
			t.Setenv(prefix+"_KEY", key)
			t.Setenv(prefix+"_AUTH", auth)
		}
		return remote{right: "good:bucket/nightly", wrong: "bad:bucket/nightly", refusal: "Authorization Failed", hash: "md5", clock: true}
	},
	"sftp by rclone": func(t *testing.T) remote {
		host, port, _ := strings.Cut(serve(t, "sftp", t.TempDir(), rc.Params{"user": user, "pass": secret}), ":")
		configure(t, "[nas]", "type = sftp", "host = "+host, "port = "+port, "user = "+user, "pass = "+obscured,
			"[bad]", "type = sftp", "host = "+host, "port = "+port, "user = "+user, "pass = "+obscuredWrong)
		return remote{right: "nas:nightly", wrong: "bad:nightly", refusal: "unable to authenticate", hash: "md5"}
	},
	"webdav by rclone": func(t *testing.T) remote {
		addr := serve(t, "webdav", t.TempDir(), rc.Params{"user": user, "pass": secret})
		at := func(pass string) string {
			return fmt.Sprintf(":webdav,url='http://%s',user=%s,pass=%s:nightly", addr, user, pass)
		}
		return remote{right: at(obscured), wrong: at(obscuredWrong), refusal: "401", clock: true}
	},
	"crypt over s3": func(t *testing.T) remote {
		configure(t, "[s3]", "type = s3", "provider = Other", "access_key_id = "+user, "secret_access_key = "+secret, "endpoint = "+versitygw(t),
			"[secret]", "type = crypt", "remote = s3:bucket", "password = "+obscured)
		return remote{right: "secret:nightly", clock: true}
	},
}

// configure makes rclone's configuration file.
func configure(t *testing.T, lines ...string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "rclone.conf")
	must(t, os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600))
	t.Setenv("RCLONE_CONFIG", file)
}

// TestRemotes takes a backup through its life on every kind of storage.
func TestRemotes(t *testing.T) {
	stream, packed := source(t), segments(t)
	for name, remote := range remotes {
		t.Run(name, func(t *testing.T) {
			r := remote(t)

			if r.wrong != "" {
				for _, call := range []result{try(t, "kbk-push", packed, r.wrong), try(t, "kbk-pull", nil, r.wrong)} {
					if call.status != 1 || !failure.MatchString(call.stderr) || !strings.Contains(call.stderr, r.refusal) || len(call.stdout) > 0 {
						t.Errorf("wrong credentials: %d\n%s", call.status, call.stderr)
					}
				}
			}
			checked := string(run(t, "kbk-catalog", nil, "check", r.right).stdout)
			if compared := strings.Contains(checked, "the store's clock and this machine's differ by less than"); compared != r.clock || strings.Count(checked, "\n") != 3 {
				t.Errorf("check, where the clock is told: %v:\n%s", r.clock, checked)
			}
			if got := try(t, "kbk-pull", nil, r.right); got.status != 1 || !strings.Contains(got.stderr, "error: no backup in ") {
				t.Errorf("pull of nothing: %d\n%s", got.status, got.stderr)
			}

			// A run that is cut off in the middle keeps its checkpoints.
			cut := try(t, "kbk-push", packed[:len(packed)*2/3], "--checkpoint-segments", "4", r.right)
			if cut.status != 3 || !strings.Contains(cut.stderr, "stays valid") {
				t.Fatalf("cut off: %d\n%s", cut.status, cut.stderr)
			}
			half := receipts(t, cut.stdout)
			if len(half) < 2 || half[len(half)-1].Final {
				t.Errorf("%d receipts of a run that was cut off", len(half))
			}

			// The same line goes on, and once more there is nothing to do.
			again := run(t, "kbk-push", packed, "--verify", "auto", r.right)
			if !strings.Contains(again.stderr, " already stored") || strings.Contains(again.stderr, "stored 0 ") {
				t.Errorf("resumed: %s", again.stderr)
			}
			if third := run(t, "kbk-push", packed, r.right); !strings.Contains(third.stderr, "stored 0 segments") {
				t.Errorf("doubled: %s", third.stderr)
			}
			if all := receipts(t, again.stdout); !all[len(all)-1].Final {
				t.Errorf("the last receipt is not final: %s", again.stdout)
			}

			back := run(t, "kbk-pull", nil, "-q", r.right)
			sameRecords(t, run(t, "kbk-pack", back.stdout, "-q", "-d").stdout, stream)
			list(t, r)
		})
	}
}

// list lists a backup through the library: what its log says must be there.
func list(t *testing.T, r remote) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestList$")
	cmd.Env = append(os.Environ(), listVar+"="+r.right)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("list: %v\n%s", err, out)
	}
	if want := fmt.Sprintf("uploads verified by %q\n", r.hash); !strings.Contains(string(out), want) {
		t.Errorf("want %sgot %s", want, out)
	}
}

const listVar = "KBK_STORES_TEST_LIST"

// TestList is the program that list runs: rclone reads its configuration once in a
// process.
func TestList(t *testing.T) {
	at := os.Getenv(listVar)
	if at == "" {
		return // not as a test: list runs it
	}
	s, err := store.Open(t.Context(), at)
	must(t, err)
	defer s.Close()
	fmt.Printf("uploads verified by %q\n", s.VerifiedBy())
	state, err := s.LoadLog(t.Context())
	must(t, err)
	covered, n := 0, 0
	for _, plan := range state.Select() {
		if plan.From == 0 && plan.Next == records && len(plan.Holes) == 0 {
			covered++
		}
		for i := range plan.Len() {
			n++
			if _, err := s.ReadSegment(t.Context(), plan.Segment(i).Segment); err != nil {
				t.Error(err)
			}
		}
	}
	if covered != partitions || n < 2*partitions || len(state.Points()) == 0 {
		t.Errorf("%d partitions are whole, in %d segments, with %d restore points", covered, n, len(state.Points()))
	}
}

func receipts(t *testing.T, stdout []byte) []receipt.Receipt {
	t.Helper()
	var all []receipt.Receipt
	for line := range bytes.Lines(stdout) {
		var r receipt.Receipt
		must(t, json.Unmarshal(line, &r))
		all = append(all, r)
	}
	return all
}

// newProxy forwards requests to host, under the Host that the client signed.
func newProxy(host string) *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite:  func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = "http", host },
		ErrorLog: log.New(io.Discard, "", 0), // that clients hang up is no news
	}
}
