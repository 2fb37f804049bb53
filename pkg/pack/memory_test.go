//go:build linux

package pack

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/kbkio/kbk/format"
)

// TestMemory gives the built command a stream of 2,500 partitions, of more than twice the
// memory that it is told to keep to, and looks at the most that it ever took of the system.
func TestMemory(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "kbk-pack")
	if out, err := exec.Command("go", "build", "-o", bin, "github.com/kbkio/kbk/cmd/kbk-pack").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	id, err := age.GenerateX25519Identity()
	ok(t, err)
	key := filepath.Join(t.TempDir(), "key")
	ok(t, os.WriteFile(key, []byte(id.String()), 0o600))
	const memory, parts, records = 96 << 20, 2500, 100_000
	for name, args := range map[string][]string{
		"zstd":     {"--codec", "zstd"},
		"zstd+age": {"--codec", "zstd", "-r", id.Recipient().String()},
		"none":     {"--codec", "none"},
	} {
		t.Run(name, func(t *testing.T) {
			segments := filepath.Join(t.TempDir(), "segments")
			out, err := os.Create(segments)
			ok(t, err)
			defer out.Close()
			most := peak(t, exec.Command(bin, append(args, "-q", "--memory", fmt.Sprint(memory))...), out, func(w io.Writer) {
				s := format.NewWriter(w)
				ok(t, s.WriteHeader(&format.Header{Content: format.ContentRecords}))
				r := rand.New(rand.NewPCG(1, 2))
				value := make([]byte, 4000) // half of it does not compress
				for i := range value[:2000] {
					value[i] = byte(r.Uint32())
				}
				for i := range records {
					value[r.IntN(2000)]++
					ok(t, s.WriteRecord(&format.Record{Topic: "t", Partition: int32(r.IntN(parts)), Offset: int64(i), Value: value[:r.IntN(4000)]}))
				}
				ok(t, s.Close(&format.End{}))
			})
			t.Logf("packing took %d MiB at most, of --memory %d MiB", most>>20, memory>>20)
			if most > memory {
				t.Errorf("packing took %d MiB, and was told to keep to %d", most>>20, memory>>20)
			}
			in, err := os.Open(segments)
			ok(t, err)
			defer in.Close()
			most = peak(t, exec.Command(bin, "-d", "-i", key, "-q", "--memory", fmt.Sprint(memory)), nil, func(w io.Writer) {
				_, err := io.Copy(w, in)
				ok(t, err)
			})
			t.Logf("unpacking took %d MiB at most", most>>20)
			if most > memory {
				t.Errorf("unpacking took %d MiB, and was told to keep to %d", most>>20, memory>>20)
			}
		})
	}
}

// TestMemoryOfBatches does the same with batches of 16 KB, some of which come to a hundred
// times as much when they are decompressed.
func TestMemoryOfBatches(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "kbk-pack")
	if out, err := exec.Command("go", "build", "-o", bin, "github.com/kbkio/kbk/cmd/kbk-pack").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	const memory, parts, batches = 96 << 20, 2000, 15_000
	p := newProducer(t)
	records := events(40)
	usual := p.batch(t, "lz4", records)
	for i := range records {
		records[i].Value = make([]byte, 40<<10)
	}
	dense := p.batch(t, "lz4", records) // 1.6 MB in some 7 KB
	for name, args := range map[string][]string{"as they come": nil, "recompress": {"--recompress"}} {
		t.Run(name, func(t *testing.T) {
			segments := filepath.Join(t.TempDir(), "segments")
			out, err := os.Create(segments)
			ok(t, err)
			defer out.Close()
			most := peak(t, exec.Command(bin, append(args, "-q", "--memory", fmt.Sprint(memory))...), out, func(w io.Writer) {
				s := format.NewWriter(w)
				ok(t, s.WriteHeader(&format.Header{Content: format.ContentBatches}))
				r := rand.New(rand.NewPCG(1, 2))
				next := make([]int64, parts)
				for i := range batches {
					b, part := *usual, r.IntN(parts)
					if i%100 == 0 {
						b = *dense
					}
					b.Partition, b.First, b.Last = int32(part), next[part], next[part]+39
					binary.BigEndian.PutUint64(b.Data, uint64(b.First))
					next[part] += 40
					ok(t, s.Write(&b))
				}
				ok(t, s.Close(&format.End{}))
			})
			t.Logf("packing took %d MiB at most, of --memory %d MiB", most>>20, memory>>20)
			if most > memory {
				t.Errorf("packing took %d MiB, and was told to keep to %d", most>>20, memory>>20)
			}
			for _, args := range [][]string{{"-d"}, {"-d", "--batches"}} {
				in, err := os.Open(segments)
				ok(t, err)
				defer in.Close()
				most := peak(t, exec.Command(bin, append(args, "-q", "--memory", fmt.Sprint(memory))...), nil, func(w io.Writer) {
					_, err := io.Copy(w, in)
					ok(t, err)
				})
				t.Logf("%v took %d MiB at most", args, most>>20)
				if most > memory {
					t.Errorf("%v took %d MiB, and was told to keep to %d", args, most>>20, memory>>20)
				}
			}
		})
	}
}

var highWater = regexp.MustCompile(`VmHWM:\s+(\d+) kB`)

// peak runs a command and returns the most bytes of memory that it took.
func peak(t *testing.T, cmd *exec.Cmd, out *os.File, input func(io.Writer)) int64 {
	t.Helper()
	in, err := cmd.StdinPipe()
	ok(t, err)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if out != nil {
		cmd.Stdout = out
	}
	ok(t, cmd.Start())
	done, most := make(chan struct{}), make(chan int64)
	go func() {
		status := fmt.Sprintf("/proc/%d/status", cmd.Process.Pid)
		for last := int64(0); ; {
			if b, err := os.ReadFile(status); err == nil {
				if m := highWater.FindSubmatch(b); m != nil { // none once it has ended
					last, _ = strconv.ParseInt(string(m[1]), 10, 64)
				}
			}
			select {
			case <-done:
				most <- last << 10
				return
			case <-time.After(2 * time.Millisecond):
			}
		}
	}()
	w := bufio.NewWriterSize(in, 1<<20)
	input(w)
	ok(t, w.Flush())
	ok(t, in.Close())
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v: %s", err, &stderr)
	}
	close(done)
	return <-most
}
