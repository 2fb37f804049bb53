package prom

import (
	"runtime"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/metrics"
)

// maxSeries is of how many partitions there are series: of those that came first. The sums
// are of all.
const maxSeries = 1000

// A collector reads the counters of a command when somebody asks.
type collector struct{ page *page }

// Describe implements prometheus.Collector. It describes nothing, because which numbers
// there are depends on what the stage does.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

// A number is one that every stage may have. The names are in docs/monitoring.md, and stay.
type number struct {
	name, help string
	kind       prometheus.ValueType
	of         func(s *metrics.Snapshot) float64
	unlessZero bool // 0 says that it is not known
}

const (
	counter = prometheus.CounterValue
	gauge   = prometheus.GaugeValue
)

var numbers = []number{
	{"kbk_records_total", "Records written to the next stage, stored, or acknowledged by the cluster.", counter, func(s *metrics.Snapshot) float64 { return float64(s.Records) }, false},
	{"kbk_records_committed_total", "Records that stay whatever comes: a log entry lists them, or the cluster has acknowledged them.", counter, func(s *metrics.Snapshot) float64 { return float64(s.Committed) }, false},
	{"kbk_records_there_total", "Records that the backup or the cluster had before.", counter, func(s *metrics.Snapshot) float64 { return float64(s.There) }, false},
	{"kbk_records_expected", "Records that are to come in all, at most; left out where it is not known.", gauge, func(s *metrics.Snapshot) float64 { return float64(s.Expected) }, true},
	{"kbk_offsets_scanned_total", "Offsets scanned in the source's partitions, those without a record too.", counter, func(s *metrics.Snapshot) float64 { return float64(s.Offsets) }, false},
	{"kbk_offsets_lost_total", "Offsets that could not be read, where it is known how many.", counter, func(s *metrics.Snapshot) float64 { return float64(s.Lost) }, false},
	{"kbk_losses_total", "Losses that were reported, of any kind.", counter, func(s *metrics.Snapshot) float64 { return float64(s.Losses) }, false},
	{"kbk_read_bytes_total", "Bytes read: of the stream, from brokers, or from the store.", counter, func(s *metrics.Snapshot) float64 { return float64(s.BytesIn) }, false},
	{"kbk_written_bytes_total", "Bytes of the stream written to the next stage.", counter, func(s *metrics.Snapshot) float64 { return float64(s.BytesOut) }, false},
	{"kbk_segment_raw_bytes_total", "Bytes in segments before compression.", counter, func(s *metrics.Snapshot) float64 { return float64(s.BytesRaw) }, false},
	{"kbk_segment_packed_bytes_total", "Bytes in segments as they are stored.", counter, func(s *metrics.Snapshot) float64 { return float64(s.BytesPacked) }, false},
	{"kbk_stored_bytes_total", "Bytes sent to the store, or in batches that the cluster has acknowledged.", counter, func(s *metrics.Snapshot) float64 { return float64(s.BytesStored) }, false},
	{"kbk_segments_total", "Segments packed, unpacked, stored or read.", counter, func(s *metrics.Snapshot) float64 { return float64(s.Segments) }, false},
	{"kbk_segments_there_total", "Segments that the backup had before.", counter, func(s *metrics.Snapshot) float64 { return float64(s.SegmentsThere) }, false},
	{"kbk_pending", "Segments or batches that were taken and are not done.", gauge, func(s *metrics.Snapshot) float64 { return float64(s.Pending) }, false},
	{"kbk_commits_total", "Log entries written, or batches acknowledged.", counter, func(s *metrics.Snapshot) float64 { return float64(s.Commits) }, false},
	{"kbk_last_commit_timestamp_seconds", "When the last commit was; left out before the first.", gauge, func(s *metrics.Snapshot) float64 {
		if s.LastCommit.IsZero() {
			return 0
		}
		return float64(s.LastCommit.UnixMilli()) / 1000
	}, true},
	{"kbk_input_wait_seconds_total", "How long the stage has waited for its input.", counter, func(s *metrics.Snapshot) float64 { return s.InputWait.Seconds() }, false},
	{"kbk_output_wait_seconds_total", "How long the stage has waited for its output.", counter, func(s *metrics.Snapshot) float64 { return s.OutputWait.Seconds() }, false},
	{"kbk_ready", "1 once the stage has all that it needs to begin.", gauge, func(s *metrics.Snapshot) float64 { return truth(s.Ready) }, false},
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	e := c.page.env
	emit := emitter{out, prometheus.Labels{"command": e.Name}}
	s := e.Counters.Snapshot()
	for _, n := range numbers {
		if v := n.of(&s); v != 0 || !n.unlessZero {
			emit.value(n.name, n.help, n.kind, v)
		}
	}
	emit.value("kbk_build_info", "1, with the version.", gauge, 1, "version", command.Version(), "goversion", runtime.Version())
	emit.value("kbk_stalled_seconds", "For how long the stage has made no progress while it should.", gauge, c.page.watch.stalled().Seconds())
	for kind, n := range s.Retries {
		emit.value("kbk_retries_total", "Tries that failed and were followed by another.", counter, float64(n), "kind", kind)
	}
	for kind, n := range s.Errors {
		emit.value("kbk_errors_total", "Errors that no retry has solved.", counter, float64(n), "kind", kind)
	}
	if atMost, count, sum := e.Counters.Uploads.Buckets(); count > 0 {
		desc := emit.desc("kbk_upload_duration_seconds", "How long it took to store a segment, tries that failed included.")
		out <- prometheus.MustNewConstHistogram(desc, count, sum.Seconds(), atMost)
	}
	c.partitions(emit, e.Counters.Partitions.All())
	if end := c.page.ended.Load(); end != nil {
		emit.value("kbk_end_timestamp_seconds", "When the work ended; left out while it goes on.", gauge, float64(end.at.UnixMilli())/1000)
		emit.value("kbk_exit_status", "The exit status; left out while the work goes on.", gauge, float64(end.status))
	}
}

