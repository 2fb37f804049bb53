package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/cluster/change"
	"github.com/kbkio/kbk/pkg/command"
)

// changeFrame is the kind of the frames that a file of changes has: ["change", {kind, action,
// name}, before, after], where before and after are frames, or null.
const changeFrame = "change"

type changeInfo struct {
	Kind   string `cbor:"kind"`
	Action string `cbor:"action"`
	Name   string `cbor:"name"`
}

// A saved is a change as a frame.
type saved struct{ change.Change }

// AppendFrame implements [format.Encoder].
func (s saved) AppendFrame(b []byte) ([]byte, error) {
	raw := func(f format.Encoder) (cbor.RawMessage, error) {
		if f == nil {
			return cbor.RawMessage{0xf6}, nil // null
		}
		return f.AppendFrame(nil)
	}
	before, err := raw(s.Before)
	if err != nil {
		return nil, err
	}
	after, err := raw(s.After)
	if err != nil {
		return nil, err
	}
	enc, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		return nil, err
	}
	frame, err := enc.Marshal([]any{changeFrame, changeInfo{s.Kind, actions[s.Action], s.Name}, before, after})
	return append(b, frame...), err
}

func decodeSaved(raw []byte) (change.Change, error) {
	var c change.Change
	var parts []cbor.RawMessage
	if err := cbor.Unmarshal(raw, &parts); err != nil || len(parts) < 4 {
		return c, fmt.Errorf("a frame that is no change: %w", format.ErrCorrupt)
	}
	var info changeInfo
	if err := cbor.Unmarshal(parts[1], &info); err != nil {
		return c, fmt.Errorf("a frame that is no change: %w", format.ErrCorrupt)
	}
	c.Kind, c.Name = info.Kind, info.Name
	for a, name := range actions {
		if name == info.Action {
			c.Action = a
		}
	}
	var err error
	if c.Before, err = decodeAny(parts[2]); err != nil {
		return c, err
	}
	if c.After, err = decodeAny(parts[3]); err != nil {
		return c, err
	}
	if c.Action == 0 || c.Before == nil && c.After == nil {
		return c, fmt.Errorf("a change of nothing: %w", format.ErrCorrupt)
	}
	return c, nil
}

// decodeAny decodes a frame of a snapshot, or null.
func decodeAny(raw cbor.RawMessage) (format.Encoder, error) {
	if len(raw) == 1 && raw[0] == 0xf6 {
		return nil, nil
	}
	var f format.Frame
	if err := f.Scan(raw); err != nil || !f.Kind.OfCluster() || f.Kind == format.KindCluster {
		return nil, fmt.Errorf("a change of what is no frame of a snapshot: %w", format.ErrCorrupt)
	}
	return format.DecodeOfCluster(&f)
}

// save writes changes to a file that is not there yet, and returns when it is on the disk.
func save(file, cluster string, changes []change.Change) (err error) {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		if errors.Is(err, os.ErrExist) {
			return command.WithHint(err, "it may still be needed: name another file with --save")
		}
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(file) // half of it is of no use
		}
	}()
	w := format.NewWriter(f)
	err = w.WriteHeader(&format.Header{Created: time.Now().UnixMilli(), Content: format.ContentRecords, Source: &format.Source{Cluster: cluster, Tool: tool()}})
	for _, c := range changes {
		if err == nil {
			err = w.Write(saved{c})
		}
	}
	if err == nil {
		err = w.Close(new(format.End))
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if dir, err := os.Open(filepath.Dir(file)); err == nil {
		_ = dir.Sync() // not every system can
		_ = dir.Close()
	}
	return nil
}

// readSaved reads what save has written, and of which cluster it is.
func readSaved(ctx context.Context, file string, maxFrame int64) (changes []change.Change, cluster string, err error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	r := format.NewReader(command.Interruptible(ctx, f), int(maxFrame))
	h, err := r.Header()
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", file, err)
	}
	if err := command.Takes(h, file, format.ContentRecords); err != nil {
		return nil, "", err
	}
	for {
		frame, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, "", fmt.Errorf("%s: %w", file, err)
		}
		if frame.Kind != format.KindUnknown || string(frame.Name) != changeFrame {
			continue
		}
		c, err := decodeSaved(frame.Raw)
		if err != nil {
			return nil, "", fmt.Errorf("%s: %w", file, err)
		}
		changes = append(changes, c)
	}
	if len(changes) == 0 {
		return nil, "", command.WithHint(fmt.Errorf("%s has no changes to undo", file), "rollback takes the file that apply has saved, not a snapshot")
	}
	if h.Source != nil {
		cluster = h.Source.Cluster
	}
	return changes, cluster, nil
}
