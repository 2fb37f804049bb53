package format

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"unicode/utf8"

	"github.com/fxamacker/cbor/v2"
)

// Kind tells the frames that this package knows apart.
type Kind uint8

// The kinds of frames. A frame of a kind that a stage does not know is passed on
// as it is.
const (
	KindUnknown Kind = iota
	KindRec
	KindTopic
	KindMark
	KindGroup
	KindPoint
	KindBatch
	KindSeg
	KindMap
	KindEnd
	KindGroups
	KindTarget
	KindMoment
	KindFail // a Reader makes an error of it: see [FailError]

	KindCluster // from here to KindConnector: see [Kind.OfCluster]
	KindACL
	KindQuota
	KindUser
	KindConfig
	KindSubject
	KindSchema
	KindConnector
	KindSnapshot
)

var kinds = map[string]Kind{
	"rec": KindRec, "topic": KindTopic, "mark": KindMark, "group": KindGroup, "point": KindPoint,
	"batch": KindBatch, "seg": KindSeg, "map": KindMap, "end": KindEnd,
	"groups": KindGroups, "target": KindTarget, "moment": KindMoment, "fail": KindFail,
	"cluster": KindCluster, "acl": KindACL, "quota": KindQuota, "user": KindUser, "config": KindConfig,
	"subject": KindSubject, "schema": KindSchema, "connector": KindConnector, "snapshot": KindSnapshot,
}

// A Frame is one frame of a stream as a [Reader] found it.
type Frame struct {
	Kind Kind
	Name []byte // the kind as it is written
	Raw  []byte // the whole frame; a record's in deterministic encoding, others as they came

	// Of a record, from the scan.
	Topic      string
	Partition  int32
	Offset     int64
	Timestamp  int64
	Attributes Attributes

	payload int // index in Raw of a record's key
}

// parse sets the kind of the frame b.
func (f *Frame) parse(b []byte) error {
	major, n, i, o := readHead(b, 0)
	if o > longForm || major != majorArray || n == 0 && o != longForm {
		return corrupt("not an array that begins with its kind")
	}
	name, _, ok := stringOf(b, i, majorText)
	if !ok {
		return corrupt("not an array that begins with its kind")
	}
	f.Kind, f.Name, f.Raw = kinds[string(name)], name, b
	return nil
}

// An Encoder is a frame that can be written: [*Topic], [*Mark], [*Group],
// [*Groups], [*Point], [*Moment], [*Batch], [*Map], [*Target], [*End], [*Cluster] or one of
// the frames behind that.
type Encoder interface {
	// AppendFrame appends the frame in core deterministic encoding to b.
	AppendFrame(b []byte) ([]byte, error)
}

// A Header is the first item of a stream: 55799(["kbk", 1, {…}]).
type Header struct {
	ID      string  `cbor:"id,omitempty"`      // names the run that wrote the stream
	Created int64   `cbor:"created,omitempty"` // milliseconds since the epoch
	Content string  `cbor:"content"`           // ContentRecords, ContentBatches or ContentSegments
	Source  *Source `cbor:"source,omitempty"`
	// Follow says that the stream comes as its source changes, and not from a store.
	Follow bool `cbor:"follow,omitempty"`
	// Window bounds the records that are asked for. Whoever unpacks segments drops
	// those outside; in a stream of records it tells what was dropped.
	Window *Window `cbor:"window,omitempty"`
	// Filters names, in the order of the pipe, the stages that may have dropped or
	// changed records. A name may end in a colon and a digest of what the stage was
	// told to do; streams with equal lists were filtered in the same way.
	Filters []string `cbor:"filters,omitempty"`
	// Total says how much is to come, for whoever shows progress. Nothing depends on it.
	Total *Total `cbor:"total,omitempty"`

	// What later versions add, as it came: keys of the header's map and of its
	// source, and elements behind the map.
	extra, sourceExtra map[string]cbor.RawMessage
	rest               [][]byte
}

// What a stream's frames are, in [Header.Content].
const (
	ContentRecords  = "records"
	ContentBatches  = "batches" // batches and records; for those alone that know batches
	ContentSegments = "segments"
)

// A Total says how much is to come in a stream. What is 0 is not known.
type Total struct {
	Offsets int64 `cbor:"offsets,omitempty" json:"offsets,omitempty"` // to be scanned, of all partitions
	Records int64 `cbor:"records,omitempty" json:"records,omitempty"`
	Bytes   int64 `cbor:"bytes,omitempty" json:"bytes,omitempty"` // of the content of segments
}

