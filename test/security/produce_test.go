package security

import (
	"bytes"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kbkio/kbk/format"
)

// TestRestoreRights gives a user the rights that a restore needs, one after another: each
// that is missing is named, and with the last the run goes on where it stopped.
func TestRestoreRights(t *testing.T) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(cluster.Bootstrap(), ",")...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	if _, err := adm.CreateTopic(t.Context(), 1, 1, map[string]*string{"retention.ms": kadm.StringPtr("86400000000000")}, "rights"); err != nil {
		t.Fatal(err)
	}
	allow := func(b *kadm.ACLBuilder, ops ...kadm.ACLOperation) {
		t.Helper()
		results, err := adm.CreateACLs(t.Context(), b.Operations(ops...).ResourcePatternType(kadm.ACLPatternLiteral).Allow("User:nobody").AllowHosts("*"))
		for _, r := range results {
			if err == nil {
				err = r.Err
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	var stream bytes.Buffer
	w := format.NewWriter(&stream)
	frames := []format.Encoder{&format.Topic{Name: "rights", Partitions: 1}, &format.Mark{Topic: "rights", Next: 0}}
	if err := w.WriteHeader(&format.Header{Content: format.ContentRecords}); err != nil {
		t.Fatal(err)
	}
	for _, f := range frames {
		if err := w.Write(f); err != nil {
			t.Fatal(err)
		}
	}
	for _, offset := range []int64{0, 1, 5} { // and a gap
		if err := w.WriteRaw(format.AppendRecord(nil, &format.Record{Topic: "rights", Offset: offset, Timestamp: 1_700_000_000_000})); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(&format.End{Records: 3}); err != nil {
		t.Fatal(err)
	}
	restore := func(want string, flags ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "kbk-produce"), append([]string{
			"-b", cluster.Listener("SASL", 0), "-X", "security.protocol=SASL_PLAINTEXT", "-X", "sasl.mechanism=PLAIN",
			"-X", "sasl.username=nobody", "-X", "sasl.password=" + userSecret, "--offsets", "exact"}, flags...)...)
		cmd.Stdin, cmd.Stdout = bytes.NewReader(stream.Bytes()), io.Discard
		var log bytes.Buffer
		cmd.Stderr = &log
		err := cmd.Run()
		lock.Lock()
		said.Write(log.Bytes())
		lock.Unlock()
		if !strings.Contains(log.String(), want) || (err == nil) != strings.HasPrefix(want, "produced") {
			t.Errorf("%v, and not %q:\n%s", err, want, &log)
		}
	}
	allow(kadm.NewACLs().Topics("rights"), kadm.OpRead, kadm.OpWrite, kadm.OpDelete, kadm.OpDescribe, kadm.OpDescribeConfigs)
	restore("group kbk-produce")
	allow(kadm.NewACLs().Groups("kbk-produce"), kadm.OpRead, kadm.OpDelete)
	restore("a restore needs the right to alter the topic's configs")
	allow(kadm.NewACLs().Topics("rights"), kadm.OpAlterConfigs)
	restore("which needs the right to ALTER the cluster")
	restore("which needs the right to ALTER the cluster", "--dry-run")
	allow(kadm.NewACLs().Clusters(), kadm.OpAlter)
	restore(fmt.Sprintf("produced %d record to 1 topic, where %d records were already", 1, 2))
}
