package produce

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
)

// TestLateRequests has what a run that was killed still has on its way come late: before
// the next run writes, or after. A produce quota makes that common: a broker appends what
// is in its socket buffer seconds after the client is dead.
func TestLateRequests(t *testing.T) {
	t.Parallel()
	frames := join(frameList{&format.Topic{Name: "t", Partitions: 1}}, records("t", 0, 0, 40))
	for i := range frames[1:] { // some batches of them
		rec := frames[i+1].(format.Record)
		rec.Headers = []format.RecordHeader{{Name: []byte("noise"), Value: bytes.Repeat([]byte{byte(i)}, 10_000)}}
		frames[i+1] = rec
	}
	long := stream(t, &format.End{}, frames...)
	gaps := join(frameList{&format.Topic{Name: "t", Partitions: 1}}, records("t", 0, 0, 20), records("t", 0, 23, 20), frameList{&format.Mark{Topic: "t", Next: 50}})
	for _, c := range []struct {
		name   string
		before int // batches that have landed already
		exact  bool
		whole  bool // the stream is one of batches
	}{
		{"first batch", 0, false, false},
		{"later batch", 1, false, false},
		{"first batch, exact", 0, true, false},
		{"first of batches", 0, false, true},
		{"later of batches", 2, false, true},
		{"first of batches, exact", 0, true, true},
	} {
		for _, first := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/comes first=%v", c.name, first), func(t *testing.T) {
				r := newRig(t)
				in, want := long, wanted(false, frames, 1)
				var flags []string
				if c.whole {
					in = batches(t, batched(t, "none", 7, frames)...)
				}
				if c.exact && c.whole {
					in, want, flags = batches(t, batched(t, "snappy", 7, gaps)...), wanted(true, gaps, 1), []string{"--offsets", "exact"}
				} else if c.exact {
					in, want, flags = stream(t, &format.End{}, gaps...), wanted(true, gaps, 1), []string{"--offsets", "exact"}
				}
				late := r.killAndCatch(c.before, in, append(flags, "--memory", "1MiB")...)
				change := func(cfg *Config) { cfg.Exact = c.exact }
				if first {
					r.beforeNext(late)
					o := r.produce(in, change)
					if status := command.StatusOf(o.err); status != 0 {
						// It noticed, wrote nothing, and the same line is right.
						o.want(t, 1, "the broker has another batch of this producer last")
						r.produce(in, change).want(t, 0)
					}
				} else {
					r.produce(in, change).want(t, 0)
					if err := late(); err == nil {
						t.Log("the broker took the late request for a repetition")
					}
				}
				r.same("t", 1, want)
				o := r.produce(in, change)
				o.want(t, 0, "produced 0 records")
			})
		}
	}
}

// killAndCatch kills the command when it has written n batches, and returns a function
// that sends the request for the next one.
func (r *rig) killAndCatch(n int, in []byte, flags ...string) (late func() error) {
	r.Helper()
	req := r.catch(kmsg.Produce, n, in, flags...)
	return func() error {
		resp, err := req.(*kmsg.ProduceRequest).RequestWith(r.Context(), r.cl)
		if err != nil {
			return err
		}
		return kerr.ErrorForCode(resp.Topics[0].Partitions[0].ErrorCode)
	}
}

// catch kills the command at its request of a kind behind the nth, and returns that one.
func (r *rig) catch(kind kmsg.Key, n int, in []byte, flags ...string) kmsg.Request {
	r.Helper()
	cmd, said := r.command(in, flags...)
	caught := make(chan kmsg.Request, 1)
	killed, count := false, 0
	r.control(func(req kmsg.Request) (kmsg.Response, error, bool) {
		if killed {
			return nil, errors.New("killed"), true
		}
		if req.Key() != int16(kind) {
			return nil, nil, false
		}
		if count++; count <= n {
			return nil, nil, false
		}
		killed = true
		caught <- req
		if err := cmd.Process.Kill(); err != nil {
			r.Error(err)
		}
		return nil, errors.New("killed"), true
	})
	if err := cmd.Start(); err != nil {
		r.Fatal(err)
	}
	if err := cmd.Wait(); err == nil || len(caught) == 0 {
		r.Fatalf("it was not killed: %v\n%s", err, said)
	}
	r.free()
	return <-caught
}

