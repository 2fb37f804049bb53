// Package jsonline turns frames of a stream into lines of JSON and back, without loss:
// docs/json-lines.md has the fields.
package jsonline

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"unicode/utf8"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/jsontext"
)

// kindHeader is the kind of the line that a stream begins with.
const kindHeader = "header"

// A line is what the lines of frames that are no records have. Which of the fields there
// are depends on the kind; of a kind that is not known there is only the frame itself.
type line struct {
	Kind string `json:"kbk"`

	// header
	Created int64          `json:"created,omitempty"`
	Content string         `json:"content,omitempty"`
	Source  *format.Source `json:"source,omitempty"`
	Follow  bool           `json:"follow,omitempty"`
	Window  *window        `json:"window,omitempty"`
	Filters []string       `json:"filters,omitempty"` // of a mark too

	// header, topic, group
	ID string `json:"id,omitempty"`

	// topic
	Name              string            `json:"name,omitempty"`
	Partitions        int               `json:"partitions,omitempty"`
	ReplicationFactor int               `json:"replication_factor,omitempty"`
	Configs           map[string]string `json:"configs,omitempty"`

	// mark, map, target
	Topic       string     `json:"topic,omitempty"`
	Partition   *int32     `json:"partition,omitempty"`
	Next        *int64     `json:"next,omitempty"`
	TopicID     string     `json:"topic_id,omitempty"`
	LeaderEpoch *int32     `json:"leader_epoch,omitempty"`
	LogStart    *int64     `json:"log_start,omitempty"`
	End         *int64     `json:"end,omitempty"`
	Begins      bool       `json:"begins,omitempty"`
	LostRanges  [][2]int64 `json:"lost_ranges,omitempty"`
	Open        *[2]int64  `json:"open,omitempty"`
	Branch      bool       `json:"branch,omitempty"`
	Deleted     bool       `json:"deleted,omitempty"`

	SourceFirst     *int64  `json:"source_first,omitempty"`
	TargetTopic     string  `json:"target_topic,omitempty"`
	TargetPartition *int32  `json:"target_partition,omitempty"`
	TargetFirst     *int64  `json:"target_first,omitempty"`
	Count           *int64  `json:"count,omitempty"`
	TargetID        string  `json:"target_id,omitempty"`
	SourceOffsets   []int64 `json:"source_offsets,omitempty"` // of a target

	// group
	Offsets map[string]map[int32]offset `json:"offsets,omitempty"`

	// group, groups
	Topics map[string]string `json:"topics,omitempty"`

	// groups
	IDs     []string `json:"ids,omitempty"`
	Include []string `json:"include,omitempty"`
	Exclude []string `json:"exclude,omitempty"`

	// point
	Time    *int64             `json:"time,omitempty"`
	Without map[string][]int32 `json:"without,omitempty"`

	// end
	Records     *int64   `json:"records,omitempty"`
	Segments    int64    `json:"segments,omitempty"`
	Interrupted bool     `json:"interrupted,omitempty"`
	Lost        bool     `json:"lost,omitempty"`
	Losses      []string `json:"losses,omitempty"`

	// cluster, acl, quota, user, config, subject, schema, connector
	Data json.RawMessage `json:"data,omitempty"`

	// CBOR is the frame as it is. It counts while the other fields say the same.
	CBOR []byte `json:"cbor,omitempty"`
}

type window struct {
	Since   *int64                        `json:"since,omitempty"`
	Until   *int64                        `json:"until,omitempty"`
	Offsets map[string]map[int32][2]int64 `json:"offsets,omitempty"`
}

type offset struct {
	Offset      int64   `json:"offset"`
	LeaderEpoch *int32  `json:"leader_epoch,omitempty"`
	Metadata    *string `json:"metadata,omitempty"`
}

// AppendHeader appends the line that a stream begins with to b. The stream has to be one of
// records.
func AppendHeader(b []byte, h *format.Header) ([]byte, error) {
	if h.Content != format.ContentRecords {
		return nil, notRecords(h.Content)
	}
	raw, err := h.Append(nil)
	if err != nil {
		return nil, err
	}
	l := &line{Kind: kindHeader, ID: h.ID, Created: h.Created, Content: h.Content, Source: h.Source, Follow: h.Follow, Filters: h.Filters, CBOR: raw}
	if h.Window != nil {
		l.Window = &window{h.Window.Since, h.Window.Until, h.Window.Offsets}
	}
	return l.append(b)
}

