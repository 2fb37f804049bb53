package command

import (
	"bytes"
	"context"
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
	ctx, stop := WhileRead(t.Context(), w)
	defer stop()
	stopped, stopNow := WhileRead(t.Context(), w)
	stopNow()
	if _, err := w.WriteString("something that nobody has read yet"); err != nil || ctx.Err() != nil {
		t.Fatal(err, ctx.Err())
	}
	r.Close()
	select {
	case <-ctx.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("it was not noticed")
	}
	if err := context.Cause(ctx); StatusOf(err) != Failed || !strings.Contains(err.Error(), "broken pipe") {
		t.Errorf("the cause is %v", err)
	}
	if stopped.Err() != nil {
		t.Error("it was noticed after the watch had been stopped")
	}
	file, err := os.Create(t.TempDir() + "/file")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, out := range []interface{ Write([]byte) (int, error) }{file, new(bytes.Buffer)} {
		if same, _ := WhileRead(t.Context(), out); same != t.Context() {
			t.Errorf("%T is watched", out)
		}
	}
}
