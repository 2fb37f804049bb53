// Command kbk-cluster backs up and restores what a cluster has besides its records.
package main

import (
	"github.com/kbkio/kbk/pkg/cluster"
	"github.com/kbkio/kbk/pkg/command"
)

func main() { command.Main(cluster.App()) }
