package stores

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kbkio/kbk/format"
)

var long = flag.Bool("long", false, "run the tests that take minutes: TestSlowStore, TestStoreAway")

func needLong(t *testing.T) {
	t.Helper()
	if !*long {
		t.Skip("it takes minutes: -long")
	}
}

// A cost is what a command took.
type cost struct {
	requests  int64
	wall, cpu time.Duration
}

// measured runs a command that must end well, and returns what it took.
func measured(t *testing.T, requests *atomic.Int64, stdin []byte, name string, args ...string) (stdout []byte, c cost) {
	t.Helper()
	requests.Store(0)
	var out, said bytes.Buffer
	cmd := exec.CommandContext(t.Context(), filepath.Join(bin, name), args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &out, &said
	began := time.Now()
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, &said)
	}
	c = cost{requests: requests.Load(), wall: time.Since(began), cpu: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()}
	return out.Bytes(), c
}

// TestSlowStore takes a backup of 400 segments through its life on a store whose answers
// each take 200 ms longer, and on one whose do not.
func TestSlowStore(t *testing.T) {
	needLong(t)
	const latency = 200 * time.Millisecond
	stream := many(t, 100)
	packed := run(t, "kbk-pack", stream, "-q", "--segment-size", "16KiB").stdout
	steps := []struct {
		what, name string
		in         []byte
		args       []string
	}{
		{"push", "kbk-push", packed, nil},
		{"push, 32 transfers, there already", "kbk-push", packed, []string{"--transfers", "32"}},
		{"cursor", "kbk-catalog", nil, []string{"cursor"}},
		{"show", "kbk-catalog", nil, []string{"show", "--json"}},
		{"verify", "kbk-catalog", nil, []string{"verify"}},
		{"verify --deep", "kbk-catalog", nil, []string{"verify", "--deep"}},
		{"pull", "kbk-pull", nil, nil},
		{"pull, 64 transfers", "kbk-pull", nil, []string{"--transfers", "64"}},
		{"compact", "kbk-catalog", nil, []string{"compact"}},
		{"prune", "kbk-catalog", nil, []string{"prune", "--keep-last", "1", "--yes"}},
	}
	var requests atomic.Int64
	costs := make(map[time.Duration][]cost)
	for _, slow := range []time.Duration{0, latency} {
		at := s3At(front(t, versitygw(t), func(w http.ResponseWriter, r *http.Request) bool {
			requests.Add(1)
			time.Sleep(slow)
			return false
		}))
		for _, s := range steps {
			out, c := measured(t, &requests, s.in, s.name, append(s.args, at)...)
			costs[slow] = append(costs[slow], c)
			if s.name == "kbk-pull" {
				sameRecords(t, run(t, "kbk-pack", out, "-q", "-d").stdout, stream)
			}
			// Whatever the number of requests, they must not all wait for each other.
			if alone := time.Duration(c.requests) * slow; c.requests > 100 && c.wall > alone/2+costs[0][len(costs[slow])-1].wall+5*time.Second {
				t.Errorf("%s: %d requests took %s", s.what, c.requests, c.wall)
			}
		}
	}
	var b strings.Builder
	b.WriteString("| command | requests | without | with 200 ms | one by one | CPU |\n| --- | ---: | ---: | ---: | ---: | ---: |\n")
	for i, s := range steps {
		fast, slow := costs[0][i], costs[latency][i]
		fmt.Fprintf(&b, "| %s | %d | %.1f s | %.1f s | %.0f s | %.1f s |\n", s.what, slow.requests, fast.wall.Seconds(), slow.wall.Seconds(), (time.Duration(slow.requests) * latency).Seconds(), slow.cpu.Seconds())
	}
	t.Log("\n" + b.String())
}

// many is a stream of many partitions, of which each is a few small segments.
func many(t *testing.T, partitions int32) []byte {
	t.Helper()
	var b bytes.Buffer
	w := format.NewWriter(&b)
	must(t, w.WriteHeader(&format.Header{ID: "run", Content: format.ContentRecords, Source: &format.Source{Cluster: "test"}}))
	must(t, w.Write(&format.Topic{Name: topic, ID: topicID, Partitions: int(partitions), ReplicationFactor: 1}))
	value := make([]byte, 4000)
	for p := range partitions {
		mark := func(next int64) {
			must(t, w.Write(&format.Mark{Topic: topic, Partition: p, Next: next, MarkInfo: format.MarkInfo{TopicID: topicID}}))
		}
		mark(0)
		for i := range int64(16) {
			for j := range value {
				value[j] = byte(int(p)*31 + int(i)*17 + j*j/7) // hardly compresses within 16 KiB
			}
			must(t, w.WriteRecord(&format.Record{Topic: topic, Partition: p, Offset: i, Timestamp: 1_700_000_000_000 + i, Key: fmt.Append(nil, p, "/", i), Value: value}))
		}
		mark(16)
	}
	must(t, w.Write(&format.Point{Time: 1_700_000_000_000}))
	must(t, w.Close(&format.End{Records: int64(partitions) * 16}))
	return b.Bytes()
}

// TestStoreAway has a store go away for a minute, in the middle of push, pull and compact:
// each waits, and goes on.
func TestStoreAway(t *testing.T) {
	needLong(t)
	const away = time.Minute
	stream := many(t, 50)
	packed := run(t, "kbk-pack", stream, "-q", "--segment-size", "16KiB").stdout
	for how, gone := range map[string]func(w http.ResponseWriter, r *http.Request) bool{
		"connections are cut": func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) },
		"503": func(w http.ResponseWriter, r *http.Request) bool {
			return s3Error(w, r, http.StatusServiceUnavailable, "SlowDown")
		},
		"no answers": func(_ http.ResponseWriter, r *http.Request) bool {
			_, _ = io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
			panic(http.ErrAbortHandler)
		},
	} {
		t.Run(how, func(t *testing.T) {
			t.Parallel() // they wait
			var after, n atomic.Int64
			var mu sync.Mutex
			var from time.Time
			at := s3At(front(t, versitygw(t), func(w http.ResponseWriter, r *http.Request) bool {
				if n.Add(1) <= after.Load() {
					return false
				}
				mu.Lock()
				if from.IsZero() {
					from = time.Now()
				}
				is := time.Since(from) < away
				mu.Unlock()
				return is && gone(w, r)
			}))
			for _, s := range []struct {
				what, name string
				in         []byte
				args       []string
				after      int64 // requests that are answered
			}{
				{"push", "kbk-push", packed, []string{"--checkpoint-segments", "20", "--verbose"}, 60},
				{"pull", "kbk-pull", nil, []string{"--verbose"}, 40},
				{"verify --deep", "kbk-catalog", nil, []string{"verify", "--deep", "--verbose"}, 40},
				{"compact", "kbk-catalog", nil, []string{"compact", "--verbose"}, 4},
			} {
				mu.Lock()
				from = time.Time{}
				mu.Unlock()
				n.Store(0)
				after.Store(s.after)
				got := try(t, s.name, s.in, append(s.args, at)...)
				t.Logf("%s: status %d after %s", s.what, got.status, got.wall.Round(time.Second))
				if got.status != 0 || got.wall < away/2 {
					t.Errorf("%s: status %d after %s\n%s%.2000s", s.what, got.status, got.wall, got.stderr, got.stdout)
				}
				if s.name == "kbk-pull" && got.status == 0 {
					sameRecords(t, run(t, "kbk-pack", got.stdout, "-q", "-d").stdout, stream)
				}
			}
		})
	}
}
