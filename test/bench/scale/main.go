// Command scale measures what the log of a large backup costs: it makes up logs of more
// and more segments, without their objects, and runs the built commands on them.
//
//	make build && go run ./test/bench/scale
//
// Times and memory are of the commands on a local folder; requests are counted by a
// WebDAV server in front of the same folder.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/webdav"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/commitlog"
)

const (
	topics     = 100
	partitions = 100 // of each
	perEntry   = 100 // segments
)

var (
	bin   = flag.String("bin", "bin", "the folder of the commands")
	sizes = flag.String("segments", "10000,100000,1000000", "how many, in steps")
)

func main() {
	flag.Parse()
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1)
	}
}

func run() error {
	fmt.Println("| segments | log | command | time | CPU | memory | requests |")
	fmt.Println("| ---: | --- | --- | ---: | ---: | ---: | ---: |")
	for _, s := range strings.Split(*sizes, ",") {
		n, err := strconv.Atoi(s)
		if err != nil {
			return err
		}
		if err := measure(n); err != nil {
			return fmt.Errorf("%d segments: %w", n, err)
		}
	}
	return nil
}

func measure(segments int) error {
	dir, err := os.MkdirTemp("", "kbk-scale-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := makeUp(dir, segments); err != nil {
		return err
	}
	var requests atomic.Int64
	dav := &webdav.Handler{FileSystem: webdav.Dir(dir), LockSystem: webdav.NewMemLS()}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		dav.ServeHTTP(w, r)
	}))
	defer server.Close()
	b := &bench{dir: dir, remote: fmt.Sprintf(":webdav,url='%s':", server.URL), requests: &requests, segments: segments}
	for _, log := range []string{"entries", "snapshot"} {
		b.log = log
		for _, c := range []struct {
			name string
			args []string
		}{
			{"catalog show", []string{"kbk-catalog", "show", "-q"}},
			{"catalog cursor", []string{"kbk-catalog", "cursor", "-q"}},
			{"pull of one partition", []string{"kbk-pull", "-q", "-t", "topic-000:0"}},
		} {
			if err := b.command(c.name, c.args); err != nil {
				return err
			}
		}
		if err := b.checkpoints(); err != nil {
			return err
		}
		if log == "entries" {
			if err := b.row("catalog compact", nil, []string{"kbk-catalog", "compact", "-q", dir}); err != nil {
				return err
			}
		}
	}
	return nil
}

// A bench is one backup that is measured.
type bench struct {
	dir, remote string
	requests    *atomic.Int64
	segments    int
	log         string
	runs        int
}

// A cost is what a command took.
type cost struct {
	wall, cpu time.Duration
	rss       int64 // bytes
}

func (b *bench) exec(stdin []byte, args []string) (cost, error) {
	cmd := exec.Command(filepath.Join(*bin, args[0]), args[1:]...)
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), io.Discard, &stderr
	began := time.Now()
	if err := cmd.Run(); err != nil {
		return cost{}, fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, stderr.Bytes())
	}
	return cost{time.Since(began), cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss << 10}, nil
}

// row runs a command and prints its cost; requests are those that count says, or unknown.
func (b *bench) row(name string, count func() (int64, error), args []string) error {
	c, err := b.exec(nil, args)
	if err != nil {
		return err
	}
	n := "-"
	if count != nil {
		requests, err := count()
		if err != nil {
			return err
		}
		n = strconv.FormatInt(requests, 10)
	}
	b.print(name, c, n)
	return nil
}

func (b *bench) print(name string, c cost, requests string) {
	memory := "-"
	if c.rss > 0 {
		memory = fmt.Sprintf("%d MiB", c.rss>>20)
	}
	fmt.Printf("| %d | %s | %s | %s | %s | %s | %s |\n", b.segments, b.log, name, short(c.wall), short(c.cpu), memory, requests)
}

func short(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}

func (b *bench) command(name string, args []string) error {
	return b.row(name, func() (int64, error) {
		before := b.requests.Load()
		_, err := b.exec(nil, append(args[:len(args):len(args)], b.remote))
		return b.requests.Load() - before, err
	}, append(args[:len(args):len(args)], b.dir))
}