func (l *line) header() *format.Header {
	h := &format.Header{ID: l.ID, Created: l.Created, Content: l.Content, Source: l.Source, Follow: l.Follow, Filters: l.Filters}
	if l.Window != nil {
		h.Window = &format.Window{Since: l.Window.Since, Until: l.Window.Until, Offsets: l.Window.Offsets}
	}
	return h
}

// notRecords refuses what lines cannot say: whoever reads lines is to see all records.
func notRecords(content string) error {
	return fmt.Errorf("lines of JSON hold records, and not %s", content)
}

// check refuses frames that hold records inside.
func check(f *format.Frame) error {
	switch f.Kind {
	case format.KindBatch:
		return notRecords(format.ContentBatches)
	case format.KindSeg:
		return notRecords(format.ContentSegments)
	case format.KindSnapshot:
		return errors.New("lines of JSON hold no packed snapshot of a cluster: kbk-pack -d unpacks it")
	}
	return nil
}

// Append appends the line of a frame to b. It does not allocate for a record where b
// has room. Batches and segments have no line.
func Append(b []byte, f *format.Frame) ([]byte, error) {
	if f.Kind == format.KindRec {
		return appendRecord(b, f)
	}
	if err := check(f); err != nil {
		return nil, err
	}
	l, err := describe(f)
	if err != nil {
		return nil, err
	}
	l.CBOR = f.Raw
	return l.append(b)
}

func (l *line) append(b []byte) ([]byte, error) {
	var to bytes.Buffer
	e := json.NewEncoder(&to)
	e.SetEscapeHTML(false)
	if err := e.Encode(l); err != nil { // with a newline
		return nil, err
	}
	return append(b, to.Bytes()...), nil
}

// describe makes the readable part of a frame's line.
func describe(f *format.Frame) (*line, error) {
	l := &line{Kind: string(f.Name)}
	switch f.Kind {
	case format.KindTopic:
		t, err := format.DecodeTopic(f.Raw)
		if err != nil {
			return nil, err
		}
		l.Name, l.ID, l.Partitions, l.ReplicationFactor, l.Configs = t.Name, t.ID, t.Partitions, t.ReplicationFactor, t.Configs
	case format.KindMark:
		m, err := format.DecodeMark(f.Raw)
		if err != nil {
			return nil, err
		}
		l.Topic, l.Partition, l.Next, l.TopicID = m.Topic, &m.Partition, &m.Next, m.TopicID
		l.LeaderEpoch, l.LogStart, l.End, l.Begins, l.LostRanges = m.LeaderEpoch, m.LogStart, m.End, m.Begins, m.Lost
		l.Filters, l.Open, l.Branch, l.Deleted = m.Filters, m.Open, m.Branch, m.Deleted
	case format.KindGroup:
		g, err := format.DecodeGroup(f.Raw)
		if err != nil {
			return nil, err
		}
		l.Topics = g.Topics
		l.ID, l.Offsets = g.ID, make(map[string]map[int32]offset)
		for topic, parts := range g.Offsets {
			l.Offsets[topic] = make(map[int32]offset)
			for n, o := range parts {
				l.Offsets[topic][n] = offset{o.Offset, o.LeaderEpoch, o.Metadata}
			}
		}
	case format.KindPoint:
		p, err := format.DecodePoint(f.Raw)
		if err != nil {
			return nil, err
		}
		l.Time, l.Without = &p.Time, p.Without
	case format.KindGroups:
		g, err := format.DecodeGroups(f.Raw)
		if err != nil {
			return nil, err
		}
		l.IDs, l.Include, l.Exclude, l.Topics = g.IDs, g.Include, g.Exclude, g.Topics
	case format.KindTarget:
		t, err := format.DecodeTarget(f.Raw)
		if err != nil {
			return nil, err
		}
		l.Topic, l.Partition, l.TargetTopic, l.TargetPartition, l.TargetID = t.Topic, &t.Partition, t.TargetTopic, &t.TargetPartition, t.TargetID
		l.SourceOffsets = t.Offsets
	case format.KindMap:
		m, err := format.DecodeMap(f.Raw)
		if err != nil {
			return nil, err
		}
		l.Topic, l.Partition, l.SourceFirst = m.Topic, &m.Partition, &m.SourceFirst
		l.TargetTopic, l.TargetPartition, l.TargetFirst, l.Count = m.TargetTopic, &m.TargetPartition, &m.TargetFirst, &m.Count
	case format.KindEnd:
		e, err := format.DecodeEnd(f.Raw)
		if err != nil {
			return nil, err
		}
		l.Records, l.Segments, l.Interrupted, l.Lost = &e.Records, e.Segments, e.Interrupted, e.Lost
		l.Losses = e.Losses
	default:
		if f.Kind.OfCluster() {
			var err error
			if l.Data, err = describeCluster(f); err != nil {
				return nil, err
			}
		}
	}
	return l, nil
}

