package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"

	kafkatest "github.com/kbkio/kbk/test/kafka"
)

// TestTieredStorage reads a topic most of which is in remote storage, of which a broker
// answers without records and without an error: because its quota is used up, or because
// it may not wait.
func TestTieredStorage(t *testing.T) {
	const records = 12_000
	// In one millisecond no answer comes at all on some machines.
	for name, config := range map[string]map[string]string{
		"a quota":             {"remote.log.manager.fetch.max.bytes.per.second": "500000", "remote.log.manager.fetch.quota.window.num": "3"},
		"hardly time to wait": {"remote.fetch.max.wait.ms": "25"},
	} {
		t.Run(name, func(t *testing.T) {
			brokers := startTiered(t, records, config)
			dir := filepath.Join(t.TempDir(), "backup")
			p := run(t, fmt.Sprintf("kbk-fetch -b %s -t tiered", brokers), "kbk-pack", "kbk-push "+dir)
			if sum := verify(t, dir); !sum.final || sum.records != records {
				t.Errorf("the backup holds %+v\n%s", sum, p)
			}
			if said := p.said(source); strings.Contains(said, "compacted") {
				t.Errorf("said %s", said)
			}
		})
	}
}

// startTiered starts a broker with a topic, all but the end of which is in remote storage
// only.
func startTiered(t *testing.T, records int, config map[string]string) (brokers string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := kafkatest.Start(ctx, kafkatest.Options{TieredStorage: true, Config: config})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	cl, err := connect(c.Bootstrap())
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	err = create(ctx, cl, "tiered", 1, map[string]string{
		"remote.storage.enable": "true", "segment.bytes": "1048576", "local.retention.bytes": "1", "retention.ms": "-1",
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := fill(ctx, c.Bootstrap(), "tiered", 1, records, 1000); err != nil {
		t.Fatal(err)
	}
	adm := kadm.NewClient(cl)
	for {
		starts, err := adm.ListLocalLogStartOffsets(ctx, "tiered")
		if err == nil {
			err = starts.Error()
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, c.Log(0))
		}
		if o, _ := starts.Lookup("tiered", 0); o.Offset > int64(records)*9/10 {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	return c.Bootstrap()
}
