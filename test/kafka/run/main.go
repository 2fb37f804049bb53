// Command run runs a Kafka cluster for trying things out, until Ctrl-C.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

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
	fmt.Printf(`bootstrap: %[1]s
try:
  kcat -P -b %[1]s -t demo
  kbk-fetch -b %[1]s -t demo > demo.kbk
Ctrl-C stops it.
`, c.Bootstrap())

	<-ctx.Done()
	stop() // a second Ctrl-C ends everything at once
	fmt.Fprintln(os.Stderr, "kafka: stopping")
	return c.Close()
}
