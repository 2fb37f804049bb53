package kcat

import (
	"testing"

	"github.com/kbkio/kbk/pkg/foreign"
	"github.com/kbkio/kbk/pkg/foreign/foreigntest"
)

func FuzzRead(f *testing.F) {
	foreigntest.Fuzz(f, Format{}, foreign.File{Path: "f"}, "kcat-json/*")
}
