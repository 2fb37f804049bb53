package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

var (
	quotaKills = flag.Int("quota-kills", 6, "`N` kills of restores under a quota; make soak has 50")
	quotaSeed  = flag.Uint64("quota-seed", 0, "the `SEED` of their moments; 0: a new one")
)

// mutedFor is longer than a broker holds back these connections.
const mutedFor = 20 * time.Second

// TestResumeUnderQuota kills restores with SIGKILL whose producer has a quota: the broker
// then appends what is in its socket buffer seconds after the client is dead, while the
// same line runs again. No record may be there twice, and none be missing. Restores are of
// records and of batches, with new and with exact offsets.
func TestResumeUnderQuota(t *testing.T) {
	const records = 6000
	seed := *quotaSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-quota-seed=%d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	if err := seedSmallBatches(t.Context(), "quota", records); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	fetch := fmt.Sprintf("kbk-fetch -b %s -t quota", cluster.Bootstrap())
	run(t, fetch, "kbk-pack", "kbk-push "+filepath.Join(dir, "records"))
	run(t, fetch+" --batches", "kbk-pack", "kbk-push "+filepath.Join(dir, "batches"))
	cl, err := client()
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	quota := func(rate float64, remove bool) {
		t.Helper()
		name := "kbk-produce"
		resps, err := kadm.NewClient(cl).AlterClientQuotas(t.Context(), []kadm.AlterClientQuotaEntry{{
			Entity: kadm.ClientQuotaEntity{{Type: "client-id", Name: &name}},
			Ops:    []kadm.AlterClientQuotaOp{{Key: "producer_byte_rate", Value: rate, Remove: remove}},
		}})
		if err != nil || resps[0].Err != nil {
			t.Fatal(err, resps)
		}
	}
	late := 0
	var done []string
	for killed, round := 0, 0; killed < *quotaKills; round++ {
		exact := round%2 == 1
		target := fmt.Sprintf("quota-%d", round)
		pull, unpack := "kbk-pull "+filepath.Join(dir, "records"), "kbk-pack -d"
		if round%4 > 1 {
			pull, unpack = "kbk-pull "+filepath.Join(dir, "batches"), "kbk-pack -d --batches"
		}
		flags := ""
		if exact {
			flags = " --offsets exact"
		}
		line := func(rate int) []string {
			return []string{pull, unpack, slowStage(rate, ""),
				fmt.Sprintf("kbk-produce -b %s --create-topics --memory 1MiB --rename quota=%s%s", cluster.Bootstrap(), target, flags)}
		}
		// The broker holds a connection back for seconds then, with requests in its buffer.
		quota([]float64{4e3, 10e3, 20e3}[r.IntN(3)], false)
		for try := 0; try < 3 && killed < *quotaKills; try++ {
			p := start(t, line(200e3+r.IntN(300e3))...)
			select {
			case <-p.stages[last].done:
			case <-time.After(time.Second + time.Duration(r.IntN(3000))*time.Millisecond):
				_ = p.stages[last].Process.Kill()
			}
			switch status := p.wait(); {
			case status[last] == 128+9:
				killed++
			case status[last] == 1 && strings.Contains(p.said(last), "another batch of this producer"):
				late++ // what the one before had on its way came first
			case status[last] != 0:
				t.Fatalf("%d\n%s", status, p)
			}
		}
		quota(0, true)
		for again := 0; ; again++ {
			p := start(t, line(10e6)...)
			status := p.wait()
			if status[last] == 0 {
				break
			}
			if !strings.Contains(p.said(last), "another batch of this producer") || again > 5 {
				t.Fatalf("%d\n%s", status, p)
			}
			late++
		}
		done = append(done, target)
	}
	time.Sleep(mutedFor) // whatever is still on its way has come then
	for round, target := range done {
		check := same
		if round%2 == 1 {
			check = exactly
		}
		if err := check(t.Context(), "quota", target, records); err != nil {
			t.Errorf("%s: %v", target, err)
		}
	}
	t.Logf("requests of a run that was killed came first %d times", late)
}

// seedSmallBatches makes a topic of one partition, with records of 500 bytes in batches of
// 32 KiB at most: a restore of batches takes many requests.
func seedSmallBatches(ctx context.Context, topic string, n int) error {
	cl, err := client(kgo.ProducerBatchMaxBytes(32<<10), kgo.ProducerBatchCompression(kgo.NoCompression()))
	if err != nil {
		return err
	}
	defer cl.Close()
	if err := create(ctx, cl, topic, 1, nil); err != nil {
		return err
	}
	var failed error
	for i := range n {
		cl.Produce(ctx, &kgo.Record{Topic: topic, Value: append(fmt.Appendf(nil, "record %d ", i), somewhere(i, 500)...)}, func(_ *kgo.Record, err error) {
			failed = errors.Join(failed, err)
		})
	}
	return errors.Join(cl.Flush(ctx), failed)
}
