package fetch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/groups"
	"github.com/kbkio/kbk/pkg/kafka"
	"github.com/kbkio/kbk/pkg/receipt"
)

// A following is a run that goes on, and the frames that it has written so far, a line
// each.
type following struct {
	*testing.T
	stop chan struct{}
	done chan error // the run's
	over chan struct{}

	mu     sync.Mutex
	frames []string
	points []*format.Point
	ended  *format.End
	ids    map[string]string // of topics
	starts map[string]int64  // of the logs, as the last mark of each partition has them
	log    bytes.Buffer
}

func (w *world) follow(change func(*Config)) *following {
	cfg := Config{
		Kafka:  kafka.Config{Brokers: w.fake.ListenAddrs(), ClientID: "test"},
		Topics: []string{"^t"}, Timeout: 30 * time.Second,
		Follow: true, Refresh: 100 * time.Millisecond,
		FetchBytes: 16 << 20, FetchPartitionBytes: 256 << 10, FetchWait: 20 * time.Millisecond,
	}
	if change != nil {
		change(&cfg)
	}
	f := &following{T: w.T, stop: make(chan struct{}), done: make(chan error, 1), over: make(chan struct{}), ids: make(map[string]string), starts: make(map[string]int64)}
	in, out := io.Pipe()
	go func() {
		err := Run(w.Context(), cfg, &command.Env{Name: "test", Log: slog.New(slog.NewTextHandler(f, nil)), Stop: f.stop}, out)
		f.done <- err
		out.Close()
	}()
	go func() {
		defer close(f.over)
		for r := format.NewReader(in, 0); ; {
			frame, err := r.Next()
			if err != nil {
				return
			}
			f.mu.Lock()
			f.frames = append(f.frames, describe(frame))
			switch frame.Kind {
			case format.KindTopic:
				topic, _ := format.DecodeTopic(frame.Raw)
				f.ids[topic.Name] = topic.ID
			case format.KindMark:
				if m, _ := format.DecodeMark(frame.Raw); m.LogStart != nil {
					f.starts[fmt.Sprintf("%s/%d", m.Topic, m.Partition)] = *m.LogStart
				}
			case format.KindPoint:
				point, _ := format.DecodePoint(frame.Raw)
				f.points = append(f.points, point)
			case format.KindEnd:
				f.ended, _ = format.DecodeEnd(frame.Raw)
			}
			f.mu.Unlock()
		}
	}()
	return f
}

// Write takes the log.
func (f *following) Write(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.log.Write(b)
}

func describe(f *format.Frame) string {
	switch f.Kind {
	case format.KindRec:
		return fmt.Sprintf("rec %s/%d %d", f.Topic, f.Partition, f.Offset)
	case format.KindMark:
		m, _ := format.DecodeMark(f.Raw)
		if m.Open != nil {
			return fmt.Sprintf("mark %s/%d %d open %d-%d", m.Topic, m.Partition, m.Next, m.Open[0], m.Open[1])
		}
		if m.Branch {
			return fmt.Sprintf("branch %s/%d %d", m.Topic, m.Partition, m.Next)
		}
		return fmt.Sprintf("mark %s/%d %d", m.Topic, m.Partition, m.Next)
	case format.KindTopic:
		t, _ := format.DecodeTopic(f.Raw)
		return fmt.Sprintf("topic %s of %d", t.Name, t.Partitions)
	case format.KindGroups:
		g, _ := format.DecodeGroups(f.Raw)
		return fmt.Sprintf("groups %s of %s", g.IDs, g.Include)
	case format.KindGroup:
		g, _ := format.DecodeGroup(f.Raw)
		return fmt.Sprintf("group %s at %d", g.ID, g.Offsets["t"][0].Offset)
	case format.KindPoint:
		if p, _ := format.DecodePoint(f.Raw); p.Without != nil {
			return fmt.Sprintf("point without %v", p.Without)
		}
	case format.KindEnd:
		e, _ := format.DecodeEnd(f.Raw)
		return fmt.Sprintf("end %d interrupted %v", e.Records, e.Interrupted)
	}
	return string(f.Name)
}

