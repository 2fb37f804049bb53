package stores

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ncw/swift/v2/swifttest"
	"github.com/rclone/rclone/fs/rc"

	_ "github.com/rclone/rclone/cmd/serve/s3"
	_ "github.com/rclone/rclone/cmd/serve/sftp"
	_ "github.com/rclone/rclone/cmd/serve/webdav"

	"github.com/kbkio/kbk/test/need"
)

// The credentials of every server. The secret must never be in what a command prints.
const (
	user   = "kbk-test-user"
	secret = "hunter2hunter2"
	wrong  = "wrong4wrong4wrong4"
)

// tools is the folder that pins the servers' versions, installed where they go.
const (
	tools     = "tools"
	installed = "../../bin/test"
)

var goTools = map[string]string{
	"versitygw":       "github.com/versity/versitygw/cmd/versitygw",
	"fake-gcs-server": "github.com/fsouza/fake-gcs-server",
}

var (
	installing sync.Mutex
	had        = map[string]error{}
)

// server returns the program of a server, installed at need. Where it cannot be had,
// without a network, say, the test is skipped, but fails in CI.
func server(t *testing.T, name string) string {
	t.Helper()
	installing.Lock()
	defer installing.Unlock()
	err, known := had[name]
	if !known {
		err = install(name)
		had[name] = err
	}
	if err != nil {
		need.Missing(t, "%s cannot be had: %v", name, err)
	}
	path, err := filepath.Abs(program(name))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func program(name string) string {
	if _, ok := goTools[name]; ok {
		return filepath.Join(installed, name)
	}
	return filepath.Join(installed, "npm", "node_modules", ".bin", name)
}

func install(name string) error {
	var cmd *exec.Cmd
	if pkg, ok := goTools[name]; ok {
		out, err := filepath.Abs(program(name))
		if err != nil {
			return err
		}
		cmd = exec.Command("go", "build", "-C", tools, "-o", out, pkg)
	} else {
		dir := filepath.Join(installed, "npm")
		lock, err := os.ReadFile(filepath.Join(tools, "package-lock.json"))
		if err != nil {
			return err
		}
		stamp := filepath.Join(dir, fmt.Sprintf("done-%x", sha256.Sum256(lock)))
		if _, err := os.Stat(stamp); err == nil {
			return nil
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		for _, file := range []string{"package.json", "package-lock.json"} {
			data, err := os.ReadFile(filepath.Join(tools, file))
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, file), data, 0o644)
			}
			if err != nil {
				return err
			}
		}
		defer func() {
			if _, err := os.Stat(program(name)); err == nil {
				_ = os.WriteFile(stamp, nil, 0o644)
			}
		}()
		cmd = exec.Command("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", dir)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// freePort is one that nothing listens on.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// start runs a server until the test is over, and waits until it listens.
func start(t *testing.T, port, name string, args ...string) {
	t.Helper()
	log, err := os.Create(filepath.Join(t.TempDir(), "server.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(server(t, name), args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = t.TempDir(), log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-done
	})
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if c, err := net.Dial("tcp", "127.0.0.1:"+port); err == nil {
			c.Close()
			return
		}
		select {
		case err := <-done:
			done <- err
			said, _ := os.ReadFile(log.Name())
			t.Fatalf("%s ended: %v\n%s", name, err, said)
		default:
		}
		if time.Now().After(deadline) {
			said, _ := os.ReadFile(log.Name())
			t.Fatalf("%s does not listen\n%s", name, said)
		}
	}
}

// serve starts one of rclone's own servers, in this process, on a folder.
func serve(t *testing.T, kind, folder string, params rc.Params) (addr string) {
	t.Helper()
	in := rc.Params{"type": kind, "fs": folder, "addr": "127.0.0.1:0"}
	for k, v := range params {
		in[k] = v
	}
	out, err := rc.Calls.Get("serve/start").Fn(t.Context(), in)
	if err != nil {
		t.Fatalf("serve %s: %v", kind, err)
	}
	t.Cleanup(func() {
		if _, err := rc.Calls.Get("serve/stop").Fn(context.Background(), rc.Params{"id": out["id"]}); err != nil {
			t.Errorf("stop serving %s: %v", kind, err)
		}
	})
	return out["addr"].(string)
}

func versitygw(t *testing.T, more ...string) (endpoint string) {
	t.Helper()
	port := freePort(t)
	args := append([]string{"--port", "127.0.0.1:" + port, "--access", user, "--secret", secret, "--quiet", "posix"}, more...)
	start(t, port, "versitygw", append(args, t.TempDir())...)
	return "http://127.0.0.1:" + port
}

func fakeGCS(t *testing.T) (endpoint string) {
	t.Helper()
	port := freePort(t)
	endpoint = "http://127.0.0.1:" + port
	start(t, port, "fake-gcs-server", "-scheme", "http", "-host", "127.0.0.1", "-port", port, "-backend", "memory", "-external-url", endpoint, "-log-level", "error")
	return endpoint + "/storage/v1/"
}

func azurite(t *testing.T) (endpoint string) {
	t.Helper()
	port := freePort(t)
	start(t, port, "azurite-blob", "--blobHost", "127.0.0.1", "--blobPort", port, "--skipApiVersionCheck", "--silent", "--disableTelemetry", "--location", t.TempDir())
	return "http://127.0.0.1:" + port + "/devstoreaccount1"
}

func swiftServer(t *testing.T) (authURL string) {
	t.Helper()
	s, err := swifttest.NewSwiftServer("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s.AuthURL
}

// front puts a proxy before an S3 server. For each request answer may write the answer
// itself and return true.
func front(t *testing.T, endpoint string, answer func(w http.ResponseWriter, r *http.Request) bool) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	proxy := newProxy(strings.TrimPrefix(endpoint, "http://"))
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !answer(w, r) {
			proxy.ServeHTTP(w, r)
		}
	})}
	go func() {
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("front: %v", err)
		}
	}()
	t.Cleanup(func() { s.Close() })
	return "http://" + l.Addr().String()
}
