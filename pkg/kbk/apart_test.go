package kbk

import (
	"errors"
	"testing"

	"github.com/kbkio/kbk/pkg/command"
)

// TestWithApart: what a backup says and ends with, when the snapshot of the cluster before it
// has failed.
func TestWithApart(t *testing.T) {
	failed := func(status int, text string) error { return command.WithStatus(status, errors.New(text)) }
	for _, c := range []struct {
		err, apart error
		status     int
		text       string
	}{
		{nil, nil, command.OK, ""},
		{failed(command.Failed, "records"), nil, command.Failed, "records"},
		{nil, failed(command.Failed, "snapshot"), command.Failed, "snapshot"},
		{failed(command.Loss, "records"), failed(command.Failed, "snapshot"), command.Failed, "snapshot; records"},
		{failed(command.Failed, "records"), failed(command.Loss, "snapshot"), command.Failed, "records; snapshot"},
		{failed(command.Interrupted, "stopped"), failed(command.Failed, "snapshot"), command.Interrupted, "stopped"},
	} {
		got := withApart(c.err, c.apart)
		text := ""
		if got != nil {
			text = got.Error()
		}
		if command.StatusOf(got) != c.status || text != c.text {
			t.Errorf("%v behind %v: status %d, %q; want %d, %q", c.err, c.apart, command.StatusOf(got), text, c.status, c.text)
		}
	}
}