// A Source says where a stream's records come from.
type Source struct {
	Cluster   string `cbor:"cluster,omitempty" json:"cluster,omitempty"` // Kafka's cluster id
	Tool      string `cbor:"tool,omitempty" json:"tool,omitempty"`
	Isolation string `cbor:"isolation,omitempty" json:"isolation,omitempty"` // read_committed or read_uncommitted
	Group     string `cbor:"group,omitempty" json:"group,omitempty"`         // the consumer group that says which partitions are read
}

// A Window bounds records by time, by offset, or by both.
type Window struct {
	Since *int64 `cbor:"since,omitempty"` // timestamps from here, in milliseconds since the epoch
	Until *int64 `cbor:"until,omitempty"` // to here, itself included
	// Offsets are [from, next) by topic and partition. A partition that is not named
	// is not bounded.
	Offsets map[string]map[int32][2]int64 `cbor:"offsets,omitempty"`
}

// Bounds returns the limits of one partition: offsets in [from, next), timestamps
// from since to until, both included.
func (w *Window) Bounds(topic string, partition int32) (from, next, since, until int64) {
	next, since, until = math.MaxInt64, math.MinInt64, math.MaxInt64
	if w == nil {
		return from, next, since, until
	}
	if r, ok := w.Offsets[topic][partition]; ok {
		from, next = r[0], r[1]
	}
	if w.Since != nil {
		since = *w.Since
	}
	if w.Until != nil {
		until = *w.Until
	}
	return from, next, since, until
}

// A Topic comes before a topic's first record and is enough to create it again.
type Topic struct {
	Name              string
	ID                string // Kafka's own notation, 22 characters of base64url; may be empty
	Partitions        int
	ReplicationFactor int
	Configs           map[string]string // those that are not the broker's defaults
}

type topicInfo struct {
	ID                string            `cbor:"id,omitempty"`
	Partitions        int               `cbor:"partitions,omitempty"`
	ReplicationFactor int               `cbor:"replication_factor,omitempty"`
	Configs           map[string]string `cbor:"configs,omitempty"`
}

// A Mark says that every offset of a partition below Next has been scanned. The
// first mark of a partition names the first offset scanned.
type Mark struct {
	Topic     string
	Partition int32
	Next      int64
	MarkInfo
}

// MarkInfo is the part of a [Mark] that may be missing.
type MarkInfo struct {
	TopicID     string `cbor:"topic_id,omitempty"`
	LeaderEpoch *int32 `cbor:"leader_epoch,omitempty"` // of the last batch scanned, KIP-320
	LogStart    *int64 `cbor:"log_start,omitempty"`
	End         *int64 `cbor:"end,omitempty"` // where the run will stop
	// Begins says that scanning begins anew at Next, which may be anywhere: nothing is
	// said of the offsets between the mark before and this one.
	Begins bool       `cbor:"begins,omitempty"`
	Lost   [][2]int64 `cbor:"lost,omitempty"` // [from, next) ranges that could not be read: deleted before, say
	// Filters says, in a stream from a store, that not all records between the mark
	// before and this one need be here as they were, and why. In other streams the
	// header says so for all marks. See [Header].
	Filters []string `cbor:"filters,omitempty"`
	// Open is [last stable offset, high watermark) where an open transaction hid
	// offsets when the run ended.
	Open *[2]int64 `cbor:"open,omitempty"`
	// Branch goes with Begins: what earlier runs have read at Next and above is not
	// in Kafka any more (log truncation, KIP-320), and what follows takes its place.
	Branch bool `cbor:"branch,omitempty"`
	// Deleted says that the topic was deleted while it was read.
	Deleted bool `cbor:"deleted,omitempty"`
}

// A Group is a consumer group's committed offsets, by topic and partition.
type Group struct {
	ID      string
	Offsets map[string]map[int32]GroupOffset
	GroupInfo
}

// GroupInfo is the part of a [Group] that may be missing.
type GroupInfo struct {
	// Topics are the topics that the frame speaks for, and their topic ids, "" where
	// one is not known: a partition of theirs without an offset has no commit. The frame
	// speaks for the topics of the [Groups] before it, too, if that lists the group.
	Topics map[string]string `cbor:"topics,omitempty" json:"topics,omitempty"`

	// Of a group whose offsets have been translated to another cluster:

	By       string     `cbor:"by,omitempty" json:"by,omitempty"`         // how they were found
	Source   string     `cbor:"source,omitempty" json:"source,omitempty"` // the id that the group had, where it is another
	Unplaced []Unplaced `cbor:"unplaced,omitempty" json:"unplaced,omitempty"`

	// Of a group as it was before its offsets were overwritten:

	// Absent are the partitions, by topic, that had no committed offset, and New says
	// that there was no such group.
	Absent map[string][]int32 `cbor:"absent,omitempty" json:"absent,omitempty"`
	New    bool               `cbor:"new,omitempty" json:"new,omitempty"`
}

