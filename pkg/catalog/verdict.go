package catalog

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/kbkio/kbk/pkg/command"
)

// The verdicts on a backup, the worst first. All but the last are kinds of what is wrong,
// too.
const (
	isDamaged = "damaged" // it is not as it was written, or has holes
	isMissing = "missing" // something is not in it at all
	isStale   = "stale"   // its newest restore points are too old
	hasLoss   = "loss"    // something could not be read, and is not in it
	isUnknown = "unknown" // what was asked for could not be found out
	isGood    = "good"
)

// verdicts are all of them, in their order.
var verdicts = []string{isDamaged, isMissing, isStale, hasLoss, isUnknown, isGood}

// A Finding is one thing that is to be said of a backup.
type Finding struct {
	Kind  string `json:"kind"`            // a verdict other than "good"; "note": it is nothing wrong
	Code  string `json:"code"`            // what it is, for programs
	Topic string `json:"topic,omitempty"` // that it is about
	What  string `json:"what"`            // for people
}

// note is the kind of what does not count for the verdict.
const note = "note"

func (f Finding) String() string {
	if f.Topic == "" {
		return f.What
	}
	return printable(f.Topic) + ": " + f.What
}

// clockSlack is how far clocks of different machines may be apart before it is said.
const clockSlack = 5 * time.Minute

// judge says what is wrong with the backup that r describes, and whether that is anything.
// It goes by what is in r, and by nothing else.
func (r *Status) judge() {
	j := judge{r: r}
	j.backup()
	for i := range r.Topics {
		j.topic(&r.Topics[i])
	}
	j.cluster()
	r.Problems, r.Notes = []Finding{}, []Finding{}
	for _, f := range j.found {
		if f.Kind == note {
			r.Notes = append(r.Notes, f)
		} else {
			r.Problems = append(r.Problems, f)
		}
	}
	slices.SortStableFunc(r.Problems, func(a, b Finding) int {
		return cmp.Compare(slices.Index(verdicts, a.Kind), slices.Index(verdicts, b.Kind))
	})
	r.Verdict = isGood
	if len(r.Problems) > 0 {
		r.Verdict = r.Problems[0].Kind
	}
	r.Summary = j.summary()
}

// status is the exit status of a verdict.
func statusOfVerdict(verdict string) int {
	switch verdict {
	case isGood:
		return command.OK
	case isDamaged:
		return command.Corrupt
	}
	return command.Loss
}

// A judge gathers findings.
type judge struct {
	r        *Status
	found    []Finding
	allStale bool // said of the whole backup, so that it need not be said of each topic
}

func (j *judge) say(kind, code, topic, f string, args ...any) {
	j.found = append(j.found, Finding{kind, code, topic, fmt.Sprintf(f, args...)})
}

// backup is about the backup as a whole.
func (j *judge) backup() {
	r := j.r
	for _, d := range r.Damage {
		j.say(isDamaged, "log_damaged", "", "%s", d)
	}
	switch {
	case r.NoBackup:
		j.say(isMissing, "no_backup", "", "there is no backup in %s", r.Backup)
		j.allStale = true
		return
	case len(r.Topics) == 0 && len(r.Damage) > 0: // it may be what is damaged
		return
	case r.onlyCluster():
		if age := r.clusterAge(); age > r.maxAge() {
			j.say(isStale, "cluster_snapshot_too_old", "", "newest snapshot of the cluster is %s old, --max-age %s", ago(age), r.MaxAge)
		}
		return
	case len(r.Topics) == 0:
		j.say(isMissing, "no_topics", "", "the backup has none of the topics that were asked for")
		return
	}
	for _, what := range r.Unmatched {
		j.say(isMissing, "topic_not_found", "", "%s", what)
	}
	age, known := r.newest(newestOfAll)
	switch {
	case known && age <= r.maxAge():
	case known && r.byWorkers():
		j.say(isStale, "commit_too_old", "", "workers have stored nothing for %s, --max-age %s%s", ago(age), r.MaxAge, j.askKafka())
		j.allStale = true
	case known:
		j.say(isStale, "point_too_old", "", "newest restore point is %s old, --max-age %s", ago(age), r.MaxAge)
		j.allStale = true
	case !slices.ContainsFunc(r.Topics, func(t StatusTopic) bool { return t.NewestPoint != nil || len(t.ByWorkers) > 0 }):
		j.say(isStale, "no_point", "", "there is no restore point")
		j.allStale = true
	}
}

// onlyCluster tells whether the backup has snapshots of the cluster, and nothing else was asked for.
func (r *Status) onlyCluster() bool {
	return len(r.Topics) == 0 && !r.selected && r.ClusterSnapshot != nil
}

// clusterAge is how old the newest snapshot of the cluster is.
func (r *Status) clusterAge() time.Duration {
	return max(0, r.Checked.Sub(time.UnixMilli(*r.ClusterSnapshot)))
}

// askKafka is what to say where nothing new was stored, and perhaps there was nothing.
func (j *judge) askKafka() string {
	if j.r.Cluster != nil {
		return ""
	}
	return "; -b tells whether there was anything to store"
}

