package kafka

import (
	"context"
	"errors"
	"os"

	"github.com/twmb/franz-go/pkg/kerr"
)

// ErrorKind names the kind of an error for counting: what Kafka calls it, or what there was
// in place of an answer. There are few kinds.
func ErrorKind(err error) string {
	if ke, ok := errors.AsType[*kerr.Error](err); ok {
		return ke.Message
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return "timeout"
	}
	return "connection"
}
