package filter

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/itchyny/gojq"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/jsontext"
)

// compileJQ compiles a jq program. It sees nothing of the machine but its input.
func compileJQ(text string) (*gojq.Code, error) {
	query, err := gojq.Parse(text)
	if err != nil {
		return nil, err
	}
	return gojq.Compile(query)
}

// A field is a key or a value as a program sees it.
type field struct {
	raw  []byte
	json bool
	v    any
}

// fieldOf decodes a key or a value: JSON as what it is, other UTF-8 as a string, the
// rest as {"base64": …}. JSON in which a name is there twice is refused: a program sees
// one of the two values, and what it changes or deletes would come back in the other.
func fieldOf(raw []byte) (field, error) {
	switch {
	case raw == nil:
		return field{}, nil
	case jsontext.Valid(raw):
		v, err := jsontext.Decode(raw)
		return field{raw, true, v}, err
	case utf8.Valid(raw):
		return field{raw, false, string(raw)}, nil
	}
	return field{raw, false, map[string]any{"base64": base64.StdEncoding.EncodeToString(raw)}}, nil
}

// bytes is what a program made of the field: as it was, bit for bit, where the program
// did not touch it.
func (f *field) bytes(v any) ([]byte, error) {
	switch {
	case f.raw != nil && same(f.v, v):
		return f.raw, nil
	case v == nil:
		return nil, nil
	case f.json:
		return merge(f.raw, jsontext.SkipSpace(f.raw, 0), f.v, v)
	}
	switch v := v.(type) {
	case string:
		return []byte(v), nil
	case map[string]any:
		if text, ok := v["base64"].(string); ok && len(v) == 1 {
			b, err := base64.StdEncoding.DecodeString(text)
			if err != nil {
				return nil, errors.New("its base64 is not")
			}
			return b, nil
		}
	}
	return encode(v)
}

// same compares what a program got with what it gave back.
func same(a, b any) bool {
	switch a := a.(type) {
	case json.Number:
		return number(a) == number(b)
	case map[string]any:
		b, ok := b.(map[string]any)
		if !ok || len(a) != len(b) {
			return false
		}
		for k, v := range a {
			if w, there := b[k]; !there || !same(v, w) {
				return false
			}
		}
		return true
	case []any:
		b, ok := b.([]any)
		if !ok || len(a) != len(b) {
			return false
		}
		for i := range a {
			if !same(a[i], b[i]) {
				return false
			}
		}
		return true
	}
	return reflect.DeepEqual(a, b)
}

// number is a number's text: a program that does not touch one gives it back as it came.
func number(v any) string {
	switch v := v.(type) {
	case json.Number:
		return v.String()
	case int:
		return fmt.Sprint(v)
	case *big.Int:
		return v.String()
	}
	return ""
}

// merge writes the value new over the one at i of the text, which is old: what is the
// same in both keeps its text.
func merge(text []byte, i int, old, new any) ([]byte, error) {
	end := jsontext.SkipValue(text, i)
	rest := func(changed []byte, err error) ([]byte, error) {
		if err != nil {
			return nil, err
		}
		return slices.Concat(text[:i], changed, text[end:]), nil
	}
	switch old := old.(type) {
	case map[string]any:
		if new, ok := new.(map[string]any); ok {
			return rest(mergeObject(text[i:end], old, new))
		}
	case []any:
		if new, ok := new.([]any); ok {
			return rest(mergeArray(text[i:end], old, new))
		}
	}
	return rest(encode(new))
}

// mergeObject keeps the members that are there still, in their order, and puts new ones
// behind them, sorted.
func mergeObject(text []byte, old, new map[string]any) ([]byte, error) {
	out := []byte("{")
	was := jsontext.Members(text, 0, nil)
	if len(was) == 0 && len(new) == 0 {
		return text, nil
	}
	kept := 0
	comma := func() {
		if kept++; kept > 1 {
			out = append(out, ',')
		}
	}
	at := 1
	for _, m := range was {
		after := jsontext.SkipSpace(text, m.To) // the comma, or the end
		if v, there := new[string(m.Name)]; there {
			comma()
			out = append(out, text[at:m.Value]...)
			if same(old[string(m.Name)], v) {
				out = append(out, text[m.Value:m.To]...)
			} else {
				changed, err := merge(text[m.Value:m.To], 0, old[string(m.Name)], v)
				if err != nil {
					return nil, err
				}
				out = append(out, changed...)
			}
			out = append(out, text[m.To:after]...)
		}
		at = after + 1
	}
	for _, name := range slices.Sorted(maps.Keys(new)) {
		if _, there := old[name]; there {
			continue
		}
		v, err := encode(new[name])
		if err != nil {
			return nil, err
		}
		comma()
		out = append(append(jsontext.AppendString(out, name), ':'), v...)
	}
	return append(out, '}'), nil
}

