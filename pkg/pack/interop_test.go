package pack

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/segment"
	"github.com/kbkio/kbk/test/need"
)

// tool runs a public tool on in.
func tool(t *testing.T, in []byte, env string, args ...string) []byte {
	t.Helper()
	need.Tools(t, args[0])
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin = bytes.NewReader(in)
	cmd.Env = append(os.Environ(), env)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, &stderr)
	}
	return out
}

// single packs records into one segment.
func single(t *testing.T, cfg Config) (*format.Segment, []byte) {
	t.Helper()
	for _, f := range frames(t, packed(t, cfg, stream(t, random(3, 1, 3000)))) {
		if f.Kind == format.KindSeg {
			m, data, err := format.DecodeSegment(f.Raw)
			ok(t, err)
			return m, data
		}
	}
	t.Fatal("no segment")
	return nil, nil
}

// reopened unpacks a segment whose content is something else now, and returns its records.
func reopened(t *testing.T, cfg Config, m *format.Segment, data []byte) (map[int32][]byte, error) {
	t.Helper()
	c, sum := *m, sha256.Sum256(data)
	c.Size, c.SHA256 = int64(len(data)), sum[:]
	var in, out bytes.Buffer
	w := format.NewWriter(&in)
	ok(t, w.WriteHeader(&format.Header{Content: format.ContentSegments}))
	ok(t, w.WriteSegment(&c, data))
	ok(t, w.Close(&format.End{}))
	if err := Unpack(t.Context(), cfg, testEnv(), &in, &out); err != nil {
		for f, err := range readable(out.Bytes()) {
			if err == nil && f.Kind != format.KindTopic {
				t.Errorf("a %s frame came out before the error", f.Name)
			}
		}
		return nil, err
	}
	return perPartition(frames(t, out.Bytes())), nil
}

// readable yields the frames of a stream that may be cut short.
func readable(b []byte) func(func(*format.Frame, error) bool) {
	return func(yield func(*format.Frame, error) bool) {
		r := format.NewReader(bytes.NewReader(b), 0)
		for {
			f, err := r.Next()
			if !yield(f, err) || err != nil {
				return
			}
		}
	}
}

// TestPublicCodecs holds kbk's compression to the public tools, both ways.
func TestPublicCodecs(t *testing.T) {
	py := "import sys, snappy; c = snappy.Stream%sompressor(); d = sys.stdin.buffer.read(); sys.stdout.buffer.write(c.%s(d))"
	for name, cmd := range map[string][2][]string{
		"zstd":   {{"zstd", "-d", "-q"}, {"zstd", "-q"}},
		"lz4":    {{"lz4", "-d", "-q"}, {"lz4", "-q", "-BD"}},
		"gzip":   {{"gunzip"}, {"gzip"}},
		"snappy": {{"python3", "-c", fmt.Sprintf(py, "Dec", "decompress")}, {"python3", "-c", fmt.Sprintf(py, "C", "add_chunk")}},
		"none":   {{"cat"}, {"cat"}},
	} {
		codec := segment.CodecOf(name)
		for _, level := range []int{1, max(1, codec.Levels)} {
			t.Run(fmt.Sprint(name, "-", level), func(t *testing.T) {
				if name == "snappy" {
					need.Python(t, "snappy") // for this test: the next one asks again
				}
				cfg := testConfig()
				cfg.Codec, cfg.Level = codec, level
				m, data := single(t, cfg)
				plain := tool(t, data, "", cmd[0]...)
				if int64(len(plain)) != m.RawSize || m.RawSize < 2*segment.ChunkSize {
					t.Fatalf("%d bytes, not %d", len(plain), m.RawSize)
				}
				want := perPartition(frames(t, plain))
				got, err := reopened(t, cfg, m, tool(t, plain, "", cmd[1]...))
				if err != nil || len(want[0]) == 0 || !bytes.Equal(got[0], want[0]) {
					t.Errorf("other records, or %v", err)
				}
			})
		}
	}
}

