// Package filters holds the examples to what they promise: the same from each of them.
package filters

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/recordbatch/batchtest"
	"github.com/kbkio/kbk/test/need"
)

// filters are the command lines, without their two arguments, and what to put on the PATH.
func filters(t testing.TB) map[string][]string {
	dir := t.TempDir()
	build := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
	}
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	build("go", "build", "-o", dir+"/", "../../cmd/kbk-filter", "./go")
	all := map[string][]string{
		"Go":         {filepath.Join(dir, "go")},
		"Python":     {"python3", "filter.py"},
		"JavaScript": {"node", "filter.js"},
		"jq":         {"bash", "filter.sh"},
		"C":          {filepath.Join(dir, "c")},
	}
	if _, err := exec.LookPath("cc"); err == nil {
		build("cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", all["C"][0], "c/filter.c")
	}
	return all
}

var tools = map[string][]string{"Go": nil, "JavaScript": {"node"}, "jq": {"jq"}, "C": {"cc"}}

// has skips the test of a filter for want of what it runs on.
func has(t testing.TB, name string) {
	if name == "Python" {
		need.Python(t, "cbor2")
	}
	need.Tools(t, tools[name]...)
}

// input is a stream of all sorts, and what is to be left of it with the arguments test-
// and internal. before are the filters that it has passed.
func input(t *testing.T, before ...string) (in, want []byte) {
	t.Helper()
	var a, b bytes.Buffer
	from, to := format.NewWriter(&a), format.NewWriter(&b)
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	header := &format.Header{Created: 7, Content: format.ContentRecords, Source: &format.Source{Cluster: "c"}, Filters: before}
	ok(from.WriteHeader(header))
	ok(to.WriteHeader(header))
	both := func(f format.Encoder) { ok(errors.Join(from.Write(f), to.Write(f))) }
	both(&format.Topic{Name: "t", Partitions: 1})
	both(&format.Mark{Topic: "t"})
	head := func(name string, value []byte) format.RecordHeader {
		return format.RecordHeader{Name: []byte(name), Value: value}
	}
	keys := [][]byte{nil, {}, []byte("test-1"), []byte("test"), []byte("a test-"), []byte("test-"), {0xff, 0xfe}, bytes.Repeat([]byte("k"), 300), []byte("Ünï\"\\\n")}
	values := [][]byte{nil, {}, []byte("text"), {0, 0xff}, bytes.Repeat([]byte("large "), 50_000)}
	headers := [][]format.RecordHeader{nil, {head("internal", nil)}, {head("a", nil), head("internal", []byte("x")), head("a", []byte("y")), head("internal", nil), head("internal-2", []byte{0xff})}}
	headers = append(headers, slices.Repeat(headers[2], 10)) // more than fit into a short head
	offset := int64(0)
	for _, key := range keys {
		for _, value := range values {
			for _, h := range headers {
				for _, attributes := range []format.Attributes{0, format.LogAppendTime} {
					r := format.Record{Topic: "t", Offset: offset, Timestamp: offset*1e9 - 5, Key: key, Value: value, Headers: h, Attributes: attributes}
					offset++
					ok(from.WriteRecord(&r))
					if bytes.HasPrefix(key, []byte("test-")) {
						continue
					}
					r.Headers = slices.DeleteFunc(slices.Clone(h), func(h format.RecordHeader) bool { return string(h.Name) == "internal" })
					ok(to.WriteRecord(&r))
				}
			}
		}
	}
	both(&format.Mark{Topic: "t", Next: offset})
	unknown := append([]byte{0x83, 0x63}, "new\xa1\x61x\x80\x19\x01\x00"...) // ["new", {"x": []}, 256]
	ok(errors.Join(from.WriteRaw(unknown), to.WriteRaw(unknown)))
	ok(errors.Join(from.Close(&format.End{Records: offset}), to.Close(&format.End{Records: offset})))
	return a.Bytes(), b.Bytes()
}

// frames are a stream's frames, without the header and the end, whose contents a filter
// may add to.
func frames(t *testing.T, stream []byte) (out []string) {
	t.Helper()
	for r := format.NewReader(bytes.NewReader(stream), 0); ; {
		f, err := r.Next()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatalf("after %d frames: %v", len(out), err)
		}
		if f.Kind != format.KindEnd {
			out = append(out, fmt.Sprintf("%x", f.Raw))
		}
	}
}

// named is how a filter names itself: by a digest of its arguments.
var named = regexp.MustCompile(`^filter\.(go|py|js|sh|c):[0-9a-f]{8}$`)

