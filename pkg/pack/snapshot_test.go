package pack

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
)

// aCluster writes a snapshot of a cluster with so many ACLs, and a user.
func aCluster(id string, acls int) func(w *format.Writer) {
	return func(w *format.Writer) {
		_ = w.Write(&format.Cluster{ID: id, Time: 1_700_000_000_000, ClusterInfo: format.ClusterInfo{
			Cluster: "lkc-1", Kinds: []string{format.ClusterACLs, format.ClusterUsers}, LeftOut: []string{"user alice: its password"},
		}})
		for i := range acls {
			_ = w.Write(&format.ACL{ResourceType: "TOPIC", ResourceName: fmt.Sprint("secret-", i), PatternType: "LITERAL", Principal: "User:alice", Host: "*", Operation: "READ", Permission: "ALLOW"})
		}
		_ = w.Write(&format.User{Name: "alice", Credentials: []format.Credential{{Mechanism: "SCRAM-SHA-512", Iterations: 8192}}})
	}
}

// ofCluster are the frames of snapshots in a stream.
func ofCluster(t testing.TB, stream []byte) (out [][]byte) {
	for _, f := range frames(t, stream) {
		if f.Kind.OfCluster() {
			out = append(out, f.Raw)
		}
	}
	return out
}

// TestSnapshotRoundTrip packs two snapshots of a cluster, between records and frames of groups,
// and unpacks them. Packed, nothing of them is outside, and where they are encrypted no name can
// be read.
func TestSnapshotRoundTrip(t *testing.T) {
	for name, cfg := range ways(t) {
		t.Run(name, func(t *testing.T) {
			acls := 100
			if name == "zstd+age" {
				acls = 10_000 // more than a chunk
			}
			in := stream(t, func(w *format.Writer) {
				aCluster("first", acls)(w)
				orders(100)(w)
				_ = w.Write(&format.Group{ID: "billing"})
				aCluster("second", 0)(w)
			})
			segments := packed(t, cfg, in)
			var ids []string
			for _, f := range frames(t, segments) {
				if f.Kind.OfCluster() {
					t.Errorf("a %s frame is outside of a snapshot", f.Name)
				}
				if f.Kind == format.KindSnapshot {
					m, data, err := format.DecodeSnapshot(f.Raw)
					ok(t, err)
					ids = append(ids, fmt.Sprint(m.ID, " ", m.Frames["acl"], " ", m.Frames["user"], " ", m.LeftOut, " ", m.Kinds))
					if len(cfg.Recipients) > 0 && (m.Cipher != "age" || bytes.Contains(data, []byte("secret-"))) {
						t.Error("it is not encrypted")
					}
				}
			}
			if want := []string{fmt.Sprintf("first %d 1 1 [acls users]", acls), "second 0 1 1 [acls users]"}; !slices.Equal(ids, want) {
				t.Errorf("snapshots %q, want %q", ids, want)
			}
			if got, want := ofCluster(t, unpacked(t, cfg, segments)), ofCluster(t, in); !slices.EqualFunc(got, want, bytes.Equal) {
				t.Errorf("%d frames came back, of %d", len(got), len(want))
			}
		})
	}
}

// TestSnapshotMemory: a snapshot that would take more memory than it may is refused, and not
// cut in two.
func TestSnapshotMemory(t *testing.T) {
	cfg := testConfig()
	cfg.Memory = minMemory
	r := rand.New(rand.NewPCG(1, 0)) // so that it does not compress
	in := stream(t, func(w *format.Writer) {
		aCluster("first", 0)(w)
		for range 100 {
			b := make([]byte, 200_000)
			for i := range b {
				b[i] = byte('!' + r.IntN(90))
			}
			_ = w.Write(&format.Schema{Subject: "s", Version: 1, SchemaInfo: format.SchemaInfo{Schema: string(b)}})
		}
	})
	err := Pack(t.Context(), cfg, testEnv(), bytes.NewReader(in), io.Discard)
	if err == nil || !strings.Contains(err.Error(), "--memory") {
		t.Errorf("%v", err)
	}
}

// TestSnapshotRefused: frames that cannot be where they are.
func TestSnapshotRefused(t *testing.T) {
	acl := &format.ACL{ResourceType: "TOPIC", ResourceName: "a", PatternType: "LITERAL", Principal: "User:a", Host: "*", Operation: "READ", Permission: "ALLOW"}
	in := stream(t, func(w *format.Writer) { _ = w.Write(acl) })
	if err := Pack(t.Context(), testConfig(), testEnv(), bytes.NewReader(in), io.Discard); command.StatusOf(err) != command.Corrupt {
		t.Errorf("an ACL without a cluster frame: %v", err)
	}
	var b bytes.Buffer
	w := format.NewWriter(&b)
	ok(t, w.WriteHeader(&format.Header{Content: format.ContentSegments}))
	ok(t, w.Write(acl))
	ok(t, w.Close(new(format.End)))
	if err := Unpack(t.Context(), testConfig(), testEnv(), bytes.NewReader(b.Bytes()), io.Discard); command.StatusOf(err) != command.Corrupt {
		t.Errorf("an ACL that is not packed: %v", err)
	}
}

// TestSnapshotDamage flips each byte of a packed snapshot, behind its kind: nothing of it comes out
// as if it were whole.
func TestSnapshotDamage(t *testing.T) {
	for name, cfg := range ways(t) {
		if name != "zstd+age" { // it is for each codec the same code
			continue
		}
		t.Run(name, func(t *testing.T) {
			segments := packed(t, cfg, stream(t, aCluster("first", 1)))
			want := ofCluster(t, unpacked(t, cfg, segments))
			at := bytes.Index(segments, []byte("snapshot"))
			for i := at + len("snapshot"); i < len(segments); i++ {
				bad := slices.Clone(segments)
				bad[i] ^= 1
				var out bytes.Buffer
				err := Unpack(t.Context(), cfg, testEnv(), bytes.NewReader(bad), &out)
				if err != nil {
					continue
				}
				if got := ofCluster(t, out.Bytes()); !slices.EqualFunc(got, want, bytes.Equal) {
					t.Fatalf("byte %d: status 0 and %d frames", i, len(got))
				}
			}
		})
	}
}
