//go:build unix

package command

import (
	"os"
	"strconv"
	"sync"
	"syscall"
)

// orders gives what comes through the pipe of [OrdersVariable], and is closed with it;
// nil where nobody gives orders.
var orders = sync.OnceValue(func() <-chan int {
	pipe := ordersPipe()
	if pipe == nil {
		return nil
	}
	told := make(chan int)
	go func() {
		defer close(told)
		for b := make([]byte, 1); ; {
			if _, err := pipe.Read(b); err != nil {
				return
			}
			told <- int(b[0])
		}
	}()
	return told
})

// ordersPipe is kept from the processes that this one starts.
func ordersPipe() *os.File {
	fd, err := strconv.Atoi(os.Getenv(OrdersVariable))
	os.Unsetenv(OrdersVariable)
	if err != nil || fd <= 2 {
		return nil
	}
	syscall.CloseOnExec(fd)
	pipe := os.NewFile(uintptr(fd), OrdersVariable)
	if info, err := pipe.Stat(); err != nil || info.Mode()&os.ModeNamedPipe == 0 {
		return nil
	}
	return pipe
}