// appendRecord appends the line of a record, in the names of kcat's -J.
func appendRecord(b []byte, f *format.Frame) ([]byte, error) {
	var headers [8]format.RecordHeader // most have no more
	r := format.Record{Headers: headers[:0]}
	if err := f.Record(&r); err != nil {
		return nil, err
	}
	b = append(b, `{"topic":`...)
	b = jsontext.AppendString(b, r.Topic)
	b = strconv.AppendInt(append(b, `,"partition":`...), int64(r.Partition), 10)
	b = strconv.AppendInt(append(b, `,"offset":`...), r.Offset, 10)
	b = append(b, `,"tstype":"`...)
	if r.Attributes&format.LogAppendTime != 0 {
		b = append(b, "logappend"...)
	} else {
		b = append(b, "create"...)
	}
	b = strconv.AppendInt(append(b, `","ts":`...), r.Timestamp, 10)
	b = append(b, `,"headers":[`...)
	for i := range r.Headers {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendContent(append(b, '['), r.Headers[i].Name)
		b = appendContent(append(b, ','), r.Headers[i].Value)
		b = append(b, ']')
	}
	b = appendContent(append(b, `],"key":`...), r.Key)
	b = appendContent(append(b, `,"payload":`...), r.Value)
	if more := f.Rest(); len(more) > 0 && !(r.Attributes == format.LogAppendTime && len(more) == 1) {
		b = appendBase64(append(b, `,"cbor":`...), more)
	}
	return append(b, "}\n"...), nil
}

// appendContent appends bytes: null, a string where they are UTF-8, and else
// {"base64": …}.
func appendContent(b, content []byte) []byte {
	switch {
	case content == nil:
		return append(b, "null"...)
	case utf8.Valid(content):
		return jsontext.AppendString(b, content)
	}
	return append(appendBase64(append(b, `{"base64":`...), content), '}')
}

func appendBase64(b, content []byte) []byte {
	return append(base64.StdEncoding.AppendEncode(append(b, '"'), content), '"')
}

// A Parser reads lines back.
type Parser struct {
	members, inner []jsontext.Member
	record         format.Record
}

var (
	errNotLine   = errors.New("not a line of JSON as kbk-filter --to json writes it")
	errSurrogate = errors.New("half of a surrogate pair stands for no character: bytes that are no text are written as {\"base64\": …}")
)

// Header reads the line that a stream begins with.
func (p *Parser) Header(text []byte) (*format.Header, error) {
	l, err := parse(text)
	if err != nil {
		return nil, err
	}
	if l.Kind != kindHeader {
		return nil, errors.New("the first line is no header")
	}
	if l.Content != format.ContentRecords {
		return nil, notRecords(fmt.Sprintf("%q", l.Content))
	}
	if l.CBOR == nil {
		return l.header(), nil
	}
	h, err := format.NewReader(bytes.NewReader(l.CBOR), 0).Header()
	if err != nil {
		return nil, fmt.Errorf("cbor: %w", err)
	}
	said, err := AppendHeader(nil, h)
	if err != nil {
		return nil, err
	}
	if same, err := agree(said, text); err != nil || same {
		return h, err
	}
	return l.header(), nil
}

// Frame appends the frame of any other line to b.
func (p *Parser) Frame(b, text []byte) ([]byte, error) {
	if !jsontext.Valid(text) {
		return b, errNotLine
	}
	if jsontext.LoneSurrogate(text) {
		return b, errSurrogate
	}
	at := jsontext.SkipSpace(text, 0)
	if text[at] != '{' {
		return b, errNotLine
	}
	p.members = jsontext.Members(text, at, p.members[:0])
	for i := range p.members {
		if string(p.members[i].Name) == "kbk" {
			return p.other(b, text)
		}
	}
	return p.rec(b, text)
}