// until waits until a frame has come, behind the from-th, and returns how many there
// were before it.
func (f *following) until(from int, frame string) int {
	f.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		f.mu.Lock()
		i := slices.Index(f.frames[min(from, len(f.frames)):], frame)
		f.mu.Unlock()
		if i >= 0 {
			return from + i
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.Fatalf("no %q behind frame %d of\n%s\n%s", frame, from, strings.Join(f.frames, "\n"), f.log.String())
	return 0
}

// end stops the run and returns the frames.
func (f *following) end() []string {
	f.Helper()
	close(f.stop)
	if err := <-f.done; command.StatusOf(err) != command.Interrupted {
		f.Fatalf("the run ended with %v\n%s", err, f.log.String())
	}
	<-f.over
	return f.frames
}

func TestFollow(t *testing.T) {
	w := newWorld(t, 3, "t", 2)
	w.produce("t", 0, 3)
	w.commit("g", "t", 0, 2)
	f := w.follow(func(c *Config) { c.Groups, c.PointEvery = []string{"^"}, time.Hour })

	// What is there at the start ends with a restore point: groups, marks, point.
	at := f.until(0, "point")
	f.mu.Lock()
	if got := f.frames[max(at-4, 0):at]; !slices.Equal(got, []string{"groups [g] of [^]", "group g at 2", "mark t/0 3", "mark t/1 0"}) {
		t.Errorf("before the point comes %q", got)
	}
	f.mu.Unlock()

	// What comes is read; a partition that is idle then gets a mark.
	w.produce("t", 0, 2)
	f.until(at, "rec t/0 4")
	f.until(at, "mark t/0 5")

	// New partitions and topics are followed.
	if _, err := w.adm.UpdatePartitions(t.Context(), 3, "t"); err != nil {
		t.Fatal(err)
	}
	f.until(at, "topic t of 3")
	f.until(at, "mark t/2 0")
	w.connect()
	w.create("t-new", 1)
	w.produce("t-new", 0, 1)
	f.until(at, "topic t-new of 1")
	f.until(at, "rec t-new/0 0")
	w.produce("t", 2, 1)
	f.until(at, "rec t/2 0")

	// One that is created again is another.
	f.until(at, "mark t-new/0 1")
	if _, err := w.adm.DeleteTopic(t.Context(), "t-new"); err != nil {
		t.Fatal(err)
	}
	w.create("t-new", 2)
	again := f.until(f.until(at, "topic t-new of 1"), "topic t-new of 2")
	w.connect()
	w.produce("t-new", 1, 1)
	f.until(again, "rec t-new/1 0")

	// One that is deleted is reported.
	if _, err := w.adm.DeleteTopic(t.Context(), "t-new"); err != nil {
		t.Fatal(err)
	}
	f.logs("topic t-new was deleted: ")

	w.produce("t", 1, 1)
	f.until(again, "rec t/1 0")
	frames := f.end()
	want := []string{"mark t/0 5", "mark t/1 1", "mark t/2 1", "end 9 interrupted true"}
	if got := frames[len(frames)-4:]; !slices.Equal(got, want) {
		t.Errorf("it ends with %q, not %q", got, want)
	}
	if n := strings.Count(f.log.String(), "created again"); n != 1 {
		t.Errorf("%d topics were created again:\n%s", n, f.log.String())
	}
}

// TestFollowPoints makes restore points while records come.
func TestFollowPoints(t *testing.T) {
	w := newWorld(t, 2, "t", 4)
	ctx, cancel := context.WithCancel(t.Context())
	var producing sync.WaitGroup
	producing.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			w.cl.ProduceSync(ctx, &kgo.Record{Topic: "t", Partition: int32(i % 4), Value: []byte("v")})
			if i%10 == 0 {
				w.commit("g", "t", 0, int64(i/4))
			}
		}
	})
	f := w.follow(func(c *Config) { c.Groups, c.PointEvery = []string{"g"}, 50*time.Millisecond })
	at := 0
	for range 5 {
		at = f.until(at, "point") + 1
	}
	cancel()
	producing.Wait()
	read := make(map[string]int64) // the next offset of each partition
	group := int64(0)
	for i, frame := range f.end() {
		var part, point string
		var n int64
		if _, err := fmt.Sscanf(frame, "rec %s %d", &part, &n); err == nil {
			if n != read[part] {
				t.Fatalf("%s: %d is due", frame, read[part])
			}
			read[part]++
		}
		if _, err := fmt.Sscanf(frame, "mark %s %d", &part, &n); err == nil && n != read[part] {
			t.Errorf("frame %d: %s, and %d were read", i, frame, read[part])
		}
		if _, err := fmt.Sscanf(frame, "group g at %d", &n); err == nil {
			group = n
		}
		if _, err := fmt.Sscanf(frame, "%s", &point); err == nil && point == "point" && group > read["t/0"] {
			t.Errorf("the group is at %d and %d records were read", group, read["t/0"])
		}
	}
}