// byWorkers tells whether workers have stored something since the newest restore point.
func (r *Status) byWorkers() bool {
	point, known := r.newest(newestPoint)
	commit, stored := r.newest(newestCommit)
	return stored && (!known || commit < point)
}

func newestPoint(t *StatusTopic) *int64  { return t.NewestMoment }
func newestCommit(t *StatusTopic) *int64 { return t.NewestCommit }

// newestOfAll is the newest time of all that tell how old a topic is.
func newestOfAll(t *StatusTopic) (newest *int64) {
	for _, at := range []*int64{t.NewestMoment, t.NewestCommit, t.CoveredAt} {
		if at != nil {
			newest = later(newest, *at)
		}
	}
	return newest
}

// newest is how long ago the newest time was that a topic has.
func (r *Status) newest(of func(t *StatusTopic) *int64) (age time.Duration, known bool) {
	for i := range r.Topics {
		if at := of(&r.Topics[i]); at != nil {
			if a := r.since(*at); !known || a < age {
				age, known = a, true
			}
		}
	}
	return age, known
}

func (r *Status) maxAge() time.Duration { return time.Duration(r.MaxAgeSeconds) * time.Second }

// since is how long ago a time was, in milliseconds since the epoch.
func (r *Status) since(ms int64) time.Duration {
	return max(r.Checked.Sub(time.UnixMilli(ms)), 0)
}

// topic is about one incarnation of a topic.
func (j *judge) topic(t *StatusTopic) {
	t.Whole = t.Lost+t.Holes+t.Filtered == 0 && len(t.Losses) == 0
	if t.Holes > 0 {
		j.say(isDamaged, "hole", t.name(), "%s not backed up", command.Count(t.Holes, "offset"))
	}
	if t.Lost > 0 {
		j.say(hasLoss, "lost", t.name(), "%s are lost: they could not be read", command.Count(t.Lost, "offset"))
	}
	for _, line := range t.Losses {
		j.say(hasLoss, "last_run_lost", t.name(), "the last run: %s", line)
	}
	if t.Filtered > 0 {
		j.say(note, "filtered", t.name(), "%s are in the backup only as filters have left them", command.Count(t.Filtered, "offset"))
	}
	if !t.Newest {
		return
	}
	if j.live(t) {
		j.age(t)
	}
	j.runs(t)
}

// live holds a topic against the cluster, and tells whether it is to have new restore
// points.
func (j *judge) live(t *StatusTopic) bool {
	l := t.Cluster
	if l == nil {
		return true
	}
	switch l.State {
	case "deleted":
		j.say(note, "deleted", t.name(), "it is no longer in the cluster")
		return false
	case "recreated":
		t.Whole = false
		if l.Behind > 0 {
			j.say(isMissing, "recreated", t.name(), "it was deleted and created again, and nothing of the new topic is in the backup: it has %s", command.Count(l.Behind, "offset"))
		} else {
			j.say(note, "recreated", t.name(), "it was deleted and created again; the new topic is empty")
		}
		return false
	case "unknown":
		j.say(isUnknown, "offsets_unknown", t.name(), "not compared with the cluster: %s", l.Error)
		return true
	}
	if l.Error != "" {
		j.say(isUnknown, "offsets_unknown", t.name(), "not all of it was compared with the cluster: %s", l.Error)
	}
	if l.Expired > 0 {
		j.say(hasLoss, "expired", t.name(), "%s were deleted in Kafka since the last run, and are not in the backup", command.Count(l.Expired, "offset"))
	}
	if len(l.Missing) > 0 {
		j.say(isMissing, "partitions_missing", t.name(), "%s not in the backup", partitionsAre(l.Missing))
	}
	if l.Earlier > 0 {
		j.say(note, "begins_later", t.name(), "%s before the first one of the backup are still in Kafka", command.Count(l.Earlier, "offset"))
	}
	if len(l.CutOff) > 0 {
		j.say(note, "cut_off", t.name(), "%s shorter in Kafka than in the backup: records were cut off there", partitionsAre(l.CutOff))
	}
	t.Whole = t.Whole && l.Expired+l.Earlier == 0 && len(l.Missing) == 0
	return true
}