// A GroupOffset is one committed offset (OffsetFetch, KIP-211 and KIP-320).
type GroupOffset struct {
	Offset      int64   `cbor:"offset" json:"offset"`
	LeaderEpoch *int32  `cbor:"leader_epoch,omitempty" json:"leader_epoch,omitempty"`
	Metadata    *string `cbor:"metadata,omitempty" json:"metadata,omitempty"`

	// Of an offset in its own cluster:

	End    *int64      `cbor:"end,omitempty" json:"end,omitempty"`       // of the partition, when the offset was read
	Record *NextRecord `cbor:"record,omitempty" json:"record,omitempty"` // what the group is going to read next

	// Of an offset that has been translated to another cluster:

	// From are the offsets in the source that this one comes from.
	From []GroupSource `cbor:"from,omitempty" json:"from,omitempty"`
	// AtEnd says that the offset is the partition's end, whichever that is when the
	// offset is committed. Offset is 0 then: too early, never too late.
	AtEnd bool `cbor:"at_end,omitempty" json:"at_end,omitempty"`
	// Again is how many records, at most, the group reads though it had read them.
	Again int64 `cbor:"again,omitempty" json:"again,omitempty"`
}

// A NextRecord tells a record by its content.
type NextRecord struct {
	Offset    int64  `cbor:"offset" json:"offset"`
	Timestamp int64  `cbor:"timestamp" json:"timestamp"` // milliseconds since the epoch
	Digest    []byte `cbor:"digest" json:"digest"`
}

// A GroupSource is a committed offset in the source, and what became of it.
type GroupSource struct {
	Topic     string      `cbor:"topic" json:"topic"`
	Partition int32       `cbor:"partition" json:"partition"`
	Offset    int64       `cbor:"offset" json:"offset"`
	End       *int64      `cbor:"end,omitempty" json:"end,omitempty"`
	Next      *int64      `cbor:"next,omitempty" json:"next,omitempty"`       // offset of the first restored record that is not before Offset; nil: none
	Missing   int64       `cbor:"missing,omitempty" json:"missing,omitempty"` // offsets behind Offset that the backup does not speak of, or knows to be lost
	Record    *NextRecord `cbor:"record,omitempty" json:"record,omitempty"`
}

// An Unplaced is a committed offset for which there is no place in the target.
type Unplaced struct {
	Topic     string `cbor:"topic" json:"topic"`
	Partition int32  `cbor:"partition" json:"partition"`
	Offset    int64  `cbor:"offset" json:"offset"`
	Why       string `cbor:"why" json:"why"`
}

// Groups says which consumer groups a source was asked for, and which it found: a
// group that Include and Exclude select, and that IDs does not list, has no offset in
// Topics. One that it lists has those offsets there that its own frame behind this one
// has, and no others.
type Groups struct {
	IDs []string
	GroupsInfo
}

// GroupsInfo is the part of a [Groups] that may be missing.
type GroupsInfo struct {
	// Include and Exclude are names, or regular expressions (RE2) that begin with ^.
	Include []string `cbor:"include,omitempty" json:"include,omitempty"`
	Exclude []string `cbor:"exclude,omitempty" json:"exclude,omitempty"`
	// Topics are as in [GroupInfo].
	Topics map[string]string `cbor:"topics,omitempty" json:"topics,omitempty"`
}

// A Point is a restore point: the marks and groups before it are one moment of
// the cluster.
type Point struct {
	Time int64 // milliseconds since the epoch
	// Without are the partitions, by topic, that the stream speaks of and that are not
	// part of the moment.
	Without map[string][]int32
}

type pointInfo struct {
	Without map[string][]int32 `cbor:"without,omitempty"`
}

// A Moment is a restore point of the store that a stream comes from, and all that belongs
// to it. A stream has one for each point, whatever else it has; a [Point] is one that the
// stream itself comes to.
type Moment struct {
	Point []byte // the point's frame
	MomentInfo
}

// MomentInfo is what belongs to the point of a [Moment].
type MomentInfo struct {
	ID     string        `cbor:"id"`            // the store's name of the point
	Run    string        `cbor:"run,omitempty"` // and of the run that made it
	Topics []MomentTopic `cbor:"topics"`
	Frames [][]byte      `cbor:"frames,omitempty"` // groups, group, and those of unknown kinds
	Lacks  []MomentLack  `cbor:"lacks,omitempty"`  // what is not in Topics, though it belongs to the point
}

// A MomentLack names partitions that belong to the point of a [Moment] in the store that the
// stream comes from, and cannot belong to it in a copy: the stream may lack records of them.
type MomentLack struct {
	Topic      string  `cbor:"topic"`
	Partitions []int32 `cbor:"partitions"`
	Why        string  `cbor:"why"` // for people
}

