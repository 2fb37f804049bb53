package stores

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rclone/rclone/fs/rc"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/test/need"
)

func s3At(endpoint string, more ...string) string {
	return fmt.Sprintf(":s3,provider=Other,access_key_id=%s,secret_access_key=%s,endpoint='%s'%s:bucket/nightly", user, secret, endpoint, strings.Join(more, ""))
}

// isSegment tells whether a request stores a segment.
func isSegment(r *http.Request) bool {
	return r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/topics/")
}

func s3Error(w http.ResponseWriter, r *http.Request, status int, code string) bool {
	_, _ = io.Copy(io.Discard, r.Body)
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, "<Error><Code>%s</Code><Message>as the test wants it</Message></Error>", code)
	return true
}

// TestStoreHeals has a server that is down for a while, in two ways.
func TestStoreHeals(t *testing.T) {
	stream, packed := source(t), segments(t)
	var n atomic.Int64
	at := s3At(front(t, versitygw(t), func(w http.ResponseWriter, r *http.Request) bool {
		if !isSegment(r) {
			return false
		}
		switch i := n.Add(1); {
		case i > 5 && i <= 11:
			return s3Error(w, r, http.StatusServiceUnavailable, "SlowDown")
		case i > 11 && i <= 14: // the connection is cut, in the middle of the body
			_, _ = io.CopyN(io.Discard, r.Body, 1000)
			panic(http.ErrAbortHandler)
		}
		return false
	}))
	got := run(t, "kbk-push", packed, "--verbose", at)
	for _, want := range []string{"tried 1 times, again in ", "warning: the store fails, and is retried from time to time", "the store works again"} {
		if !strings.Contains(got.stderr, want) {
			t.Errorf("nothing says %q:\n%s", want, got.stderr)
		}
	}
	sameRecords(t, run(t, "kbk-pack", run(t, "kbk-pull", nil, at).stdout, "-d").stdout, stream)
}

// TestStoreFails has a server that fails after a while, until it is mended. What is
// committed until then must be valid, and the same line must go on.
func TestStoreFails(t *testing.T) {
	stream, packed := source(t), segments(t)
	const patience = 4 * time.Second
	for name, test := range map[string]struct {
		answer  func(w http.ResponseWriter, r *http.Request) bool
		says    string
		retried bool
	}{
		"down": {func(w http.ResponseWriter, r *http.Request) bool {
			return s3Error(w, r, http.StatusServiceUnavailable, "SlowDown")
		}, "gave up after ", true},
		"no right": {func(w http.ResponseWriter, r *http.Request) bool {
			return s3Error(w, r, http.StatusForbidden, "AccessDenied")
		}, "AccessDenied", false},
		"no bucket": {func(w http.ResponseWriter, r *http.Request) bool {
			return s3Error(w, r, http.StatusNotFound, "NoSuchBucket")
		}, "NoSuchBucket", false},
		"full": {func(w http.ResponseWriter, r *http.Request) bool {
			return s3Error(w, r, http.StatusInsufficientStorage, "XMinioStorageFull")
		}, "XMinioStorageFull", false},
	} {
		t.Run(name, func(t *testing.T) {
			var good, failed atomic.Int64
			var mended atomic.Bool
			at := s3At(front(t, versitygw(t), func(w http.ResponseWriter, r *http.Request) bool {
				if mended.Load() || !isSegment(r) || good.Add(1) <= 12 {
					return false
				}
				failed.Add(1)
				return test.answer(w, r)
			}))
			got := try(t, "kbk-push", packed, "--checkpoint-segments", "4", "--retry-for", patience.String(), at)
			lines := strings.Split(strings.TrimSpace(got.stderr), "\n")
			if got.status != 1 || len(lines) < 2 || !strings.Contains(lines[len(lines)-2], "kbk-push: error: store :s3,…:bucket/nightly/topics/") ||
				!strings.Contains(lines[len(lines)-2], test.says) || !strings.Contains(lines[len(lines)-1], "fix the cause, then run the same line again to continue") {
				t.Errorf("%d\n%s", got.status, got.stderr)
			}
			n := failed.Load()
			t.Logf("%d requests in %s", n, got.wall)
			if test.retried && (n < 6 || n > 60 || got.wall < patience/2) || !test.retried && n > 4 {
				t.Errorf("%d requests in %s", n, got.wall)
			}
			done := receipts(t, got.stdout)
			if len(done) == 0 || !strings.Contains(got.stderr, "stays valid") {
				t.Fatalf("nothing was committed\n%s", got.stderr)
			}
			part := recordsOf(t, run(t, "kbk-pack", run(t, "kbk-pull", nil, at).stdout, "-d").stdout)
			for _, p := range done[len(done)-1].Partitions {
				if len(part[p.Partition]) < int(p.Next) {
					t.Errorf("%d records of partition %d, and the receipt says %d", len(part[p.Partition]), p.Partition, p.Next)
				}
			}
			mended.Store(true)
			if again := run(t, "kbk-push", packed, at); !strings.Contains(again.stderr, "already stored") {
				t.Errorf("nothing was resumed: %s", again.stderr)
			}
			sameRecords(t, run(t, "kbk-pack", run(t, "kbk-pull", nil, at).stdout, "-d").stdout, stream)
		})
	}
}

