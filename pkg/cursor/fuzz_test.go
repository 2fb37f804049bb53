package cursor

import (
	"bytes"
	"encoding/json"
	"reflect"
	"testing"
)

// FuzzRead reads any cursor. One that is read is the same written and read again.
func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"kbk_cursor": 1, "topics": {"orders": {"id": "x", "partitions": {"0": 1234, "7": 0}, "epochs": {"0": 7}}}}`))
	f.Add([]byte(`{"kbk_cursor": 1}`))
	f.Add([]byte(`{"kbk_cursor": 2, "topics": {"a": {"partitions": {"-1": 1}}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Read(bytes.NewReader(data))
		if err != nil {
			return
		}
		text, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Read(bytes.NewReader(text))
		if err != nil || !reflect.DeepEqual(c, again) {
			t.Fatalf("%+v became %+v, %v", c, again, err)
		}
	})
}
