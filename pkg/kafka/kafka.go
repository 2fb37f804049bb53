// Package kafka connects to Kafka. It is the only package that builds clients,
// and the one place for the flags that say which cluster.
package kafka

import (
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/urfave/cli/v2"

	"github.com/kbkio/kbk/pkg/command"
)

// Config says how to reach a cluster.
type Config struct {
	Brokers  []string // host:port, host for port 9092, or srv+NAME of SRV records; without a protocol
	ClientID string   // as the brokers' logs and quotas have it; empty: kbk

	// Dial makes the connections; nil: over TCP. Behind TLS and SASL, if these are set.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	settings settings // the properties, of TLS and SASL above all
	log      *slog.Logger
}

// Flags are the command-line flags behind a [Config].
func Flags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "brokers", Aliases: []string{"b"}, Usage: "`HOST:PORT,…` of one or more brokers of the cluster, or srv+NAME; PROTOCOL:// may precede it", EnvVars: []string{"KBK_BROKERS"}},
		&cli.StringFlag{Name: "cluster", Usage: "connect to the cluster `NAME` in the section clusters of the file of --config"},
		&cli.StringSliceFlag{Name: "X", Usage: "set a property of the connection, `NAME=VALUE`, by its name in Java's clients or librdkafka; repeatable"},
		&cli.StringFlag{Name: "command-config", Usage: "read such properties from `FILE`, as Kafka's own tools do", EnvVars: []string{"KBK_COMMAND_CONFIG"}},
	}
}

// ErrNoBrokers says that there is nothing to connect to.
var ErrNoBrokers = command.Usagef("no brokers: give -b HOST:PORT, or set KBK_BROKERS")

// FromFlags reads the flags of [Flags].
func FromFlags(c *cli.Context) (Config, error) {
	s, err := settingsOf(c)
	if err != nil {
		return Config{}, err
	}
	brokers := setting{c.String("brokers"), "-b"}
	if c.String("cluster") != "" {
		brokers.value = "" // what a variable or a section says is of the other cluster
	}
	return configOf(s, brokers, c.App.Name, command.Log(c))
}

// FromFile is the connection of a command that has not these flags, to the cluster that a
// file has under a name, or to that of its section cluster. What the environment says
// counts as for the flags, and what the section of a command says instead of them.
func FromFile(f *command.ConfigFile, cluster, section, client string, log *slog.Logger) (Config, error) {
	properties, file, brokers := f.Sections[command.ClusterSection], "", setting{}
	if cluster != "" {
		properties = f.Clusters[cluster]
	} else {
		said := command.Last(f.Sections[section])
		file = cmp.Or(os.Getenv("KBK_COMMAND_CONFIG"), said["command-config"])
		brokers = setting{cmp.Or(os.Getenv("KBK_BROKERS"), said["brokers"]), "KBK_BROKERS"}
	}
	s, err := gather(command.Last(properties), cluster, file, nil)
	if err != nil {
		return Config{}, err
	}
	return configOf(s, brokers, client, log)
}

// configOf is the connection with the settings s, to brokers where they are said elsewhere.
func configOf(s settings, brokers setting, client string, log *slog.Logger) (cfg Config, err error) {
	cfg = Config{ClientID: cmp.Or(s.get("client.id"), client), settings: s, log: log}
	if brokers.value == "" {
		brokers = s[brokersKey]
	}
	if cfg.Brokers, err = s.brokers(brokers); err != nil {
		return cfg, err
	}
	if len(cfg.Brokers) == 0 {
		return cfg, ErrNoBrokers
	}
	if _, err := s.options(nil, new(atomic.Value)); err != nil { // what is wrong is said before anything is done
		return cfg, err
	}
	for _, w := range s.warnings() {
		cfg.log.Warn(w)
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
	brokers, err := discover(ctx, cfg.Brokers)
	if err != nil {
		return nil, err
	}
	var last atomic.Value
	secure, err := cfg.settings.options(cfg.Dial, &last)
	if err != nil {
		return nil, err
	}
	base := []kgo.Opt{
		kgo.SeedBrokers(brokers...),
		kgo.ClientID(cfg.ClientID),
		kgo.SoftwareNameAndVersion(cfg.ClientID, softwareVersion()),
		kgo.BrokerMaxReadBytes(maxResponse),
		// A broker that ends may close a connection before the first answer. When it is
		// the configuration that is wrong, firstContact says so.
		kgo.AlwaysRetryEOF(),
	}
	if cfg.log != nil {
		base = append(base, kgo.WithLogger(franzLogger{cfg.log}), kgo.WithHooks(newWatch(cfg.log)))
	}
	cl, err := kgo.NewClient(slices.Concat(base, secure, opts)...)
	if err != nil {
		return nil, command.WithStatus(command.Usage, fmt.Errorf("brokers %s: %w", strings.Join(cfg.Brokers, ","), err))
	}
	if err := firstContact(ctx, cl, brokers); err != nil {
		cl.Close()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, explain(err, brokers, &last)
	}
	return cl, nil
}

// firstContact returns when a broker has answered. The next one is asked when the one
// before has failed, or takes long: a broker that hangs holds nobody up. If all fail, the
// error is the first one.
func firstContact(ctx context.Context, cl *kgo.Client, brokers []string) error {
	ping, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	seeds := cl.SeedBrokers()
	type answer struct {
		seed int
		err  error
	}
	answers := make(chan answer, len(seeds))
	var failed []answer
	for asked := 0; len(failed) < len(seeds); {
		if asked < len(seeds) {
			seed := asked
			go func() {
				req := kmsg.NewPtrMetadataRequest()
				req.Topics = []kmsg.MetadataRequestTopic{} // of the brokers alone
				// Not one that may be cancelled: franz-go would fail whatever else is on its
				// way in that connection. Closing the client ends it.
				_, err := seeds[seed].Request(context.WithoutCancel(ctx), req)
				answers <- answer{seed, err}
			}()
			asked++
		}
		var next <-chan time.Time
		if asked < len(seeds) {
			next = time.After(min(time.Second, dialTimeout/time.Duration(2*len(seeds))))
		}
		select {
		case a := <-answers:
			if a.err != nil {
				failed = append(failed, a)
				continue
			}
			if a.seed > 0 { // Ping asks them one after the other
				first := slices.Concat(brokers[a.seed:], brokers[:a.seed])
				if err := cl.UpdateSeedBrokers(first...); err != nil {
					return err
				}
			}
			return cl.Ping(ping)
		case <-next:
		case <-ping.Done():
			return ping.Err()
		}
	}
	return slices.MinFunc(failed, func(a, b answer) int { return cmp.Compare(a.seed, b.seed) }).err
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