// TestNoServer calls where nobody listens: an address that was mistyped should not
// take as long to find out as a store that is down.
func TestNoServer(t *testing.T) {
	got := try(t, "kbk-push", segments(t), s3At("http://127.0.0.1:"+freePort(t)))
	if got.status != 1 || !strings.Contains(got.stderr, "connection refused") || got.wall > time.Minute {
		t.Errorf("%d after %s\n%s", got.status, got.wall, got.stderr)
	}
	t.Log(got.wall)
}

// full is what is said of a disk, by the system or by rclone, which asks before.
var full = regexp.MustCompile(`(no space left on device|file too big for remaining disk space)\nkbk-push: hint: what was committed until now, [0-9,]+ records in `)

// TestDiskFull fills a file system of 1 MiB.
func TestDiskFull(t *testing.T) {
	need.Tools(t, "unshare", "mount")
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "segments"), segments(t), 0o600))
	flags := "-m"
	if os.Getuid() != 0 {
		flags = "-rm"
	}
	inNamespace := func(script string) ([]byte, error) {
		cmd := exec.Command("unshare", flags, "bash", "-c", script)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
		return cmd.CombinedOutput()
	}
	must(t, os.Mkdir(filepath.Join(dir, "small"), 0o700))
	if out, err := inNamespace("mount -t tmpfs -o size=1m none small"); err != nil {
		need.Missing(t, "the right to mount a small file system: %s", out)
	}
	out, err := inNamespace(`mount -t tmpfs -o size=1m none small || exit
kbk-push --checkpoint-segments 2 small/backup < segments > receipts
echo status $?
find small -name "*.tmp" | sed "s/^/left behind: /"
kbk-pull -q small/backup | kbk-pack -d > records && echo readable
mount -o remount,size=10m small
kbk-push small/backup < segments > /dev/null && kbk-pull -q small/backup | kbk-pack -q -d > whole`)
	said := string(out)
	if err != nil || !full.MatchString(said) ||
		!strings.Contains(said, "\nstatus 1\n") || !strings.Contains(said, "readable\n") || strings.Contains(said, "left behind") {
		t.Errorf("%v\n%s", err, said)
	}
	whole, err := os.ReadFile(filepath.Join(dir, "whole"))
	must(t, err)
	sameRecords(t, whole, source(t))
}

