package connect

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/cluster/change"
	"github.com/kbkio/kbk/pkg/cluster/rest"
)

// A worker is a worker of Kafka Connect in memory. A stop takes effect when its status is asked for twice.
type worker struct {
	old     bool // knows neither offsets nor initial states
	groups  bool // sinks have offsets as soon as they are there
	mu      sync.Mutex
	all     map[string]*connector
	began   []string // connectors that ran before their offsets were set
	refuses string   // the name of a connector that cannot be created
}

type connector struct {
	config   map[string]string
	state    string
	stopping int
	offsets  map[string]json.RawMessage // by partition
}

func serve(t *testing.T, w *worker) *rest.Client {
	t.Helper()
	w.all = make(map[string]*connector)
	mux := http.NewServeMux()
	for pattern, h := range map[string]func(*http.Request) (any, int){
		"GET /connectors": w.list, "POST /connectors": w.create,
		"PUT /connectors/{name}/config":     w.configure,
		"GET /connectors/{name}/status":     w.status,
		"GET /connectors/{name}/offsets":    w.offsets,
		"PATCH /connectors/{name}/offsets":  w.offsets,
		"DELETE /connectors/{name}/offsets": w.offsets,
		"PUT /connectors/{name}/{verb}":     w.state,
		"DELETE /connectors/{name}":         w.remove,
	} {
		mux.HandleFunc(pattern, func(out http.ResponseWriter, r *http.Request) {
			w.mu.Lock()
			defer w.mu.Unlock()
			answer, status := h(r)
			if text, ok := answer.(string); ok {
				answer = map[string]any{"error_code": status, "message": text}
			}
			out.WriteHeader(status)
			if answer != nil {
				json.NewEncoder(out).Encode(answer)
			}
		})
	}
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return New(&rest.Server{Title: "Kafka Connect", URL: s.URL})
}

func (w *worker) list(*http.Request) (any, int) {
	out := make(map[string]any)
	for name, c := range w.all {
		out[name] = map[string]any{
			"status": map[string]any{"name": name, "connector": map[string]string{"state": c.state}, "tasks": []int{}},
			"info":   map[string]any{"name": name, "config": c.config},
		}
	}
	return out, 200
}

func (w *worker) create(r *http.Request) (any, int) {
	var in creation
	json.NewDecoder(r.Body).Decode(&in)
	switch {
	case in.Name == w.refuses:
		return "Failed to find any class that implements Connector", 500
	case w.all[in.Name] != nil:
		return "Connector " + in.Name + " already exists", 409
	case w.old && in.State != "":
		return `Unrecognized field "initial_state"`, 500
	}
	c := &connector{config: in.Config, state: in.State, offsets: make(map[string]json.RawMessage)}
	if c.state == "" {
		c.state = running
		w.began = append(w.began, in.Name)
	}
	if w.groups && in.Config["topics"] != "" {
		c.offsets[`{"kafka_partition":0,"kafka_topic":"t"}`] = json.RawMessage(`{"kafka_offset":5}`)
	}
	w.all[in.Name] = c
	return map[string]any{}, 201
}

func (w *worker) configure(r *http.Request) (any, int) {
	c := w.all[r.PathValue("name")]
	c.config = nil
	json.NewDecoder(r.Body).Decode(&c.config)
	return map[string]any{}, 200
}

func (w *worker) status(r *http.Request) (any, int) {
	c := w.all[r.PathValue("name")]
	tasks := []int{}
	if c.stopping > 0 {
		c.stopping--
		tasks = append(tasks, 1)
	} else if c.stopping == 0 && c.state == "STOPPING" {
		c.state = stopped
	}
	return map[string]any{"connector": map[string]string{"state": c.state}, "tasks": tasks}, 200
}

