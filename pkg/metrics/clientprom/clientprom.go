// Package clientprom shows what Kafka's client counts, on the page of the command that has
// it.
package clientprom

import (
	"context"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/plugin/kprom"

	"github.com/kbkio/kbk/pkg/metrics/prom"
)

// Opts are the options of a client for the work in ctx; none where there is no page. There
// may be one such client in a process.
func Opts(ctx context.Context) []kgo.Opt {
	registry := prom.Registry(ctx)
	if registry == nil {
		return nil
	}
	return []kgo.Opt{kgo.WithHooks(kprom.NewMetrics("kbk_kafka_client",
		kprom.Registry(registry), kprom.Histograms(kprom.RequestDurationE2E, kprom.RequestThrottled)))}
}