// TestNothingIsOverwritten has a store that lets nothing be overwritten or deleted.
func TestNothingIsOverwritten(t *testing.T) {
	stream, packed := source(t), segments(t)
	var mu sync.Mutex
	stored := make(map[string]bool)
	at := s3At(front(t, versitygw(t), func(w http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case r.Method == http.MethodDelete, r.Method == http.MethodPut && stored[r.URL.Path] && strings.Count(r.URL.Path, "/") > 1:
			t.Logf("refused: %s %s", r.Method, r.URL.Path)
			return s3Error(w, r, http.StatusForbidden, "AccessDenied")
		case r.Method == http.MethodPut:
			stored[r.URL.Path] = true
		}
		return false
	}))
	if cut := try(t, "kbk-push", packed[:len(packed)/2], "--no-manifest", "--checkpoint-segments", "4", at); cut.status != 3 {
		t.Fatalf("%d\n%s", cut.status, cut.stderr)
	}
	run(t, "kbk-push", packed, "--no-manifest", at)
	run(t, "kbk-push", packed, "--no-manifest", at)
	sameRecords(t, run(t, "kbk-pack", run(t, "kbk-pull", nil, at).stdout, "-d").stdout, stream)
	if stored["/bucket/nightly/manifest.json"] {
		t.Error("a manifest was written")
	}
	// With a manifest the first run goes well, the second says what to do.
	run(t, "kbk-push", packed, at)
	if got := try(t, "kbk-push", packed, at); got.status != 1 || !strings.Contains(got.stderr, "hint: the backup itself is complete") || !strings.Contains(got.stderr, "--no-manifest") {
		t.Errorf("%d\n%s", got.status, got.stderr)
	}
}

// TestObjectLock stores in a bucket with object lock, under retention.
func TestObjectLock(t *testing.T) {
	packed := segments(t)
	at := s3At(versitygw(t, "--versioning-dir", t.TempDir()), ",bucket_object_lock_enabled,object_lock_mode=COMPLIANCE,object_lock_retain_until_date=1d")
	run(t, "kbk-push", packed, at)
	run(t, "kbk-push", packed, at)
	sameRecords(t, run(t, "kbk-pack", run(t, "kbk-pull", nil, at).stdout, "-d").stdout, source(t))
}

// TestTwoWriters has two pushes at once: of two shards, and of the same.
func TestTwoWriters(t *testing.T) {
	stream, packed := source(t), segments(t)
	shards := [][]byte{segments(t, 0, 1), segments(t, 2, 3)}
	for name, at := range map[string]func(t *testing.T) string{
		"local": func(t *testing.T) string { return filepath.Join(t.TempDir(), "nightly") },
		"s3":    func(t *testing.T) string { return s3At(versitygw(t)) },
		"sftp": func(t *testing.T) string {
			host, port, _ := strings.Cut(serve(t, "sftp", t.TempDir(), rc.Params{"user": user, "pass": secret}), ":")
			return fmt.Sprintf(":sftp,host=%s,port=%s,user=%s,pass=%s:nightly", host, port, user, obscured)
		},
	} {
		for kind, inputs := range map[string][][]byte{"shards": shards, "doubled": {packed, packed, packed}} {
			t.Run(name+" "+kind, func(t *testing.T) {
				at := at(t)
				var all sync.WaitGroup
				for _, in := range inputs {
					all.Go(func() {
						if got := try(t, "kbk-push", in, "--checkpoint-segments", "3", "--transfers", "8", at); got.status != 0 {
							t.Errorf("%d\n%s", got.status, got.stderr)
						}
					})
				}
				all.Wait()
				sameRecords(t, run(t, "kbk-pack", run(t, "kbk-pull", nil, at).stdout, "-d").stdout, stream)
			})
		}
	}
}

