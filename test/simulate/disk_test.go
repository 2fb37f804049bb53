//go:build linux

package simulate

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/catalog"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/commitlog"
	"github.com/kbkio/kbk/pkg/pack"
	"github.com/kbkio/kbk/pkg/pull"
	"github.com/kbkio/kbk/pkg/push"
	"github.com/kbkio/kbk/pkg/segment"
	"github.com/kbkio/kbk/pkg/store"
	"github.com/kbkio/kbk/test/need"
)

// diskDir tells a process that it is the one whose system calls are recorded.
const diskDir = "KBK_SIMULATE_DISK"

// TestDisk records the system calls of runs that push, compact and prune in a local folder, and
// takes the disk as it may be after each of them: with everything, with nothing but what was
// synced, with the names but not the content of what was not, and with one name alone that was
// not. Each is to have all that receipts had named by then, and the runs can go on.
func TestDisk(t *testing.T) {
	if dir := os.Getenv(diskDir); dir != "" {
		diskRuns(t, dir)
		return
	}
	need.Tools(t, "strace")
	dir := t.TempDir()
	trace := filepath.Join(dir, "trace")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("strace", "-f", "-y", "-xx", "-s", "1000000", "-o", trace,
		"-e", "trace=openat,write,pwrite64,fsync,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat", self, "-test.run=^TestDisk$")
	cmd.Env = append(os.Environ(), diskDir+"="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		if bytes.Contains(out, []byte("ptrace")) {
			t.Skipf("strace may not trace: %s", out)
		}
		t.Fatalf("%v: %s", err, out)
	}
	raw, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	d := newDiskState()
	backup := filepath.Join(dir, "backup")
	seen := make(map[[32]byte]bool)
	n := 0
	for i, c := range calls(string(raw)) {
		d.apply(c, dir)
		for what, files := range d.crashes(backup) {
			key := sumOf(files, d.next, d.begin)
			if !seen[key] {
				seen[key] = true
				n++
				if err := diskCheck(t, files, d.begin, d.next); err != nil {
					t.Fatalf("after call %d, %s %s, %s: %v\n%s", i, c.name, c.path, what, err, strings.Join(slices.Sorted(maps.Keys(files)), "\n"))
				}
			}
		}
	}
	if n < 50 {
		t.Errorf("only %d states", n)
	}
	t.Logf("%d states of the disk", n)
}

// diskStream is a packed stream of the offsets [from, next) of a partition whose log begins at
// start.
func diskStream(start, from, next int64) []byte {
	var b, packed bytes.Buffer
	w := format.NewWriter(&b)
	err := w.WriteHeader(&format.Header{Content: "records"})
	mark := func(at int64) format.Encoder {
		return &format.Mark{Topic: "orders", Next: at, MarkInfo: format.MarkInfo{TopicID: "id", LogStart: &start}}
	}
	err = errors.Join(err, w.Write(&format.Topic{Name: "orders", ID: "id", Partitions: 1, ReplicationFactor: 1}), w.Write(mark(from)))
	for i := from; i < next; i++ {
		err = errors.Join(err, w.WriteRaw(format.AppendRecord(nil, &format.Record{Topic: "orders", Offset: i, Value: []byte("value")})))
	}
	err = errors.Join(err, w.Write(mark(next)), w.Write(&format.Point{Time: 1_700_000_000_000 + next}), w.Close(&format.End{Records: next - from}))
	cfg := pack.Config{SegmentSize: 200, Memory: 64 << 20, MaxFrame: 1 << 20, Codec: segment.CodecOf("zstd"), Level: 1}
	if err := errors.Join(err, pack.Pack(context.Background(), cfg, quiet("kbk-pack"), &b, &packed)); err != nil {
		panic(err)
	}
	return packed.Bytes()
}

func quiet(name string) *command.Env {
	return &command.Env{Name: name, Log: slog.New(slog.DiscardHandler)}
}

func diskPush(dir string, in []byte, receipts io.Writer) error {
	cfg := push.Config{Remote: dir, Transfers: 2, Checkpoint: time.Minute, CheckpointSegments: 1, MaxFrame: 1 << 20}
	return push.Run(context.Background(), cfg, quiet("kbk-push"), bytes.NewReader(in), receipts)
}

