//go:build !unix

package command

// orders are nobody's where processes inherit no pipes: a console's Ctrl-C reaches all.
func orders() <-chan int { return nil }
