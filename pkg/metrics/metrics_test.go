package metrics

import (
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestSnapshot counts each number once, and looks for it in the snapshot: none may be left out.
func TestSnapshot(t *testing.T) {
	var c Counters
	empty := c.Snapshot()
	if !empty.LastCommit.IsZero() || empty.Ready || empty.WaitsForInput {
		t.Errorf("%+v", empty)
	}
	v, n := reflect.ValueOf(&c).Elem(), int64(0)
	for i := range v.NumField() {
		if !v.Type().Field(i).IsExported() {
			continue
		}
		if f, ok := v.Field(i).Addr().Interface().(interface{ Add(int64) int64 }); ok {
			n++
			f.Add(n)
		}
	}
	s := reflect.ValueOf(c.Snapshot())
	seen := int64(0)
	for i := range v.NumField() {
		if !v.Type().Field(i).IsExported() {
			continue
		}
		if f, ok := v.Field(i).Addr().Interface().(interface{ Load() int64 }); ok {
			name := v.Type().Field(i).Name
			if got := s.FieldByName(name); !got.IsValid() || got.Int() != f.Load() {
				t.Errorf("%s is %d, and not in the snapshot", name, f.Load())
			}
			seen++
		}
	}
	if seen != n || n < 10 {
		t.Errorf("%d and %d numbers", n, seen)
	}
	c.Commit()
	c.Ready()
	c.Idle(true)
	c.Retries.Add("store")
	c.Retries.Add("store")
	got := c.Snapshot()
	if got.Commits != 1 || got.LastCommit.IsZero() || !got.Ready || !got.Idle || got.Retries["store"] != 2 || got.Errors != nil {
		t.Errorf("%+v", got)
	}
}

func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c Counters
		c.Input.Begin()
		time.Sleep(time.Second)
		if s := c.Snapshot(); s.InputWait != time.Second || !s.WaitsForInput {
			t.Errorf("while it waits: %+v", s)
		}
		time.Sleep(time.Second)
		c.Input.End()
		c.Input.End() // nothing to end
		time.Sleep(time.Second)
		if s := c.Snapshot(); s.InputWait != 2*time.Second || s.WaitsForInput || s.OutputWait != 0 {
			t.Errorf("afterwards: %+v", s)
		}
	})
}

type slow struct{ err error }

func (s slow) Read(b []byte) (int, error) {
	time.Sleep(time.Second)
	return copy(b, "abc"), s.err
}

func (s slow) Write(b []byte) (int, error) {
	time.Sleep(time.Second)
	return 2, s.err
}

func TestReaderWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c Counters
		boom := errors.New("boom")
		n, err := c.Input.Reader(slow{boom}, &c.BytesIn).Read(make([]byte, 9))
		if n != 3 || err != boom {
			t.Errorf("read %d, %v", n, err)
		}
		n, err = c.Output.Writer(slow{boom}, &c.BytesOut).Write(make([]byte, 9))
		if n != 2 || err != boom {
			t.Errorf("wrote %d, %v", n, err)
		}
		if s := c.Snapshot(); s.BytesIn != 3 || s.BytesOut != 2 || s.InputWait != time.Second || s.OutputWait != time.Second {
			t.Errorf("%+v", s)
		}
	})
}

func TestBuckets(t *testing.T) {
	var d Durations
	for _, took := range []time.Duration{time.Millisecond, 5 * time.Millisecond, 6 * time.Millisecond, time.Hour} {
		d.Add(took)
	}
	atMost, count, sum := d.Buckets()
	if atMost[0.005] != 2 || atMost[0.01] != 3 || atMost[300] != 3 || count != 4 || sum != time.Hour+12*time.Millisecond {
		t.Errorf("%v, %d, %s", atMost, count, sum)
	}
}

// TestAllocations counts as the hot paths do.
func TestAllocations(t *testing.T) {
	var c Counters
	r := c.Input.Reader(strings.NewReader(strings.Repeat("x", 1<<20)), &c.BytesIn)
	w := c.Output.Writer(io.Discard, &c.BytesOut)
	buf := make([]byte, 64)
	if n := testing.AllocsPerRun(1000, func() {
		c.Records.Add(1)
		c.Commit()
		_, _ = r.Read(buf)
		_, _ = w.Write(buf)
		c.Uploads.Add(time.Second)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