func (w *worker) offsets(r *http.Request) (any, int) {
	c := w.all[r.PathValue("name")]
	if w.old {
		return "HTTP 404 Not Found", 404
	}
	switch {
	case r.Method == http.MethodGet:
		list := []any{}
		for p, o := range c.offsets {
			list = append(list, map[string]any{"partition": json.RawMessage(p), "offset": o})
		}
		return map[string]any{"offsets": list}, 200
	case c.state != stopped:
		return "Connectors must be in the STOPPED state before their offsets can be modified", 400
	case r.Method == http.MethodDelete:
		clear(c.offsets)
		return map[string]string{}, 200
	}
	var in struct{ Offsets []map[string]json.RawMessage }
	json.NewDecoder(r.Body).Decode(&in)
	for _, o := range in.Offsets {
		p, _ := canonical(o["partition"])
		if c.offsets[p] = o["offset"]; string(o["offset"]) == "null" {
			delete(c.offsets, p)
		}
	}
	return map[string]string{}, 200
}

func (w *worker) state(r *http.Request) (any, int) {
	c := w.all[r.PathValue("name")]
	switch r.PathValue("verb") {
	case "stop":
		c.state, c.stopping = "STOPPING", 1
	case "pause":
		c.state = paused
	case "resume":
		c.state = running
	}
	return nil, 202
}

func (w *worker) remove(r *http.Request) (any, int) {
	delete(w.all, r.PathValue("name"))
	return nil, 204
}