// diskRuns is what is recorded.
func diskRuns(t *testing.T, dir string) {
	backup := filepath.Join(dir, "backup")
	receipts, err := os.Create(filepath.Join(dir, "receipts"))
	if err != nil {
		t.Fatal(err)
	}
	change := func(what string, do func(st *store.Store) error) {
		if err := os.WriteFile(filepath.Join(dir, what), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		st, err := store.Open(t.Context(), backup)
		if err == nil {
			err = errors.Join(do(st), st.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range int64(3) {
		if err := diskPush(backup, diskStream(0, 4*i, 4*i+4), receipts); err != nil {
			t.Fatal(err)
		}
		if i == 1 {
			change("compact", func(st *store.Store) error {
				return catalog.Compact(t.Context(), st, catalog.Signing{}, quiet("kbk-catalog"))
			})
		}
	}
	if err := diskPush(backup, diskStream(8, 12, 16), receipts); err != nil {
		t.Fatal(err)
	}
	change("prune", func(st *store.Store) error {
		keep := commitlog.Retention{Policy: commitlog.Policy{Last: 1}}
		return catalog.Prune(t.Context(), st, catalog.PruneConfig{Retention: keep, Really: true}, quiet("kbk-catalog"), io.Discard)
	})
}

// A call is a system call that did something.
type call struct {
	name, path, to string
	data           []byte
	flags          string
}

var (
	callLine = regexp.MustCompile(`^(\d+) +(\w+)\((.*)\) += (\d+)`)
	begun    = regexp.MustCompile(`^(\d+) +(.*) <unfinished \.\.\.>$`)
	resumed  = regexp.MustCompile(`^(\d+) +<\.\.\. \w+ resumed>(.*)$`)
	quoted   = regexp.MustCompile(`"([^"]*)"`)
	opened   = regexp.MustCompile(`^\d+<([^>]*)>`)
)

// calls reads what strace has written.
func calls(trace string) (all []call) {
	waits := make(map[string]string)
	for line := range strings.Lines(trace) {
		line = strings.TrimRight(line, "\n")
		if m := begun.FindStringSubmatch(line); m != nil {
			waits[m[1]] = m[2]
			continue
		}
		if m := resumed.FindStringSubmatch(line); m != nil {
			line = m[1] + " " + waits[m[1]] + m[2]
		}
		m := callLine.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		c := call{name: m[2], flags: m[3]}
		texts := quoted.FindAllStringSubmatch(m[3], -1)
		switch c.name {
		case "write", "pwrite64", "fsync":
			at := opened.FindStringSubmatch(m[3])
			if at == nil {
				continue
			}
			c.path = plain(at[1])
			if len(texts) > 0 {
				c.data = []byte(plain(texts[0][1]))
			}
		default:
			if len(texts) == 0 {
				continue
			}
			c.path = plain(texts[0][1])
			if len(texts) > 1 {
				c.to = plain(texts[1][1])
			}
		}
		all = append(all, c)
	}
	return all
}

// plain undoes \x2f.
func plain(s string) string {
	if !strings.HasPrefix(s, `\x`) {
		return s
	}
	b, err := hex.DecodeString(strings.ReplaceAll(s, `\x`, ""))
	if err != nil {
		panic(err)
	}
	return string(b)
}

// An inode is a file, by whatever name.
type inode struct{ data, synced []byte }

// A nameChange is one that is not synced yet. A folder has no inode.
type nameChange struct {
	from, to string // "": none
	file     *inode
}

// A diskState is what is on a disk: as processes see it, and as it is after a power failure.
type diskState struct {
	now, durable map[string]*inode
	waiting      []nameChange
	begin, next  int64 // receipts have named the offsets [begin, next), and prune leaves these
}

func newDiskState() *diskState {
	return &diskState{now: make(map[string]*inode), durable: make(map[string]*inode)}
}

func (n *nameChange) apply(names map[string]*inode) {
	if n.from != "" {
		delete(names, n.from)
	}
	if n.to != "" {
		names[n.to] = n.file
	}
}

func (d *diskState) change(n nameChange) {
	n.apply(d.now)
	d.waiting = append(d.waiting, n)
}

func (d *diskState) apply(c call, dir string) {
	if !strings.HasPrefix(c.path+"/", dir+"/") {
		return
	}
	switch {
	case c.path == filepath.Join(dir, "receipts") && c.name == "write":
		var r struct{ Partitions []struct{ Next int64 } }
		if json.Unmarshal(c.data, &r) == nil && len(r.Partitions) > 0 {
			d.next = r.Partitions[0].Next
		}
	case c.path == filepath.Join(dir, "prune"):
		d.begin = 8
	case c.name == "openat" && strings.Contains(c.flags, "O_CREAT"):
		if f := d.now[c.path]; f == nil {
			d.change(nameChange{to: c.path, file: new(inode)})
		} else if strings.Contains(c.flags, "O_TRUNC") {
			f.data = nil
		}
	case c.name == "write" || c.name == "pwrite64":
		if f := d.now[c.path]; f != nil {
			f.data = append(slices.Clone(f.data), c.data...)
		}
	case c.name == "fsync":
		if f := d.now[c.path]; f != nil {
			f.synced = f.data
		}
		d.waiting = slices.DeleteFunc(d.waiting, func(n nameChange) bool {
			if filepath.Dir(n.to) != c.path && filepath.Dir(n.from) != c.path {
				return false
			}
			n.apply(d.durable)
			return true
		})
	case strings.HasPrefix(c.name, "rename"):
		d.change(nameChange{from: c.path, to: c.to, file: d.now[c.path]})
	case strings.HasPrefix(c.name, "unlink") && d.now[c.path] != nil:
		d.change(nameChange{from: c.path})
	case strings.HasPrefix(c.name, "mkdir"):
		d.change(nameChange{to: c.path})
	}
}

// crashes are the files of a backup as they may be when the power fails now, by names in the backup.
func (d *diskState) crashes(backup string) map[string]map[string][]byte {
	all := map[string]map[string][]byte{
		"nothing lost":                files(d.now, backup, func(f *inode) []byte { return f.data }),
		"content lost":                files(d.now, backup, func(f *inode) []byte { return f.synced }),
		"all lost that is not synced": files(d.durable, backup, func(f *inode) []byte { return f.synced }),
	}
	for _, n := range d.waiting {
		names := maps.Clone(d.durable)
		n.apply(names)
		all["only "+n.from+" to "+n.to+" not lost"] = files(names, backup, func(f *inode) []byte { return f.synced })
	}
	return all
}

// files are those whose folders are there too.
func files(names map[string]*inode, backup string, content func(*inode) []byte) map[string][]byte {
	out := make(map[string][]byte)
	for name, f := range names {
		if f == nil || !strings.HasPrefix(name, backup+"/") {
			continue
		}
		there := true
		for dir := filepath.Dir(name); dir != filepath.Dir(backup); dir = filepath.Dir(dir) {
			_, ok := names[dir]
			there = there && ok
		}
		if there {
			out[strings.TrimPrefix(name, backup+"/")] = content(f)
		}
	}
	return out
}

func sumOf(files map[string][]byte, numbers ...int64) (sum [32]byte) {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		fmt.Fprintf(h, "%q %q\n", name, files[name])
	}
	fmt.Fprint(h, numbers)
	h.Sum(sum[:0])
	return sum
}

// diskCheck opens a backup as it was found, and goes on with it.
func diskCheck(t *testing.T, files map[string][]byte, begin, next int64) error {
	dir, err := os.MkdirTemp(t.TempDir(), "")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	backup := filepath.Join(dir, "backup")
	for name, data := range files {
		name = filepath.Join(backup, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o700), os.WriteFile(name, data, 0o600)); err != nil {
			return err
		}
	}
	if next > begin {
		if err := diskHas(backup, begin, next); err != nil {
			return err
		}
		if err := diskVerify(backup); err != nil {
			return err
		}
	}
	if err := diskPush(backup, diskStream(0, 0, 16), io.Discard); err != nil {
		return fmt.Errorf("push again: %w", err)
	}
	if err := diskHas(backup, begin, 16); err != nil {
		return fmt.Errorf("behind another push: %w", err)
	}
	return diskVerify(backup)
}

// diskHas tells whether a restore has the records [begin, next).
func diskHas(backup string, begin, next int64) error {
	var packed, records bytes.Buffer
	if err := pull.Run(context.Background(), pull.Config{Remote: backup, Newest: true, Transfers: 1, Memory: 64 << 20}, quiet("kbk-pull"), &packed); err != nil {
		return fmt.Errorf("pull: %w", err)
	}
	if err := pack.Unpack(context.Background(), pack.Config{Memory: 64 << 20, MaxFrame: 1 << 20}, quiet("kbk-pack"), &packed, &records); err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	r := format.NewReader(&records, 0)
	if _, err := r.Header(); err != nil {
		return err
	}
	got := make(map[int64]bool)
	for {
		f, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if f.Kind == format.KindRec {
			got[f.Offset] = true
		}
	}
	for i := begin; i < next; i++ {
		if !got[i] {
			return fmt.Errorf("record %d is not there", i)
		}
	}
	return nil
}

func diskVerify(backup string) error {
	st, err := store.Open(context.Background(), backup)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	err = catalog.Verify(context.Background(), st, catalog.VerifyConfig{Deep: true, Transfers: 1, Memory: 64 << 20, JSON: true}, quiet("kbk-catalog"), &out)
	if err := errors.Join(err, st.Close()); err != nil {
		return fmt.Errorf("verify: %w: %s", err, out.String())
	}
	return nil
}
