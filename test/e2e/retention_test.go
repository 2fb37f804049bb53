package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/kbkio/kbk/format"
	kafkatest "github.com/kbkio/kbk/test/kafka"
)

// TestRetentionOn restores to a broker that deletes what is older than a week, as brokers do
// by default, and looks every half second.
func TestRetentionOn(t *testing.T) {
	t.Parallel()
	broker, err := kafkatest.Start(t.Context(), kafkatest.Options{Config: map[string]string{"log.retention.ms": "604800000"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := broker.Close(); err != nil {
			t.Error(err)
		}
	})
	cl, err := connect(broker.Bootstrap())
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	const n = 1000
	month, hour := time.Now().Add(-30*24*time.Hour).UnixMilli(), time.Now().Add(-time.Hour).UnixMilli()
	for _, c := range []struct {
		topic  string
		at     int64 // of its records
		topics string
		flags  string
		status int
		stays  bool
	}{
		{"default-old", month, "", "", 4, true},
		{"default-young", hour, "", "", 0, true},
		{"own-old", month, "retention.ms=3600000", "", 4, true},
		{"own-none", month, "retention.ms=-1", "", 0, true},
		{"own-bytes", hour, "retention.bytes=2000 segment.bytes=1048576", "", 4, true},
		{"wanted", month, "", "--put-back-retention", 0, false},
		{"exact-old", month, "", "--offsets exact", 4, true},
	} {
		t.Run(c.topic, func(t *testing.T) {
			configs := make(map[string]*string)
			for _, s := range strings.Fields(c.topics) {
				k, v, _ := strings.Cut(s, "=")
				configs[k] = &v
			}
			if _, err := adm.CreateTopic(t.Context(), 1, 1, configs, c.topic); err != nil {
				t.Fatal(err)
			}
			stream := streamFile(t, func(_ func(format.Encoder), record func(*format.Record)) {
				for i := range int64(n) {
					record(&format.Record{Topic: c.topic, Offset: i, Timestamp: c.at + i, Value: somewhere(int(i), 100)})
				}
			})
			p := start(t, "cat "+stream, fmt.Sprintf("kbk-produce -b %s %s", broker.Bootstrap(), c.flags))
			if status := p.wait(); status[1] != c.status {
				t.Fatalf("%d\n%s", status, p)
			}
			bounds := func() (start, end int64) {
				at, err := boundsOf(t.Context(), broker.Bootstrap(), c.topic)
				if err != nil {
					t.Fatal(err)
				}
				return at[0][0], at[0][1]
			}
			if !c.stays {
				for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
					if start, _ := bounds(); start == n {
						return
					}
					if time.Now().After(deadline) {
						t.Fatal("the broker does not delete what is old")
					}
				}
			}
			time.Sleep(1500 * time.Millisecond) // it looks three times
			if start, end := bounds(); start != 0 || end != n {
				t.Errorf("the log goes from %d to %d", start, end)
			}
			p = again(t, stream, broker.Bootstrap(), c.flags)
			if !strings.Contains(p.said(1), fmt.Sprintf("where %s records were already", "1,000")) {
				t.Errorf("the same line again says\n%s", p)
			}
		})
	}
}

// again runs a restore again, and wants no failure of it.
func again(t *testing.T, stream, brokers, flags string) *pipeline {
	t.Helper()
	p := start(t, "cat "+stream, fmt.Sprintf("kbk-produce -b %s %s", brokers, flags))
	if status := p.wait(); status[1] != 0 {
		t.Errorf("the same line again: %d\n%s", status, p)
	}
	return p
}
