package profile

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kbkio/kbk/pkg/command"
	"github.com/kbkio/kbk/pkg/pipeline"
)

// load is a file with this text. Its path, which the pipes have, is always the same.
func load(t *testing.T, text string) (*File, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kbk.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Load(path)
	if err == nil {
		f.Path = "kbk.yaml"
	}
	return f, err
}

const clusters = `
cluster: {bootstrap.servers: 'prod:9092'}
clusters:
  test: {bootstrap.servers: 'test:9092'}
  dr: {bootstrap.servers: 'dr:9092'}
`

// script is the steps as sh reads them, without the flag that all stages have.
func script(steps []pipeline.Step) string {
	text := pipeline.Script(steps, func(name string) string { return name })
	return strings.TrimSpace(strings.ReplaceAll(strings.ReplaceAll(text, " --config kbk.yaml", ""), " |\n    ", " | "))
}

// TestBackup has profiles, and the pipes that follow from them.
func TestBackup(t *testing.T) {
	for _, test := range []struct{ what, file, profile, want string }{
		{
			"as little as can be said", "", "{store: /b, topics: [orders]}",
			`kbk-catalog cursor /b | kbk-fetch -t orders --groups '^' --from - --batches | kbk-pack | kbk-push /b > /dev/null`,
		},
		{
			"all that can be said of a backup", clusters,
			"{cluster: dr, store: 's3:b/n', topics: [orders, '^audit\\.'], exclude-topics: ['^audit\\.tmp'], groups: [billing], exclude-groups: ['^console'], " +
				"recipients: [age1abc, 'ssh-ed25519 AAAA me'], recipients-files: [r.txt], sign: id, sign-passphrase-file: pw, allowed-signers: who, " +
				"retention: {keep-daily: 7, keep-within: 30d}, verify: weekday, identities: [key.txt]}",
			`kbk-catalog cursor --allowed-signers who s3:b/n | kbk-fetch --cluster dr -t orders -t '^audit\.' --exclude '^audit\.tmp' --groups billing --exclude-groups '^console' --from - --batches | ` +
				`kbk-pack -r age1abc -r 'ssh-ed25519 AAAA me' -R r.txt | kbk-push --sign id --sign-passphrase-file pw --allowed-signers who s3:b/n > /dev/null &&
kbk-catalog prune --yes --keep-daily=7 --keep-within=30d --sign id --sign-passphrase-file pw --allowed-signers who s3:b/n &&
kbk-catalog verify --deep=6/7 -i key.txt --allowed-signers who s3:b/n`,
		},
		{
			"what the profile leaves out is in the sections", "fetch: {topic: [a, b], exclude: c, groups: [g]}\npack: {recipients-file: r}\n", "{store: /b}",
			`kbk-catalog cursor /b | kbk-fetch -t a -t b --exclude c --groups g --from - --batches | kbk-pack | kbk-push /b > /dev/null`,
		},
		{
			"what the profile says counts", "fetch: {topic: [a, b], exclude: c, groups: [g]}\n", "{store: /b, topics: d, exclude-topics: [], groups: []}",
			`kbk-catalog cursor /b | kbk-fetch -t d --from - --batches | kbk-pack | kbk-push /b > /dev/null`,
		},
		{
			"a filter has to see records", "", "{store: /b, topics: [users], filter: {mask: [value.email=redact, value.iban=last4], no-tombstones: true}}",
			`kbk-catalog cursor --filtered /b | kbk-fetch -t users --groups '^' --from - | kbk-filter --mask=value.email=redact --mask=value.iban=last4 --no-tombstones=true | kbk-pack | kbk-push /b > /dev/null`,
		},
		{
			"so does one of the section", "filter: {mask: key=redact}\n", "{store: /b, topics: [users]}",
			`kbk-catalog cursor --filtered /b | kbk-fetch -t users --groups '^' --from - | kbk-filter | kbk-pack | kbk-push /b > /dev/null`,
		},
		{
			"the cluster, too", clusters, "{cluster: dr, store: /b, topics: [a], recipients: [age1], sign: id, cluster-snapshot: true, verify: log}",
			`kbk-cluster snapshot --cluster dr | kbk-pack -r age1 | kbk-push --sign id /b > /dev/null; apart=$?
kbk-catalog cursor /b | kbk-fetch --cluster dr -t a --groups '^' --from - --batches | kbk-pack -r age1 | kbk-push --sign id /b > /dev/null &&
(exit $apart) &&
kbk-catalog verify /b`,
		},
		{
			"the cluster, with its schemas", "", "{store: /b, topics: [a], cluster-snapshot: {schema-registry: 'http://r:8081', only: 'acls,schemas'}}",
			`kbk-cluster snapshot --schema-registry=http://r:8081 --only=acls,schemas | kbk-pack | kbk-push /b > /dev/null; apart=$?
kbk-catalog cursor /b | kbk-fetch -t a --groups '^' --from - --batches | kbk-pack | kbk-push /b > /dev/null &&
(exit $apart)`,
		},
		{
			"not the cluster", "", "{store: /b, topics: [a], cluster-snapshot: false}",
			`kbk-catalog cursor /b | kbk-fetch -t a --groups '^' --from - --batches | kbk-pack | kbk-push /b > /dev/null`,
		},
		{
			"records are wanted", "fetch: {batches: false}\n", "{store: /b, topics: [a]}",
			`kbk-catalog cursor /b | kbk-fetch -t a --groups '^' --from - | kbk-pack | kbk-push /b > /dev/null`,
		},
		{
			"a passphrase", "", "{store: /b, topics: [a], passphrase-file: pw, verify: 5%}",
			`kbk-catalog cursor /b | kbk-fetch -t a --groups '^' --from - --batches | kbk-pack --passphrase-file pw | kbk-push /b > /dev/null &&
kbk-catalog verify --deep=5% --passphrase-file pw /b`,
		},
		{
			"a passphrase that is that of an identity", "", "{store: /b, topics: [a], recipients: [age1], identities: [k], passphrase-file: pw, verify: log}",
			`kbk-catalog cursor /b | kbk-fetch -t a --groups '^' --from - --batches | kbk-pack -r age1 | kbk-push /b > /dev/null &&
kbk-catalog verify /b`,
		},
	} {
		f, err := load(t, test.file+"profiles:\n  nightly: "+test.profile+"\n")
		if err != nil {
			t.Errorf("%s: %v", test.what, err)
			continue
		}
		p, err := f.Profile("nightly")
		if err != nil {
			t.Errorf("%s: %v", test.what, err)
			continue
		}
		if got := script((Builder{File: f}).Backup(p, time.Saturday)); got != test.want {
			t.Errorf("%s:\n%s\nnot\n%s", test.what, got, test.want)
		}
	}
}

