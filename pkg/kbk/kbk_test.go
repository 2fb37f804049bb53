package kbk

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/pipeline"
	"github.com/kbkio/kbk/pkg/profile"
)

// run calls the command, in a folder of its own.
func run(t *testing.T, args ...string) error {
	t.Helper()
	return App().RunContext(t.Context(), append([]string{"kbk"}, args...))
}

// TestInit writes files, and reads them as all commands do.
func TestInit(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	if err := run(t, "init"); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat("kbk.yaml")
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	f, err := profile.Load("kbk.yaml")
	if err != nil {
		t.Fatal(err)
	}
	p, err := f.Profile("nightly")
	if err != nil || p.Store != "/var/backups/kafka/nightly" || !slices.Equal(p.Topics, []string{"^"}) || p.Verify != "log" {
		t.Errorf("%+v, %v", p, err)
	}
	if err := run(t, "init"); command.StatusOf(err) != command.Usage || err.Error() != "kbk.yaml already exists" {
		t.Errorf("a file that is there: %v", err)
	}
	if err := run(t, "init", "--config", "other.yaml", "-b", "a:1,b:2", "--command-config", "it's: here", "--store", ":s3,env_auth:b/'n", "-t", "orders", "-t", "^a#b: \"x\"",
		"-R", "r.txt", "-i", "#key", "yearly"); err != nil {
		t.Fatal(err)
	}
	if f, err = profile.Load("other.yaml"); err != nil {
		t.Fatal(err)
	}
	if p, err = f.Profile("yearly"); err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprintf("%q %q %q %q %q %q", command.Last(f.Sections["cluster"])["bootstrap.servers"], command.Last(f.Sections["cluster"])["command-config"], p.Store, p.Topics, p.RecipientFiles, p.Identities)
	want := fmt.Sprintf("%q %q %q %q %q %q", "a:1,b:2", filepath.Join(dir, "it's: here"), ":s3,env_auth:b/'n", []string{"orders", "^a#b: \"x\""}, []string{filepath.Join(dir, "r.txt")}, []string{filepath.Join(dir, "#key")})
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}

	// A relative folder is this one wherever the profile is run, and the file's folder is created.
	if err := run(t, "init", "--config", "etc/kbk/kbk.yaml", "--store", "backups/nightly"); err != nil {
		t.Fatal(err)
	}
	if f, err = profile.Load("etc/kbk/kbk.yaml"); err != nil {
		t.Fatal(err)
	}
	if p, err = f.Profile("nightly"); err != nil || p.Store != filepath.Join(dir, "backups", "nightly") || len(p.Identities) > 0 {
		t.Errorf("%+v, %v", p, err)
	}
}

