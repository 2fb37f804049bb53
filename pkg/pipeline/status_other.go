//go:build !unix

package pipeline

import "os"

const canOrder = false // processes inherit no pipes, and a console's Ctrl-C reaches all

func shellStatus(p *os.ProcessState) int { return p.ExitCode() }