// mergeArray keeps the text of elements that are the same, and of the spaces between
// them where none has come or gone.
func mergeArray(text []byte, old, new []any) ([]byte, error) {
	was := jsontext.Members(text, 0, nil)
	if len(old) == len(new) {
		out, at := []byte(nil), 0
		for n, m := range was {
			out = append(out, text[at:m.From]...)
			changed := text[m.From:m.To]
			if !same(old[n], new[n]) {
				var err error
				if changed, err = merge(changed, 0, old[n], new[n]); err != nil {
					return nil, err
				}
			}
			out, at = append(out, changed...), m.To
		}
		return append(out, text[at:]...), nil
	}
	out := []byte("[")
	from := 0
	for n, v := range new {
		if n > 0 {
			out = append(out, ',')
		}
		// Elements that were taken out leave the others in their order.
		found := slices.IndexFunc(old[from:], func(o any) bool { return same(o, v) })
		if found >= 0 {
			m := was[from+found]
			out, from = append(out, text[m.From:m.To]...), from+found+1
			continue
		}
		b, err := encode(v)
		if err != nil {
			return nil, err
		}
		out = append(out, b...)
	}
	return append(out, ']'), nil
}

func encode(v any) ([]byte, error) {
	b, err := gojq.Marshal(v)
	if err != nil {
		return nil, err
	}
	return b, nil
}

// run runs the program on a record and calls give for each of its results.
func runJQ(code *gojq.Code, r *format.Record, give func(*format.Record) error) error {
	key, err := fieldOf(r.Key)
	if err != nil {
		return fmt.Errorf("key: %w", err)
	}
	value, err := fieldOf(r.Value)
	if err != nil {
		return fmt.Errorf("value: %w", err)
	}
	headers := make([]any, 0, len(r.Headers))
	for i := range r.Headers {
		headers = append(headers, []any{text(r.Headers[i].Name), text(r.Headers[i].Value)})
	}
	in := map[string]any{
		"topic": r.Topic, "partition": int(r.Partition), "offset": int(r.Offset), "timestamp": int(r.Timestamp),
		"key": key.v, "value": value.v, "headers": headers,
	}
	iter := code.Run(in)
	for {
		v, more := iter.Next()
		if !more {
			return nil
		}
		if err, failed := v.(error); failed {
			var halt *gojq.HaltError
			if errors.As(err, &halt) && halt.Value() == nil {
				return nil
			}
			return errors.New(strings.ReplaceAll(err.Error(), "\n", " "))
		}
		out := *r
		if err := result(&out, v, &key, &value, headers); err != nil {
			return err
		}
		if err := give(&out); err != nil {
			return err
		}
	}
}

// text is a header's name or value for a program.
func text(b []byte) any {
	switch {
	case b == nil:
		return nil
	case utf8.Valid(b):
		return string(b)
	}
	return map[string]any{"base64": base64.StdEncoding.EncodeToString(b)}
}

// result reads a program's result back into the record that it came from.
func result(r *format.Record, v any, key, value *field, headers []any) error {
	o, ok := v.(map[string]any)
	if !ok {
		return fmt.Errorf("the result is %s, and not an object like its input", kindOf(v))
	}
	for name, v := range o {
		var err error
		switch name {
		case "topic":
			if r.Topic, ok = v.(string); !ok || r.Topic == "" {
				err = errors.New("is not a name")
			}
		case "partition":
			var n int64
			n, err = integer(v, 1<<31-1)
			r.Partition = int32(n)
		case "offset":
			r.Offset, err = integer(v, 1<<63-1)
		case "timestamp":
			n, isInt := v.(int)
			if r.Timestamp = int64(n); !isInt {
				err = errors.New("is not a number of milliseconds")
			}
		case "key":
			r.Key, err = key.bytes(v)
		case "value":
			r.Value, err = value.bytes(v)
		case "headers":
			if !same(headers, v) {
				r.Headers, err = headersOf(v)
			}
		default:
			err = errors.New("is not a part of a record")
		}
		if err != nil {
			return fmt.Errorf("the result's %s %w", name, err)
		}
	}
	// What is not there any more was deleted.
	if _, there := o["key"]; !there {
		r.Key = nil
	}
	if _, there := o["value"]; !there {
		r.Value = nil
	}
	if _, there := o["headers"]; !there {
		r.Headers = nil
	}
	return nil
}

func integer(v any, most int64) (int64, error) {
	n, ok := v.(int)
	if !ok || n < 0 || int64(n) > most {
		return 0, errors.New("is not a whole number that it could be")
	}
	return int64(n), nil
}

func headersOf(v any) ([]format.RecordHeader, error) {
	list, ok := v.([]any)
	if !ok {
		return nil, errors.New("is not an array of [name, value]")
	}
	var out []format.RecordHeader
	for _, v := range list {
		pair, ok := v.([]any)
		if !ok || len(pair) != 2 || pair[0] == nil {
			return nil, errors.New("is not an array of [name, value]")
		}
		var h format.RecordHeader
		var err error
		if h.Name, err = new(field).bytes(pair[0]); err != nil {
			return nil, err
		}
		if h.Name == nil {
			h.Name = []byte{}
		}
		if h.Value, err = new(field).bytes(pair[1]); err != nil {
			return nil, err
		}
		out = append(out, h)
	}
	return out, nil
}

func kindOf(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case bool:
		return "a boolean"
	case string:
		return "a string"
	case []any:
		return "an array"
	}
	return "a number"
}