func (p *Parser) other(b, text []byte) ([]byte, error) {
	l, err := parse(text)
	if err != nil {
		return b, err
	}
	if l.CBOR != nil {
		var f format.Frame
		if err := f.Scan(l.CBOR); err != nil {
			return b, fmt.Errorf("cbor: %w", err)
		}
		said, err := Append(nil, &f)
		if err != nil {
			return b, fmt.Errorf("cbor: %w", err)
		}
		same, err := agree(said, text)
		if err != nil {
			return b, err
		}
		if same {
			return append(b, l.CBOR...), nil
		}
	}
	frame, err := l.encode()
	if err != nil {
		return b, err
	}
	raw, err := frame.AppendFrame(nil)
	if err != nil {
		return b, err
	}
	var f format.Frame
	if err := f.Scan(raw); err != nil {
		return b, err
	}
	if _, err := describe(&f); err != nil { // no reader would take it
		return b, err
	}
	return append(b, raw...), nil
}

// encode makes a frame of the readable fields.
func (l *line) encode() (format.Encoder, error) {
	need := func(ok bool) error {
		if !ok {
			return fmt.Errorf("a field of the %s is missing", l.Kind)
		}
		return nil
	}
	switch l.Kind {
	case "topic":
		return &format.Topic{Name: l.Name, ID: l.ID, Partitions: l.Partitions, ReplicationFactor: l.ReplicationFactor, Configs: l.Configs}, need(l.Name != "")
	case "mark":
		if l.Partition == nil || l.Next == nil {
			return nil, need(false)
		}
		return &format.Mark{Topic: l.Topic, Partition: *l.Partition, Next: *l.Next, MarkInfo: format.MarkInfo{
			TopicID: l.TopicID, LeaderEpoch: l.LeaderEpoch, LogStart: l.LogStart, End: l.End, Begins: l.Begins, Lost: l.LostRanges,
			Filters: l.Filters, Open: l.Open, Branch: l.Branch, Deleted: l.Deleted,
		}}, nil
	case "group":
		g := &format.Group{ID: l.ID, Offsets: make(map[string]map[int32]format.GroupOffset), GroupInfo: format.GroupInfo{Topics: l.Topics}}
		for topic, parts := range l.Offsets {
			g.Offsets[topic] = make(map[int32]format.GroupOffset)
			for n, o := range parts {
				g.Offsets[topic][n] = format.GroupOffset{Offset: o.Offset, LeaderEpoch: o.LeaderEpoch, Metadata: o.Metadata}
			}
		}
		return g, nil
	case "point":
		if l.Time == nil {
			return nil, need(false)
		}
		return &format.Point{Time: *l.Time, Without: l.Without}, nil
	case "groups":
		return &format.Groups{IDs: l.IDs, GroupsInfo: format.GroupsInfo{Include: l.Include, Exclude: l.Exclude, Topics: l.Topics}}, nil
	case "target":
		if l.Partition == nil || l.TargetPartition == nil {
			return nil, need(false)
		}
		return &format.Target{
			Topic: l.Topic, Partition: *l.Partition, TargetTopic: l.TargetTopic, TargetPartition: *l.TargetPartition,
			TargetInfo: format.TargetInfo{TargetID: l.TargetID, Offsets: l.SourceOffsets},
		}, nil
	case "map":
		if l.Partition == nil || l.SourceFirst == nil || l.TargetPartition == nil || l.TargetFirst == nil || l.Count == nil {
			return nil, need(false)
		}
		return &format.Map{
			Topic: l.Topic, Partition: *l.Partition, SourceFirst: *l.SourceFirst,
			TargetTopic: l.TargetTopic, TargetPartition: *l.TargetPartition, TargetFirst: *l.TargetFirst, Count: *l.Count,
		}, nil
	case "end":
		if l.Records == nil {
			return nil, need(false)
		}
		return &format.End{Records: *l.Records, Segments: l.Segments, Interrupted: l.Interrupted, Lost: l.Lost, Losses: l.Losses}, nil
	case "cluster", "acl", "quota", "user", "config", "subject", "schema", "connector":
		return encodeCluster(l.Kind, l.Data)
	}
	return nil, fmt.Errorf("a frame of kind %q cannot be made of JSON: its cbor was changed, or left out", l.Kind)
}

// parse reads a line that is no record's. encoding/json would take the last of two members
// of one name, and half of a surrogate pair for U+FFFD.
func parse(text []byte) (*line, error) {
	if !jsontext.Valid(text) {
		return nil, errNotLine
	}
	if jsontext.LoneSurrogate(text) {
		return nil, errSurrogate
	}
	if _, err := jsontext.Decode(text); err != nil {
		return nil, err
	}
	l := new(line)
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(l); err != nil || l.Kind == "" {
		return nil, errNotLine
	}
	return l, nil
}

