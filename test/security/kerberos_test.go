package security

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	kafkatest "github.com/kbkio/kbk/test/kafka"
	"github.com/kbkio/kbk/test/need"
)

const realm = "KBK.TEST"

// A kdc is MIT's, of Debian's package krb5-kdc, with a database of its own.
type kdc struct{ dir string }

func startKDC(t *testing.T) *kdc {
	t.Helper()
	path := os.Getenv("PATH") + ":/usr/sbin:/sbin"
	t.Setenv("PATH", path)
	need.Tools(t, "krb5kdc", "kdb5_util", "kadmin.local", "kinit")
	k := &kdc{t.TempDir()}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	_, port, _ := net.SplitHostPort(addr)
	k.write(t, "krb5.conf", `[libdefaults]
 default_realm = `+realm+`
 dns_lookup_kdc = false
 dns_lookup_realm = false
 rdns = false
 udp_preference_limit = 1
[realms]
 `+realm+` = {
  kdc = `+addr+`
 }
`)
	k.write(t, "kdc.conf", `[kdcdefaults]
 kdc_listen = 127.0.0.1:`+port+`
 kdc_tcp_listen = 127.0.0.1:`+port+`
[realms]
 `+realm+` = {
  database_name = `+k.path("principal")+`
  key_stash_file = `+k.path("stash")+`
  acl_file = `+k.path("acl")+`
  max_life = 1h
 }
`)
	t.Setenv("KRB5_CONFIG", k.path("krb5.conf"))
	t.Setenv("KRB5_KDC_PROFILE", k.path("kdc.conf"))
	k.do(t, "kdb5_util", "create", "-s", "-r", realm, "-P", "master")
	for i := range 3 {
		principal := fmt.Sprintf("kafka/127.0.0.%d", i+1)
		k.do(t, "kadmin.local", "-r", realm, "-q", "addprinc -randkey "+principal)
		k.do(t, "kadmin.local", "-r", realm, "-q", fmt.Sprintf("ktadd -k %s %s", k.path(fmt.Sprintf("broker-%d.keytab", i)), principal))
	}
	for _, user := range []string{"alice", "stranger"} {
		k.do(t, "kadmin.local", "-r", realm, "-q", "addprinc -randkey "+user)
		k.do(t, "kadmin.local", "-r", realm, "-q", fmt.Sprintf("ktadd -k %s %s", k.path(user+".keytab"), user))
	}
	cmd := exec.Command("krb5kdc", "-n", "-r", realm)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("the KDC says:\n%s", log.String())
		}
	})
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if conn, err := net.Dial("tcp", addr); err == nil {
			conn.Close()
			return k
		}
		if time.Now().After(deadline) {
			t.Fatalf("the KDC does not start:\n%s", log.String())
		}
	}
}

func (k *kdc) path(name string) string { return filepath.Join(k.dir, name) }

func (k *kdc) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(k.path(name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (k *kdc) do(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// TestKerberos reads from three brokers, each of which has a principal of its own, with
// a ticket for each.
func TestKerberos(t *testing.T) {
	k := startKDC(t)
	three, err := kafkatest.Start(t.Context(), kafkatest.Options{
		Brokers: 3,
		Config: map[string]string{
			"listener.name.kerb.sasl.enabled.mechanisms":    "GSSAPI",
			"listener.name.kerb.sasl.kerberos.service.name": "kafka",
		},
		JVM: []string{"-Djava.security.krb5.conf=" + k.path("krb5.conf")},
		Listeners: []kafkatest.Listener{{Name: "KERB", Protocol: "SASL_PLAINTEXT", OwnAddress: true, Each: func(i int) (string, string) {
			return "gssapi.sasl.jaas.config", fmt.Sprintf(
				`com.sun.security.auth.module.Krb5LoginModule required useKeyTab=true storeKey=true keyTab="%s" principal="kafka/127.0.0.%d@%s";`,
				k.path(fmt.Sprintf("broker-%d.keytab", i)), i+1, realm)
		}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := three.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := seed(three.Bootstrap(), 20); err != nil {
		t.Fatal(err)
	}
	var brokers []string
	for i := range 3 {
		brokers = append(brokers, three.Listener("KERB", i))
	}
	all := strings.Join(brokers, ",")
	gssapi := []string{"security.protocol=SASL_PLAINTEXT", "sasl.kerberos.service.name=kafka"}
	keytab := append(gssapi, "sasl.mechanism=GSSAPI", "sasl.kerberos.keytab="+k.path("alice.keytab"), "sasl.kerberos.principal=alice@"+realm)
	k.do(t, "kinit", "-k", "-t", k.path("alice.keytab"), "-c", k.path("cache"), "alice")
	for name, c := range map[string]call{
		"keytab": {args: keytab},
		"client.properties": {file: "security.protocol=SASL_PLAINTEXT\nsasl.kerberos.service.name=kafka\nsasl.jaas.config=com.sun.security.auth.module.Krb5LoginModule required useKeyTab=true storeKey=true keyTab=\"" +
			k.path("alice.keytab") + "\" principal=\"alice@" + realm + "\";"},
		"ticket cache":      {args: gssapi, env: map[string]string{"KRB5CCNAME": "FILE:" + k.path("cache")}},
		"unknown principal": {args: append(gssapi, "sasl.kerberos.keytab="+k.path("alice.keytab"), "sasl.kerberos.principal=bob@"+realm), want: `^connect to 127.0.0.[123]:\d+: GSSAPI: .*`},
		"wrong keytab":      {args: append(gssapi, "sasl.kerberos.keytab="+k.path("stranger.keytab"), "sasl.kerberos.principal=alice@"+realm), want: `^connect to 127.0.0.[123]:\d+: GSSAPI: `},
		"wrong service":     {args: []string{"security.protocol=SASL_PLAINTEXT", "sasl.kerberos.service.name=other", "sasl.kerberos.keytab=" + k.path("alice.keytab"), "sasl.kerberos.principal=alice"}, want: `^connect to 127.0.0.[123]:\d+: GSSAPI: `},
		"no service":        {args: []string{"security.protocol=SASL_PLAINTEXT"}, status: 2, want: `GSSAPI needs sasl.kerberos.service.name`},
		"no keytab":         {args: append(gssapi, "sasl.kerberos.keytab=/nowhere", "sasl.kerberos.principal=alice"), status: 2, want: `-X sasl.kerberos.keytab: keytab /nowhere: `},
	} {
		c.broker = all
		t.Run(name, func(t *testing.T) { c.run(t) })
	}
	// Partitions are on all three, so that a ticket for each was needed.
	leaders := make(map[string]bool)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, filepath.Join(bin, "kbk-fetch"), append([]string{"-b", brokers[0], "-t", "t", "--list", "--json"}, flags(keytab)...)...).Output()
	if err != nil {
		t.Fatal(errors.Join(err, fmt.Errorf("%s", out)))
	}
	for line := range strings.Lines(string(out)) {
		_, after, _ := strings.Cut(line, `"leader":`)
		leaders[strings.FieldsFunc(after, func(r rune) bool { return r == ',' || r == '}' })[0]] = true
	}
	if len(leaders) != 3 {
		t.Errorf("the leaders are %v\n%s", leaders, out)
	}
}

func flags(properties []string) (out []string) {
	for _, p := range properties {
		out = append(out, "-X", p)
	}
	return out
}