// TestVerify has a WebDAV server, which knows no hashes, keep something else than it
// was sent.
func TestVerify(t *testing.T) {
	packed := segments(t, 0) // WebDAV is slow
	for how, want := range map[string]struct{ notices, rereads bool }{
		"auto":   {true, true},
		"reread": {true, true},
		"size":   {false, false},
	} {
		t.Run(how, func(t *testing.T) {
			var puts, gets atomic.Int64
			endpoint := front(t, serve(t, "webdav", t.TempDir(), nil), func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/topics/") {
					gets.Add(1)
				}
				if isSegment(r) && puts.Add(1) == 3 {
					body, err := io.ReadAll(r.Body)
					if err != nil {
						t.Error(err)
					}
					body[len(body)/2] ^= 1
					r.Body = io.NopCloser(bytes.NewReader(body))
				}
				return false
			})
			at := fmt.Sprintf(":webdav,url='%s':nightly", endpoint)
			run(t, "kbk-push", packed, "--verify", how, at)
			if (gets.Load() > 0) != want.rereads {
				t.Errorf("%d objects were read again", gets.Load())
			}
			got := try(t, "kbk-pull", nil, at)
			if (got.status == 0) != want.notices || got.status != 0 && (got.status != 3 || !strings.Contains(got.stderr, "damaged")) {
				t.Errorf("pull: %d\n%s", got.status, got.stderr)
			}
		})
	}
	// Where there is a hash, reread does not trust it.
	var gets atomic.Int64
	at := s3At(front(t, versitygw(t), func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/topics/") {
			gets.Add(1)
		}
		return false
	}))
	run(t, "kbk-push", packed, at)
	if n := gets.Load(); n != 0 {
		t.Errorf("%d objects were read again, and S3 has MD5", n)
	}
	run(t, "kbk-push", packed, "--verify", "reread", strings.Replace(at, "nightly", "other", 1))
	if n := gets.Load(); n == 0 {
		t.Error("nothing was read again")
	}
}

// TestMaxRate bounds the rate from above; that it is not much less is not held to.
func TestMaxRate(t *testing.T) {
	packed := segments(t) // 3.2 MB
	for name, at := range map[string]string{"local": filepath.Join(t.TempDir(), "nightly"), "s3": s3At(versitygw(t))} {
		got := run(t, "kbk-push", packed, "--max-rate", "1MB", at)
		if least := time.Duration(len(packed)/1_000_000) * time.Second / 2; got.wall < least {
			t.Errorf("%s: %d bytes went in %s", name, len(packed), got.wall)
		}
		t.Logf("%s: %d bytes in %s", name, len(packed), got.wall)
	}
}

// TestOrder follows the requests of a signed run: a segment before its entry, an
// entry's signature before the entry.
func TestOrder(t *testing.T) {
	dir := t.TempDir()
	key := newKey(t, dir)
	var mu sync.Mutex
	var order []string
	at := s3At(front(t, versitygw(t), func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPut {
			mu.Lock()
			defer mu.Unlock()
			order = append(order, strings.TrimPrefix(r.URL.Path, "/bucket/nightly/"))
		}
		return false
	}))
	run(t, "kbk-push", segments(t), "--checkpoint-segments", "4", "--sign", key, at)
	signed := 0
	for i, name := range order {
		if strings.HasPrefix(name, "log/") && strings.HasSuffix(name, ".json") {
			if !slices.Contains(order[:i], name+".sig") {
				t.Errorf("%s came before its signature", name)
			}
			signed++
		}
	}
	if last := len(order) - 1; signed < 3 || order[last] != "manifest.json" {
		t.Errorf("%d entries, and %q last", signed, order[last])
	}
}