// TestFollowPointsLogStart has records expire while a run follows: the next restore point says
// that they are not part of its moment, so that the backup need not keep them for it.
func TestFollowPointsLogStart(t *testing.T) {
	w := newWorld(t, 1, "t", 1)
	w.produce("t", 0, 10)
	f := w.follow(func(c *Config) { c.PointEvery = 50 * time.Millisecond })
	at := f.until(f.until(0, "rec t/0 9"), "point")
	below := make(kadm.Offsets)
	below.Add(kadm.Offset{Topic: "t", Partition: 0, At: 7})
	if _, err := kadm.NewClient(w.cl).DeleteRecords(t.Context(), below); err != nil {
		t.Fatal(err)
	}
	for range 3 { // the next one may be on its way
		at = f.until(at+1, "point")
	}
	f.end()
	if got := f.starts["t/0"]; got != 7 {
		t.Errorf("the log starts at %d in the last restore point", got)
	}
}

// TestFollowNothing follows what does not exist yet, and stops.
func TestFollowNothing(t *testing.T) {
	w := newWorld(t, 1, "other", 1)
	f := w.follow(nil)
	w.create("t", 1)
	w.produce("t", 0, 1)
	f.until(0, "rec t/0 0")
	if _, err := w.adm.DeleteTopic(t.Context(), "t"); err != nil {
		t.Fatal(err)
	}
	f.logs("topic t was deleted")
	f.end()
}

