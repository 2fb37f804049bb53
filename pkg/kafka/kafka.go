// Package kafka connects to Kafka. It is the only package that builds clients,
// and the one place for the flags that say which cluster.
package kafka

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/urfave/cli/v2"

	"github.com/kbkio/kbk/pkg/command"
)

// Config says how to reach a cluster.
type Config struct {
	Brokers  []string // host:port, or host for port 9092
	ClientID string   // as the brokers' logs and quotas have it; empty: kbk
}

// Flags are the command-line flags behind a [Config].
func Flags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "brokers", Aliases: []string{"b"}, Usage: "`HOST:PORT,…` of one or more brokers of the cluster", EnvVars: []string{"KBK_BROKERS"}},
	}
}

// FromFlags reads the flags of [Flags].
func FromFlags(c *cli.Context) (Config, error) {
	cfg := Config{ClientID: c.App.Name}
	for _, b := range strings.Split(c.String("brokers"), ",") {
		if b = strings.TrimSpace(b); b != "" {
			cfg.Brokers = append(cfg.Brokers, b)
		}
	}
	if len(cfg.Brokers) == 0 {
		return cfg, command.Usagef("no brokers: give -b HOST:PORT, or set KBK_BROKERS")
	}
	return cfg, nil
}

const (
	dialTimeout = 10 * time.Second
	// maxResponse is the largest response a broker may send: a fetch holds at
	// least one batch, however large, and Kafka's own limit on one is 2 GiB.
	maxResponse = 1 << 30
)

// NewClient returns a client of the cluster, once one of its brokers has
// answered.
func NewClient(ctx context.Context, cfg Config, opts ...kgo.Opt) (*kgo.Client, error) {
	if cfg.ClientID == "" {
		cfg.ClientID = "kbk" // brokers refuse a software name that is empty
	}
	base := []kgo.Opt{
		kgo.SeedBrokers(cfg.Brokers...),
		kgo.ClientID(cfg.ClientID),
		kgo.SoftwareNameAndVersion(cfg.ClientID, softwareVersion()),
		kgo.DialTimeout(dialTimeout),
		kgo.BrokerMaxReadBytes(maxResponse),
	}
	cl, err := kgo.NewClient(append(base, opts...)...)
	if err != nil {
		return nil, command.WithStatus(command.Usage, fmt.Errorf("brokers %s: %w", strings.Join(cfg.Brokers, ","), err))
	}
	ping, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if err := cl.Ping(ping); err != nil {
		cl.Close()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("no answer within %s", dialTimeout)
		}
		return nil, command.WithHint(fmt.Errorf("connect to %s: %w", strings.Join(cfg.Brokers, ","), err),
			"is the broker up, and is this its listener for clients?")
	}
	return cl, nil
}

// softwareVersion is the version as ApiVersions takes it (KIP-511): letters,
// digits, dots and dashes.
func softwareVersion() string {
	return strings.Map(func(r rune) rune {
		if r == '.' || r == '-' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return '-'
	}, command.Version())
}

// FormatTopicID writes a topic id as Kafka's tools do (the class Uuid). The zero
// id of a broker that knows none (before KIP-516) is empty.
func FormatTopicID(id [16]byte) string {
	if id == ([16]byte{}) {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(id[:])
}
