package command

import (
	"os"
	"sync/atomic"
	"time"

	"github.com/schollz/progressbar/v3"
)

// clearLine takes a progress bar off the terminal before a message is printed.
var clearLine atomic.Pointer[func()]

// A Progress is a progress bar on standard error, or nothing where nobody
// watches. Only the sources of a pipe have one: the stages behind them go as
// fast as they do, and would draw over it.
type Progress struct{ bar *progressbar.ProgressBar }

// NewProgress begins a bar of total units (of bytes, where that is said).
func (e *Env) NewProgress(what string, total int64, bytes bool) *Progress {
	if !e.Progress {
		return &Progress{}
	}
	bar := progressbar.NewOptions64(total,
		progressbar.OptionSetWriter(os.Stderr),
		progressbar.OptionSetDescription(e.Name+": "+what),
		progressbar.OptionShowBytes(bytes),
		progressbar.OptionShowCount(),
		progressbar.OptionShowIts(),
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionFullWidth(),
		progressbar.OptionClearOnFinish(),
		progressbar.OptionSetTheme(progressbar.ThemeASCII),
	)
	clear := func() { _ = bar.Clear() }
	clearLine.Store(&clear)
	return &Progress{bar}
}

// Set says how many units are done.
func (p *Progress) Set(done int64) {
	if p.bar != nil {
		_ = p.bar.Set64(done) // a bar that cannot be drawn stops nothing
	}
}

// Close takes the bar off the terminal.
func (p *Progress) Close() {
	if p.bar != nil {
		_ = p.bar.Clear()
		clearLine.Store(nil)
		p.bar = nil
	}
}