// A MomentTopic is one incarnation of a topic as it was at a moment.
type MomentTopic struct {
	Name  string `cbor:"name"`
	ID    string `cbor:"id,omitempty"`
	Frame []byte `cbor:"frame,omitempty"` // its topic frame
	// Partitions are [where the log began, the first offset that was not scanned].
	Partitions map[int32][2]int64 `cbor:"partitions"`
}

// A Segment is what is known of a packed segment without opening it. The bytes
// go beside it: see [Writer.WriteSegment] and [DecodeSegment].
type Segment struct {
	Topic        string `cbor:"topic"`
	TopicID      string `cbor:"topic_id,omitempty"`
	Partition    int32  `cbor:"partition"`
	From         int64  `cbor:"from"` // offsets scanned: [From, Next)
	Next         int64  `cbor:"next"`
	First        int64  `cbor:"first"` // offset of the first record held
	Last         int64  `cbor:"last"`  // and of the last
	Records      int64  `cbor:"records"`
	MinTimestamp int64  `cbor:"min_timestamp"` // milliseconds since the epoch
	MaxTimestamp int64  `cbor:"max_timestamp"`
	// Content is what the stream inside holds: "", which is ContentRecords, or
	// ContentBatches.
	Content string `cbor:"content,omitempty"`
	Codec   string `cbor:"codec"`            // "zstd", "lz4", "gzip", "snappy" or "none"
	Cipher  string `cbor:"cipher,omitempty"` // "" or "age"
	RawSize int64  `cbor:"raw_size"`         // bytes of the stream inside
	Size    int64  `cbor:"size"`             // bytes as packed
	SHA256  []byte `cbor:"sha256"`           // of the bytes as packed
	// Filters says that records of [From, Next) may have been dropped or changed on
	// purpose: see [Header].
	Filters []string `cbor:"filters,omitempty"`
	// DropBelow asks whoever unpacks to drop records below this offset: another
	// segment, earlier in the stream, has them.
	DropBelow int64 `cbor:"drop_below,omitempty"`
	// DropFrom, where it is not 0, asks to drop records at this offset and above:
	// they were cut off in Kafka, and others took their place (see [MarkInfo.Branch]).
	DropFrom int64 `cbor:"drop_from,omitempty"`
}

// A Map is a run of restored records: source offset SourceFirst+i became target
// offset TargetFirst+i, for i from 0 to Count-1.
type Map struct {
	Topic           string
	Partition       int32
	SourceFirst     int64
	TargetTopic     string
	TargetPartition int32
	TargetFirst     int64
	Count           int64
}

// A Target says what a source partition became at a restore, whether or not it has
// records. TargetPartition is -1 where its records were spread over the target topic's
// partitions.
type Target struct {
	Topic           string
	Partition       int32
	TargetTopic     string
	TargetPartition int32
	TargetInfo
}

// TargetInfo is the part of a [Target] that may be missing.
type TargetInfo struct {
	TargetID string `cbor:"target_id,omitempty" json:"target_id,omitempty"` // topic id
	// Offsets, where there are any, are the only committed offsets that the map's runs
	// of this partition place: it was made for these, and not of all records.
	Offsets []int64 `cbor:"offsets,omitempty" json:"offsets,omitempty"`
}

// End is the last frame, and the proof that the upstream finished.
type End struct {
	Records  int64 `cbor:"records"`
	Segments int64 `cbor:"segments,omitempty"`
	// Interrupted says that the source was told to stop before it was done: what
	// is here is whole, but it is not all.
	Interrupted bool `cbor:"interrupted,omitempty"`
	// Lost says that records which were asked for are not here, whatever the reason:
	// deleted before they could be read, behind an open transaction, in a partition that
	// could not be read. The marks say which where they can.
	Lost bool `cbor:"lost,omitempty"`
	// Losses names each reason in a line for people: see [End.Lose].
	Losses []string `cbor:"losses,omitempty"`
}

// maxLosses bounds [End.Losses].
const maxLosses = 100

// Lose notes a loss, in a line for people. A loss that is noted already is not
// repeated; of the hundredth and those that follow there is only a last line that
// says that there are more.
func (e *End) Lose(what string) {
	e.Lost = true
	const more = "and more, which the messages of the run name"
	switch {
	case slices.Contains(e.Losses, what) || len(e.Losses) == maxLosses:
	case len(e.Losses) == maxLosses-1:
		e.Losses = append(e.Losses, more)
	default:
		e.Losses = append(e.Losses, what)
	}
}