// TestPublicAge holds kbk's encryption to the age tool, both ways: that of the system
// and the newest, which is built from the module that kbk itself uses.
func TestPublicAge(t *testing.T) {
	dir := t.TempDir()
	newest := filepath.Join(dir, "bin")
	ok(t, os.Mkdir(newest, 0o755))
	if out, err := exec.Command("go", "build", "-o", newest, "filippo.io/age/cmd/...").CombinedOutput(); err != nil {
		t.Fatalf("build age: %v\n%s", err, out)
	}
	t.Setenv("PATH", os.Getenv("PATH")+string(os.PathListSeparator)+newest) // for the plugin
	file := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		ok(t, os.WriteFile(path, content, 0o600))
		return path
	}
	public := func(identity []byte) string {
		return strings.TrimSpace(string(tool(t, identity, "", filepath.Join(newest, "age-keygen"), "-y")))
	}
	classic := tool(t, nil, "", filepath.Join(newest, "age-keygen"))
	hybrid := tool(t, nil, "", filepath.Join(newest, "age-keygen"), "-pq")
	words := file("words", []byte("correct horse battery staple\n"))
	ways := map[string]segment.Keys{
		"X25519": {Recipients: []string{public(classic)}, Identities: []string{file("classic", classic)}},
		"hybrid": {Recipients: []string{public(hybrid)}, Identities: []string{file("hybrid", hybrid)}},
		"scrypt": {PassphraseFiles: []string{words}},
	}
	for _, kind := range []string{"ed25519", "rsa"} {
		path := filepath.Join(dir, "id_"+kind)
		tool(t, nil, "", "ssh-keygen", "-q", "-t", kind, "-N", "", "-f", path)
		ways["ssh-"+kind] = segment.Keys{RecipientsFiles: []string{path + ".pub"}, Identities: []string{path}}
	}
	for _, bin := range []string{"age", filepath.Join(newest, "age")} {
		for name, keys := range ways {
			if _, err := exec.LookPath("age"); bin == "age" && name == "hybrid" && err == nil && exec.Command("age", "-r", keys.Recipients[0], os.DevNull).Run() != nil {
				continue // older than 1.3, it does not know hybrid keys; the newest does
			}
			t.Run(filepath.Base(filepath.Dir(bin))+"/"+name, func(t *testing.T) {
				encrypt, decrypt, env := []string{bin}, []string{bin, "-d"}, ""
				run := func(in []byte, args ...string) []byte { return tool(t, in, env, args...) }
				if name == "scrypt" && bin == "age" { // which wants it typed
					run = func(in []byte, args ...string) []byte {
						from, to := file("from", in), filepath.Join(dir, "to")
						defer os.Remove(to)
						line := strings.Join(append(args, "-o", to, from), " ")
						tool(t, []byte(strings.Repeat("correct horse battery staple\n", 2)), "", "script", "-qec", line, os.DevNull)
						out, err := os.ReadFile(to)
						ok(t, err)
						return out
					}
					encrypt = append(encrypt, "-p")
				} else if name == "scrypt" {
					encrypt, decrypt = append(encrypt, "-e", "-j", "batchpass"), append(decrypt, "-j", "batchpass")
					env = "AGE_PASSPHRASE=correct horse battery staple"
				}
				for _, r := range keys.Recipients {
					encrypt = append(encrypt, "-r", r)
				}
				for _, r := range keys.RecipientsFiles {
					encrypt = append(encrypt, "-R", r)
				}
				for _, i := range keys.Identities {
					decrypt = append(decrypt, "-i", i)
				}
				cfg := testConfig()
				var err error
				cfg.Recipients, err = keys.Encryption(testEnv())
				ok(t, err)
				cfg.Identities, err = keys.Decryption(t.Context(), testEnv())
				ok(t, err)
				m, data := single(t, cfg)
				if m.Cipher != "age" {
					t.Fatalf("cipher %q", m.Cipher)
				}
				want, err := reopened(t, cfg, m, bytes.Clone(data))
				ok(t, err)
				compressed := run(data, decrypt...)
				plain := tool(t, compressed, "", "zstd", "-d", "-q")
				if got := perPartition(frames(t, plain)); int64(len(plain)) != m.RawSize || !bytes.Equal(got[0], want[0]) {
					t.Error("age and zstd made something else of it")
				}
				got, err := reopened(t, cfg, m, run(compressed, encrypt...))
				if err != nil || !bytes.Equal(got[0], want[0]) {
					t.Errorf("what age encrypted is something else, or %v", err)
				}
			})
		}
	}
}