// checkpoints measures a run of one checkpoint, and what each of twenty more adds.
func (b *bench) checkpoints() error {
	const more = 20
	var took [2]cost
	var requests [2]int64
	for i, n := range []int{1, 1 + more} {
		for _, remote := range []string{b.dir, b.remote} {
			b.runs++
			stream, err := b.packed(n)
			if err != nil {
				return err
			}
			before := b.requests.Load()
			c, err := b.exec(stream, []string{"kbk-push", "-q", "--checkpoint-segments", "1", "--no-manifest", remote})
			if err != nil {
				return err
			}
			if remote == b.dir {
				took[i] = c
			} else {
				requests[i] = b.requests.Load() - before
			}
		}
	}
	b.print("push of one segment", took[0], strconv.FormatInt(requests[0], 10))
	b.print("each checkpoint more", cost{wall: (took[1].wall - took[0].wall) / more, cpu: (took[1].cpu - took[0].cpu) / more},
		fmt.Sprintf("%.1f", float64(requests[1]-requests[0])/more))
	return nil
}

// packed is a stream of n segments of a topic of its own.
func (b *bench) packed(n int) ([]byte, error) {
	var records bytes.Buffer
	w := format.NewWriter(&records)
	err := w.WriteHeader(&format.Header{Content: format.ContentRecords})
	for p := 0; p < n && err == nil; p++ {
		err = w.WriteRecord(&format.Record{Topic: fmt.Sprint("push-", b.runs), Partition: int32(p), Value: []byte("value")})
	}
	if err == nil {
		err = w.Close(new(format.End))
	}
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(filepath.Join(*bin, "kbk-pack"), "-q")
	cmd.Stdin, cmd.Stderr = &records, os.Stderr
	return cmd.Output()
}

// makeUp writes a log of so many segments, and the objects of one partition.
func makeUp(dir string, segments int) error {
	for _, sub := range []string{commitlog.LogDir, commitlog.TopicsDir} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return err
		}
	}
	run := commitlog.NewRun()
	now := time.Now().Add(-30 * 24 * time.Hour)
	e := &commitlog.Entry{Source: commitlog.Source{ClusterID: "scale"}, Tool: "scale"}
	for t := range topics {
		e.Topics = append(e.Topics, commitlog.Topic{Name: name(t), ID: fmt.Sprintf("id-%03d", t), Partitions: partitions, ReplicationFactor: 3})
	}
	for i := range segments {
		turn, which := i/(topics*partitions), i%(topics*partitions)
		t, p := which%topics, which/topics
		s := commitlog.Segment{Topic: name(t), TopicID: fmt.Sprintf("id-%03d", t), Partition: int32(p), Content: commitlog.Content{
			From: int64(turn) * 50_000, Next: int64(turn+1) * 50_000,
			First: int64(turn) * 50_000, Last: int64(turn+1)*50_000 - 1, Records: 50_000, MinTimestamp: now.UnixMilli(), MaxTimestamp: now.UnixMilli() + 60_000,
			Form: &commitlog.Form{Codec: "zstd"}, RawSize: 128 << 20, Size: 30 << 20, SHA256: commitlog.HashOf(fmt.Append(nil, i)),
		}}
		content := fmt.Append(nil, "segment ", i)
		stored := t == 0 && p == 0
		if stored {
			s.Size, s.SHA256 = int64(len(content)), commitlog.HashOf(content)
		}
		var err error
		if s.Path, err = commitlog.SegmentPath(&s); err != nil {
			return err
		}
		if stored {
			file := filepath.Join(dir, s.Path)
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				return err
			}
			if err := os.WriteFile(file, content, 0o644); err != nil {
				return err
			}
		}
		e.Segments = append(e.Segments, s)
		if len(e.Segments) < perEntry && i+1 < segments {
			continue
		}
		now = now.Add(30 * time.Second)
		e.Final = i+1 == segments
		run.Stamp(e, now)
		data, sha, err := commitlog.Encode(e)
		if err != nil {
			return err
		}
		run.Advance(sha)
		if err := os.WriteFile(filepath.Join(dir, commitlog.EntryPath(e.ID)), data, 0o644); err != nil {
			return err
		}
		e = &commitlog.Entry{Source: e.Source, Tool: e.Tool}
	}
	return nil
}

func name(t int) string { return fmt.Sprintf("topic-%03d", t) }