var (
	encMode = must(encOptions().EncMode())
	decMode = must(cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		MaxNestedLevels:   maxDepth,
		MaxArrayElements:  math.MaxInt32, // every element is there: the skipper has seen it
		MaxMapPairs:       math.MaxInt32,
		FieldNameMatching: cbor.FieldNameMatchingCaseSensitive,
	}.DecMode())
)

// encOptions is core deterministic encoding, where a nil map is an empty map and
// nil bytes are empty bytes: no frame but rec knows null.
func encOptions() cbor.EncOptions {
	o := cbor.CoreDetEncOptions()
	o.NilContainers = cbor.NilContainerAsEmpty
	return o
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err) // the options above are constants
	}
	return v
}

// marshal encodes a frame's element. It refuses what a reader would: a map over
// the limit, and text that is not UTF-8, which the library lets through.
func marshal(what string, v any) ([]byte, error) {
	raw, err := encMode.Marshal(v)
	if err == nil {
		_, err = itemLen(raw)
	}
	if err == nil && raw[0]&0xe0 == majorMap && len(raw) > maxMap {
		err = fmt.Errorf("map of %d bytes, over %d", len(raw), maxMap)
	}
	if err != nil {
		return nil, fmt.Errorf("encode %s: %v", what, err) // not an ErrCorrupt: nothing was read
	}
	return raw, nil
}

// unmarshal decodes an element that came from outside.
func unmarshal(what string, b []byte, v any) error {
	switch {
	case b[0] == null || b[0] == undefined: // the library would leave v as it is
		return corrupt("%s: null where a value is due", what)
	case b[0]&0xe0 == majorMap && len(b) > maxMap:
		return fmt.Errorf("%s: map: %w of %d bytes", what, ErrTooLarge, maxMap)
	}
	if err := decMode.Unmarshal(b, v); err != nil {
		return corrupt("%s: %v", what, err)
	}
	return nil
}

// Append appends the header, in core deterministic encoding, to b.
func (h *Header) Append(b []byte) ([]byte, error) {
	all, err := withExtra(h, h.extra)
	if err != nil {
		return nil, err
	}
	if h.Source != nil && len(h.sourceExtra) > 0 {
		source, err := withExtra(h.Source, h.sourceExtra)
		if err != nil {
			return nil, err
		}
		all["source"] = appendMap(nil, source)
	}
	b = append(b, magic...)
	b = append(b, majorArray|byte(3+len(h.rest)), majorText|3, 'k', 'b', 'k', Version)
	b = appendMap(b, all)
	for _, e := range h.rest {
		b = append(b, e...)
	}
	return b, nil
}

// appendMap appends a map, sorted as core deterministic encoding demands. The
// library would not do: it refuses values of indefinite length and large arrays.
func appendMap(b []byte, m map[string]cbor.RawMessage) []byte {
	b = appendHead(b, majorMap, uint64(len(m)))
	for _, k := range slices.SortedFunc(maps.Keys(m), func(x, y string) int {
		return cmp.Or(cmp.Compare(len(x), len(y)), cmp.Compare(x, y))
	}) {
		b = append(appendHead(b, majorText, uint64(len(k))), k...)
		b = append(b, m[k]...)
	}
	return b
}

// withExtra is the struct v as a map, with those entries of extra that v does
// not have itself.
func withExtra(v any, extra map[string]cbor.RawMessage) (map[string]cbor.RawMessage, error) {
	raw, err := marshal("header", v)
	if err != nil {
		return nil, err
	}
	all := maps.Clone(extra)
	if err := unmarshal("header", raw, &all); err != nil {
		return nil, err
	}
	return all, nil
}

// decodeOpen decodes the map b into the struct v and returns the entries that v
// has no place for.
func decodeOpen(b []byte, v any) (map[string]cbor.RawMessage, error) {
	if err := unmarshal("header", b, v); err != nil {
		return nil, err
	}
	var extra map[string]cbor.RawMessage
	if err := unmarshal("header", b, &extra); err != nil {
		return nil, err
	}
	known, err := withExtra(v, nil)
	if err != nil {
		return nil, err
	}
	for k := range known {
		delete(extra, k)
	}
	return extra, nil
}

