package kafka

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Patience is how long a request is repeated while brokers are away, where no flag says
// otherwise: a broker that restarts needs less.
const Patience = 2 * time.Minute

// CatchUp is how long a broker may need to learn of what another one has shown.
const CatchUp = 5 * time.Second

const (
	retryMin = 100 * time.Millisecond
	retryMax = time.Second
)

// unknownBroker is franz-go's error of a broker that was in the metadata a moment ago. It
// has no name outside of franz-go.
const unknownBroker = "unknown broker"

// Transient says whether a request that failed with err may succeed in a moment: a
// broker is away, or says so itself. franz-go's own [kgo.IsRetryableBrokerErr] leaves out
// refused connections.
func Transient(err error) bool {
	if errors.Is(err, fs.ErrPermission) {
		return false
	}
	var network *net.OpError
	if err != nil && strings.Contains(err.Error(), unknownBroker) {
		return true
	}
	return kerr.IsRetriable(err) || kgo.IsRetryableBrokerErr(err) || errors.As(err, &network) && network.Op == "dial"
}

const askAgain = 200 * time.Millisecond

// UntilCaughtUp calls ask until it returns true, and returns false if it has not within the time that a
// broker may need to catch up: see [CatchUp]. It is for what a leader answers that was cut off from the
// other brokers, and does not know that another one leads.
func UntilCaughtUp(ctx context.Context, ask func() bool) bool {
	for began := time.Now(); ; {
		if ask() {
			return true
		}
		if time.Since(began) > CatchUp {
			return false
		}
		select {
		case <-time.After(askAgain):
		case <-ctx.Done():
			return false
		}
	}
}

// Brokers looks up which brokers there are. kadm answers from what the client knows, for
// ever, unless it is asked for what the client does not keep.
func Brokers(ctx context.Context, adm *kadm.Client) (kadm.BrokerDetails, error) {
	meta, err := adm.BrokerMetadata(kadm.WithAuthorizedOps(ctx))
	return meta.Brokers, err
}

// Retry calls do until it succeeds, fails for good, or has failed for as long as patience.
// It is for requests that franz-go gives up on sooner: those that it splits up by leader
// or by coordinator are not repeated when that broker is gone, and the metadata for them
// is asked for three times only. Before the next try the brokers are looked up anew:
// franz-go goes to the coordinator that it knows until it learns that this broker is gone.
func Retry(ctx context.Context, adm *kadm.Client, patience time.Duration, do func() error) error {
	for wait, began := retryMin, time.Now(); ; wait = min(2*wait, retryMax) {
		err := do()
		if err == nil || !Transient(err) || time.Since(began) > patience {
			return err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		_, _ = Brokers(ctx, adm) // if it fails, so will do
	}
}