// TestDamagedInput gives push a segment with a flipped bit. A remote that verifies by MD5
// would keep it, and a local disk would be tried again and again.
func TestDamagedInput(t *testing.T) {
	packed := segments(t, 0)
	r := format.NewReader(bytes.NewReader(packed), 1<<20)
	at, n := 0, 0 // behind the third segment
	for n < 3 {
		f, err := r.Next()
		must(t, err)
		if f.Kind == format.KindSeg {
			n++
			at = bytes.Index(packed, f.Raw) + len(f.Raw)
		}
	}
	packed[at-100] ^= 1
	addr := serve(t, "s3", t.TempDir(), rc.Params{"auth_key": []string{user + "," + secret}})
	for name, remote := range map[string]string{
		"local":        filepath.Join(t.TempDir(), "nightly"),
		"s3 by rclone": fmt.Sprintf(":s3,provider=Rclone,access_key_id=%s,secret_access_key=%s,endpoint='http://%s':bucket/nightly", user, secret, addr),
	} {
		got := try(t, "kbk-push", packed, remote)
		if got.status != 3 || !strings.Contains(got.stderr, "error: standard input: segment of orders/0, offsets ") || !strings.Contains(got.stderr, ": its sha256 is ") {
			t.Errorf("%s: status %d\n%s", name, got.status, got.stderr)
		}
		if got.wall > 20*time.Second {
			t.Errorf("%s: it took %s", name, got.wall)
		}
		if pulled := try(t, "kbk-pull", nil, remote); pulled.status != 1 || !strings.Contains(pulled.stderr, "no backup in ") {
			t.Errorf("%s: something was committed: %d\n%s", name, pulled.status, pulled.stderr)
		}
	}
}

// TestRefusals has an S3 server refuse what is asked of it. What is said of it is plain, and
// has none of the ids that only the server's operator can look up.
func TestRefusals(t *testing.T) {
	endpoint, packed := versitygw(t), segments(t)
	run(t, "kbk-push", packed, "--quiet", s3At(endpoint))
	at := func(secret, path string) string {
		return fmt.Sprintf(":s3,provider=Other,access_key_id=%s,secret_access_key=%s,endpoint='%s':%s", user, secret, endpoint, path)
	}
	for _, c := range []struct{ remote, want string }{
		{at(wrong, "bucket/nightly"), "the secret key does not fit the access key"},
		{at(secret, "no-such-bucket/nightly"), "no backup"},
		{"s3://bucket/nightly", "a URL is not a remote"},
	} {
		r := try(t, "kbk-catalog", nil, "show", c.remote)
		if r.status == 0 || !strings.Contains(r.stderr, c.want) || !failure.MatchString(r.stderr) || strings.Contains(r.stderr, "RequestID") || strings.Contains(r.stderr, secret) {
			t.Errorf("%s: status %d, want %q\n%s", c.remote, r.status, c.want, r.stderr)
		}
	}
	denied := s3At(front(t, endpoint, func(w http.ResponseWriter, r *http.Request) bool {
		return isSegment(r) && s3Error(w, r, http.StatusForbidden, "AccessDenied")
	}))
	if r := try(t, "kbk-push", packed, "--quiet", denied+"2"); r.status != 1 || !strings.Contains(r.stderr, `access denied to bucket "bucket"`) || strings.Contains(r.stderr, "RequestID") {
		t.Errorf("status %d\n%s", r.status, r.stderr)
	}
}

// TestUnknownUser asks with an access key that the server does not know. versitygw answers that
// the user was not found, with the status of a folder that is not there.
func TestUnknownUser(t *testing.T) {
	at := fmt.Sprintf(":s3,provider=Other,access_key_id=nobody,secret_access_key=%s,endpoint='%s':bucket/nightly", secret, versitygw(t))
	for _, call := range []result{
		try(t, "kbk-push", segments(t), at), try(t, "kbk-pull", nil, at),
		try(t, "kbk-catalog", nil, "status", at), try(t, "kbk-catalog", nil, "show", at), try(t, "kbk-catalog", nil, "cursor", at), try(t, "kbk-catalog", nil, "check", at),
	} {
		if call.status != 1 || !failure.MatchString(call.stderr) || !strings.Contains(call.stderr, "the store does not know the access key (XAdminUserNotFound: ") || len(call.stdout) > 0 {
			t.Errorf("status %d\n%s%s", call.status, call.stdout, call.stderr)
		}
	}
}