func decodeHeader(b []byte) (*Header, error) {
	elems, err := split(b[len(magic):], maxElems+1)
	if err != nil || len(elems) < 2 {
		return nil, ErrNotStream
	}
	if kind, ok := textOf(elems[0]); !ok || string(kind) != "kbk" {
		return nil, ErrNotStream
	}
	version, ok := intOf(elems[1])
	switch {
	case !ok:
		return nil, corrupt("header with a version that is not an integer")
	case version != Version:
		return nil, fmt.Errorf("%w: %d (this is version %d)", ErrVersion, version, Version)
	case len(elems) < 3 || len(elems) > maxElems:
		return nil, corrupt("header of %d elements or more, not 3 to %d", len(elems), maxElems)
	}
	h := new(Header)
	if h.extra, err = decodeOpen(elems[2], h); err != nil {
		return nil, err
	}
	if h.Source != nil {
		var source struct {
			Source cbor.RawMessage `cbor:"source"`
		}
		if err := unmarshal("header", elems[2], &source); err != nil {
			return nil, err
		}
		if h.sourceExtra, err = decodeOpen(source.Source, new(Source)); err != nil {
			return nil, err
		}
	}
	if h.Window != nil { // half a bound would let through what was not asked for
		var window struct {
			Window cbor.RawMessage `cbor:"window"`
		}
		if err := unmarshal("header", elems[2], &window); err != nil {
			return nil, err
		}
		unknown, err := decodeOpen(window.Window, new(Window))
		if err != nil {
			return nil, err
		}
		for k := range unknown {
			return nil, corrupt("header with a window that is bounded by %q, which this version does not know", k)
		}
	}
	for _, e := range elems[3:] {
		h.rest = append(h.rest, bytes.Clone(e))
	}
	return h, nil
}

// appendFrame appends an array of a kind and its elements, each in core
// deterministic encoding.
func appendFrame(b []byte, kind string, elems ...any) ([]byte, error) {
	b = appendHead(b, majorArray, uint64(1+len(elems)))
	b = append(appendHead(b, majorText, uint64(len(kind))), kind...)
	for _, e := range elems {
		raw, err := marshal(kind, e)
		if err != nil {
			return nil, err
		}
		b = append(b, raw...)
	}
	return b, nil
}

// decodeFrame decodes a frame's elements into the values that targets point to.
// Elements behind them, which a later version may add, are passed over.
func decodeFrame(b []byte, kind string, targets ...any) error {
	elems, err := split(b, 1+len(targets))
	if err != nil {
		return err
	}
	if len(elems) < 1+len(targets) {
		return corrupt("%s of %d elements, not %d", kind, len(elems), 1+len(targets))
	}
	if name, ok := textOf(elems[0]); !ok || string(name) != kind {
		return corrupt("not a %s frame", kind)
	}
	for i, t := range targets {
		if err := unmarshal(kind, elems[i+1], t); err != nil {
			return err
		}
	}
	return nil
}

// AppendFrame implements [Encoder].
func (t *Topic) AppendFrame(b []byte) ([]byte, error) {
	return appendFrame(b, "topic", t.Name, topicInfo{t.ID, t.Partitions, t.ReplicationFactor, t.Configs})
}

// DecodeTopic decodes a topic frame.
func DecodeTopic(b []byte) (*Topic, error) {
	var name string
	var i topicInfo
	if err := decodeFrame(b, "topic", &name, &i); err != nil {
		return nil, err
	}
	if i.Partitions < 0 || i.Partitions > math.MaxInt32 || i.ReplicationFactor < 0 || i.ReplicationFactor > math.MaxInt16 {
		return nil, corrupt("topic of %d partitions with %d replicas", i.Partitions, i.ReplicationFactor)
	}
	return &Topic{name, i.ID, i.Partitions, i.ReplicationFactor, i.Configs}, nil
}

// AppendFrame implements [Encoder].
func (m *Mark) AppendFrame(b []byte) ([]byte, error) {
	return appendFrame(b, "mark", m.Topic, m.Partition, m.Next, m.MarkInfo)
}

// DecodeMark decodes a mark frame.
func DecodeMark(b []byte) (*Mark, error) {
	m := new(Mark)
	if err := decodeFrame(b, "mark", &m.Topic, &m.Partition, &m.Next, &m.MarkInfo); err != nil {
		return nil, err
	}
	if m.Partition < 0 || m.Next < 0 {
		return nil, corrupt("mark of partition %d, offset %d", m.Partition, m.Next)
	}
	for _, l := range m.Lost {
		if l[0] < 0 || l[0] >= l[1] || l[1] > m.Next {
			return nil, corrupt("mark at offset %d with a lost range [%d, %d)", m.Next, l[0], l[1])
		}
	}
	if o := m.Open; o != nil && (o[0] < 0 || o[0] >= o[1]) {
		return nil, corrupt("mark at offset %d with an open range [%d, %d)", m.Next, o[0], o[1])
	}
	if m.Branch && !m.Begins {
		return nil, corrupt("mark at offset %d with a branch that does not begin there", m.Next)
	}
	return m, nil
}

// AppendFrame implements [Encoder].
func (g *Group) AppendFrame(b []byte) ([]byte, error) {
	return appendFrame(b, "group", g.ID, g.Offsets, g.GroupInfo)
}

