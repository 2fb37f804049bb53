package connect

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/cluster/change"
	"github.com/kbkio/kbk/pkg/cluster/rest"
)

// stopLimit is how long a connector may take to stop.
const stopLimit = time.Minute

// Apply makes changes, which are of a [Plan]. It calls done for each with nil or the error; one that fails
// does not stop the others. It leaves out those that lack something. The error is that ctx was cancelled.
func Apply(ctx context.Context, c *rest.Client, changes []change.Change, done func(change.Change, error)) error {
	for _, ch := range changes {
		if ch.Lacks != "" {
			continue
		}
		err := ctx.Err()
		if err == nil {
			err = applyOne(ctx, c, ch)
		}
		done(ch, err)
	}
	return ctx.Err()
}

func applyOne(ctx context.Context, c *rest.Client, ch change.Change) error {
	before, _ := ch.Before.(*format.Connector)
	after, _ := ch.After.(*format.Connector)
	switch {
	case after == nil:
		err := c.Do(ctx, http.MethodDelete, rest.Path("connectors", before.Name), nil, nil, nil)
		if rest.Status(err) == http.StatusNotFound {
			return nil
		}
		return err
	case before == nil:
		return create(ctx, c, after)
	}
	return alter(ctx, c, before, after)
}

// creation is the request that creates a connector.
type creation struct {
	Name   string            `json:"name"`
	Config map[string]string `json:"config"`
	// State needs Kafka 3.7 (KIP-980).
	State string `json:"initial_state,omitempty"`
}

// create creates a connector that does nothing yet, sets its offsets, and lets it begin.
func create(ctx context.Context, c *rest.Client, f *format.Connector) error {
	offsets, err := parseOffsets(f.Offsets)
	if f.Offsets == "" {
		offsets, err = nil, nil
	}
	if err != nil {
		return fmt.Errorf("its offsets in the snapshot cannot be read: %w", err)
	}
	state := stopped
	err = c.Do(ctx, http.MethodPost, "/connectors", nil, creation{f.Name, f.Config, state}, nil)
	if e := rest.Answered(err); e != nil && strings.Contains(e.Message, "initial_state") { // an older worker
		if len(offsets) > 0 {
			return errors.New("it is not created: this worker cannot create it stopped (Kafka 3.7 can), and it would read from the beginning before its offsets are set")
		}
		state = running
		err = c.Do(ctx, http.MethodPost, "/connectors", nil, creation{f.Name, f.Config, ""}, nil)
	}
	if err != nil {
		return err
	}
	switch {
	case ofSink(offsets):
		if err := sinkBegun(ctx, c, f.Name); err != nil {
			return err
		}
	case len(offsets) > 0:
		if err := setOffsets(ctx, c, f.Name, offsets, nil); err != nil {
			return fmt.Errorf("it was created, but stays stopped: its offsets could not be set: %w", err)
		}
	}
	return setState(ctx, c, f.Name, state, f.State)
}

// sinkBegun tells by an error whether a sink, which is stopped, would read its topics from the start.
func sinkBegun(ctx context.Context, c *rest.Client, name string) error {
	text, err := offsets(ctx, c, name)
	if err != nil {
		return fmt.Errorf("it stays stopped: its offsets could not be read: %w", err)
	}
	if is, err := parseOffsets(text); err == nil && len(is) > 0 {
		return nil
	}
	return fmt.Errorf("it stays stopped, because its consumer group connect-%s has no offsets here: carry them over (kbk-offsets apply), then apply again", name)
}

