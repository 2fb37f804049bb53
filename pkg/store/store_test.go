package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/commitlog"

	_ "github.com/rclone/rclone/backend/union" // for TestSecretsStayOut; kbk_dozen leaves it out
	_ "github.com/rclone/rclone/cmd/serve/s3"
	_ "github.com/rclone/rclone/cmd/serve/sftp"
	_ "github.com/rclone/rclone/cmd/serve/webdav"
	"github.com/rclone/rclone/fs/config/obscure"
	"github.com/rclone/rclone/fs/object"
	"github.com/rclone/rclone/fs/rc"
)

func TestMain(m *testing.M) {
	if os.Getenv(childVar) == "" {
		os.Setenv("RCLONE_CONFIG", "") // not the remotes of whoever runs the tests
	}
	os.Exit(m.Run())
}

// serve starts one of rclone's servers on a folder of its own and returns its address.
func serve(t *testing.T, kind string, params rc.Params) string {
	t.Helper()
	if err := startRclone(); err != nil {
		t.Fatal(err)
	}
	in := rc.Params{"type": kind, "fs": t.TempDir(), "addr": "127.0.0.1:0"}
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

// remotes are the kinds of places that tests try, each made anew.
var remotes = map[string]func(t *testing.T) string{
	"local":  func(t *testing.T) string { return filepath.Join(t.TempDir(), "deep", "nightly") },
	"memory": func(*testing.T) string { return ":memory:" + commitlog.NewRun().Name() }, // the process has one memory
	"s3": func(t *testing.T) string {
		addr := serve(t, "s3", rc.Params{"auth_key": []string{"key-of-test,secret-of-test"}})
		return fmt.Sprintf(":s3,provider=Rclone,access_key_id=key-of-test,secret_access_key=secret-of-test,endpoint='http://%s':bucket/nightly", addr)
	},
	"sftp": func(t *testing.T) string {
		host, port, _ := strings.Cut(serve(t, "sftp", rc.Params{"user": "u", "pass": "secret-of-test"}), ":")
		return fmt.Sprintf(":sftp,host=%s,port=%s,user=u,pass=%s:nightly", host, port, obscure.MustObscure("secret-of-test"))
	},
	"webdav": func(t *testing.T) string {
		return fmt.Sprintf(":webdav,url='http://%s':nightly", serve(t, "webdav", nil))
	},
	"crypt": func(t *testing.T) string {
		return fmt.Sprintf(":crypt,remote='%s',password=%s:nightly", t.TempDir(), obscure.MustObscure("secret-of-test"))
	},
}

func open(t *testing.T, remote string) *Store {
	t.Helper()
	s, err := Open(t.Context(), remote)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// segment makes one of topic "orders" that scanned [from, from+10), and its content.
func segment(t *testing.T, partition int32, from int64) (commitlog.Segment, []byte) {
	t.Helper()
	data := bytes.Repeat(fmt.Appendf(nil, "partition %d, offset %d. ", partition, from), 500)
	seg := commitlog.Segment{Topic: "orders", TopicID: "t1", Partition: partition, Content: commitlog.Content{
		From: from, Next: from + 10, First: from, Last: from + 9, Records: 10,
		Form: &commitlog.Form{Codec: "zstd"}, RawSize: int64(len(data)), Size: int64(len(data)), SHA256: commitlog.HashOf(data),
	}}
	var err error
	if seg.Path, err = commitlog.SegmentPath(&seg); err != nil {
		t.Fatal(err)
	}
	return seg, data
}

// checkpoint stores segments and then the run's next entry that lists them.
func checkpoint(s *Store, run *commitlog.Run, segs ...commitlog.Segment) (*commitlog.Entry, error) {
	e := &commitlog.Entry{Tool: "test", Segments: segs}
	run.Stamp(e, time.Now())
	sha, err := s.AppendEntry(context.Background(), e)
	run.Advance(sha)
	return e, err
}

// overwrite changes an object behind kbk's back.
func overwrite(t *testing.T, s *Store, path string, data []byte) {
	t.Helper()
	in, info := bytes.NewReader(data), object.NewStaticObjectInfo(path, time.Now(), int64(len(data)), true, nil, nil)
	o, err := s.fs.NewObject(t.Context(), path)
	if err == nil {
		err = o.Update(t.Context(), in, info)
	} else {
		_, err = s.fs.Put(t.Context(), in, info)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, s *Store, path string) {
	t.Helper()
	o, err := s.fs.NewObject(t.Context(), path)
	if err == nil {
		err = o.Remove(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
}

func readObject(t *testing.T, s *Store, path string) []byte {
	t.Helper()
	o, err := s.fs.NewObject(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	data, err := s.read(t.Context(), o, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestRemotes(t *testing.T) {
	for kind, remote := range remotes {
		t.Run(kind, func(t *testing.T) {
			s := open(t, remote(t))
			ctx := t.Context()

			state, err := s.LoadLog(ctx)
			if err != nil || state.Entries() != 0 {
				t.Fatalf("a backup that is not there has %d entries, %v", state.Entries(), err)
			}

			// Upload: in parallel, each twice, as a retry would.
			var segs []commitlog.Segment
			var contents [][]byte
			var wg sync.WaitGroup
			for p := range int32(4) {
				seg, data := segment(t, p, 0)
				segs, contents = append(segs, seg), append(contents, data)
				wg.Go(func() {
					for range 2 {
						if err := s.PutSegment(ctx, seg.Path, data, seg.SHA256.String()); err != nil {
							t.Error(err)
						}
					}
				})
			}
			wg.Wait()

			// Log.
			run := commitlog.NewRun()
			e, err := checkpoint(s, run, segs[:2]...)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.AppendEntry(ctx, e); err != nil {
				t.Errorf("writing the same entry again: %v", err)
			}
			e.Tool = "other"
			if _, err := s.AppendEntry(ctx, e); !errors.Is(err, ErrExists) || !strings.Contains(err.Error(), e.ID) {
				t.Errorf("writing another entry over one: %v", err)
			}
			if _, err := checkpoint(s, run, segs[2:]...); err != nil {
				t.Fatal(err)
			}
			// What is left when a writer is killed before it renames.
			overwrite(t, s, "log/20991231T000000.000Z-00000000-000001.json.12345678.tmp", []byte("{"))

			state, err = s.LoadLog(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if state.Entries() != 2 || len(state.Select()) != len(segs) {
				t.Errorf("%d entries, %d partitions, want 2 and %d", state.Entries(), len(state.Select()), len(segs))
			}

			// Manifest: written over the one before.
			for range 2 {
				if err := s.WriteManifest(ctx, state.Manifest()); err != nil {
					t.Fatal(err)
				}
			}
			want, _ := state.Manifest().Encode()
			if got := readObject(t, s, commitlog.ManifestName); !bytes.Equal(got, want) {
				t.Errorf("manifest is\n%s\nwant\n%s", got, want)
			}

			// Read.
			for i, p := range state.Select() {
				got, err := s.ReadSegment(ctx, p.Segment(0).Segment)
				if err != nil || !bytes.Equal(got, contents[i]) {
					t.Errorf("partition %d: %d bytes, %v", i, len(got), err)
				}
			}

			// Damage, and what a retried upload makes of it.
			altered := bytes.Clone(contents[0])
			altered[len(altered)/2] ^= 1
			for name, bad := range map[string][]byte{
				"altered": altered,
				"short":   contents[0][:len(contents[0])-1],
				"empty":   {},
				"long":    append(bytes.Clone(contents[0]), 0),
			} {
				overwrite(t, s, segs[0].Path, bad)
				_, err := s.ReadSegment(ctx, segs[0])
				if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), segs[0].Path) {
					t.Errorf("%s object: got %v, want ErrDamaged that names it", name, err)
				}
				if err := s.PutSegment(ctx, segs[0].Path, contents[0], segs[0].SHA256.String()); err != nil {
					t.Errorf("upload over %s object: %v", name, err)
				}
				if got, err := s.ReadSegment(ctx, segs[0]); err != nil || !bytes.Equal(got, contents[0]) {
					t.Errorf("after the upload over %s object: %d bytes, %v", name, len(got), err)
				}
			}
			remove(t, s, segs[1].Path)
			if _, err := s.ReadSegment(ctx, segs[1]); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), segs[1].Path) {
				t.Errorf("missing object: got %v, want ErrNotFound that names it", err)
			}
		})
	}
}

// TestTamperedCrypt changes what an encrypting remote stored, below it.
func TestTamperedCrypt(t *testing.T) {
	dir := t.TempDir()
	s := open(t, fmt.Sprintf(":crypt,remote='%s',password=%s:", dir, obscure.MustObscure("pw")))
	seg, data := segment(t, 0, 0)
	for name, change := range map[string]func([]byte) []byte{
		"altered":    func(b []byte) []byte { b[len(b)-1] ^= 1; return b },
		"cut":        func(b []byte) []byte { return b[:len(b)-20] },
		"cut to ten": func(b []byte) []byte { return b[:10] },
		"other":      func(b []byte) []byte { return bytes.Repeat([]byte{7}, len(b)) },
	} {
		if err := s.PutSegment(t.Context(), seg.Path, data, seg.SHA256.String()); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var file string
		err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				file = path
			}
			return err
		})
		if err != nil || file == "" {
			t.Fatalf("no encrypted file: %v", err)
		}
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, change(b), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.ReadSegment(t.Context(), seg); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: got %v, want ErrDamaged", name, err)
		}
	}
}

func TestTwoWriters(t *testing.T) {
	remote := remotes["local"](t)
	const checkpoints = 20
	var wg sync.WaitGroup
	for p := range int32(2) {
		s := open(t, remote)
		wg.Go(func() {
			run := commitlog.NewRun()
			for i := range int64(checkpoints) {
				seg, data := segment(t, p, i*10)
				if err := s.PutSegment(t.Context(), seg.Path, data, seg.SHA256.String()); err != nil {
					t.Error(err)
				}
				if _, err := checkpoint(s, run, seg); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	state, err := open(t, remote).LoadLog(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if state.Entries() != 2*checkpoints {
		t.Errorf("%d entries, want %d", state.Entries(), 2*checkpoints)
	}
	for p := range int32(2) {
		if !state.Covered("orders", "t1", p, 0, checkpoints*10, nil) {
			t.Errorf("partition %d has holes", p)
		}
	}
}

func TestTamperedLog(t *testing.T) {
	for _, test := range []struct {
		name   string
		tamper func(t *testing.T, file []string) error
		names  int // the entry that the error names
	}{
		{"edited", func(t *testing.T, file []string) error {
			b, err := os.ReadFile(file[1])
			if err != nil {
				return err
			}
			return os.WriteFile(file[1], bytes.Replace(b, []byte(`"test"`), []byte(`"tost"`), 1), 0o600)
		}, 1},
		{"deleted", func(t *testing.T, file []string) error { return os.Remove(file[1]) }, 2},
		{"first deleted", func(t *testing.T, file []string) error { return os.Remove(file[0]) }, 1},
		{"cut off", func(t *testing.T, file []string) error { return os.Truncate(file[2], 40) }, 2},
		{"emptied", func(t *testing.T, file []string) error { return os.Truncate(file[1], 0) }, 1},
		{"renamed", func(t *testing.T, file []string) error {
			return os.Rename(file[2], strings.Replace(file[2], "-000003", "-000004", 1))
		}, -1},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir)
			run := commitlog.NewRun()
			var ids, files []string
			for i := range int64(3) {
				seg, _ := segment(t, 0, i*10)
				e, err := checkpoint(s, run, seg)
				if err != nil {
					t.Fatal(err)
				}
				ids = append(ids, e.ID)
				files = append(files, filepath.Join(dir, "log", e.ID+".json"))
			}
			if err := test.tamper(t, files); err != nil {
				t.Fatal(err)
			}
			_, err := s.LoadLog(t.Context())
			if !errors.Is(err, commitlog.ErrCorrupt) || test.names >= 0 && !strings.Contains(err.Error(), ids[test.names]) {
				t.Errorf("got %v, want ErrCorrupt that names entry %d", err, test.names+1)
			}
		})
	}
}

// TestManifestIsNeverHalfWritten reads the manifest all the time while it is replaced.
func TestManifestIsNeverHalfWritten(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	long := &commitlog.Manifest{KBK: strings.Repeat("long ", 50_000)}
	if err := s.WriteManifest(t.Context(), long); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	done := make(chan error)
	go func() {
		for {
			b, err := os.ReadFile(filepath.Join(dir, commitlog.ManifestName))
			if err == nil && !json.Valid(b) {
				err = fmt.Errorf("half a manifest: %d bytes", len(b))
			}
			select {
			case <-stop:
				done <- err
				return
			default:
			}
			if err != nil {
				<-stop
				done <- err
				return
			}
		}
	}()
	for i := range 30 {
		m := long
		if i%2 == 0 {
			m = &commitlog.Manifest{}
		}
		if err := s.WriteManifest(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	if err := <-done; err != nil {
		t.Error(err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*.tmp"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

// flaky is a WebDAV server behind a proxy that counts the uploads of segments and
// answers the nth itself, with the status that answer returns unless it is 0.
func flaky(t *testing.T, answer func(n int64) int) (remote string, puts *atomic.Int64) {
	t.Helper()
	target := &url.URL{Scheme: "http", Host: serve(t, "webdav", nil)}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.Out.URL.Scheme, r.Out.URL.Host = target.Scheme, target.Host // Host stays: MOVE compares it
	}}
	puts = new(atomic.Int64)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/topics/") {
			if code := answer(puts.Add(1)); code != 0 {
				_, _ = io.Copy(io.Discard, r.Body)
				http.Error(w, "try later", code)
				return
			}
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return fmt.Sprintf(":webdav,url='%s':nightly", server.URL), puts
}

func TestRetries(t *testing.T) {
	seg, data := segment(t, 0, 0)
	t.Run("passing fault", func(t *testing.T) {
		remote, puts := flaky(t, func(n int64) int {
			if n <= 2 {
				return http.StatusServiceUnavailable
			}
			return 0
		})
		s := open(t, remote)
		if err := s.PutSegment(t.Context(), seg.Path, data, seg.SHA256.String()); err != nil {
			t.Fatal(err)
		}
		if got, err := s.ReadSegment(t.Context(), seg); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if n := puts.Load(); n != 3 {
			t.Errorf("%d uploads, want 3", n)
		}
	})
	t.Run("lasting fault", func(t *testing.T) {
		remote, puts := flaky(t, func(int64) int { return http.StatusForbidden })
		err := open(t, remote).PutSegment(t.Context(), seg.Path, data, seg.SHA256.String())
		if err == nil || !strings.Contains(err.Error(), seg.Path) || !strings.Contains(err.Error(), "403") {
			t.Errorf("got %v, want an error with the path and the status", err)
		}
		if n := puts.Load(); n != 1 {
			t.Errorf("%d uploads, want 1: a refusal does not pass", n)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		remote, _ := flaky(t, func(int64) int { cancel(); return http.StatusServiceUnavailable })
		err := open(t, remote).PutSegment(ctx, seg.Path, data, seg.SHA256.String())
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}

// TestLostUpload has a server that says yes and keeps something else.
func TestLostUpload(t *testing.T) {
	seg, data := segment(t, 0, 0)
	remote, puts := flaky(t, func(n int64) int {
		if n == 2 {
			return http.StatusNoContent
		}
		return 0
	})
	s := open(t, remote)
	overwrite(t, s, seg.Path, data[:len(data)/2])
	if err := s.PutSegment(t.Context(), seg.Path, data, seg.SHA256.String()); err != nil {
		t.Fatal(err)
	}
	if n := puts.Load(); n != 3 {
		t.Errorf("%d uploads, want 3: what the second left was not what was sent", n)
	}
	if got := readObject(t, s, seg.Path); !bytes.Equal(got, data) {
		t.Errorf("%d bytes arrived", len(got))
	}
}

func TestPutSegmentStaysInside(t *testing.T) {
	s := open(t, t.TempDir())
	for _, path := range []string{"../x", "topics/../../x", "/etc/x", "log/x.json", "manifest.json", "topics"} {
		if err := s.PutSegment(t.Context(), path, nil, ""); err == nil {
			t.Errorf("%q was written", path)
		}
	}
}

func TestPutSegmentDoesNotCopy(t *testing.T) {
	s := open(t, t.TempDir())
	data := make([]byte, 32<<20)
	sum := sha256.Sum256(data)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := s.PutSegment(t.Context(), "topics/big", data, hex.EncodeToString(sum[:])); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 4<<20 {
		t.Errorf("%d bytes allocated to store %d", n, len(data))
	}
}

func TestReadDoesNotTrustTheLog(t *testing.T) {
	s := open(t, t.TempDir())
	seg, data := segment(t, 0, 0)
	if err := s.PutSegment(t.Context(), seg.Path, data, seg.SHA256.String()); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int64{MaxSegment + 1, MaxSegment, 0} {
		seg.Size = size
		if _, err := s.ReadSegment(t.Context(), seg); err == nil {
			t.Errorf("read %d bytes where the log says %d", len(data), size)
		}
	}
}

func TestOpenFails(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for remote, want := range map[string]string{
		"":                  "empty string",
		"nowhere:x":         "no remote of this name",
		":nothing:x":        "didn't find backend",
		file:                "is a file",
		":memory:":          "names no bucket",
		":s3,secret=abcdef": "open :s3,…: ",
	} {
		s, err := Open(t.Context(), remote)
		if err == nil {
			s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "abcdef") {
			t.Errorf("Open(%q): got %v, want an error with %q", remote, err, want)
		}
	}
	_, err := Open(t.Context(), "nowhere:bucket/b")
	if hint := command.HintOf(err); !strings.Contains(hint, "RCLONE_CONFIG_NOWHERE_TYPE") {
		t.Errorf("a remote that is not configured: %v, hint %q", err, hint)
	}
}

func TestLocalPaths(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.Mkdir("here", 0o700); err != nil {
		t.Fatal(err)
	}
	t.Chdir("here")
	crypt := ":crypt,filename_encryption=off,directory_name_encryption=false,suffix=none,remote=../c,password=" + obscure.MustObscure("pw") + ":d"
	for remote, dir := range map[string]string{"x": "x", "./y": "y", "../z": "../z", "w/": "w", "a b": "a b", "..": "..", crypt: "../c/d"} {
		s := open(t, remote)
		if _, err := checkpoint(s, commitlog.NewRun()); err != nil {
			t.Errorf("%q: %v", remote, err)
		}
		if entries, err := filepath.Glob(filepath.Join(dir, "log", "*.json")); len(entries) != 1 || err != nil {
			t.Errorf("%q: %d entries in %s, %v", remote, len(entries), dir, err)
		}
	}
}

func TestSecretsStayOut(t *testing.T) {
	for _, test := range []struct{ remote, name string }{
		{"/var/backups/nightly", "/var/backups/nightly"},
		{"s3:bucket/x", "s3:bucket/x"},
		{"s3,secret_access_key=hunter22:bucket/x", "s3,…:bucket/x"},
		{":s3,secret_access_key=hunter22,endpoint='http://u:hunter22@h':bucket/x", ":s3,…:bucket/x"},
		{`:crypt,remote=":s3,secret_access_key=hunter22:b",password=hunter22:x`, ":crypt,…:x"},
		{":s3,secret_access_key=hunter22", ":s3,…"},
		{":s3,secret_access_key='hunter22:bucket", ":s3,…"},
	} {
		if got := DisplayName(test.remote); got != test.name {
			t.Errorf("name of %q is %q, want %q", test.remote, got, test.name)
		}
	}

	// A server, or rclone, may repeat what it was given.
	s := &Store{name: "x", secrets: secrets(`:crypt,remote=":s3,provider=AWS,secret_access_key=hunter22,session_token='a\b':b",password=pass33:x`)}
	cause := errors.New(`AWS: bad key "hunter22", 'pass33', "a\\b", a\b`)
	err := fmt.Errorf("%w", cause)
	s.describe(&err, "read", "log")
	if want := `read x/log: AWS: bad key "…", '…', "…", …`; err.Error() != want || !errors.Is(err, cause) {
		t.Errorf("got %q, want %q", err, want)
	}

	// What is in rclone's configuration, of the remote and of those it is made of.
	for name, value := range map[string]string{
		"NAS_TYPE": "sftp", "NAS_HOST": "nas.example.org", "NAS_PASS": obscure.MustObscure("pass33"),
		"CLOUD_TYPE": "s3", "CLOUD_SECRET_ACCESS_KEY": "hunter22", "CLOUD_ENDPOINT": "https://cloud.example.org",
		"BOTH_TYPE": "union", "BOTH_UPSTREAMS": "nas:x cloud:y",
		"OUTER_TYPE": "crypt", "OUTER_REMOTE": "both:z", "OUTER_PASSWORD": obscure.MustObscure("pass44"),
	} {
		t.Setenv("RCLONE_CONFIG_"+name, value)
	}
	known := os.Getenv("RCLONE_CONFIG_NAS_PASS")
	cause = errors.New("dial nas.example.org: " + known + ` pass33 "pass44" hunter22 at https://cloud.example.org`)
	if got := hide(cause, secrets("outer:")); got.Error() != `dial nas.example.org: … … "…" … at https://cloud.example.org` {
		t.Errorf("got %q", got)
	}
	// And what is in no setting.
	cause = errors.New("GET https://u:pass33@h/x?sig=a%2Fb&v=1: HEAD http://h:80/?X-Amz-Credential=k&X-Amz-Signature=abc")
	if got := hide(cause, nil); got.Error() != "GET https://u:…@h/x?sig=…&v=1: HEAD http://h:80/?X-Amz-Credential=…&X-Amz-Signature=…" {
		t.Errorf("got %q", got)
	}

	// The real thing: a server that refuses the key.
	addr := serve(t, "s3", rc.Params{"auth_key": []string{"key-of-test,secret-of-test"}})
	remote := fmt.Sprintf(":s3,provider=Rclone,access_key_id=key-of-test,secret_access_key=hunter22,endpoint='http://%s':bucket/nightly", addr)
	_, err = open(t, remote).LoadLog(t.Context())
	if err == nil || strings.Contains(err.Error(), "hunter22") || !strings.HasPrefix(err.Error(), "read :s3,…:bucket/nightly/log: ") {
		t.Errorf("got %v", err)
	}
}
