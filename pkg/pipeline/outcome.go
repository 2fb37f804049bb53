package pipeline

import "github.com/kbkio/kbk/pkg/command"

// An Exit is how a stage ended.
type Exit struct {
	Stage  string
	Status int // as a shell has it: 128 and the signal of one that was killed
}

// An Outcome is how a pipe ended.
type Outcome struct {
	Status int
	// Cause is the stage that the status is from; empty where all is well, or where the
	// pipe was interrupted.
	Cause string
	Exit  int // the status of that stage
}

// What a shell says of a process that a signal has ended.
const (
	byHangUp = 128 + 1
	byTerm   = 128 + 15
)

// outcome makes one status of those of the stages, which are in the order of the pipe.
//
// When a stage fails, those behind it read a stream that is cut off (3), and those before it
// lose their reader (141). So 141 is no failure by itself, and 3 is none where a stage before
// it has failed or was interrupted. Of what is left the first one in the pipe is the cause.
// Which one ended first says nothing: when a process dies its neighbours may be gone before it.
func outcome(exits []Exit, stoppedAtOnce bool) Outcome {
	interrupted, loss := stoppedAtOnce, ""
	for _, e := range exits {
		switch {
		case e.Status == command.OK, e.Status == command.NoReader:
		case e.Status == command.Loss:
			loss = e.Stage // the last one names it
		case isInterruption(e.Status):
			interrupted = true
		case interrupted && (stoppedAtOnce || e.Status == command.Corrupt):
		default:
			return Outcome{Status: statusOf(e.Status), Cause: e.Stage, Exit: e.Status}
		}
	}
	switch {
	case interrupted:
		return Outcome{Status: command.Interrupted}
	case loss != "":
		return Outcome{Status: command.Loss, Cause: loss, Exit: command.Loss}
	}
	return Outcome{}
}

func isInterruption(status int) bool {
	return status == command.Interrupted || status == byHangUp || status == byTerm
}

// statusOf is one of the statuses that all commands have.
func statusOf(status int) int {
	if status == command.Usage || status == command.Corrupt {
		return status
	}
	return command.Failed
}
