package pack

import "os"

// flushSignals never has one: Windows has no SIGUSR1.
func flushSignals() (signals chan os.Signal, stop func()) { return nil, func() {} }