func alter(ctx context.Context, c *rest.Client, before, after *format.Connector) error {
	path := rest.Path("connectors", after.Name)
	state := before.State
	if after.Offsets != before.Offsets && after.Offsets != "" {
		to, is, err := bothOffsets(before, after)
		switch {
		case err != nil:
			return err
		case ofSink(to) && state == stopped && after.State != stopped:
			if err := sinkBegun(ctx, c, after.Name); err != nil {
				return err
			}
		case !ofSink(to) && !ofSink(is):
			if err := stop(ctx, c, after.Name); err != nil {
				return fmt.Errorf("stopping it to set its offsets: %w", err)
			}
			state = stopped
			if err := setOffsets(ctx, c, after.Name, to, is); err != nil {
				return fmt.Errorf("it is stopped: its offsets could not be set: %w", err)
			}
		}
	}
	if configText(before.Config) != configText(after.Config) {
		if err := c.Do(ctx, http.MethodPut, path+"/config", nil, after.Config, nil); err != nil {
			return err
		}
	}
	return setState(ctx, c, after.Name, state, after.State)
}

func bothOffsets(before, after *format.Connector) (to, is []offset, err error) {
	if to, err = parseOffsets(after.Offsets); err != nil {
		return nil, nil, fmt.Errorf("its offsets in the snapshot cannot be read: %w", err)
	}
	if is, err = parseOffsets(before.Offsets); err != nil {
		return nil, nil, fmt.Errorf("its offsets cannot be read: %w", err)
	}
	return to, is, nil
}

func configText(m map[string]string) string {
	b, _ := json.Marshal(m) // in the order of the keys
	return string(b)
}

// stop stops a connector and waits until it has.
func stop(ctx context.Context, c *rest.Client, name string) error {
	path := rest.Path("connectors", name)
	if err := c.Do(ctx, http.MethodPut, path+"/stop", nil, nil, nil); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, stopLimit)
	defer cancel()
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		var s status
		if err := c.Get(ctx, path+"/status", nil, &s); err != nil {
			return err
		}
		if s.Connector.State == stopped && len(s.Tasks) == 0 {
			return nil
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return fmt.Errorf("it is %s still, and has %d tasks: %w", s.Connector.State, len(s.Tasks), ctx.Err())
		}
	}
}

// patch is the request that sets offsets; a partition with null has none any more.
func patch(to, is []offset) any {
	type entry struct {
		Partition json.RawMessage `json:"partition"`
		Offset    json.RawMessage `json:"offset"`
	}
	out := struct {
		Offsets []entry `json:"offsets"`
	}{}
	known := make(map[string]bool)
	for _, o := range to {
		known[o.partition] = true
		out.Offsets = append(out.Offsets, entry{json.RawMessage(o.partition), json.RawMessage(o.offset)})
	}
	for _, o := range is {
		if !known[o.partition] {
			out.Offsets = append(out.Offsets, entry{json.RawMessage(o.partition), json.RawMessage("null")})
		}
	}
	return out
}

// setOffsets sets the offsets of a connector that is stopped, and takes those of other partitions away.
func setOffsets(ctx context.Context, c *rest.Client, name string, to, is []offset) error {
	path := rest.Path("connectors", name, "offsets")
	if len(to) == 0 {
		return c.Do(ctx, http.MethodDelete, path, nil, nil, nil)
	}
	err := c.Do(ctx, http.MethodPatch, path, nil, patch(to, is), nil)
	if s := rest.Status(err); s == http.StatusNotFound || s == http.StatusMethodNotAllowed {
		return fmt.Errorf("this worker cannot (Kafka 3.6 can): %w", err)
	}
	return err
}

// setState brings a connector from one state to another, if that is known.
func setState(ctx context.Context, c *rest.Client, name, from, to string) error {
	verb := verbOf(to)
	if verb == "" || from == to {
		return nil
	}
	var err error
	if to == stopped {
		err = stop(ctx, c, name)
	} else {
		err = c.Do(ctx, http.MethodPut, rest.Path("connectors", name, verb), nil, nil, nil)
	}
	if err != nil {
		return fmt.Errorf("making it %s: %w", to, err)
	}
	return nil
}

func verbOf(state string) string {
	return map[string]string{running: "resume", paused: "pause", stopped: "stop"}[state]
}