// TestOtherPipes has the pipes of the other commands.
func TestOtherPipes(t *testing.T) {
	f, err := load(t, clusters+`
pack: {recompress: true, batches: true}
fetch: {batches: true}
profiles:
  nightly:
    store: s3:b/n
    topics: ['orders:0,3-5', '^audit']
    identities: [key.txt]
    allowed-signers: who
    max-age: 26h
    mirror: dr
    targets:
      scratch: {cluster: test, prefix: restored., offsets: exact, replication-factor: 1, groups: true}
  masked: {store: /m, topics: [users], groups: [], filter: {mask: value=redact}}
`)
	if err != nil {
		t.Fatal(err)
	}
	b := Builder{File: f, Output: []string{"--quiet"}}
	p, _ := f.Profile("nightly")
	masked, _ := f.Profile("masked")
	scratch, err := f.Target(p, "scratch")
	if err != nil {
		t.Fatal(err)
	}
	dr, _ := f.Target(p, p.Mirror)
	own, _ := f.Target(p, "")
	for _, test := range []struct {
		what, want string
		got        []pipeline.Step
	}{
		{
			"restore to the source", `kbk-pull --quiet --allowed-signers who s3:b/n | kbk-pack --quiet -d --batches --recompress=false -i key.txt | kbk-produce --quiet --create-topics > /dev/null`,
			b.Restore(p, Restore{Target: own}),
		},
		{
			"restore to a target", `kbk-pull --quiet --at 24h -t orders --allowed-signers who s3:b/n | kbk-pack --quiet -d --batches --recompress=false -i key.txt | ` +
				`kbk-produce --quiet --cluster test --create-topics --prefix restored. --offsets exact --replication-factor 1 | kbk-offsets translate --quiet | kbk-offsets apply --quiet --cluster test > /dev/null`,
			b.Restore(p, Restore{At: "24h", Topics: []string{"orders"}, Target: scratch}),
		},
		{
			"mirror", `kbk-offsets cursor --quiet --cluster dr -t orders -t '^audit' | kbk-fetch --quiet -t orders:0,3-5 -t '^audit' --groups '^' --from - --batches --follow --point-every 30s | ` +
				`kbk-produce --quiet --cluster dr --create-topics --offsets exact --add-partitions > /dev/null`,
			b.Mirror(p, dr),
		},
		{
			"mirror through a filter", `kbk-offsets cursor --quiet --cluster dr -t users | kbk-fetch --quiet -t users --from - --follow --point-every 30s | kbk-filter --quiet --mask=value=redact | ` +
				`kbk-produce --quiet --cluster dr --create-topics --offsets exact --add-partitions > /dev/null`,
			b.Mirror(masked, dr),
		},
		{"status", `kbk-catalog status --quiet -t orders:0,3-5 -t '^audit' --max-age 26h --allowed-signers who --json s3:b/n`, b.Status(p, "--json")},
		{
			"drill", `kbk-pull --quiet --allowed-signers who s3:b/n | kbk-pack --quiet -d --batches --recompress=false -i key.txt | ` +
				`kbk-produce --quiet --cluster test --create-topics --prefix kbk-drill.1. --replication-factor 1 --topic-config cleanup.policy=delete --topic-config retention.ms=-1 --topic-config retention.bytes=-1 > /dev/null &&
kbk-pull --quiet --allowed-signers who s3:b/n | kbk-pack --quiet -d --batches=false --recompress=false -i key.txt | kbk digest > a &&
kbk-fetch --quiet --cluster test -t '^kbk-drill\.1\.' --batches=false | kbk digest --prefix kbk-drill.1. > b`,
			b.Drill(p, Restore{Target: Target{Cluster: "test", Prefix: "kbk-drill.1.", ReplicationFactor: "1", Groups: true, Offsets: "exact"}}, "a", "b"),
		},
	} {
		if got := script(test.got); got != test.want {
			t.Errorf("%s:\n%s\nnot\n%s", test.what, got, test.want)
		}
	}
}

