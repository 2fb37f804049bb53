// Command kbk-produce writes a stream of records to a Kafka cluster.
package main

import (
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/produce"
)

func main() { command.Main(produce.App()) }