// age is about a topic's restore points.
func (j *judge) age(t *StatusTopic) {
	r := j.r
	if n := len(t.ByWorkers); n > 0 {
		all := "it"
		if n < t.Partitions {
			all = command.Partitions(t.ByWorkers)
		}
		j.say(note, "by_workers", t.name(), "workers of group %s store %s and make no restore points: what they have stored counts", strings.Join(t.Workers, ", "), all)
	}
	if t.ClockAhead > 0 {
		j.say(note, "clock_ahead", t.name(), "its newest restore point has a time %s ahead of this machine's clock", ago(time.Duration(t.ClockAhead)*time.Second))
	}
	switch {
	case j.allStale:
	case t.NewestPoint == nil && len(t.ByWorkers) == 0:
		j.say(isStale, "no_point", t.name(), "no restore point includes it")
	case len(t.WithoutPoint) > 0:
		j.say(isStale, "no_point", t.name(), "no restore point includes %s", command.Partitions(t.WithoutPoint))
	case t.CoveredAt == nil && len(t.ByWorkers) > 0:
		j.say(isUnknown, "age_unknown", t.name(), "what its workers have stored has times ahead of this machine's clock: how old it is is not known")
	case t.CoveredAt == nil:
		j.say(isUnknown, "age_unknown", t.name(), "all its restore points have times ahead of this machine's clock: how old they are is not known")
	case r.since(*t.CoveredAt) > r.maxAge() && len(t.ByWorkers) > 0:
		j.say(isStale, "commit_too_old", t.name(), "workers have stored nothing of some partitions for %s, --max-age %s%s", ago(r.since(*t.CoveredAt)), r.MaxAge, j.askKafka())
	case r.since(*t.CoveredAt) > r.maxAge():
		j.say(isStale, "point_too_old", t.name(), "newest restore point that includes all of it is %s old, --max-age %s", ago(r.since(*t.CoveredAt)), r.MaxAge)
	}
}

// runs is about how the last runs ended. A run that follows its topics ends by being
// interrupted, and one that has not ended may be under way: restore points tell whether
// they are late.
func (j *judge) runs(t *StatusTopic) {
	for _, run := range t.LastRuns {
		switch run.Ended {
		case "not ended":
			j.say(note, "run_not_ended", t.name(), "the last run has not ended: it is under way, or was killed (last log entry %s ago)", ago(j.r.since(run.Time)))
		case "interrupted":
			j.say(note, "run_interrupted", t.name(), "the last run was interrupted, %s ago", ago(j.r.since(run.Time)))
		}
	}
}

// cluster is about topics that are not in the backup, and what kept the command from
// asking for them.
func (j *judge) cluster() {
	c := j.r.Cluster
	if c == nil {
		return
	}
	if c.Error != "" {
		j.say(isUnknown, "cluster_unknown", "", "not compared with the cluster: %s", c.Error)
	}
	for _, t := range c.NotInBackup {
		switch {
		case t.Error != "":
			j.say(isMissing, "not_in_backup", t.Name, "it is not in the backup; what Kafka has of it is not known: %s", t.Error)
		case t.Offsets > 0:
			j.say(isMissing, "not_in_backup", t.Name, "it is not in the backup; Kafka has %s of it", command.Count(t.Offsets, "offset"))
		default:
			j.say(note, "not_in_backup", t.Name, "it is not in the backup, and empty")
		}
	}
}

// summary is the verdict in a line: what is wrong, or how old the newest point is, and
// what else is to be known.
func (j *judge) summary() string {
	r := j.r
	var parts []string
	if r.Verdict == isGood && r.onlyCluster() {
		parts = append(parts, "newest snapshot of the cluster is "+ago(r.clusterAge())+" old")
	} else if r.Verdict == isGood {
		if age, _ := r.newest(newestOfAll); r.byWorkers() {
			age, _ = r.newest(newestCommit)
			parts = append(parts, "workers stored something "+ago(age)+" ago")
		} else {
			parts = append(parts, "newest restore point is "+ago(age)+" old")
		}
		if n, known := r.behind(); known && n > 0 {
			parts = append(parts, "Kafka has "+command.Count(n, "offset")+" more")
		} else if known {
			parts = append(parts, "Kafka has no more")
		}
	}
	parts = append(parts, inShort(r.Problems)...)
	parts = append(parts, inShort(r.Notes)...)
	return r.Verdict + ": " + strings.Join(parts, "; ")
}

// behind is how many offsets the cluster has that the backup has not.
func (r *Status) behind() (n int64, known bool) {
	for i := range r.Topics {
		if l := r.Topics[i].Cluster; l != nil && l.State != "unknown" {
			n, known = n+l.Behind, true
		}
	}
	return n, known
}

// inShort says findings of one kind and code once.
func inShort(all []Finding) (out []string) {
	first := make(map[[2]string]int) // place in out
	more := make(map[int]int)
	for _, f := range all {
		key := [2]string{f.Kind, f.Code}
		if at, ok := first[key]; ok {
			more[at]++
			continue
		}
		first[key] = len(out)
		out = append(out, f.String())
	}
	for at, n := range more {
		out[at] += fmt.Sprintf(" (and %s more like this)", humanize.Comma(int64(n)))
	}
	return out
}

// ago is a time span for people.
func ago(d time.Duration) string {
	switch {
	case d < 2*time.Minute:
		return strconv.Itoa(int(d.Seconds())) + " s"
	case d < 2*time.Hour:
		return strconv.Itoa(int(d.Minutes())) + " min"
	case d < 72*time.Hour:
		return strconv.Itoa(int(d.Hours())) + " h"
	}
	return humanize.Comma(int64(d.Hours()/24)) + " d"
}

func partitionsAre(partitions []int32) string {
	if len(partitions) == 1 {
		return command.Partitions(partitions) + " is"
	}
	return command.Partitions(partitions) + " are"
}