// TestVerification has all that a profile may say of verification.
func TestVerification(t *testing.T) {
	for how, want := range map[string]string{
		"": "nothing", "no": "nothing", "log": "", "deep": "--deep", "weekday": "--deep=7/7", "2/7": "--deep=2/7", "5%": "--deep=5%", "0.5%@12": "--deep=0.5%@12", "10GiB": "--deep=10GiB",
		"daily": "wrong", "10": "wrong", "true": "wrong", "5% --x": "wrong",
	} {
		got, err := verification(how, time.Sunday)
		text := strings.Join(got, " ")
		switch {
		case err != nil:
			text = "wrong"
		case got == nil:
			text = "nothing"
		}
		if text != want {
			t.Errorf("%q: %q, %v, not %q", how, got, err, want)
		}
	}
	for day, want := range map[time.Weekday]string{time.Monday: "1/7", time.Saturday: "6/7", time.Sunday: "7/7"} {
		if got, _ := verification("weekday", day); !slices.Equal(got, []string{"--deep=" + want}) {
			t.Errorf("%s: %q", day, got)
		}
	}
}

// TestMistakes has files that are refused.
func TestMistakes(t *testing.T) {
	for text, want := range map[string]string{
		"profiles: {n: {topics: [a]}}":                                                   "profiles: n: it has no store",
		"profiles: {n: {store: /b}}":                                                     "profiles: n: it has no topics",
		"profiles: {n: {store: /b, topic: [a]}}":                                         `"topic" is not known; did you mean "topics"?`,
		"profiles: {n: {store: [a], topics: [a]}}":                                       "store: line 1: one value is expected",
		"profiles: {n: {store: /b, topics: {a: b}}}":                                     "topics: line 1: neither a value nor a list of values",
		"profiles: {n: x}":                                                               "profiles: n: line 1: names with values are expected",
		"profiles: x":                                                                    "profiles: line 1",
		"profiles: {n/m: {store: /b, topics: [a]}}":                                      "a profile's name has letters",
		"profiles: {n: {store: /b, topics: [a], cluster: tset}}":                         "cluster: the section clusters has no",
		"profiles: {n: {store: /b, topics: [a], verify: sometimes}}":                     `verify: "sometimes" is not`,
		"profiles: {n: {store: /b, topics: [a], mirror: dr}}":                            `mirror: "dr" is neither a target of the profile n nor a cluster`,
		"profiles: {n: {store: /b, topics: [a], targets: {t: {to: x}}}}":                 `targets: t: "to" is not known`,
		"profiles: {n: {store: /b, topics: [a], targets: {t: {cluster: x}}}}":            "targets: t: cluster: the section clusters has no",
		"profiles: {n: {store: /b, topics: [a], targets: {t: {offsets: same}}}}":         "is neither new nor exact",
		"profiles: {n: {store: /b, topics: [a], targets: {t: {groups: maybe}}}}":         "targets: t: groups: line 1",
		"profiles: {n: {store: ':s3,secret_access_key=hunter2:b', topics: [a]}}":         "store: the connection string has secret_access_key",
		"profiles: {n: {store: 'nas,pass=hunter2:b', topics: [a]}}":                      "store: the connection string has pass",
		"profiles: {n: {store: /b, topics: [a]}}\nclusters: [x]":                         "line 2",
		"profiles: {n: {store: /b, topics: [a], retention: [keep-daily]}}":               "retention: line 1: names with values are expected",
		"profiles: {n: {store: /b, topics: [a], retention: {keep-daily: {hunter2: 1}}}}": "retention: line 1: neither a value nor a list of values",
	} {
		_, err := load(t, text+"\n")
		if command.StatusOf(err) != command.Usage || !strings.Contains(err.Error(), want) || strings.Contains(err.Error()+command.HintOf(err), "hunter2") {
			t.Errorf("%s: %v", text, err)
		}
	}
	f, err := load(t, "profiles: {nightly: {store: ':s3,env_auth,access_key_id=AK,key_file=x:b', topics: [a]}, weekly: &w {store: /b, topics: &t [a]}, monthly: *w}")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Profile("nihgtly"); command.StatusOf(err) != command.Usage || !strings.Contains(err.Error(), `did you mean "nightly"?`) || command.HintOf(err) != "its profiles: monthly, nightly, weekly" {
		t.Errorf("a profile that is not there: %v, %q", err, command.HintOf(err))
	}
	if f, err := load(t, "cluster: {}\n"); err != nil || len(f.Names()) > 0 {
		t.Errorf("no profiles: %v", err)
	}
}
