package command

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

var (
	fifoPatience = time.Minute // how long a reader may keep a write waiting
	fifoEvery    = 50 * time.Millisecond
)

// A fifo is a FIFO to write to. To open one is to wait for its reader, for ever if that has
// failed before it came to it, and nobody would read standard input meanwhile. So it is
// opened as soon as there is a reader, and only a Write waits for one.
type fifo struct {
	name string
	file *os.File // nil until there is a reader
}

// open opens the FIFO if there is a reader.
func (p *fifo) open() error {
	if p.file != nil {
		return nil
	}
	f, err := os.OpenFile(p.name, os.O_WRONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, syscall.ENXIO) { // there is none
		return nil
	}
	p.file = f
	return err
}

// Write implements io.Writer.
func (p *fifo) Write(b []byte) (int, error) {
	for began := time.Now(); ; time.Sleep(fifoEvery) {
		switch err := p.open(); {
		case err != nil:
			return 0, err
		case p.file != nil:
			return p.file.Write(b)
		case time.Since(began) > fifoPatience:
			return 0, fmt.Errorf("write %s: nobody has opened the FIFO to read it (for %s)", p.name, fifoPatience)
		}
	}
}

// Close implements io.Closer. A reader that waits for the FIFO to be opened finds it at its
// end.
func (p *fifo) Close() error {
	if err := p.open(); err != nil || p.file == nil {
		return err
	}
	return p.file.Close()
}