// agree tells whether two lines say the same, whatever their order and spaces.
func agree(a, b []byte) (bool, error) {
	var values [2]any
	for i, text := range [][]byte{a, b} {
		var err error
		if values[i], err = jsontext.Decode(text); err != nil {
			return false, err
		}
	}
	return reflect.DeepEqual(values[0], values[1]), nil
}

// rec reads the line of a record, whose members have been found.
func (p *Parser) rec(b, text []byte) ([]byte, error) {
	r := &p.record
	r.Headers, r.Key, r.Value, r.Attributes, r.Timestamp = r.Headers[:0], nil, nil, 0, 0
	var rest []byte
	var seen [9]bool
	for i := range p.members {
		m := &p.members[i]
		value := text[m.Value:m.To]
		var n int64
		var err error
		field := 0
		switch string(m.Name) {
		case "topic":
			var topic []byte
			topic, err = stringOf(value)
			if string(topic) != r.Topic {
				r.Topic = string(topic)
			}
		case "partition":
			field = 1
			n, err = integer(value, 0, 1<<31-1)
			r.Partition = int32(n)
		case "offset":
			field = 2
			r.Offset, err = integer(value, 0, 1<<63-1)
		case "ts":
			field = 3
			r.Timestamp, err = integer(value, -1<<63, 1<<63-1)
		case "key":
			field = 4
			r.Key, err = p.content(value)
		case "payload":
			field = 5
			r.Value, err = p.content(value)
		case "headers":
			field = 6
			err = p.headers(text, m.Value)
		case "tstype":
			field = 7
			switch string(value) {
			case `"create"`:
			case `"logappend"`:
				r.Attributes = format.LogAppendTime
			default:
				err = errors.New("it is neither create nor logappend")
			}
		case "cbor":
			field = 8
			var code []byte
			if code, err = stringOf(value); err == nil {
				rest, err = base64.StdEncoding.AppendDecode(nil, code)
			}
		default:
			return b, fmt.Errorf("%q is no field of a record", m.Name)
		}
		if err != nil {
			return b, fmt.Errorf("%s: %w", m.Name, err)
		}
		if seen[field] {
			return b, fmt.Errorf("%s is there twice", m.Name)
		}
		seen[field] = true
	}
	for i, name := range []string{"topic", "partition", "offset", "ts", "key", "payload"} {
		if !seen[i] {
			return b, fmt.Errorf("%s is missing", name)
		}
	}
	return format.AppendRecordRest(b, r, rest)
}

func stringOf(value []byte) ([]byte, error) {
	if value[0] != '"' {
		return nil, errors.New("it is not a string")
	}
	return jsontext.Unquote(value), nil
}

func integer(value []byte, least, most int64) (int64, error) {
	n, err := strconv.ParseInt(string(value), 10, 64) // does not allocate
	if err != nil || n < least || n > most {
		return 0, errors.New("it is not a whole number that it could be")
	}
	return n, nil
}

// content reads back what appendContent has written.
func (p *Parser) content(value []byte) ([]byte, error) {
	switch value[0] {
	case 'n':
		return nil, nil
	case '"':
		return jsontext.Unquote(value), nil
	case '{':
		p.inner = jsontext.Members(value, 0, p.inner[:0])
		if len(p.inner) == 1 && string(p.inner[0].Name) == "base64" {
			code, err := stringOf(value[p.inner[0].Value:p.inner[0].To])
			if err != nil {
				return nil, err
			}
			out, err := base64.StdEncoding.AppendDecode(make([]byte, 0, base64.StdEncoding.DecodedLen(len(code))), code)
			if err != nil {
				return nil, errors.New("it is not base64")
			}
			return out, nil
		}
	}
	return nil, errors.New(`it is neither null, a string nor {"base64": "…"}`)
}

func (p *Parser) headers(text []byte, at int) error {
	bad := errors.New("they are not an array of [name, value]")
	if text[at] != '[' {
		return bad
	}
	for _, m := range jsontext.Members(text, at, nil) {
		if text[m.Value] != '[' {
			return bad
		}
		pair := jsontext.Members(text, m.Value, nil)
		if len(pair) != 2 {
			return bad
		}
		name, err := p.content(text[pair[0].Value:pair[0].To])
		if err != nil || name == nil {
			return bad
		}
		value, err := p.content(text[pair[1].Value:pair[1].To])
		if err != nil {
			return bad
		}
		p.record.Headers = append(p.record.Headers, format.RecordHeader{Name: name, Value: value})
	}
	return nil
}
