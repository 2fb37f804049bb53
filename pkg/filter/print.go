package filter

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/urfave/cli/v2"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/jsonline"
	"github.com/kbkio/kbk/pkg/jsontext"
)

// A printer writes frames as text.
type printer struct {
	json   bool   // a line for each frame
	pretty bool   // records only, for eyes
	layout []part // or each record so
}

// printing reads the flags that ask for text; without any it returns nil.
func printing(c *cli.Context) (*printer, error) {
	layout, to := c.String("format"), c.String("to")
	switch {
	case c.Bool("count") && (layout != "" || to != ""):
		return nil, command.Usagef("--count prints a number, and no records: leave out --to and --format")
	case layout != "" && to != "":
		return nil, command.Usagef("--to and --format exclude one another")
	case c.Bool("pretty") && to != "json":
		return nil, command.Usagef("--pretty is only for --to json")
	case to == "json":
		return &printer{json: !c.Bool("pretty"), pretty: c.Bool("pretty")}, nil
	case to == "raw":
		layout = `%s\n`
	case to != "":
		return nil, command.Usagef("--to %q is neither json nor raw", to)
	case layout == "":
		return nil, nil
	}
	parts, err := parseLayout(layout)
	if err != nil {
		return nil, command.Usagef("--format: %w", err)
	}
	return &printer{layout: parts}, nil
}

func (p *printer) header(h *format.Header) ([]byte, error) {
	if !p.json {
		return nil, nil
	}
	return jsonline.AppendHeader(nil, h)
}

func (p *printer) end(end *format.End) ([]byte, error) {
	if !p.json {
		return nil, nil
	}
	raw, err := end.AppendFrame(nil)
	if err != nil {
		return nil, err
	}
	var f format.Frame
	if err := f.Scan(raw); err != nil {
		return nil, err
	}
	return jsonline.Append(nil, &f)
}

// other appends a frame that has no records, where people do not read.
func (p *printer) other(b []byte, f *format.Frame) ([]byte, error) {
	if !p.json {
		return b, nil
	}
	return jsonline.Append(b, f)
}

// record appends a record, which was read from a frame, or from a batch where that is nil,
// and perhaps changed.
func (p *printer) record(b []byte, f *format.Frame, r *format.Record) ([]byte, error) {
	switch {
	case p.json:
		var changed format.Frame
		if err := changed.Scan(frameOf(nil, f, r)); err != nil {
			return b, err
		}
		return jsonline.Append(b, &changed)
	case p.pretty:
		return appendPretty(b, r)
	}
	for i := range p.layout {
		b = p.layout[i].append(b, r)
	}
	return b, nil
}

// A part of a layout is text, or stands for a part of a record.
type part struct {
	text string
	verb byte
}

// verbs are kcat's, and %i and %I.
const verbs = "tpoTkKsSRhiI"

// parseLayout reads a layout as kcat's -f has it: %t topic, %p partition, %o offset, %T
// timestamp, %k key, %K its length, %s value, %S its length, %R the same as four bytes,
// %h headers; %i and %I are the schema ids of value and key. Escapes are those of C.
func parseLayout(s string) (parts []part, err error) {
	var text []byte
	flush := func() {
		if len(text) > 0 {
			parts = append(parts, part{text: string(text)})
			text = nil
		}
	}
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '%' && i+1 < len(s) && s[i+1] == '%':
			text = append(text, '%')
			i++
		case s[i] == '%' && i+1 < len(s) && strings.IndexByte(verbs, s[i+1]) >= 0:
			flush()
			parts = append(parts, part{verb: s[i+1]})
			i++
		case s[i] == '%':
			return nil, fmt.Errorf("%q stands for nothing", s[i:min(i+2, len(s))])
		case s[i] == '\\':
			r, multi, rest, err := strconv.UnquoteChar(s[i:], 0)
			switch {
			case strings.HasPrefix(s[i:], `\0`) && err != nil:
				r, multi, rest = 0, false, s[i+2:]
			case err != nil:
				return nil, fmt.Errorf("%q is no escape", s[i:min(i+2, len(s))])
			}
			if multi {
				text = utf8.AppendRune(text, r)
			} else {
				text = append(text, byte(r))
			}
			i = len(s) - len(rest) - 1
		default:
			text = append(text, s[i])
		}
	}
	flush()
	if len(parts) == 0 {
		return nil, errors.New("it is empty")
	}
	return parts, nil
}

func (p *part) append(b []byte, r *format.Record) []byte {
	length := func(v []byte) int {
		if v == nil {
			return -1
		}
		return len(v)
	}
	switch p.verb {
	case 't':
		return append(b, r.Topic...)
	case 'p':
		return strconv.AppendInt(b, int64(r.Partition), 10)
	case 'o':
		return strconv.AppendInt(b, r.Offset, 10)
	case 'T':
		return strconv.AppendInt(b, r.Timestamp, 10)
	case 'k':
		return append(b, r.Key...)
	case 'K':
		return strconv.AppendInt(b, int64(length(r.Key)), 10)
	case 's':
		return append(b, r.Value...)
	case 'S':
		return strconv.AppendInt(b, int64(length(r.Value)), 10)
	case 'R':
		n := uint32(length(r.Value))
		return append(b, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	case 'h':
		for i, h := range r.Headers {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(append(append(b, h.Name...), '='), h.Value...)
			if h.Value == nil {
				b = append(b, "NULL"...)
			}
		}
		return b
	case 'i', 'I':
		content := r.Value
		if p.verb == 'I' {
			content = r.Key
		}
		if id, ok := schemaID(content); ok {
			return strconv.AppendUint(b, uint64(id), 10)
		}
		return append(b, '-')
	}
	return append(b, p.text...)
}

// appendPretty appends a record as JSON for a person: times as dates, keys and values
// that are JSON unfolded, schema ids beside those that have one.
func appendPretty(b []byte, r *format.Record) ([]byte, error) {
	type headers [][2]any
	out := struct {
		Topic     string  `json:"topic"`
		Partition int32   `json:"partition"`
		Offset    int64   `json:"offset"`
		Time      string  `json:"time"`
		Headers   headers `json:"headers,omitempty"`
		KeyID     *uint32 `json:"key_schema_id,omitempty"`
		Key       any     `json:"key"`
		ValueID   *uint32 `json:"value_schema_id,omitempty"`
		Value     any     `json:"value"`
	}{
		Topic: r.Topic, Partition: r.Partition, Offset: r.Offset,
		Time: time.UnixMilli(r.Timestamp).UTC().Format("2006-01-02T15:04:05.000Z07:00"),
	}
	for i := range r.Headers {
		out.Headers = append(out.Headers, [2]any{text(r.Headers[i].Name), text(r.Headers[i].Value)})
	}
	show := func(content []byte, id **uint32) any {
		if n, ok := schemaID(content); ok {
			*id = &n
		}
		if jsontext.Valid(content) {
			return json.RawMessage(content) // as it is, names that are there twice too
		}
		return text(content)
	}
	out.Key, out.Value = show(r.Key, &out.KeyID), show(r.Value, &out.ValueID)
	var to bytes.Buffer
	e := json.NewEncoder(&to)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(out); err != nil {
		return b, err
	}
	return append(b, to.Bytes()...), nil
}