func TestFilters(t *testing.T) {
	in, expect := input(t)
	want := frames(t, expect)
	for name, line := range filters(t) {
		t.Run(name, func(t *testing.T) {
			has(t, name)
			filterWith := func(in []byte, args ...string) ([]byte, error) {
				cmd := exec.Command(line[0], append(slices.Clone(line[1:]), args...)...)
				var out, stderr bytes.Buffer
				cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(in), &out, &stderr
				if err := cmd.Run(); err != nil {
					return out.Bytes(), fmt.Errorf("%w: %s", err, stderr.String())
				}
				return out.Bytes(), nil
			}
			filter := func(in []byte) ([]byte, error) { return filterWith(in, "test-", "internal") }
			out, err := filter(in)
			if err != nil {
				t.Fatal(err)
			}
			got := frames(t, out)
			for i := range min(len(got), len(want)) {
				if got[i] != want[i] {
					t.Fatalf("frame %d:\ngot  %.200s\nwant %.200s", i, got[i], want[i])
				}
			}
			if len(got) != len(want) {
				t.Fatalf("%d frames, not %d", len(got), len(want))
			}
			// It names itself, and what it was told to do, behind those that were before it.
			names := make(map[string]bool)
			for _, c := range []struct{ before, args []string }{{nil, []string{"test-", "internal"}}, {[]string{"a", "b:1a2b3c4d"}, []string{"test-", "internal"}}, {[]string{"a"}, []string{"test", "-internal"}}} {
				stream, _ := input(t, c.before...)
				out, err := filterWith(stream, c.args...)
				if err != nil {
					t.Fatal(err)
				}
				h, err := format.NewReader(bytes.NewReader(out), 0).Header()
				if err != nil {
					t.Fatal(err)
				}
				n := len(c.before)
				if len(h.Filters) != n+1 || !slices.Equal(h.Filters[:n], c.before) || !named.MatchString(h.Filters[n]) || h.Created != 7 || h.Source.Cluster != "c" {
					t.Fatalf("with filters %q, the header became %+v", c.before, h)
				}
				names[h.Filters[n]] = true
			}
			if len(names) != 2 {
				t.Errorf("it names itself %v", names)
			}
			// A stream that is cut is never made whole, wherever it is cut.
			for _, cut := range []int{len(in) - 1, len(in) - 20, len(in) / 2, 40, 0} {
				out, err := filter(in[:cut])
				if err == nil {
					t.Errorf("cut at %d: it ends well", cut)
				}
				r := format.NewReader(bytes.NewReader(out), 0)
				for err = nil; err == nil; {
					_, err = r.Next()
				}
				if err == io.EOF {
					t.Errorf("cut at %d: the output is whole", cut)
				}
			}
		})
	}
}

// TestContents gives the filters what they do not know: a mask that passed it on would leak
// whole batches. The one with jq stands between two kbk-filters, which take batches apart.
func TestContents(t *testing.T) {
	secret := format.Record{Topic: "t", Key: []byte("test-1"), Value: []byte("secret"), Headers: []format.RecordHeader{{Name: []byte("internal"), Value: []byte("x")}}}
	kept := format.Record{Topic: "t", Offset: 1, Key: []byte("k"), Value: []byte("kept"), Headers: []format.RecordHeader{{Name: []byte("internal"), Value: []byte("x")}}}
	for name, line := range filters(t) {
		t.Run(name, func(t *testing.T) {
			has(t, name)
			for _, content := range []string{format.ContentBatches, format.ContentSegments, "pages", "recordsets"} {
				var in, out, stderr bytes.Buffer
				w := format.NewWriter(&in)
				err := w.WriteHeader(&format.Header{Created: 7, Content: content, Filters: []string{"a"}})
				if content == format.ContentBatches {
					err = errors.Join(err, w.Write(batchtest.Frame(t, "none", secret, kept)))
				}
				if err := errors.Join(err, w.Close(&format.End{})); err != nil {
					t.Fatal(err)
				}
				cmd := exec.Command(line[0], append(slices.Clone(line[1:]), "test-", "internal")...)
				cmd.Stdin, cmd.Stdout, cmd.Stderr = &in, &out, &stderr
				err = cmd.Run()
				if name == "jq" && content == format.ContentBatches {
					masked := kept
					masked.Headers = nil
					if got, want := frames(t, out.Bytes()), fmt.Sprintf("%x", format.AppendRecord(nil, &masked)); err != nil || len(got) != 1 || got[0] != want {
						t.Errorf("of batches it makes %q, %v: %s; want %s", got, err, &stderr, want)
					}
					continue
				}
				status, said := cmd.ProcessState.ExitCode(), stderr.String()
				if status != 2 && status != 3 || bytes.Contains(out.Bytes(), []byte("secret")) {
					t.Errorf("a stream of %s: status %d, %q, on standard output %q", content, status, said, out.Bytes())
				}
				if name != "jq" && (!strings.Contains(said, "error: standard input is not a stream of records: leave out --batches") || strings.Count(said, "\n") != 1 || out.Len() > 0) {
					t.Errorf("a stream of %s: it says %q, on standard output %q", content, said, out.Bytes())
				}
			}
		})
	}
}

// TestShort keeps the examples short enough to be read at a glance.
func TestShort(t *testing.T) {
	for _, name := range []string{"filter.py", "filter.js", "filter.sh", "c/filter.c", "go/main.go"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for line := range strings.Lines(string(text)) {
			line = strings.TrimSpace(line)
			other := strings.HasPrefix(line, "//") || strings.HasPrefix(line, "#") || strings.HasPrefix(line, `"`) || strings.HasPrefix(line, "import") || len(line) < 2
			if !other { // code
				n++
			}
		}
		if n == 0 || n >= 40 {
			t.Errorf("%s has %d lines of code", name, n)
		}
	}
}

// BenchmarkFilters runs each on 100,000 records of 500 B: go test -bench . ./examples/filters
func BenchmarkFilters(b *testing.B) {
	var in bytes.Buffer
	w := format.NewWriter(&in)
	err := w.WriteHeader(&format.Header{Content: format.ContentRecords})
	for i := range 100_000 {
		err = errors.Join(err, w.WriteRecord(&format.Record{
			Topic: "orders", Offset: int64(i), Timestamp: 1700000000000, Key: fmt.Appendf(nil, "o-%09d", i),
			Value:   bytes.Repeat([]byte("0123456789"), 50),
			Headers: []format.RecordHeader{{Name: []byte("trace"), Value: []byte("5f2c")}, {Name: []byte("internal"), Value: []byte("x")}},
		}))
	}
	if err := errors.Join(err, w.Close(&format.End{})); err != nil {
		b.Fatal(err)
	}
	for name, line := range filters(b) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(in.Len()))
			for b.Loop() {
				cmd := exec.Command(line[0], append(line[1:], "test-", "internal")...)
				cmd.Stdin = bytes.NewReader(in.Bytes()) // and the output goes to /dev/null
				if err := cmd.Run(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