// TestLateMarkers has the markers of a run that was killed come late: before the next one
// looks, while it waits, right before its own markers, and behind them. The embedded broker lets all markers in, a
// real one refuses those of a lower epoch: of the last case what is wanted here is that.
func TestLateMarkers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		frames frameList
		before int // requests with markers that have landed
	}{
		"the first of the log": {join(frameList{&format.Mark{Topic: "t", Next: 0}}, records("t", 0, 3, 5)), 0},
		"behind records":       {join(records("t", 0, 0, 5), records("t", 0, 8, 5)), 0},
		"behind other markers": {join(records("t", 0, 0, 5), records("t", 0, 8, 5), records("t", 0, 15, 5)), 1},
		"the last of the log":  {join(records("t", 0, 0, 5), frameList{&format.Mark{Topic: "t", Next: 9}}), 0},
	} {
		for _, when := range []string{"before", "while it waits", "right before its own", "behind"} {
			t.Run(name+"/"+when, func(t *testing.T) {
				r := newRig(t)
				frames := join(frameList{topic("t", 1)}, c.frames)
				in := stream(t, &format.End{}, frames...)
				late := r.catch(kmsg.WriteTxnMarkers, c.before, in, "--offsets", "exact").(*kmsg.WriteTxnMarkersRequest)
				send := func() {
					if _, err := late.RequestWith(t.Context(), r.cl); err != nil {
						t.Error(err)
					}
				}
				var own []*kmsg.WriteTxnMarkersRequest
				var looked time.Time
				sent := false
				r.control(func(req kmsg.Request) (kmsg.Response, error, bool) {
					switch req := req.(type) {
					case *kmsg.WriteTxnMarkersRequest:
						if own = append(own, req); len(own) == 1 && when == "right before its own" {
							r.fake.SleepControl(send)
						}
					case *kmsg.ListOffsetsRequest:
						if req.ReplicaID != -2 {
							break
						}
						if when == "while it waits" && !sent && !looked.IsZero() && time.Since(looked) > unmovedFor*4/5 {
							sent = true
							r.fake.SleepControl(send)
						}
						looked = time.Now()
					}
					return nil, nil, false
				})
				if when == "before" {
					send()
					own = nil
				}
				o := r.produce(in, func(cfg *Config) { cfg.Exact = true })
				if when == "right before its own" { // nothing can be done any more
					o.want(t, 1, "somebody else writes to it")
					if o.whole || command.HintOf(o.err) == "" {
						t.Errorf("the map has an end, or there is no hint: %v", o.err)
					}
					return
				}
				o.want(t, 0)
				r.same("t", 1, wanted(true, frames, 1))
				if when == "while it waits" && !sent {
					t.Error("it did not wait")
				}
				if when != "behind" {
					return
				}
				last := late.Markers[len(late.Markers)-1]
				if len(own) == 0 || own[0].Markers[0].ProducerID != last.ProducerID || own[0].Markers[0].ProducerEpoch <= last.ProducerEpoch {
					t.Errorf("a broker would take the late markers %d, epoch %d, behind %+v", last.ProducerID, last.ProducerEpoch, own[0].Markers[0])
				}
			})
		}
	}
}

// beforeNext sends a late request right before the next of its kind is handled.
func (r *rig) beforeNext(late func() error) {
	done := false
	r.control(func(req kmsg.Request) (kmsg.Response, error, bool) {
		if done || req.Key() != int16(kmsg.Produce) {
			return nil, nil, false
		}
		done = true
		r.fake.SleepControl(func() {
			if err := late(); err != nil {
				r.Errorf("the late request: %v", err)
			}
		})
		return nil, nil, false
	})
}

// TestSecondRestoreGoesOn wants the next run to write as the one that was killed.
func TestSecondRestoreGoesOn(t *testing.T) {
	r := newRig(t)
	in := stream(t, &format.End{}, join(frameList{&format.Topic{Name: "t", Partitions: 2}}, records("t", 0, 0, 40), records("t", 1, 0, 5))...)
	var ids []int64
	see := func(req kmsg.Request) (kmsg.Response, error, bool) {
		if p, ok := req.(*kmsg.ProduceRequest); ok {
			for _, topic := range p.Topics {
				for _, part := range topic.Partitions {
					var b kmsg.RecordBatch
					if err := b.ReadFrom(part.Records); err != nil {
						t.Error(err)
					}
					ids = append(ids, b.ProducerID)
				}
			}
		}
		return nil, nil, false
	}
	r.killAndCatch(0, in)
	had := r.noted()
	if len(had) != 1 {
		t.Fatalf("the notes are %v", had)
	}
	n, _ := parseNote(had["t"], "", "")
	r.control(see)
	r.produce(in, nil).want(t, 0, "produced 45 records")
	if len(ids) == 0 || slices.ContainsFunc(ids, func(id int64) bool { return id != n.Holders[0].Producer }) {
		t.Errorf("it wrote as %v, and not as %d", ids, n.Holders[0].Producer)
	}
}
