package push

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/commitlog"
)

// deletions finds compacted topics of which a run may have missed deletions. Kafka keeps a
// tombstone for delete.retention.ms after it has compacted it for the first time (KIP-534). If
// the time between two runs is longer, the later one may not see it, and a restore then has the
// last value of the key.
type deletions struct {
	began  time.Time                // when the source began to read
	kept   map[string]time.Duration // by topic that is compacted: its delete.retention.ms
	read   map[key]time.Time        // when partitions that the run continues were read last
	missed map[string]deletionOf    // by topic
}

// A deletionOf is how long a topic was not read, and how long it keeps deletions.
type deletionOf struct{ unread, kept time.Duration }

func newDeletions(began time.Time) deletions {
	return deletions{began, make(map[string]time.Duration), make(map[key]time.Time), make(map[string]deletionOf)}
}

// topic takes in a topic's description.
func (d *deletions) topic(t *commitlog.Topic) {
	if delete(d.kept, t.Name); t.Compacted() {
		d.kept[t.Name] = t.KeepsDeletions()
	}
}

// segment takes in a segment that is new.
func (d *deletions) segment(k key, m *format.Segment) {
	last, continues := d.read[k]
	kept, compacted := d.kept[k.topic]
	if !continues || !compacted || m.Records == m.Next-m.From {
		return
	}
	if unread := d.began.Sub(last); unread > kept {
		d.missed[k.topic] = deletionOf{max(unread, d.missed[k.topic].unread), kept}
	}
}

// maxDeletions is how many topics are named.
const maxDeletions = 20

// warn names the topics.
func (d *deletions) warn(log *slog.Logger) {
	names := slices.Sorted(maps.Keys(d.missed))
	for i, name := range names {
		if i == maxDeletions {
			log.Warn(fmt.Sprintf("and %d more topics like these", len(names)-maxDeletions))
			return
		}
		of := d.missed[name]
		log.Warn(fmt.Sprintf("topic %s: it was last read %s before this run, and keeps deletions of keys for %s after compaction (delete.retention.ms): some may be missing in the backup, so that a restore has these keys with their last values",
			name, hours(of.unread.Truncate(time.Minute)+time.Minute), hours(of.kept)))
	}
}

// hours writes a time span, to the minute if it takes that.
func hours(d time.Duration) string {
	text := fmt.Sprintf("%d h", int(d.Hours()))
	if m := int(d.Minutes()) % 60; m > 0 {
		text += fmt.Sprintf(" %d min", m)
	}
	return text
}
