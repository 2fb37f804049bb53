package catalog

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/cursor"
	"github.com/kbkio/kbk/pkg/pack"
	"github.com/kbkio/kbk/pkg/partitions"
	"github.com/kbkio/kbk/pkg/pull"
	"github.com/kbkio/kbk/pkg/store"
)

// oldBackup is a copy of the backup in testdata/v1, which an earlier version wrote, and
// the keys that open it. testdata/README.md says what is in it.
func oldBackup(t *testing.T) (dir string, keys []age.Identity) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "v1")
	ok(t, os.CopyFS(dir, os.DirFS("testdata/v1")))
	key, err := os.ReadFile("testdata/v1.key")
	ok(t, err)
	id, err := age.ParseX25519Identity(strings.TrimSpace(string(key)))
	ok(t, err)
	return dir, []age.Identity{id}
}

// restored is what a restore of a backup gives: of each incarnation of a partition the
// records, as ranges of offsets, and the groups.
func restored(t *testing.T, cfg pull.Config, keys []age.Identity) (got []string, status int) {
	t.Helper()
	cfg.Transfers, cfg.Memory = 2, 1<<20
	var segments, records bytes.Buffer
	err := pull.Run(t.Context(), cfg, env(), &segments)
	if status = command.StatusOf(err); status != command.OK && status != command.Loss {
		t.Fatal(err)
	}
	err = pack.Unpack(t.Context(), pack.Config{Memory: 64 << 20, MaxFrame: 1 << 20, Identities: keys}, env(), &segments, &records)
	if s := command.StatusOf(err); s != command.OK && s != command.Loss {
		t.Fatal(err)
	}
	r := format.NewReader(&records, 1<<20)
	_, err = r.Header()
	ok(t, err)
	ids, held := make(map[string]string), make(map[string][][2]int64)
	for {
		f, err := r.Next()
		if err == io.EOF {
			break
		}
		ok(t, err)
		switch f.Kind {
		case format.KindTopic:
			topic, err := format.DecodeTopic(f.Raw)
			ok(t, err)
			ids[topic.Name] = topic.ID
		case format.KindRec:
			k := fmt.Sprintf("%s/%d", ids[f.Topic], f.Partition)
			if n := len(held[k]); n > 0 && held[k][n-1][1] == f.Offset {
				held[k][n-1][1]++
			} else {
				held[k] = append(held[k], [2]int64{f.Offset, f.Offset + 1})
			}
		case format.KindGroup:
			g, err := format.DecodeGroup(f.Raw)
			ok(t, err)
			for topic, parts := range g.Offsets {
				for p, o := range parts {
					got = append(got, fmt.Sprintf("%s: %s/%d %d", g.ID, topic, p, o.Offset))
				}
			}
		case format.KindUnknown:
			got = append(got, "frame "+string(f.Name))
		}
	}
	for k, ranges := range held {
		got = append(got, fmt.Sprint(k, " ", ranges))
	}
	slices.Sort(got)
	return got, status
}

// TestOldBackup reads a backup of an earlier version.
func TestOldBackup(t *testing.T) {
	dir, keys := oldBackup(t)
	st := open(t, dir)

	var out bytes.Buffer
	ok(t, List(t.Context(), st, 0, true, env(), &out))
	var listed Listed
	ok(t, json.Unmarshal(out.Bytes(), &listed))
	if listed.Topics != 3 || listed.Partitions != 5 || listed.Points != 5 || listed.Records != 44 {
		t.Errorf("listed as %+v", listed)
	}

	out.Reset()
	ok(t, Show(t.Context(), st, store.LogOptions{}, everything(t), false, true, env(), &out))
	var shown Report
	ok(t, json.Unmarshal(out.Bytes(), &shown))
	var topics []string
	for _, topic := range shown.Topics {
		topics = append(topics, fmt.Sprint(topic.ID, " ", topic.Newest, " ", topic.Records, " ", topic.Lost, " ", topic.Holes))
	}
	if want := []string{"masked-id-1 true 4 0 0", "orders-id-1 true 31 3 0", "users-id-1 false 6 0 0", "users-id-2 true 3 0 0"}; !slices.Equal(topics, want) {
		t.Errorf("shown as %q, want %q", topics, want)
	}
	if len(shown.Points) != 5 || len(shown.Groups) != 1 || shown.Source.ClusterID != "cluster-1" {
		t.Errorf("%d points, groups %v, source %v", len(shown.Points), shown.Groups, shown.Source)
	}

	out.Reset()
	ok(t, Cursor(t.Context(), st, store.LogOptions{}, false, env(), &out))
	cur, err := cursor.Read(&out)
	ok(t, err)
	if o, u := cur.Topics["orders"], cur.Topics["users"]; o.ID != "orders-id-1" || o.Partitions[0] != 24 || o.Partitions[1] != 12 || u.ID != "users-id-2" || u.Partitions[0] != 3 {
		t.Errorf("cursor %v", cur)
	}

	if p := problems(t, dir, VerifyConfig{Deep: true, Identities: keys}); p != nil {
		t.Errorf("problems: %q", p)
	}

	selected := func(topics ...string) partitions.Selection { return partitions.Selection{Topics: topics} }
	last := []string{"billing: orders/0 17", "billing: orders/1 9", "billing: users/0 1", "frame later",
		"orders-id-1/0 [[0 10] [15 24]]", "orders-id-1/1 [[0 12]]"}
	for _, c := range []struct {
		what string
		cfg  pull.Config
		want []string
	}{
		{"orders", pull.Config{Selection: selected("orders")}, last},
		{"the first point", pull.Config{Selection: selected("orders"), At: at(1_700_000_100_000)},
			[]string{"billing: orders/0 7", "billing: orders/1 2", "orders-id-1/0 [[0 10]]", "orders-id-1/1 [[0 5]]"}},
		{"the last point of orders", pull.Config{Selection: selected("orders", "users"), At: at(1_700_000_299_999)},
			[]string{"billing: orders/0 17", "billing: orders/1 9", "billing: users/0 1", "frame later", "orders-id-1/0 [[0 10] [15 20]]", "orders-id-1/1 [[0 9]]", "users-id-1/0 [[0 6]]"}},
		{"users as it was", pull.Config{Selection: selected("users"), TopicIDs: []string{"users-id-1"}},
			[]string{"billing: orders/0 17", "billing: orders/1 9", "billing: users/0 1", "frame later", "users-id-1/0 [[0 6]]"}},
		{"what is masked", pull.Config{Selection: selected("masked"), At: at(1_700_000_350_000)}, []string{"masked-id-1/0 [[0 4]]"}},
	} {
		c.cfg.Remote = dir
		if got, _ := restored(t, c.cfg, keys); !slices.Equal(got, c.want) {
			t.Errorf("%s: got\n%q\nwant\n%q", c.what, got, c.want)
		}
	}
}