func read(t *testing.T, c *rest.Client) Content {
	t.Helper()
	got, err := Read(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// apply makes c what want is, and returns the errors and notes.
func apply(t *testing.T, c *rest.Client, want Content) (said []string) {
	t.Helper()
	changes, notes := Plan(want, read(t, c))
	err := Apply(t.Context(), c, changes, func(ch change.Change, err error) {
		if err != nil {
			said = append(said, ch.Name+": "+err.Error())
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return append(said, notes...)
}

func show(c Content) string {
	var b strings.Builder
	for _, f := range c.Connectors {
		o, err := parseOffsets(f.Offsets)
		fmt.Fprintln(&b, f.Name, configText(f.Config), f.State, o, err)
	}
	return b.String()
}

func source(name, state string, offsets map[int]int) *format.Connector {
	list := []string{}
	for _, p := range slices.Sorted(maps.Keys(offsets)) {
		list = append(list, fmt.Sprintf(`{"offset": {"position":%d}, "partition": {"filename":"%d"}}`, offsets[p], p))
	}
	return &format.Connector{Name: name, Config: map[string]string{"name": name, "topic": "t"}, ConnectorInfo: format.ConnectorInfo{State: state, Offsets: `{"offsets":[` + strings.Join(list, ",") + `]}`}}
}

// TestRandom makes connectors what they were, and from what they were others.
func TestRandom(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Log("seed", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	random := func(states ...string) Content {
		var c Content
		for i := range 5 {
			if r.IntN(3) == 0 {
				continue
			}
			offsets := make(map[int]int)
			for p := range r.IntN(3) {
				offsets[p+r.IntN(2)] = r.IntN(3)
			}
			f := source(fmt.Sprintf("c%d", i), states[r.IntN(len(states))], offsets)
			f.Config["tasks.max"] = fmt.Sprint(r.IntN(2))
			c.Connectors = append(c.Connectors, f)
		}
		return c
	}
	for range 15 {
		a, b := random(running, paused, stopped), random(stopped)
		if changes, notes := Plan(a, a); len(changes)+len(notes) > 0 {
			t.Fatalf("from itself to itself: %v %q", changes, notes)
		}
		w := new(worker)
		c := serve(t, w)
		for _, want := range []Content{b, a} {
			if said := apply(t, c, want); len(said) > 0 {
				t.Errorf("%q", said)
			}
			if got := read(t, c); show(got) != show(want) || len(got.LeftOut) > 0 {
				t.Fatalf("want\n%s\ngot\n%s\n%q", show(want), show(got), got.LeftOut)
			}
		}
		if changes, notes := Plan(a, read(t, c)); len(changes)+len(notes)+len(w.began) > 0 {
			t.Errorf("still to do: %v %q; began early: %q", changes, notes, w.began)
		}
	}
}

func TestSaid(t *testing.T) {
	sink := &format.Connector{Name: "s", Config: map[string]string{"topics": "t"}, ConnectorInfo: format.ConnectorInfo{State: running, Offsets: `{"offsets":[{"partition":{"kafka_topic":"t","kafka_partition":0},"offset":{"kafka_offset":5}}]}`}}
	sinkSaid := "connector s is a sink: its offsets are those of the consumer group connect-s, and kbk-offsets carries them over"
	none := "connector s: it stays stopped, because its consumer group connect-s has no offsets here: carry them over (kbk-offsets apply), then apply again"
	with := func(f *format.Connector, key, value string) *format.Connector {
		to := *f
		to.Config = maps.Clone(f.Config)
		to.Config[key] = value
		return &to
	}
	for _, c := range []struct {
		name  string
		w     *worker
		steps []Content
		said  []string
		end   string
	}{
		{
			"a source that has read on is not set back", &worker{},
			[]Content{{Connectors: []*format.Connector{source("a", running, map[int]int{0: 9})}}, {Connectors: []*format.Connector{source("a", running, map[int]int{0: 5})}}},
			[]string{"connector a has read further since the snapshot, so its offsets stay. To set them back, stop it first (PUT /connectors/a/stop)"},
			`a {"name":"a","topic":"t"} RUNNING [{{"filename":"0"} {"position":9}}] <nil>`,
		},
		{
			"a source that has not begun is set", &worker{},
			[]Content{{Connectors: []*format.Connector{source("a", running, nil)}}, {Connectors: []*format.Connector{source("a", running, map[int]int{0: 5})}}},
			nil, `a {"name":"a","topic":"t"} RUNNING [{{"filename":"0"} {"position":5}}] <nil>`,
		},
		{
			"a sink without its group", &worker{},
			[]Content{{Connectors: []*format.Connector{sink}}, {Connectors: []*format.Connector{sink}}},
			[]string{none, sinkSaid, none}, `s {"topics":"t"} STOPPED [] <nil>`,
		},
		{
			"a sink", &worker{groups: true}, []Content{{Connectors: []*format.Connector{sink}}},
			[]string{sinkSaid}, `s {"topics":"t"} RUNNING [{{"kafka_partition":0,"kafka_topic":"t"} {"kafka_offset":5}}] <nil>`,
		},
		{
			"an old worker", &worker{old: true},
			[]Content{{Connectors: []*format.Connector{source("a", paused, nil), source("b", running, map[int]int{0: 5})}}},
			[]string{"connector b: it is not created: this worker cannot create it stopped (Kafka 3.7 can), and it would read from the beginning before its offsets are set"},
			`a {"name":"a","topic":"t"} PAUSED [] unexpected end of JSON input`,
		},
		{
			"one that fails", &worker{refuses: "a"}, []Content{{Connectors: []*format.Connector{source("a", paused, nil), source("b", stopped, nil)}}},
			[]string{"connector a: POST /connectors: status 500: Failed to find any class that implements Connector"},
			`b {"name":"b","topic":"t"} STOPPED [] <nil>`,
		},
		{
			"a value that the snapshot does not have", &worker{},
			[]Content{
				{Connectors: []*format.Connector{with(source("a", stopped, nil), "db.password", "real")}},
				{Connectors: []*format.Connector{with(source("a", running, nil), "db.password", "****"), with(source("b", running, nil), "db.password", "[hidden]")}},
			},
			[]string{"connector a: db.password: the snapshot does not have its value; it stays as it is"},
			`a {"db.password":"real","name":"a","topic":"t"} RUNNING [] <nil>`,
		},
	} {
		client := serve(t, c.w)
		var said []string
		for _, want := range c.steps {
			said = append(said, apply(t, client, want)...)
		}
		if got := strings.TrimSpace(show(read(t, client))); got != c.end || !slices.Equal(said, c.said) {
			t.Errorf("%s:\n%s\nsaid %q", c.name, got, said)
		}
	}

	// What is not shown, and what the snapshot has not.
	c := Content{Connectors: []*format.Connector{with(with(source("b", running, nil), "db.password", "[hidden]"), "file.secret", "${file:/x:y}")}}
	changes, _ := Plan(c, Content{})
	if changes[0].Lacks != "the snapshot does not have the values of db.password" {
		t.Errorf("%+v", changes[0])
	}
	changes, _ = Plan(Content{Connectors: []*format.Connector{with(source("a", running, nil), "db.password", "new")}}, Content{Connectors: []*format.Connector{with(source("a", running, nil), "db.password", "old")}})
	if d := changes[0].Details; len(d) != 1 || d[0].Field != "db.password" || d[0].Before != nil || d[0].After != nil {
		t.Errorf("%+v", d)
	}
	changes, _ = Plan(Content{Connectors: []*format.Connector{with(source("a", running, nil), "url", "db://host")}}, Content{Connectors: []*format.Connector{with(source("a", running, nil), "url", "db://u:p@host")}})
	if d := changes[0].Details; len(d) != 1 || d[0].Before != nil || d[0].After != nil {
		t.Errorf("%+v", d)
	}
}

func TestLeftOut(t *testing.T) {
	w := &worker{}
	c := serve(t, w)
	w.all["a"] = &connector{config: map[string]string{"x.password": "***", "y.password": "${vault:a}"}, state: "FAILED"}
	want := []string{"connector a: it is FAILED; in the snapshot it is RUNNING", "connector a: x.password: the worker does not show its value"}
	if got := read(t, c); !slices.Equal(got.LeftOut, want) || got.Connectors[0].State != running {
		t.Errorf("%q, %+v", got.LeftOut, got.Connectors[0])
	}
	w.old = true
	if got := read(t, c).LeftOut; got[len(got)-1] != "connector a: offsets: this worker does not return them: Kafka 3.5 and newer do" {
		t.Errorf("%q", got)
	}
}

func TestRename(t *testing.T) {
	in := Content{Connectors: []*format.Connector{{Name: "a", Config: map[string]string{
		"topics": "a, b", "topic": "c", "topics.regex": "^a", "topic.prefix": "p", "transforms.r.type": "org.apache.kafka.connect.transforms.RegexRouter", "file": "a",
	}}}}
	got, notes := Rename(in, strings.ToUpper)
	want := map[string]string{
		"topics": "A,B", "topic": "C", "topics.regex": "^a", "topic.prefix": "p", "transforms.r.type": "org.apache.kafka.connect.transforms.RegexRouter", "file": "a",
	}
	if !reflect.DeepEqual(got.Connectors[0].Config, want) || len(notes) != 3 || !strings.Contains(notes[0], "topic.prefix produces names of topics itself, and is not changed: p") {
		t.Errorf("%v, %q", got.Connectors[0].Config, notes)
	}
	if in.Connectors[0].Config["topic"] != "c" {
		t.Error("the snapshot has changed")
	}
}

// TestScript runs a script, with curl.
func TestScript(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("NOT TESTED: scripts of curl:", err)
	}
	want := Content{Connectors: []*format.Connector{source("it's a", paused, map[int]int{0: 5}), source("b", running, map[int]int{0: 7}), source("c", stopped, nil)}}
	w := &worker{}
	c := serve(t, w)
	apply(t, c, Content{Connectors: []*format.Connector{source("b", stopped, map[int]int{1: 9}), source("c", stopped, map[int]int{1: 1}), source("gone", running, nil)}})
	changes, _ := Plan(want, read(t, c))
	var b bytes.Buffer
	if err := Script(&b, changes); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-eu")
	cmd.Env = []string{"CONNECT=" + c.URL(), "CURL_OPTS=", "PATH=/usr/bin:/bin"}
	cmd.Stdin = strings.NewReader(b.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s\n%s", err, out, b.String())
	}
	if changes, notes := Plan(want, read(t, c)); len(changes)+len(notes) > 0 {
		t.Errorf("still to do: %v %q\n%s", changes, notes, b.String())
	}
	if err := Script(broken{}, changes); err == nil {
		t.Error("a script was written to nowhere")
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("disk full") }