// partitions shows the first ones by themselves, and all of them as sums.
func (c *collector) partitions(emit emitter, all []metrics.Position) {
	if len(all) == 0 {
		return
	}
	emit.value("kbk_partitions", "Partitions that the stage has to do with.", gauge, float64(len(all)))
	emit.value("kbk_partitions_without_series", "Partitions beyond those that have series of their own; sums have them.", gauge, float64(max(0, len(all)-maxSeries)))
	lagOf := emit.desc("kbk_partition_lag", "Offsets that are in the partition and not read yet.", "topic", "partition")
	endOf := emit.desc("kbk_partition_end_offset", "Where the partition ended when a broker last told.", "topic", "partition")
	committedOf := emit.desc("kbk_partition_committed_offset", "The offset below which everything is committed, as the source counts.", "topic", "partition")
	var lag, largest int64
	known := false
	for i, p := range all {
		n, ok := p.Lag()
		if ok {
			lag, largest, known = lag+n, max(largest, n), true
		}
		if i >= maxSeries {
			continue
		}
		topic, number := strings.ToValidUTF8(p.Topic, "\ufffd"), strconv.Itoa(int(p.Partition))
		if ok {
			emit.out <- prometheus.MustNewConstMetric(lagOf, gauge, float64(n), topic, number)
			emit.out <- prometheus.MustNewConstMetric(endOf, gauge, float64(p.End), topic, number)
		}
		if p.Committed >= 0 {
			emit.out <- prometheus.MustNewConstMetric(committedOf, gauge, float64(p.Committed), topic, number)
		}
	}
	if known {
		emit.value("kbk_lag", "The sum of the lags of all partitions.", gauge, float64(lag))
		emit.value("kbk_lag_max", "The largest lag of a partition.", gauge, float64(largest))
	}
}

// An emitter puts out metrics of one command.
type emitter struct {
	out    chan<- prometheus.Metric
	always prometheus.Labels
}

func (e emitter) desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, e.always)
}

// value puts out one value, with labels as names and values in turn.
func (e emitter) value(name, help string, kind prometheus.ValueType, v float64, labels ...string) {
	var names, values []string
	for i := 0; i < len(labels); i += 2 {
		names, values = append(names, labels[i]), append(values, labels[i+1])
	}
	e.out <- prometheus.MustNewConstMetric(e.desc(name, help, names...), kind, v, values...)
}
