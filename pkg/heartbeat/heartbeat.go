// Package heartbeat tells a monitor, by a file or by HTTP, that something was committed. A
// heartbeat that fails is a warning: it never ends a run, and the work never waits for it.
package heartbeat

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/kbkio/kbk/pkg/command"
)

const (
	limit     = 10 * time.Second // for one request, and for the last one at the end
	fileEvery = time.Second      // at most; what comes in between is told by the next
	urlEvery  = 15 * time.Second // healthchecks.io takes five a minute
	warnEvery = 10 * time.Minute // while it fails
)

// Flag is the flag of commands that commit.
func Flag() cli.Flag {
	return &cli.StringFlag{Name: "heartbeat", Usage: "tell `FILE|URL` of each commit: the time is written to the file, or the http(s) URL is requested"}
}

// A Heartbeat beats in a goroutine of its own. Its methods do nothing for nil.
type Heartbeat struct {
	env    *command.Env
	beat   func(ctx context.Context) error
	where  string // for messages
	every  time.Duration
	due    chan struct{} // of one place: there is something to tell
	ended  chan struct{}
	stop   context.CancelFunc
	ctx    context.Context
	failed time.Time // when it was last said; zero while it works
}

// Start begins the heartbeat that c asks for, after each commit of env's command; nil where
// it asks for none.
func Start(ctx context.Context, c *cli.Context, env *command.Env) (*Heartbeat, error) {
	to := c.String("heartbeat")
	if to == "" {
		return nil, nil
	}
	h := &Heartbeat{env: env, due: make(chan struct{}, 1), ended: make(chan struct{})}
	if strings.HasPrefix(to, "http://") || strings.HasPrefix(to, "https://") {
		u, err := url.Parse(to)
		if err != nil || u.Host == "" {
			return nil, command.Usagef("--heartbeat is not a URL") // the URL of a monitor is a secret
		}
		h.every, h.where = urlEvery, u.Host
		h.beat = func(ctx context.Context) error { return get(ctx, env.Name, to) }
	} else {
		if strings.Contains(to, "://") {
			return nil, command.Usagef("--heartbeat is neither a file nor an http or https URL")
		}
		if info, err := os.Stat(filepath.Dir(to)); err != nil || !info.IsDir() {
			return nil, command.Usagef("--heartbeat %s: there is no folder %s", to, filepath.Dir(to))
		}
		h.every, h.where = fileEvery, to
		h.beat = func(context.Context) error { return h.write(to) }
	}
	h.ctx, h.stop = context.WithCancel(ctx)
	go h.run()
	env.Counters.OnCommit(h.Beat)
	return h, nil
}

// Beat says that something was committed.
func (h *Heartbeat) Beat() {
	if h == nil {
		return
	}
	select {
	case h.due <- struct{}{}:
	default: // it is going to be told
	}
}

// Close tells what is still to be told, and ends the heartbeat.
func (h *Heartbeat) Close() {
	if h == nil {
		return
	}
	h.env.Counters.OnCommit(func() {})
	close(h.ended)
	<-h.ctx.Done()
}

// run beats until the end, and once more there if something has been committed since.
func (h *Heartbeat) run() {
	defer h.stop()
	for {
		select {
		case <-h.due:
			h.tell()
		case <-h.ended:
			h.last()
			return
		case <-h.ctx.Done():
			return
		}
		select {
		case <-time.After(h.every):
		case <-h.ended:
			h.last()
			return
		case <-h.ctx.Done():
			return
		}
	}
}

func (h *Heartbeat) last() {
	select {
	case <-h.due:
		h.tell()
	default:
	}
}

// tell beats once, and says when that begins to fail and when it works again.
func (h *Heartbeat) tell() {
	ctx, cancel := context.WithTimeout(h.ctx, limit)
	defer cancel()
	err := h.beat(ctx)
	if h.ctx.Err() != nil { // the run was told to stop at once
		return
	}
	switch {
	case err != nil:
		h.env.Counters.Errors.Add("heartbeat")
		if time.Since(h.failed) > warnEvery {
			h.failed = time.Now()
			h.env.Log.Warn(fmt.Sprintf("heartbeat to %s: %v", h.where, err), slog.String("run", "goes on"))
		}
	case !h.failed.IsZero():
		h.failed = time.Time{}
		h.env.Log.Info("heartbeat to " + h.where + " works again")
	}
}

// get requests a URL, as monitors of jobs want it.
func get(ctx context.Context, name, to string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, to, nil)
	if err != nil {
		return errors.New("not a URL")
	}
	req.Header.Set("User-Agent", name+"/"+command.Version())
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return withoutURL(err)
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, 1<<10) // so that the connection can be used again
	if resp.StatusCode/100 != 2 {
		return errors.New(resp.Status)
	}
	return nil
}

// withoutURL takes the URL out of an error: whoever knows it can send heartbeats.
func withoutURL(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("no answer for %s", limit)
	}
	return err
}

// A note is what a heartbeat's file has in it.
type note struct {
	Time    time.Time `json:"time"`
	Command string    `json:"command"`
	Commits int64     `json:"commits"`
	Records int64     `json:"records"`
}

// write writes the file in one step: whoever reads it sees the old one or the new one.
func (h *Heartbeat) write(file string) error {
	s := h.env.Counters.Snapshot()
	text, err := json.Marshal(note{time.Now().UTC().Truncate(time.Second), h.env.Name, s.Commits, s.Committed})
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // nothing is there once it has its name
	_, err = tmp.Write(append(text, '\n'))
	if err = errors.Join(err, tmp.Chmod(0o644), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), file)
}
