package handy

import (
	"testing"

	"github.com/kbkio/kbk/pkg/foreign"
	"github.com/kbkio/kbk/pkg/foreign/foreigntest"
)

func FuzzRead(f *testing.F) {
	foreigntest.Fuzz(f, Format{Keys: [][]byte{[]byte("0123456789abcdefghijklmnopqrstuv")}}, foreign.File{Path: "f", Topic: "orders"}, "handy-*/topics/*/*/*")
}
