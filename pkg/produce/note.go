package produce

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kbkio/kbk/pkg/groups"
)

// holdGroup is the consumer group in which a run notes what configs are to be once it
// is over: as the metadata of an offset committed for partition 0 of the topic. A run
// that was killed leaves its note there for the next one, and with the topic it goes.
const holdGroup = groups.Produce

// A note says which configs of a topic are suspended, by whom, and what they were. It
// names what it is of: one of another cluster or of another topic of the same name, as a
// backup of consumer groups may bring it along, is never acted on.
type note struct {
	Version int                `json:"kbk"`
	Cluster string             `json:"cluster"`
	TopicID string             `json:"topic_id"`
	Was     map[string]*string `json:"was"` // null: it was not set on the topic
	Holders []holder           `json:"holders"`
}

// noteVersion is the version of notes that this program writes and believes.
const noteVersion = 2

// A holder is a run that holds configs off.
type holder struct {
	Run     string `json:"run"`
	Host    string `json:"host"`
	PID     int    `json:"pid"`
	Renewed int64  `json:"renewed"` // milliseconds since the epoch
	// Producer is what it writes with to partitions that hold nothing yet.
	Producer int64 `json:"producer"`
	Epoch    int16 `json:"epoch"`
	Markers  int64 `json:"markers"` // and markers, with exact offsets; -1: none
}

func (h *holder) String() string { return fmt.Sprintf("process %d on %s", h.PID, h.Host) }

// parseNote reads the metadata of an offset. ok says that it is a note of the topic
// that has this id in this cluster.
func parseNote(meta, cluster, topicID string) (n note, ok bool) {
	if json.Unmarshal([]byte(meta), &n) != nil || n.Version != noteVersion {
		return note{}, false
	}
	return n, n.Cluster == cluster && n.TopicID == topicID
}

// A witness tells whether a run that has left its name is still at work.
type witness struct {
	now   time.Time
	run   string // its own
	host  string
	pid   int
	alive func(pid int) bool // of this host
}

// noteEvery is how often a run renews its notes. One that has not done so for deadAfter
// is dead, wherever it ran.
const (
	noteEvery = 20 * time.Second
	deadAfter = 3 * time.Minute
)

func (w *witness) lives(h *holder) bool {
	switch {
	case h.Run == w.run:
		return true
	case h.Host == w.host && (h.PID == w.pid || !w.alive(h.PID)):
		return false
	}
	return w.now.Sub(time.UnixMilli(h.Renewed)) < deadAfter
}

// split tells the holders that live from those that do not.
func (w *witness) split(holders []holder) (living, dead []holder) {
	for _, h := range holders {
		if w.lives(&h) {
			living = append(living, h)
		} else {
			dead = append(dead, h)
		}
	}
	return living, dead
}

// join adds a run to a note, or makes one. settings is what the topic has, read before
// the note was; hold is what it is to have. A dead holder's producer is returned: the run
// goes on as it. With no holder left, the note would have been taken away: so what it says
// is believed as far as the config still has the value that was set.
func (n *note) join(me holder, w *witness, settings map[string]setting, hold map[string]string) (joined note, dead *holder) {
	living, gone := w.split(n.Holders)
	if len(gone) > 0 {
		last := slices.MaxFunc(gone, func(a, b holder) int { return cmp.Compare(a.Renewed, b.Renewed) })
		dead = &last
	}
	joined = note{Version: noteVersion, Cluster: n.Cluster, TopicID: n.TopicID, Was: make(map[string]*string)}
	for key, was := range n.Was {
		if s, ok := settings[key]; ok && s.own && held(key, s.value) == "" { // it is as it was held
			joined.Was[key] = was
		}
	}
	for key := range hold {
		s := settings[key]
		joined.Was[key] = nil
		if s.own {
			joined.Was[key] = &s.value
		}
	}
	living = slices.DeleteFunc(living, func(h holder) bool { return h.Run == me.Run })
	joined.Holders = append(living, me)
	return joined, dead
}

// leave takes a run out of a note, with those that are dead.
func (n *note) leave(w *witness) (others []holder) {
	living, _ := w.split(n.Holders)
	return slices.DeleteFunc(living, func(h holder) bool { return h.Run == w.run })
}

func (n *note) encode() string {
	b, err := json.Marshal(n)
	if err != nil {
		panic(err) // it is strings and numbers
	}
	return string(b)
}

// commands are what an operator would run to give a topic configs.
func commands(topic string, set map[string]string, unset []string) string {
	var parts []string
	var add []string
	for key, value := range set {
		if strings.Contains(value, ",") {
			value = "[" + value + "]"
		}
		add = append(add, key+"="+value)
	}
	slices.Sort(add)
	if len(add) > 0 {
		parts = append(parts, "--add-config '"+strings.Join(add, ",")+"'")
	}
	if len(unset) > 0 {
		unset = slices.Sorted(slices.Values(unset))
		parts = append(parts, "--delete-config '"+strings.Join(unset, ",")+"'")
	}
	return "kafka-configs.sh --bootstrap-server … --alter --entity-type topics --entity-name " + topic + " " + strings.Join(parts, " ")
}
