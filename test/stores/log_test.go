package stores

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/commitlog"
	"github.com/kbkio/kbk/pkg/receipt"
	"github.com/kbkio/kbk/test/need"
)

func newKey(t *testing.T, dir string, args ...string) string {
	t.Helper()
	need.Tools(t, "ssh-keygen")
	key := filepath.Join(dir, "key")
	args = append([]string{"-q", "-t", "ed25519", "-C", "backup", "-f", key, "-N"}, append(args, "")[0])
	out, err := exec.Command("ssh-keygen", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
	return key
}

// logOf reads the log of a backup in a folder, in order.
func logOf(t *testing.T, dir string) (entries []*commitlog.Entry) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "log", "*.json")) // sorted
	must(t, err)
	for _, name := range names {
		data, err := os.ReadFile(name)
		must(t, err)
		e, _, err := commitlog.Decode(name, data)
		must(t, err)
		entries = append(entries, e)
	}
	return entries
}

// TestSigned has the real ssh-keygen verify every entry of a backup.
func TestSigned(t *testing.T) {
	dir := t.TempDir()
	key := newKey(t, dir, "open sesame")
	public, err := os.ReadFile(key + ".pub")
	must(t, err)
	allowed, passphrase := filepath.Join(dir, "allowed"), filepath.Join(dir, "passphrase")
	must(t, os.WriteFile(allowed, append([]byte("backup@example.org "), public...), 0o600))
	must(t, os.WriteFile(passphrase, []byte("open sesame\n"), 0o600))
	backup := filepath.Join(dir, "nightly")
	packed := segments(t)

	t.Setenv("SSH_AUTH_SOCK", "")
	if got := try(t, "kbk-push", packed, "--sign", key, backup); got.status != 2 || !failure.MatchString(got.stderr) || !strings.Contains(got.stderr, "hint: give --sign-passphrase-file") {
		t.Errorf("an encrypted key: %d\n%s", got.status, got.stderr)
	}
	run(t, "kbk-push", packed, "--checkpoint-segments", "8", "--sign", key, "--sign-passphrase-file", passphrase, backup)
	verify := func(name string) error {
		in, err := os.Open(name)
		must(t, err)
		defer in.Close()
		cmd := exec.Command("ssh-keygen", "-Y", "verify", "-f", allowed, "-I", "backup@example.org", "-n", "kbk-log", "-s", name+".sig")
		cmd.Stdin = in
		return cmd.Run()
	}
	names, err := filepath.Glob(filepath.Join(backup, "log", "*.json"))
	must(t, err)
	if len(names) < 3 {
		t.Fatalf("%d entries", len(names))
	}
	for _, name := range names {
		if err := verify(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	sameRecords(t, run(t, "kbk-pack", run(t, "kbk-pull", nil, backup).stdout, "-d").stdout, source(t))
	data, err := os.ReadFile(names[0])
	must(t, err)
	must(t, os.WriteFile(names[0], append(data, ' '), 0o600))
	if verify(names[0]) == nil {
		t.Error("ssh-keygen accepts a changed entry")
	}
}

// TestPoint wants a restore point at the end of its entry: all that came before it in
// the stream is in that entry or in one before, and nothing that came later is.
func TestPoint(t *testing.T) {
	packed := segments(t)
	const half = records / 2
	for _, every := range []string{"1", "3", "1000"} {
		dir := filepath.Join(t.TempDir(), "nightly")
		run(t, "kbk-push", packed, "--checkpoint-segments", every, dir)
		seen, groups := false, 0
		state := new(commitlog.State)
		for _, e := range logOf(t, dir) {
			data, err := os.ReadFile(filepath.Join(dir, commitlog.EntryPath(e.ID)))
			must(t, err)
			_, sha, err := commitlog.Decode(e.ID, data)
			must(t, err)
			must(t, state.Add(e, sha))
			groups += len(e.Groups)
			for _, s := range e.Segments {
				if later := s.From >= half; later != seen {
					t.Errorf("every %s: offsets %d to %d are in an entry on the wrong side of the point", every, s.From, s.Next)
				}
			}
			for _, m := range e.Marks {
				if m.Next > half && !seen {
					t.Errorf("every %s: a mark at %d came before the point", every, m.Next)
				}
			}
			if len(e.Points) == 0 {
				continue
			}
			seen = true
			if len(e.Points) != 1 || groups != 1 {
				t.Errorf("every %s: %d points, %d groups until there", every, len(e.Points), groups)
			}
			for p := range int32(partitions) {
				if next, _ := state.Next(topic, topicID, p); next != half || !state.Covered(topic, topicID, p, 0, half, nil) {
					t.Errorf("every %s: partition %d is at %d at the point, not at %d", every, p, next, half)
				}
			}
		}
		if !seen {
			t.Errorf("every %s: no point", every)
		}
	}
}

// TestReceiptsInAFIFO reads receipts while they come. What one names must be in the
// backup then.
func TestReceiptsInAFIFO(t *testing.T) {
	dir := t.TempDir()
	fifo, backup := filepath.Join(dir, "fifo"), filepath.Join(dir, "nightly")
	must(t, syscall.Mkfifo(fifo, 0o600))
	packed := segments(t)
	// Twice: of the second run every segment already exists.
	for range 2 {
		ended := make(chan result, 1)
		go func() {
			ended <- try(t, "kbk-push", packed, "--checkpoint-segments", "4", "--receipts", fifo, backup)
		}()
		f, err := os.Open(fifo)
		must(t, err)
		at := make(map[int32]int64)
		lines, final := bufio.NewScanner(f), false
		for lines.Scan() {
			var r receipt.Receipt
			must(t, json.Unmarshal(lines.Bytes(), &r))
			names := logOf(t, backup)
			if !slices.ContainsFunc(names, func(e *commitlog.Entry) bool { return e.ID == r.Entry }) {
				t.Errorf("%s is not in the log yet", r.Entry)
			}
			for _, p := range r.Partitions {
				if p.Topic != topic || p.TopicID != topicID || p.Next < at[p.Partition] {
					t.Errorf("%+v after %d", p, at[p.Partition])
				}
				at[p.Partition] = p.Next
			}
			final = r.Final
		}
		must(t, lines.Err())
		must(t, f.Close())
		if r := <-ended; r.status != 0 || !final {
			t.Errorf("%d, final %v\n%s", r.status, final, r.stderr)
		}
		for p := range int32(partitions) {
			if at[p] != records {
				t.Errorf("partition %d ends at %d", p, at[p])
			}
		}
	}
}

// TestPointAtOnce wants a restore point to be committed when it comes, not at the next
// checkpoint, and in one entry with the stream's end if that comes at once.
func TestPointAtOnce(t *testing.T) {
	var b bytes.Buffer
	w := format.NewWriter(&b)
	must(t, w.WriteHeader(&format.Header{Content: format.ContentSegments}))
	must(t, w.Write(&format.Mark{Topic: topic, Next: 7}))
	must(t, w.Write(&format.Point{Time: 1_700_000_000_000}))
	must(t, w.Flush())
	begin := bytes.Clone(b.Bytes())
	must(t, w.Close(&format.End{}))
	end := b.Bytes()[len(begin):]

	once := filepath.Join(t.TempDir(), "nightly")
	run(t, "kbk-push", b.Bytes(), once)
	if log := logOf(t, once); len(log) != 1 || len(log[0].Points) != 1 || !log[0].Final {
		t.Errorf("%d entries of a run that ends with a point", len(log))
	}

	dir := filepath.Join(t.TempDir(), "nightly")
	cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "kbk-push"), "--checkpoint", "1h", dir)
	in, err := cmd.StdinPipe()
	must(t, err)
	must(t, cmd.Start())
	_, err = in.Write(begin)
	must(t, err)
	for deadline := time.Now().Add(time.Minute); len(logOf(t, dir)) == 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("a point was not committed")
		}
	}
	_, err = in.Write(end)
	must(t, err)
	must(t, in.Close())
	must(t, cmd.Wait())
	if log := logOf(t, dir); len(log) != 2 || len(log[0].Points) != 1 || log[0].Final || !log[1].Final {
		t.Errorf("%d entries, want the point's and the end's", len(log))
	}
}
