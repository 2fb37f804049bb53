package command

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"
)

func TestWhileRead(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	err = WhileRead(t.Context(), w, func(ctx context.Context) error {
		if _, err := w.WriteString("something that nobody has read yet"); err != nil || ctx.Err() != nil {
			t.Fatal(err, ctx.Err())
		}
		r.Close()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Second):
			return errors.New("it was not noticed")
		}
	})
	if StatusOf(err) != Failed || !strings.Contains(err.Error(), "broken pipe") {
		t.Errorf("got %v", err)
	}
	file, err := os.Create(t.TempDir() + "/file")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, out := range []io.Writer{file, new(bytes.Buffer)} {
		err := WhileRead(t.Context(), out, func(ctx context.Context) error {
			if ctx != t.Context() {
				t.Errorf("%T is watched", out)
			}
			return io.EOF
		})
		if err != io.EOF {
			t.Errorf("%T: %v", out, err)
		}
	}
}
