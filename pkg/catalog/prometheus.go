package catalog

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// maxTopics is how many topics have metrics of their own, those with problems before others:
// a server that scrapes them pays for each.
const maxTopics = 500

// metrics writes a status as Prometheus reads it (text format 0.0.4).
func (r *Status) metrics(out io.Writer) error {
	w := bufio.NewWriter(out)
	backup := `{backup="` + label(r.Backup) + `"`
	one := func(name, help string, value float64) {
		fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s gauge\n%s%s} %s\n", name, help, name, name, backup, number(value))
	}
	one("kbk_backup_good", "1 if the verdict on the backup is good, else 0.", bit(r.Verdict == isGood))
	one("kbk_backup_checked_timestamp_seconds", "When kbk-catalog status last looked at the backup.", float64(r.Checked.UnixMilli())/1000)
	one("kbk_backup_max_age_seconds", "How old restore points may be.", float64(r.MaxAgeSeconds))
	head(w, "kbk_backup_problems", "What is wrong with the backup, by kind.")
	for _, kind := range verdicts {
		if kind == isGood {
			continue
		}
		n := 0
		for _, f := range r.Problems {
			if f.Kind == kind {
				n++
			}
		}
		fmt.Fprintf(w, "kbk_backup_problems%s,kind=\"%s\"} %d\n", backup, kind, n)
	}
	shown := r.shown()
	one("kbk_backup_topics", "Topics of the backup.", float64(r.count()))
	one("kbk_backup_topics_without_metrics", "Topics that have no metrics of their own, since there are too many.", float64(r.count()-len(shown)))
	for _, m := range topicMetrics {
		first := true
		for _, t := range shown {
			value, known := m.value(t)
			if !known {
				continue
			}
			if first {
				head(w, m.name, m.help)
				first = false
			}
			fmt.Fprintf(w, "%s%s,topic=\"%s\"} %s\n", m.name, backup, label(t.Name), number(value))
		}
	}
	return w.Flush()
}

// A topicMetric is one of each topic.
type topicMetric struct {
	name, help string
	value      func(t *StatusTopic) (value float64, known bool)
}

var topicMetrics = []topicMetric{
	{"kbk_backup_point_timestamp_seconds", "Time of the newest restore point that includes all partitions of the topic.", func(t *StatusTopic) (float64, bool) {
		if len(t.ByWorkers) > 0 { // which make no points
			return 0, false
		}
		return seconds(t.CoveredAt)
	}},
	{"kbk_backup_covered_timestamp_seconds", "As of when all partitions of the topic are in the backup: by restore points, or by what workers of a consumer group have stored.", func(t *StatusTopic) (float64, bool) {
		return seconds(t.CoveredAt)
	}},
	{"kbk_backup_record_timestamp_seconds", "Latest timestamp of a record in the backup.", func(t *StatusTopic) (float64, bool) { return seconds(t.NewestRecord) }},
	{"kbk_backup_run_timestamp_seconds", "When the last run wrote its last log entry.", func(t *StatusTopic) (float64, bool) {
		if len(t.LastRuns) == 0 {
			return 0, false
		}
		return seconds(&t.LastRuns[len(t.LastRuns)-1].Time)
	}},
	{"kbk_backup_run_finished", "1 if the last run came to its end without loss and was not interrupted, else 0.", func(t *StatusTopic) (float64, bool) {
		_, ended := t.lastRun()
		return bit(ended == "finished"), len(t.LastRuns) > 0
	}},
	{"kbk_backup_whole", "1 if nothing of the topic is known to be missing, else 0.", func(t *StatusTopic) (float64, bool) { return bit(t.Whole), true }},
	{"kbk_backup_records", "Records in the backup.", func(t *StatusTopic) (float64, bool) { return float64(t.Records), true }},
	{"kbk_backup_stored_bytes", "Bytes of segments in the backup.", func(t *StatusTopic) (float64, bool) { return float64(t.Bytes), true }},
	{"kbk_backup_lost_offsets", "Offsets that could not be read.", func(t *StatusTopic) (float64, bool) { return float64(t.Lost), true }},
	{"kbk_backup_hole_offsets", "Offsets that are not backed up, between others that are.", func(t *StatusTopic) (float64, bool) { return float64(t.Holes), true }},
	{"kbk_backup_filtered_offsets", "Offsets that are in the backup only as filters have left them.", func(t *StatusTopic) (float64, bool) { return float64(t.Filtered), true }},
	{"kbk_backup_behind_offsets", "Offsets that the cluster has and the backup has not.", func(t *StatusTopic) (float64, bool) {
		if t.Cluster == nil || t.Cluster.State == "unknown" {
			return 0, false
		}
		return float64(t.Cluster.Behind), true
	}},
}

// shown are the newest incarnations of topics that have metrics, by name.
func (r *Status) shown() (topics []*StatusTopic) {
	wrong := make(map[string]bool)
	for _, f := range r.Problems {
		wrong[f.Topic] = true
	}
	for i := range r.Topics {
		if r.Topics[i].Newest {
			topics = append(topics, &r.Topics[i])
		}
	}
	if len(topics) > maxTopics {
		slices.SortStableFunc(topics, func(a, b *StatusTopic) int { return int(bit(wrong[b.Name]) - bit(wrong[a.Name])) })
		topics = topics[:maxTopics]
		slices.SortFunc(topics, func(a, b *StatusTopic) int { return strings.Compare(a.Name, b.Name) })
	}
	return topics
}

func (r *Status) count() (n int) {
	for i := range r.Topics {
		if r.Topics[i].Newest {
			n++
		}
	}
	return n
}

func head(w io.Writer, name, help string) {
	fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s gauge\n", name, help, name)
}

func seconds(ms *int64) (float64, bool) {
	if ms == nil {
		return 0, false
	}
	return float64(*ms) / 1000, true
}

func bit(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func number(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }

// label escapes the value of a label. It must be UTF-8.
func label(s string) string {
	return strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`).Replace(strings.ToValidUTF8(s, "\ufffd"))
}
