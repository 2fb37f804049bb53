package main

import (
	"slices"
	"strings"
	"testing"
)

func TestSkipped(t *testing.T) {
	in := `{"Action":"start","Package":"m/pkg/a"}
{"Action":"run","Package":"m/pkg/a","Test":"TestA"}
{"Action":"output","Package":"m/pkg/a","Test":"TestA","Output":"=== RUN   TestA\n"}
{"Action":"output","Package":"m/pkg/a","Test":"TestA","Output":"    a_test.go:12: NOT TESTED: zstd\n"}
{"Action":"output","Package":"m/pkg/a","Test":"TestA","Output":"--- SKIP: TestA (0.00s)\n"}
{"Action":"skip","Package":"m/pkg/a","Test":"TestA","Elapsed":0}
{"Action":"pass","Package":"m/pkg/a","Test":"TestB","Elapsed":0}
{"Action":"skip","Package":"m/pkg/empty","Elapsed":0}
`
	got, err := skipped(strings.NewReader(in))
	if want := []string{"a TestA: zstd"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := skipped(strings.NewReader("no JSON\n")); err == nil {
		t.Error("no error")
	}
}
