package cluster

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/kbkio/kbk/pkg/cluster/change"
	"github.com/kbkio/kbk/pkg/command"
)

// terminal opens the terminal of the person who called the command: standard input is a stream.
func terminal() (*os.File, error) { return os.OpenFile("/dev/tty", os.O_RDWR, 0) }

// askTwice shows on the terminal what would be deleted, and asks two times.
func askTwice(removals []change.Change, stop <-chan struct{}) error {
	refused := func(why string) error {
		return command.WithHint(command.Usagef("--prune would delete %s: %s; nothing was changed", command.Count(int64(len(removals)), "thing"), why), "look at kbk-cluster plan, and add --yes if that is what you want")
	}
	tty, err := terminal()
	if err != nil {
		return refused("there is no terminal to ask on")
	}
	defer tty.Close()
	for _, c := range removals {
		fmt.Fprintln(tty, "  "+line(c))
	}
	lines := make(chan string)
	go func() { // it is left behind in a read when a signal comes
		in := bufio.NewScanner(tty)
		for in.Scan() {
			lines <- strings.TrimSpace(in.Text())
		}
		close(lines)
	}()
	for _, q := range []struct{ text, want string }{
		{fmt.Sprintf("Delete these %d? yes or no: ", len(removals)), "yes"},
		{"They are deleted from the cluster. Type how many they are: ", strconv.Itoa(len(removals))},
	} {
		fmt.Fprint(tty, q.text)
		select {
		case got := <-lines:
			if got != q.want {
				return refused("the answer was not " + q.want)
			}
		case <-stop:
			fmt.Fprintln(tty)
			return command.Stopped("nothing was changed")
		}
	}
	return nil
}
