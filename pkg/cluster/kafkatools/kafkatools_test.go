package kafkatools

import (
	"bytes"
	"flag"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/cluster/diff"
)

var update = flag.Bool("update", false, "write the golden script anew")

func ptr(s string) *string { return &s }

// TestKafka holds a script to the golden one, and has a shell read it.
func TestKafka(t *testing.T) {
	acl := func(principal, operation, resource, pattern, name, permission, host string) *format.ACL {
		return &format.ACL{ResourceType: resource, ResourceName: name, PatternType: pattern, Principal: principal, Host: host, Operation: operation, Permission: permission}
	}
	want := []format.Encoder{
		acl("User:a", "READ", "TOPIC", "LITERAL", "one", "ALLOW", "*"), acl("User:a", "DESCRIBE_CONFIGS", "TOPIC", "LITERAL", "one", "ALLOW", "*"),
		acl("User:a", "READ", "TOPIC", "LITERAL", "two", "ALLOW", "*"), acl("User:a", "DESCRIBE_CONFIGS", "TOPIC", "LITERAL", "two", "ALLOW", "*"),
		acl("User:CN=it's me,O=$(reboot)", "ALL", "GROUP", "PREFIXED", "g `x`", "DENY", "10.0.0.1"),
		acl("User:a", "IDEMPOTENT_WRITE", "CLUSTER", "LITERAL", "kafka-cluster", "ALLOW", "*"),
		&format.Quota{Entity: []format.QuotaEntity{{Type: "user", Name: ptr("it's")}, {Type: "client-id"}}, Values: map[string]float64{"producer_byte_rate": 1e12, "request_percentage": 12.5}},
		&format.User{Name: "it's; rm", Credentials: []format.Credential{{Mechanism: "SCRAM-SHA-256", Iterations: 4096}, {Mechanism: "SCRAM-SHA-512", Iterations: 8192}}},
		&format.Config{ResourceType: diff.Broker, Values: map[string]*string{"log.cleaner.threads": ptr("2")}},
		&format.Config{ResourceType: diff.Topic, Name: "t", Values: map[string]*string{"cleanup.policy": ptr("compact,delete"), "retention.ms": ptr("5"), "empty": ptr(""), "odd": ptr(" a=b\\c:ü\n$x")}},
	}
	have := []format.Encoder{
		acl("User:b", "READ", "TOPIC", "LITERAL", "one", "ALLOW", "*"), acl("User:b", "READ", "TOPIC", "LITERAL", "one", "DENY", "h"),
		&format.Quota{Entity: []format.QuotaEntity{{Type: "ip", Name: ptr("10.0.0.1")}}, Values: map[string]float64{"connection_creation_rate": 1}},
		&format.User{Name: "gone", Credentials: []format.Credential{{Mechanism: "SCRAM-SHA-256", Iterations: 4096}}},
		&format.Config{ResourceType: diff.Topic, Name: "t", Values: map[string]*string{"max.message.bytes": ptr("1")}},
		&format.Config{ResourceType: diff.ClientMetrics, Name: "m", Values: map[string]*string{"interval.ms": ptr("1")}},
		&format.Config{ResourceType: diff.Broker, Values: map[string]*string{}},
	}
	changes := diff.Find(want, have, format.ClusterKinds).Changes
	var out bytes.Buffer
	Head(&out, "b:9092", Users(changes))
	Kafka(&out, changes)
	Comment(&out, "a name with\na line: %s", "x\ny")
	Tail(&out)
	const golden = "testdata/script.golden"
	if *update {
		if err := os.WriteFile(golden, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out.Bytes(), text) {
		t.Errorf("the script is another than %s:\n%s", golden, &out)
	}
	// In a shell whose tools print their arguments, the words are what was meant.
	shell := exec.Command("sh", "-c", `kafka() { for a in "$@"; do printf '<%s>' "$a"; done; echo; }; eval "$SCRIPT"`)
	body := strings.NewReplacer("acls() {", "acls() { kafka acls \"$@\"; }\nold1() {", "configs() {", "configs() { kafka configs \"$@\"; [ -z \"${PROPERTIES:-}\" ] || cat \"$PROPERTIES\"; PROPERTIES=; }\nold2() {").Replace(out.String())
	shell.Env = append(os.Environ(), "SCRIPT="+body, "PASSWORD_1=it's $secret")
	printed, err := shell.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, printed)
	}
	for _, want := range []string{
		"<acls><--add><--allow-principal><User:a><--allow-host><*><--operation><DescribeConfigs><--operation><Read><--topic><one><--topic><two>\n",
		"<acls><--add><--deny-principal><User:CN=it's me,O=$(reboot)><--deny-host><10.0.0.1><--operation><All><--group><g `x`><--resource-pattern-type><prefixed>\n",
		"<configs><--entity-type><users><--entity-name><it's; rm><--add-config><SCRAM-SHA-256=[iterations=4096,password=it's $secret]>\n",
		"cleanup.policy=compact,delete\nempty=\nodd=\\ a\\=b\\\\c\\:\\u00fc\\n$x\nretention.ms=5\n",
		"<configs><--entity-type><users><--entity-name><it's><--entity-type><clients><--entity-default><--add-config><producer_byte_rate=1000000000000,request_percentage=12.5>\n",
	} {
		if !strings.Contains(string(printed), want) {
			t.Errorf("it does not print %q:\n%s", want, printed)
		}
	}
}
