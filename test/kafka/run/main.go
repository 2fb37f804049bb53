// Command run runs a Kafka cluster for trying things out, until Ctrl-C.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/kbkio/kbk/examples/sample"
	kafkatest "github.com/kbkio/kbk/test/kafka"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, stop); err != nil {
		fmt.Fprintf(os.Stderr, "kafka: error: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, stop func()) error {
	brokers := flag.Int("brokers", 1, "number of brokers, 1 or 3")
	port := flag.Int("port", 9092, "client port of the first broker, the others take the next ones; 0 takes free ones")
	dir := flag.String("dir", "", "folder for data that is kept (default: a temporary one)")
	flag.Parse()
	if flag.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flag.Arg(0))
	}

	fmt.Fprintln(os.Stderr, "kafka: starting")
	c, err := kafkatest.Start(ctx, kafkatest.Options{
		Brokers: *brokers,
		Port:    *port,
		Dir:     *dir,
		// People at a prompt expect what a stock broker does.
		Config: map[string]string{"auto.create.topics.enable": "true"},
	})
	if err != nil {
		return err
	}
	switch err := sample.Fill(ctx, strings.Split(c.Bootstrap(), ",")...); {
	case errors.Is(err, kerr.TopicAlreadyExists): // in a folder that was kept
	case err != nil:
		return errors.Join(err, c.Close())
	}
	fmt.Printf(`bootstrap: %[1]s, with the topics orders, payments and customers, and the consumer group billing
try, after make build and PATH=$PWD/bin:$PATH in another terminal:
  kbk-fetch -b %[1]s -t orders | kbk-pack | kbk-push /tmp/nightly
  kbk-pull /tmp/nightly | kbk-pack -d | kbk-produce -b %[1]s --create-topics --rename orders=orders-restored > map.kbk
Ctrl-C stops it.
`, strings.Split(c.Bootstrap(), ",")[0])

	<-ctx.Done()
	stop() // a second Ctrl-C ends everything at once
	fmt.Fprintln(os.Stderr, "kafka: stopping")
	return c.Close()
}
