package e2e

import (
	"context"
	"path/filepath"
	"testing"

	kafkatest "github.com/kbkio/kbk/test/kafka"
)

// oldKafka is the newest release of Kafka 3.
const oldKafka = "3.9.2"

// TestOldKafka takes topics from a broker of Kafka 3 to one of Kafka 4 and back, as batches
// and as records, at their offsets, by way of a backup and without one.
func TestOldKafka(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	old, err := kafkatest.Start(ctx, kafkatest.Options{Version: oldKafka})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := old.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := seedMixed(ctx, "versions.mixed"); err != nil {
		t.Fatal(err)
	}
	if err := seedBrokersTime(ctx, "versions.times"); err != nil {
		t.Fatal(err)
	}
	end, err := seedTransactions(ctx, "versions.transactions")
	if err != nil {
		t.Fatal(err)
	}
	defer end()

	k3, k4 := " -b "+old.Bootstrap(), " -b "+cluster.Bootstrap()
	produce := "kbk-produce --create-topics --offsets exact"
	run(t, "kbk-fetch -t ^versions\\. --batches"+k4, produce+k3+" --prefix batches.")
	run(t, "kbk-fetch -t ^versions\\."+k4, produce+k3+" --prefix records.")
	backup := filepath.Join(t.TempDir(), "backup")
	run(t, "kbk-fetch -t ^batches.versions\\. -t ^records.versions\\. --batches"+k3, "kbk-pack", "kbk-push "+backup)
	run(t, "kbk-pull "+backup, "kbk-pack -d --batches", produce+k4+" --prefix back.")
	run(t, "kbk-pull "+backup, "kbk-pack -d", produce+k3+" --prefix again.")
	run(t, "kbk-fetch -t ^again\\. --batches"+k3, produce+k4+" --prefix and.")

	for _, topic := range []string{"versions.mixed", "versions.times", "versions.transactions"} {
		source, err := consume(ctx, topic)
		if err != nil {
			t.Fatal(err)
		}
		for _, prefix := range []string{"back.batches.", "back.records.", "and.again.batches.", "and.again.records."} {
			target, err := consume(ctx, prefix+topic)
			if err != nil {
				t.Fatal(err)
			}
			sameAtOffsets(t, topic, source, prefix+topic, target)
		}
	}
}