// logs waits until the run has said something.
func (f *following) logs(text string) {
	f.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		f.mu.Lock()
		said := strings.Contains(f.log.String(), text)
		f.mu.Unlock()
		if said {
			return
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.Fatalf("it does not say %q:\n%s", text, f.log.String())
}

func (w *world) commit(group, topic string, partition int32, offset int64) {
	var offsets kadm.Offsets
	offsets.Add(kadm.Offset{Topic: topic, Partition: partition, At: offset, LeaderEpoch: -1})
	if err := w.adm.CommitAllOffsets(w.Context(), group, offsets); err != nil {
		w.Error(err)
	}
}

// receive is a stand-in for kbk-pack and kbk-push: it says that what has come is stored.
func (f *following) receive(name string) {
	f.Helper()
	f.mu.Lock()
	next := make(map[string]int64)
	for _, frame := range f.frames {
		var part string
		var n int64
		if _, err := fmt.Sscanf(frame, "rec %s %d", &part, &n); err == nil {
			next[part] = n + 1
		}
		if strings.HasPrefix(frame, "end") {
			defer f.append(name, receipt.Receipt{Final: true})
		}
	}
	f.mu.Unlock()
	var r receipt.Receipt
	for part, n := range next {
		topic, num, _ := strings.Cut(part, "/")
		i, err := strconv.Atoi(num)
		if err != nil {
			f.Fatal(err)
		}
		r.Partitions = append(r.Partitions, receipt.Position{Topic: topic, TopicID: f.ids[topic], Partition: int32(i), Next: n})
	}
	f.append(name, r)
}

func (f *following) append(name string, r receipt.Receipt) {
	f.Helper()
	line, err := json.Marshal(r)
	if err != nil {
		f.Fatal(err)
	}
	file, err := os.OpenFile(name, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		f.Fatal(err)
	}
	defer file.Close()
	if _, err := file.Write(append(line, '\n')); err != nil {
		f.Fatal(err)
	}
}

// member starts a process of a group; its receipts go to a file.
func (w *world) member(name string) (f *following, receipts string) {
	receipts = filepath.Join(w.TempDir(), name)
	if err := os.WriteFile(receipts, nil, 0o600); err != nil {
		w.Fatal(err)
	}
	f = w.follow(func(c *Config) { c.Group, c.Receipts, c.SessionTimeout = "workers", receipts, 6*time.Second })
	return f, receipts
}

func (w *world) committed(topic string) map[int32]int64 {
	w.Helper()
	offsets, err := w.adm.FetchOffsets(w.Context(), "workers")
	if err != nil {
		w.Fatal(err)
	}
	read, err := groups.Read(w.Context(), w.adm, groups.Request{Topics: map[string]string{topic: ""}})
	if err != nil || read.Len() > 0 {
		w.Errorf("a backup would have the group of workers: %v, %+v", err, read)
	}
	out := make(map[int32]int64)
	for num, o := range offsets[topic] {
		out[num] = o.At
	}
	return out
}

// TestGroup shares partitions between two processes, one of which comes later. What is
// committed is never more than what is stored.
func TestGroup(t *testing.T) {
	w := newWorld(t, 2, "t", 4)
	for p := range int32(4) {
		w.produce("t", p, 10)
	}
	a, receiptsA := w.member("a")
	for p := range 4 {
		a.until(0, fmt.Sprintf("rec t/%d 9", p))
	}
	if got := w.committed("t"); len(got) > 0 {
		t.Errorf("%v is committed before anything is stored", got)
	}
	a.receive(receiptsA)
	w.until("all is committed", func() bool { return maps.Equal(w.committed("t"), map[int32]int64{0: 10, 1: 10, 2: 10, 3: 10}) })

	// Two partitions go to the other process once they are stored.
	for p := range int32(4) {
		w.produce("t", p, 10)
	}
	for p := range 4 {
		a.until(0, fmt.Sprintf("rec t/%d 19", p))
	}
	b, receiptsB := w.member("b")
	a.logs("takes 2 partitions")
	if strings.Contains(b.said(), "gives") {
		t.Error("partitions were handed over before they were stored")
	}
	a.receive(receiptsA)
	b.logs("gives 2 partitions")
	for p := range int32(4) {
		w.produce("t", p, 1)
	}
	w.until("both read on", func() bool { return a.count("rec t/")+b.count("rec t/") == 84 })
	if n := b.count("rec t/"); n != 2 {
		t.Errorf("the second process read %d records", n)
	}
	if n := b.count("mark t/"); n < 2 {
		t.Errorf("it made %d marks", n)
	}

	// One leaves, and the other has all again.
	b.receive(receiptsB)
	close(b.stop)
	<-b.over
	b.receive(receiptsB) // the last one
	if err := <-b.done; command.StatusOf(err) != command.Interrupted {
		t.Errorf("it ended with %v", err)
	}
	w.until("the first has all", func() bool { return strings.Count(a.said(), "gives") == 2 })
	for p := range int32(4) {
		w.produce("t", p, 1)
	}
	w.until("all is read", func() bool { return a.count("rec t/")+b.count("rec t/") == 88 })
	seen := make(map[string]int)
	for _, frame := range append(slices.Clone(a.frames), b.frames...) {
		if strings.HasPrefix(frame, "rec") {
			seen[frame]++
		}
	}
	if len(seen) != 88 {
		t.Errorf("%d records, and some of them twice", len(seen))
	}
	close(a.stop)
	<-a.over
	a.receive(receiptsA)
	<-a.done
	if got := w.committed("t"); !maps.Equal(got, map[int32]int64{0: 22, 1: 22, 2: 22, 3: 22}) {
		t.Errorf("at the end %v is committed", got)
	}
}

// TestGroupAsksAgain has the coordinator close connections, and refuse new ones for a moment, when
// it is asked where the group has come to. A run that follows for weeks does not end at that.
func TestGroupAsksAgain(t *testing.T) {
	w := newWorld(t, 2, "t", 1)
	w.produce("t", 0, 10)
	var refuse, asked atomic.Int32
	w.fake.ControlKey(int16(kmsg.OffsetFetch), func(kmsg.Request) (kmsg.Response, error, bool) {
		w.fake.KeepControl()
		if asked.Add(1) > 4 {
			return nil, nil, false
		}
		refuse.Store(3)
		return nil, errors.New("the connection is closed"), true
	})
	receipts := filepath.Join(t.TempDir(), "receipts")
	if err := os.WriteFile(receipts, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f := w.follow(func(c *Config) {
		c.Group, c.Receipts, c.SessionTimeout = "workers", receipts, 6*time.Second
		c.Kafka.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			if refuse.Add(-1) >= 0 {
				return nil, &net.OpError{Op: "dial", Net: network, Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
			}
			return new(net.Dialer).DialContext(ctx, network, address)
		}
	})
	f.until(0, "rec t/0 9")
	f.receive(receipts)
	close(f.stop)
	<-f.over
	f.receive(receipts)
	if err := <-f.done; command.StatusOf(err) != command.Interrupted {
		t.Errorf("it ended with %v", err)
	}
}

func (f *following) said() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.log.String()
}

func (f *following) count(prefix string) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, frame := range f.frames {
		if strings.HasPrefix(frame, prefix) {
			n++
		}
	}
	return n
}

func (w *world) until(what string, happened func() bool) {
	w.Helper()
	for deadline := time.Now().Add(30 * time.Second); !happened(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.Fatalf("waited in vain until %s", what)
		}
	}
}
