// Package connect reads the connectors of Kafka Connect, compares them with a snapshot, and makes them so,
// by the REST API of a worker. What differs is decided by [Plan], a function over plain values.
package connect

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/cluster/rest"
)

// States of connectors, as workers name them.
const (
	running = "RUNNING"
	paused  = "PAUSED"
	stopped = "STOPPED"
)

// Content is what the workers of a cluster of Kafka Connect run, in the order of the names.
type Content struct {
	Connectors []*format.Connector
	LeftOut    []string // what could not be had, a line for people each
}

// Of returns what a snapshot's frames say of connectors.
func Of(frames []format.Encoder) Content {
	var c Content
	for _, f := range frames {
		if f, ok := f.(*format.Connector); ok {
			c.Connectors = append(c.Connectors, f)
		}
	}
	return c
}

// Frames returns the frames of a snapshot.
func (c Content) Frames() []format.Encoder {
	var out []format.Encoder
	for _, f := range c.Connectors {
		out = append(out, f)
	}
	return out
}

// New returns a client of a worker. While workers rebalance, they answer with a conflict.
func New(s *rest.Server) *rest.Client {
	return rest.New(s, func(e *rest.Error) bool {
		return e.Status == http.StatusConflict && !strings.Contains(e.Message, "already exists")
	})
}

// status is what a worker says of how a connector is.
type status struct {
	Connector struct {
		State string `json:"state"`
	} `json:"connector"`
	Tasks []json.RawMessage `json:"tasks"`
}

// Read reads all connectors.
func Read(ctx context.Context, c *rest.Client) (Content, error) {
	out, err := readAll(ctx, c)
	if err != nil {
		return Content{}, fmt.Errorf("reading Kafka Connect: %w", err)
	}
	return out, nil
}

func readAll(ctx context.Context, c *rest.Client) (Content, error) {
	var got map[string]struct {
		Status status `json:"status"`
		Info   struct {
			Config map[string]string `json:"config"`
		} `json:"info"`
	}
	if err := c.Get(ctx, "/connectors", url.Values{"expand": {"info", "status"}}, &got); err != nil {
		return Content{}, err
	}
	var out Content
	for _, name := range slices.Sorted(maps.Keys(got)) {
		f := &format.Connector{Name: name, Config: got[name].Info.Config}
		f.State = got[name].Status.Connector.State
		switch f.State {
		case running, paused, stopped:
		default:
			out.LeftOut = append(out.LeftOut, fmt.Sprintf("connector %s: it is %s; in the snapshot it is %s", name, cmp.Or(f.State, "in an unknown state"), running))
			f.State = running
		}
		for _, key := range slices.Sorted(maps.Keys(f.Config)) {
			if masked(key, f.Config[key]) {
				out.LeftOut = append(out.LeftOut, fmt.Sprintf("connector %s: %s: the worker does not show its value", name, key))
			}
		}
		out.Connectors = append(out.Connectors, f)
	}
	return out, readOffsets(ctx, c, &out)
}

func readOffsets(ctx context.Context, c *rest.Client, out *Content) error {
	var mu sync.Mutex
	var unknown []string
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(rest.AtOnce)
	for _, f := range out.Connectors {
		g.Go(func() error {
			var err error
			f.Offsets, err = offsets(ctx, c, f.Name)
			if rest.Answered(err) == nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			if s := rest.Status(err); s == http.StatusNotFound || s == http.StatusMethodNotAllowed {
				err = fmt.Errorf("this worker does not return them: Kafka 3.5 and newer do")
			}
			unknown = append(unknown, fmt.Sprintf("connector %s: offsets: %v", f.Name, err))
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	slices.Sort(unknown)
	out.LeftOut = append(out.LeftOut, unknown...)
	return nil
}

func offsets(ctx context.Context, c *rest.Client, name string) (string, error) {
	var raw json.RawMessage
	if err := c.Get(ctx, rest.Path("connectors", name, "offsets"), nil, &raw); err != nil {
		return "", err
	}
	if _, err := parseOffsets(string(raw)); err != nil {
		return "", fmt.Errorf("offsets of connector %s: %w", name, err)
	}
	return string(raw), nil
}

// secret matches the names of configs that are passwords and such.
var secret = regexp.MustCompile(`(?i)password|passwd|secret|token|credential|api[._-]?key|private[._-]?key|jaas`)

// login matches a URL with a password.
var login = regexp.MustCompile(`://[^/@\s]*:[^/@\s]*@`)

// hidden matches what stands for a value that is not shown.
var hidden = regexp.MustCompile(`(?i)^(\*+|x{3,}|[\[<(]?(hidden|masked|redacted)[\])>]?|null)?$`)

// masked tells whether the value of a secret is not there. A reference to a config provider, such as
// ${file:…}, is a value.
func masked(key, value string) bool { return secret.MatchString(key) && hidden.MatchString(value) }

// An offset is of one partition of what a connector reads or writes, both in one form of JSON.
type offset struct{ partition, offset string }

// parseOffsets reads offsets as KIP-875's REST API has them.
func parseOffsets(text string) ([]offset, error) {
	var in struct {
		Offsets []struct {
			Partition json.RawMessage `json:"partition"`
			Offset    json.RawMessage `json:"offset"`
		} `json:"offsets"`
	}
	if err := json.Unmarshal([]byte(text), &in); err != nil {
		return nil, err
	}
	var out []offset
	for _, o := range in.Offsets {
		p, err := canonical(o.Partition)
		if err != nil {
			return nil, err
		}
		at, err := canonical(o.Offset)
		if err != nil {
			return nil, err
		}
		out = append(out, offset{p, at})
	}
	slices.SortFunc(out, func(a, b offset) int { return cmp.Compare(a.partition, b.partition) })
	return out, nil
}

func canonical(raw json.RawMessage) (string, error) {
	d := json.NewDecoder(strings.NewReader(string(raw)))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return "", err
	}
	b, err := json.Marshal(v)
	return string(b), err
}

// ofSink tells whether offsets are those of a sink: of the consumer group connect-NAME in Kafka.
func ofSink(all []offset) bool {
	return slices.ContainsFunc(all, func(o offset) bool {
		return strings.Contains(o.partition, `"kafka_topic":`) && strings.Contains(o.partition, `"kafka_partition":`)
	})
}

// topicKeys are configs that name topics.
var topicKeys = []string{"topics", "topic", "errors.deadletterqueue.topic.name"}

// topicPatterns are configs from which names of topics follow.
var topicPatterns = []string{"topics.regex", "topic.prefix", "topic.regex", "topic.format"}

// Rename gives topics new names in the configs of connectors. The lines name what it cannot know.
func Rename(c Content, topic func(string) string) (Content, []string) {
	out := Content{LeftOut: c.LeftOut}
	var notes []string
	for _, f := range c.Connectors {
		to := *f
		to.Config = maps.Clone(f.Config)
		for _, key := range topicKeys {
			if to.Config[key] == "" {
				continue
			}
			names := strings.Split(to.Config[key], ",")
			for i, n := range names {
				names[i] = topic(strings.TrimSpace(n))
			}
			to.Config[key] = strings.Join(names, ",")
		}
		for _, key := range slices.Sorted(maps.Keys(to.Config)) {
			if slices.Contains(topicPatterns, key) || strings.HasPrefix(key, "transforms.") && strings.Contains(to.Config[key], "RegexRouter") {
				notes = append(notes, fmt.Sprintf("connector %s: %s produces names of topics itself, and is not changed: %s", f.Name, key, to.Config[key]))
			}
		}
		out.Connectors = append(out.Connectors, &to)
	}
	return out, notes
}
