package brokers

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kbkio/kbk/pkg/partitionlog"
)

// endWaits wants the end of a log not to be told while only its leader has what is there last:
// another leader would cut that off.
func (w *world) endWaits(t *testing.T) {
	p := partitionlog.Partition{Topic: "alone"}
	w.create(t, p.Topic, 1)
	w.awaitInSync(t)
	meta, err := w.adm.Metadata(t.Context(), p.Topic)
	w.check(t, err)
	leader := int(meta.Topics[p.Topic].Partitions[0].Leader)
	cl, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(w.cluster.Bootstrap(), ",")[leader]), kgo.RequiredAcks(kgo.LeaderAck()), kgo.DisableIdempotentWrite())
	w.check(t, err)
	defer cl.Close()
	write := func() error { return cl.ProduceSync(t.Context(), &kgo.Record{Topic: p.Topic}).FirstErr() }
	w.check(t, write())
	logs := partitionlog.New(t.Context(), cl, slog.New(slog.DiscardHandler), 3*time.Second)
	end, err := logs.End(t.Context(), p)
	if err != nil || end != 1 {
		t.Fatalf("the log ends at %d, %v", end, err)
	}
	for b := range w.brokers {
		if b != leader {
			w.check(t, w.cluster.PauseBroker(b))
		}
	}
	err = write()
	end, endErr := logs.End(t.Context(), p)
	for b := range w.brokers {
		if b != leader {
			err = errors.Join(err, w.cluster.ResumeBroker(b))
		}
	}
	w.check(t, err)
	if endErr == nil || !strings.Contains(endErr.Error(), "the replicas of alone/0 have 1 of 2 offsets (for 3s)") {
		t.Errorf("while its followers hang, the log ends at %d, %v", end, endErr)
	}
	w.awaitInSync(t)
	if end, err := logs.End(t.Context(), p); err != nil || end != 2 {
		t.Errorf("in the end, the log ends at %d, %v", end, err)
	}
}
