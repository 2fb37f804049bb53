// Package cursor is where a run begins: the next offset to read of each
// partition, as a small JSON file that kbk-fetch --from takes.
package cursor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Version is the version of the cursor file that this package writes and reads.
const Version = 1

// A Cursor holds the next offset to read of partitions, by topic name.
//
//	{"kbk_cursor": 1, "topics": {"orders": {"id": "…", "partitions": {"0": 1234}, "epochs": {"0": 7}}}}
type Cursor struct {
	Version int `json:"kbk_cursor"`
	// Overlap is how many offsets earlier to begin, as far as they are there: by these a
	// mirror sees that its source is the one that it has.
	Overlap int64            `json:"overlap,omitempty"`
	Topics  map[string]Topic `json:"topics"`
}

// A Topic is one incarnation of a topic: a topic that is deleted and created
// again has another ID.
type Topic struct {
	ID         string          `json:"id,omitempty"` // empty: whichever
	Partitions map[int32]int64 `json:"partitions"`   // next offset to read
	// Epochs are the leader epochs of the last batches below these offsets (KIP-320).
	Epochs map[int32]int32 `json:"epochs,omitempty"`
}

// Read reads a cursor file.
func Read(r io.Reader) (*Cursor, error) {
	c := new(Cursor)
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	if err := d.Decode(c); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, errors.New("empty cursor file")
		}
		return nil, fmt.Errorf("not a cursor file: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("not a cursor file: more than one JSON value")
	}
	if c.Version != Version {
		return nil, fmt.Errorf(`cursor file of version %d, not %d (its "kbk_cursor")`, c.Version, Version)
	}
	if c.Overlap < 0 {
		return nil, fmt.Errorf("cursor file: overlap %d", c.Overlap)
	}
	for name, t := range c.Topics {
		for p, next := range t.Partitions {
			if p < 0 || next < 0 {
				return nil, fmt.Errorf("cursor file: %s/%d at offset %d", name, p, next)
			}
		}
		for p, epoch := range t.Epochs {
			if _, ok := t.Partitions[p]; !ok || epoch < 0 {
				return nil, fmt.Errorf("cursor file: %s/%d with leader epoch %d", name, p, epoch)
			}
		}
	}
	return c, nil
}
