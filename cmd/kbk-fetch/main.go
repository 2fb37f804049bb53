// Command kbk-fetch reads topics of a Kafka cluster as a stream of records.
package main

import (
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/fetch"
)

func main() { command.Main(fetch.App()) }