// TestComments reads a new file with all that is in comments.
func TestComments(t *testing.T) {
	text, err := initial{Profile: "nightly", Brokers: "a:1", Store: "/b"}.file()
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, line := range strings.Split(string(text), "\n") {
		if bare, value, ok := strings.Cut(line, "# "); ok && strings.TrimSpace(bare) == "" && strings.Contains(value, ":") && !strings.Contains(value, ". ") {
			if name, _, _ := strings.Cut(strings.TrimSpace(value), ":"); !strings.Contains(name, " ") {
				line = bare + value
			}
		}
		all = append(all, line)
	}
	path := filepath.Join(t.TempDir(), "kbk.yaml")
	if err := os.WriteFile(path, []byte(strings.Join(all, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := profile.Load(path)
	if err != nil {
		t.Fatalf("%v\n%s", err, strings.Join(all, "\n"))
	}
	p, err := f.Profile("nightly")
	if err != nil || p.Mirror != "test" || p.Targets["test"].Prefix != "restored." || len(p.Retention) != 2 || !p.Filters || len(f.Sections["push"]) != 1 {
		t.Errorf("%+v, %v", p, err)
	}
}

// TestUsage has command lines that are refused before anything runs.
func TestUsage(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := run(t, "backup", "nightly"); command.StatusOf(err) != command.Usage || !strings.Contains(err.Error(), "kbk.yaml: no such file") {
		t.Errorf("no file: %v", err)
	}
	text := "clusters: {dr: {bootstrap.servers: 'dr:1'}}\nprofiles: {nightly: {store: /b, topics: [a]}, other: {cluster: dr, store: /b, topics: [a]}}\n"
	if err := os.WriteFile("kbk.yaml", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]string{
		"backup":                  "no profile",
		"backup nihgtly":          `has no profile "nihgtly"; did you mean "nightly"?`,
		"backup nightly more":     `unexpected argument "more"`,
		"restore --to de nightly": `--to: "de" is neither a target`,
		"mirror nightly":          "names no mirror",
		"mirror --to dr other":    "the target dr is the cluster that is mirrored",
		"drill --print nightly":   "only there while kbk drill runs",
		"status nihgtly":          "has no profile",
		"restor nightly":          `unknown command "restor"`,
	} {
		if err := run(t, strings.Fields(args)...); command.StatusOf(err) != command.Usage || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", args, err)
		}
	}
}

// TestExplain has the last line for each way in which a pipe ends.
func TestExplain(t *testing.T) {
	for _, test := range []struct {
		got    pipeline.Outcome
		status int
		want   string
	}{
		{pipeline.Outcome{}, 0, ""},
		{pipeline.Outcome{Status: 1, Cause: "kbk-push", Exit: 1}, 1, "the backup of nightly failed: kbk-push ended with status 1: its message says why"},
		{pipeline.Outcome{Status: 2, Cause: "kbk-pack", Exit: 2}, 2, "the backup of nightly failed: kbk-pack ended with status 2: its message says why"},
		{pipeline.Outcome{Status: 1, Cause: "kbk-pack", Exit: 137}, 1, "the backup of nightly failed: kbk-pack was killed, which the kernel does when memory runs out"},
		{pipeline.Outcome{Status: 1, Cause: "kbk-pack", Exit: 139}, 1, "the backup of nightly failed: kbk-pack was ended by signal 11"},
		{pipeline.Outcome{Status: 4, Cause: "kbk-push", Exit: 4}, 4, "the backup of nightly is done, but with loss: the messages of kbk-push name it"},
		{pipeline.Outcome{Status: 130}, 130, "interrupted: the backup of nightly was stopped; the same command continues from there"},
	} {
		err := explain("the backup of nightly", test.got)
		text := ""
		if err != nil {
			text = err.Error()
		}
		if command.StatusOf(err) != test.status || text != test.want {
			t.Errorf("%+v: status %d, %s", test.got, command.StatusOf(err), text)
		}
	}
	steps := []pipeline.Step{{What: "the retention"}, {What: "the verification"}}
	if got := leftOut(steps); got != "the retention and the verification were left out" {
		t.Error(got)
	}
	if got := leftOut(steps[:1]); got != "the retention was left out" {
		t.Error(got)
	}
}

// stream is a stream of records.
func stream(t *testing.T, content string, end *format.End, records ...format.Record) []byte {
	t.Helper()
	var b bytes.Buffer
	w := format.NewWriter(&b)
	if err := w.WriteHeader(&format.Header{ID: "x", Content: content}); err != nil {
		t.Fatal(err)
	}
	for i := range records {
		if err := w.WriteRecord(&records[i]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(end); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestDigest changes one thing about a record at a time: each is another digest. Offsets
// are not, and the order of partitions is not.
func TestDigest(t *testing.T) {
	header := func(name string, value []byte) format.RecordHeader {
		return format.RecordHeader{Name: []byte(name), Value: value}
	}
	base := format.Record{Topic: "a", Offset: 5, Timestamp: 7, Key: []byte("k"), Value: []byte("v"), Headers: []format.RecordHeader{header("h", []byte("1")), header("h", nil)}}
	of := func(records ...format.Record) string {
		t.Helper()
		var out bytes.Buffer
		if err := digest(bytes.NewReader(stream(t, "records", &format.End{}, records...)), "", 1<<20, &out); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	want := of(base)
	other := base
	other.Offset = 99
	if of(other) != want {
		t.Error("an offset makes a difference")
	}
	for name, change := range map[string]func(*format.Record){
		"timestamp":     func(r *format.Record) { r.Timestamp = 8 },
		"partition":     func(r *format.Record) { r.Partition = 1 },
		"null key":      func(r *format.Record) { r.Key = nil },
		"empty key":     func(r *format.Record) { r.Key = []byte{} },
		"tombstone":     func(r *format.Record) { r.Value = nil },
		"key and value": func(r *format.Record) { r.Key, r.Value = []byte("kv"), []byte{} },
		"header value": func(r *format.Record) {
			r.Headers = []format.RecordHeader{header("h", []byte("1")), header("h", []byte{})}
		},
		"header order": func(r *format.Record) { r.Headers = []format.RecordHeader{header("h", nil), header("h", []byte("1"))} },
		"one header":   func(r *format.Record) { r.Headers = r.Headers[:1] },
	} {
		r := base
		change(&r)
		if of(r) == want {
			t.Errorf("%s makes no difference", name)
		}
	}
	x, y := base, base
	y.Offset, y.Value = 6, []byte("w")
	z := base
	z.Topic = "b"
	if of(x, y, z) != of(z, x, y) {
		t.Error("the order of partitions makes a difference")
	}
	first, second := y, x
	first.Offset, second.Offset = 1, 2
	if of(x, y) == of(first, second) {
		t.Error("the order of records makes no difference")
	}
}

// TestDigestRefuses has input that is not what it should be.
func TestDigestRefuses(t *testing.T) {
	rec := format.Record{Topic: "scratch.a", Value: []byte("v")}
	whole := stream(t, "records", &format.End{}, rec)
	for _, test := range []struct {
		what   string
		in     []byte
		prefix string
		status int
	}{
		{"whole", whole, "scratch.", command.OK},
		{"another prefix", whole, "other.", command.Usage},
		{"batches", stream(t, "batches", &format.End{}), "", command.Usage},
		{"cut off", whole[:len(whole)-3], "", command.Corrupt},
		{"loss", stream(t, "records", &format.End{Lost: true, Losses: []string{"a/0: 5 offsets"}}, rec), "", command.Loss},
		{"interrupted", stream(t, "records", &format.End{Interrupted: true}, rec), "", command.Interrupted},
	} {
		var out bytes.Buffer
		if err := digest(bytes.NewReader(test.in), test.prefix, 1<<20, &out); command.StatusOf(err) != test.status {
			t.Errorf("%s: %v", test.what, err)
		}
	}
}

// TestReport compares digests.
func TestReport(t *testing.T) {
	for _, test := range []struct{ what, stored, restored, want, err string }{
		{"the same", "a 0 5 x\na 1 1 y\nb 0 2 z\n", "b 0 2 z\na 0 5 x\na 1 1 y\n", "a: all 6 records in 2 partitions came back the same\nb: all 2 records in 1 partition came back the same\n", ""},
		{"one record is missing", "a 0 5 x\nb 0 2 z\n", "a 0 4 w\nb 0 2 z\n", "a/0: the backup has 5 records, and 4 came back\nb: all 2 records in 1 partition came back the same\n", "the drill of n failed: what came back of 1 partition is not what the backup has"},
		{"one record is another", "a 0 5 x\n", "a 0 5 w\n", "a/0: 5 records, which are not the same\n", "is not what the backup has"},
		{"a partition is missing", "a 0 5 x\na 1 1 x\n", "a 0 5 x\n", "a/1: the backup has 1 record, and 0 came back\n", "is not what the backup has"},
		{"there is one more", "a 0 5 x\n", "a 0 5 x\nb 0 1 x\n", "b/0: the backup has 0 records, and 1 came back\na: all 5 records in 1 partition came back the same\n", "is not what the backup has"},
		{"there is nothing", "", "", "", "compared nothing"},
		{"nonsense", "a 0 5\n", "", "", `"a 0 5" is not a digest`},
	} {
		var out bytes.Buffer
		err := report("n", test.stored, test.restored, &out)
		if out.String() != test.want || (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("%s: %q, %v", test.what, &out, err)
		}
	}
}

// may is a set of rights.
func may(ops ...kmsg.ACLOperation) operations {
	o := operations{kmsg.ACLOperationDescribe: true}
	for _, op := range ops {
		o[op] = true
	}
	return o
}

// lines are findings as the doctor prints them.
func lines(all []finding) string {
	var out []string
	for _, f := range all {
		text := "ok " + f.what
		if f.do != "" {
			text = "wrong " + f.what + "; " + f.do
		}
		out = append(out, text)
	}
	return strings.Join(out, "\n")
}

// TestRightsToRead has users with some rights.
func TestRightsToRead(t *testing.T) {
	read, configs := kmsg.ACLOperationRead, kmsg.ACLOperationDescribeConfigs
	topics := []topicRights{
		{"__consumer_offsets", 50, true, may()},
		{"audit", 1, false, may(configs)},
		{"orders", 3, false, may(read, configs)},
		{"users", 1, false, may(read)},
		{"untold", 1, false, nil},
	}
	for _, test := range []struct {
		what, want      string
		topics, exclude []string
	}{
		{"all is well", "ok 1 topic can be read, with their configs", []string{"orders"}, nil},
		{"old brokers do not tell", "ok 2 topics can be read, with their configs", []string{"orders:0,2", "untold"}, nil},
		{"internal topics are left out", "ok 2 topics can be read, with their configs", []string{"^"}, []string{"audit", "users"}},
		{"READ is missing", "wrong the user has no right to READ audit; grant READ on these topics, or exclude them", []string{"^"}, []string{"users"}},
		{"DESCRIBE_CONFIGS is missing", "wrong the user has no right to read the configs of users; grant DESCRIBE_CONFIGS on these topics, or set no-configs: true in the section fetch", []string{"users"}, nil},
		{"a topic is not there", "wrong topic order is not there, or the user has no right to DESCRIBE it; create it, grant DESCRIBE and READ on it, or take it out of the profile\n" +
			"wrong no topic is selected that the user may DESCRIBE; check the names under topics, and grant DESCRIBE and READ on the topics", []string{"order:1"}, nil},
	} {
		got := lines(rightsToRead(&profile.Profile{Topics: test.topics, ExcludeTopics: test.exclude}, &clusterFacts{topics: topics}))
		if got != test.want {
			t.Errorf("%s:\n%s", test.what, got)
		}
	}
	if got := some([]string{"a", "b", "c", "d", "e", "f", "g"}); got != "a, b, c, d, e and 2 more" {
		t.Error(got)
	}
}

// TestRightsToWrite has users with some rights in a target.
func TestRightsToWrite(t *testing.T) {
	all := map[string]groupFact{"kbk-produce": {may: may(kmsg.ACLOperationRead, kmsg.ACLOperationDelete)}, "kbk-mirror": {may: may(kmsg.ACLOperationRead, kmsg.ACLOperationDelete)}}
	for _, test := range []struct {
		what    string
		target  profile.Target
		mirrors bool
		facts   clusterFacts
		created error
		want    string
	}{
		{"all is well", profile.Target{}, true, clusterFacts{group: all, cluster: may(kmsg.ACLOperationAlter)}, nil, "ok topics can be created, and configs can be noted"},
		{"new offsets need no ALTER", profile.Target{}, false, clusterFacts{group: all, cluster: may()}, nil, "ok topics can be created, and configs can be noted"},
		{"exact offsets do", profile.Target{Offsets: "exact"}, false, clusterFacts{group: all, cluster: may()}, nil, "wrong the user has no right to ALTER the cluster, which fills gaps between offsets; grant it, or restore with new offsets"},
		{"CREATE is missing", profile.Target{}, false, clusterFacts{group: all}, errors.New("topic a cannot be created: no"), "wrong topic a cannot be created: no; grant CREATE on the cluster, or on the topics' names"},
		{"the group cannot be described", profile.Target{}, false, clusterFacts{group: map[string]groupFact{"kbk-produce": {err: errors.New("no")}}}, nil, "wrong group kbk-produce: no; grant DESCRIBE, READ and DELETE on the group kbk-produce"},
		{"the group is hidden", profile.Target{}, false, clusterFacts{group: map[string]groupFact{"kbk-produce": {err: fmt.Errorf("shard: %w", kerr.GroupAuthorizationFailed)}}}, nil,
			"wrong the user has no right to DESCRIBE the group kbk-produce, in which kbk-produce keeps notes; grant DESCRIBE, READ and DELETE on it"},
		{"nothing is allowed on the cluster", profile.Target{Offsets: "exact"}, false, clusterFacts{group: all, cluster: clusterOperations(0)}, nil, "wrong the user has no right to ALTER the cluster, which fills gaps between offsets; grant it, or restore with new offsets"},
		{"the broker does not tell", profile.Target{Offsets: "exact"}, false, clusterFacts{group: all, cluster: clusterOperations(math.MinInt32)}, nil, "ok topics can be created, and configs can be noted"},
		{"DELETE is missing", profile.Target{}, false, clusterFacts{group: map[string]groupFact{"kbk-produce": {may: may(kmsg.ACLOperationRead)}}}, nil,
			"wrong the user has no right to READ and DELETE the group kbk-produce, in which kbk-produce keeps notes; grant both"},
	} {
		if got := lines(rightsToWrite(test.target, test.mirrors, &test.facts, test.created)); got != test.want {
			t.Errorf("%s:\n%s", test.what, got)
		}
	}
}

// TestFindings has the other things that the doctor decides.
func TestFindings(t *testing.T) {
	at := time.UnixMilli(1_000_000)
	for _, test := range []struct {
		got  finding
		want string
	}{
		{sameVersion("/bin/kbk-fetch", "kbk-fetch version v0.2.0\n", "v0.2.0"), "ok /bin/kbk-fetch"},
		{sameVersion("/bin/kbk-fetch", "kbk-fetch version v0.1.0\n", "v0.2.0"), "wrong /bin/kbk-fetch is of version v0.1.0, and kbk of v0.2.0; install all commands from one release"},
		{sameVersion("/bin/kbk-fetch", "", "v0.2.0"), "wrong /bin/kbk-fetch is of version , and kbk of v0.2.0; install all commands from one release"},
		{skew(at, at, at.Add(time.Second)), "ok its clock and this machine's differ by less than 5s"},
		{skew(at, at.Add(4*time.Second), at.Add(10*time.Second)), "ok its clock and this machine's differ by less than 5s"},
		{skew(at, at.Add(6*time.Second), at.Add(10*time.Second)), "wrong its clock and that of this machine are 6s apart; let both follow the same time servers (NTP)"},
		{skew(at, at.Add(-time.Hour), at.Add(-time.Minute)), "wrong its clock and that of this machine are 1m0s apart; let both follow the same time servers (NTP)"},
		{brokerVersions(map[string]int{"v4.3": 3}), "ok reached 3 brokers of Kafka v4.3"},
		{brokerVersions(map[string]int{"v3.9": 1, "at least v4.1": 2}), "ok reached 3 brokers of Kafka at least v4.1 and v3.9"},
		{brokerVersions(map[string]int{"v0.10.2": 1}), "wrong reached 1 broker of Kafka v0.10.2; kbk reads topics of Kafka 0.11 and later"},
	} {
		if got := lines([]finding{test.got}); got != test.want {
			t.Errorf("%s", got)
		}
	}
	err := messageOf("kbk-pack", "kbk-pack: warning: x\nkbk-pack: error: open key.txt: no such file\nkbk-pack: hint: see to it\n", errors.New("exit status 1"))
	if err.Error() != "open key.txt: no such file" || command.HintOf(err) != "see to it" {
		t.Errorf("%v, %s", err, command.HintOf(err))
	}
	if err := messageOf("kbk-pack", "panic\n", errors.New("exit status 2")); err.Error() != "kbk-pack: exit status 2" {
		t.Error(err)
	}
}