// DecodeGroup decodes a group frame.
func DecodeGroup(b []byte) (*Group, error) {
	g := new(Group)
	if err := decodeFrame(b, "group", &g.ID, &g.Offsets, &g.GroupInfo); err != nil {
		return nil, err
	}
	for topic, partitions := range g.Offsets {
		for p, o := range partitions {
			if p < 0 || o.Offset < 0 {
				return nil, corrupt("group %q with offset %d for partition %d of %q", g.ID, o.Offset, p, topic)
			}
		}
	}
	return g, nil
}

// AppendFrame implements [Encoder].
func (p *Point) AppendFrame(b []byte) ([]byte, error) {
	return appendFrame(b, "point", p.Time, pointInfo{p.Without})
}

// DecodePoint decodes a point frame.
func DecodePoint(b []byte) (*Point, error) {
	p := new(Point)
	var info pointInfo
	if err := decodeFrame(b, "point", &p.Time, &info); err != nil {
		return nil, err
	}
	for topic, partitions := range info.Without {
		for _, number := range partitions {
			if number < 0 {
				return nil, corrupt("point without partition %d of %q", number, topic)
			}
		}
	}
	p.Without = info.Without
	return p, nil
}

// AppendFrame implements [Encoder].
func (m *Moment) AppendFrame(b []byte) ([]byte, error) {
	return appendFrame(b, "moment", m.Point, m.MomentInfo)
}

// DecodeMoment decodes a moment frame. It looks into the point, but not into the other
// frames.
func DecodeMoment(b []byte) (*Moment, error) {
	m := new(Moment)
	if err := decodeFrame(b, "moment", &m.Point, &m.MomentInfo); err != nil {
		return nil, err
	}
	if _, err := DecodePoint(m.Point); err != nil {
		return nil, err
	}
	for _, t := range m.Topics {
		for n, at := range t.Partitions {
			if n < 0 || at[0] < 0 || at[1] < 0 {
				return nil, corrupt("moment with partition %d of %q at offsets %d to %d", n, t.Name, at[0], at[1])
			}
		}
	}
	for _, l := range m.Lacks {
		for _, n := range l.Partitions {
			if n < 0 {
				return nil, corrupt("moment that lacks partition %d of %q", n, l.Topic)
			}
		}
	}
	return m, nil
}

// AppendFrame implements [Encoder].
func (g *Groups) AppendFrame(b []byte) ([]byte, error) {
	return appendFrame(b, "groups", g.IDs, g.GroupsInfo)
}

// DecodeGroups decodes a groups frame.
func DecodeGroups(b []byte) (*Groups, error) {
	g := new(Groups)
	if err := decodeFrame(b, "groups", &g.IDs, &g.GroupsInfo); err != nil {
		return nil, err
	}
	return g, nil
}

// AppendFrame implements [Encoder].
func (t *Target) AppendFrame(b []byte) ([]byte, error) {
	return appendFrame(b, "target", t.Topic, t.Partition, t.TargetTopic, t.TargetPartition, t.TargetInfo)
}

// DecodeTarget decodes a target frame.
func DecodeTarget(b []byte) (*Target, error) {
	t := new(Target)
	if err := decodeFrame(b, "target", &t.Topic, &t.Partition, &t.TargetTopic, &t.TargetPartition, &t.TargetInfo); err != nil {
		return nil, err
	}
	if t.Partition < 0 || t.TargetPartition < -1 {
		return nil, corrupt("target of partition %d: partition %d", t.Partition, t.TargetPartition)
	}
	for _, o := range t.Offsets {
		if o < 0 {
			return nil, corrupt("target of partition %d with offset %d", t.Partition, o)
		}
	}
	return t, nil
}

// appendDataHead appends a frame of a kind, what is known of its data, and the data, which is
// size bytes long, up to that.
func appendDataHead(b []byte, kind string, info any, size int) ([]byte, error) {
	raw, err := marshal(kind, info)
	if err != nil {
		return nil, err
	}
	b = appendHead(append(b, majorArray|3), majorText, uint64(len(kind)))
	return appendHead(append(append(b, kind...), raw...), majorBytes, uint64(size)), nil
}

// DecodeSegment decodes a seg frame. The data shares b's memory.
func DecodeSegment(b []byte) (*Segment, []byte, error) {
	elems, err := split(b, 3)
	if err != nil {
		return nil, nil, err
	}
	if len(elems) < 3 {
		return nil, nil, corrupt("seg of %d elements, not 3", len(elems))
	}
	if name, ok := textOf(elems[0]); !ok || string(name) != "seg" {
		return nil, nil, corrupt("not a seg frame")
	}
	s := new(Segment)
	if err := unmarshal("seg", elems[1], s); err != nil {
		return nil, nil, err
	}
	data, ok := bytesOf(elems[2])
	if !ok {
		return nil, nil, corrupt("seg whose content is not bytes")
	}
	return s, data, s.Validate()
}

// Validate tells whether the segment's figures agree with one another.
func (s *Segment) Validate() error {
	switch {
	case s.Topic == "":
		return corrupt("seg without a topic")
	case s.Partition < 0:
		return corrupt("seg of partition %d", s.Partition)
	case s.Records < 1 || s.From < 0 || s.From > s.First || s.First > s.Last || s.Last >= s.Next:
		return corrupt("seg of %d records that scanned [%d, %d) and holds %d to %d", s.Records, s.From, s.Next, s.First, s.Last)
	case s.MinTimestamp > s.MaxTimestamp:
		return corrupt("seg with timestamps from %d to %d", s.MinTimestamp, s.MaxTimestamp)
	case s.Content != "" && s.Content != ContentBatches:
		return corrupt("seg of %s, which this version does not know", s.Content)
	case s.DropFrom < 0 || s.DropFrom != 0 && s.DropFrom <= s.From:
		return corrupt("seg that scanned [%d, %d) of which records from %d on are to be dropped", s.From, s.Next, s.DropFrom)
	case s.RawSize < 0 || s.Size < 0 || len(s.SHA256) != 32:
		return corrupt("seg without its sizes and sha256")
	}
	return nil
}

// AppendFrame implements [Encoder]. A restore that spreads records over partitions has
// hardly two in a run, so this is hand-made as that of records is.
func (m *Map) AppendFrame(b []byte) ([]byte, error) {
	if !utf8.ValidString(m.Topic) || !utf8.ValidString(m.TargetTopic) {
		return nil, errors.New("encode map: a topic that is not UTF-8")
	}
	b = append(b, majorArray|8, majorText|3, 'm', 'a', 'p')
	b = append(appendHead(b, majorText, uint64(len(m.Topic))), m.Topic...)
	b = appendInt(appendInt(b, int64(m.Partition)), m.SourceFirst)
	b = append(appendHead(b, majorText, uint64(len(m.TargetTopic))), m.TargetTopic...)
	return appendInt(appendInt(appendInt(b, int64(m.TargetPartition)), m.TargetFirst), m.Count), nil
}

// DecodeMap decodes a map frame.
func DecodeMap(b []byte) (*Map, error) {
	m := new(Map)
	if err := m.Decode(b); err != nil {
		return nil, err
	}
	return m, nil
}

// Decode decodes a map frame into m. It allocates only where a topic is not the one that
// m has already.
func (m *Map) Decode(b []byte) error {
	r := fieldsOf("map", b)
	r.text(&m.Topic)
	m.Partition = int32(r.number(0, math.MaxInt32))
	m.SourceFirst = r.number(0, math.MaxInt64)
	r.text(&m.TargetTopic)
	m.TargetPartition = int32(r.number(0, math.MaxInt32))
	m.TargetFirst = r.number(0, math.MaxInt64)
	m.Count = r.number(1, math.MaxInt64)
	switch {
	case r.err != nil:
		return r.err
	case m.SourceFirst > math.MaxInt64-m.Count || m.TargetFirst > math.MaxInt64-m.Count:
		return corrupt("map of %d offsets from %d to %d", m.Count, m.SourceFirst, m.TargetFirst)
	}
	return r.rest()
}

// AppendFrame implements [Encoder].
func (e *End) AppendFrame(b []byte) ([]byte, error) {
	return appendFrame(b, "end", *e)
}

// DecodeEnd decodes an end frame.
func DecodeEnd(b []byte) (*End, error) {
	e := new(End)
	if err := decodeFrame(b, "end", e); err != nil {
		return nil, err
	}
	return e, nil
}

type failInfo struct {
	By  string `cbor:"by"`
	Why string `cbor:"why,omitempty"`
}

func decodeFail(b []byte) (*FailError, error) {
	var info failInfo
	if err := decodeFrame(b, "fail", &info); err != nil {
		return nil, err
	}
	return &FailError{info.By, info.Why}, nil
}

// Scan makes f the frame that b is, as [Reader.Next] finds it. A rec must be in
// deterministic encoding, as [AppendRecord] and [Frame.Rewrite] write it.
func (f *Frame) Scan(b []byte) error {
	*f = Frame{}
	if len(b) > len(recHead) && isRecord(b) {
		topic, n, o := scanRecord(b, f)
		if o != whole || n != len(b) {
			return corrupt("rec of a shape that is not one")
		}
		f.Kind, f.Name, f.Raw, f.Topic = KindRec, nameRec, b, string(topic)
		return nil
	}
	return f.parse(b)
}
