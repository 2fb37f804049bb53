package kafka

import (
	"context"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/kbkio/kbk/pkg/command"
)

// parse returns the settings of a command line.
func parse(t *testing.T, args ...string) (s settings, cfg Config, err error) {
	t.Helper()
	app := command.App(command.Spec{Name: "kbk-test", Flags: Flags(), Action: func(_ context.Context, c *cli.Context, _ *command.Env) error {
		cfg, err = FromFlags(c)
		s = cfg.settings
		return err
	}})
	err = app.RunContext(t.Context(), append([]string{"kbk-test"}, args...))
	return s, cfg, err
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	name = filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestPrecedence sets one property in four places, and each wins over those before.
func TestPrecedence(t *testing.T) {
	yaml := write(t, "kbk.yaml", "cluster:\n  bootstrap.servers: yaml:1\n  client.id: yaml\n  security.protocol: PLAINTEXT\n  ssl.ca.location: yaml.pem\n")
	file := write(t, "client.properties", "client.id=file\nsecurity.protocol=PLAINTEXT\nretries=3\n")
	args := []string{"--config", yaml}
	want := func(id, broker string) {
		t.Helper()
		_, cfg, err := parse(t, args...)
		if err != nil || cfg.ClientID != id || !slices.Equal(cfg.Brokers, []string{broker}) {
			t.Errorf("%q: %+v, %v", args, cfg, err)
		}
	}
	want("yaml", "yaml:1")
	args = append(args, "--command-config", file)
	want("file", "yaml:1")
	t.Setenv("KBK_CLIENT_ID", "environment")
	want("environment", "yaml:1")
	args = append(args, "-X", "client.id=flag", "-X", "metadata.broker.list=flag:1")
	want("flag", "flag:1")
	t.Setenv("KBK_BROKERS", "other:1")
	want("flag", "other:1")
	args = append(args, "-b", "last:1")
	want("flag", "last:1")
}

// TestNamedCluster checks that nothing of one cluster is taken for another one.
func TestNamedCluster(t *testing.T) {
	file := write(t, "dr.properties", "sasl.username=bob\nretries=3\n")
	yaml := write(t, "kbk.yaml", "cluster:\n  bootstrap.servers: prod:1\n  security.protocol: SASL_SSL\n  sasl.mechanism: PLAIN\n  sasl.username: p\n"+
		"clusters:\n  dr-1:\n    bootstrap.servers: dr:1\n    client.id: dr\n    security.protocol: SASL_PLAINTEXT\n    sasl.mechanism: PLAIN\n    command-config: "+file+"\n  bare: {client.id: x}\n  typo: {bootstrap.servers: a, cliend.id: x}\n")
	t.Setenv("KBK_BROKERS", "prod:2")
	t.Setenv("KBK_SASL_PASSWORD", "of prod")
	t.Setenv("KBK_COMMAND_CONFIG", "/nonexistent/prod.properties")
	t.Setenv("KBK_CLUSTERS_DR_1_SASL_PASSWORD", "of dr")
	s, cfg, err := parse(t, "--config", yaml, "--cluster", "dr-1", "-X", "client.id=me")
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]string)
	for k, v := range s {
		got[k] = v.value
	}
	if want := map[string]string{"bootstrap.servers": "dr:1", "client.id": "me", "security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN",
		"sasl.username": "bob", "sasl.password": "of dr"}; !maps.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	if !slices.Equal(cfg.Brokers, []string{"dr:1"}) || cfg.ClientID != "me" {
		t.Errorf("got %+v", cfg)
	}
	f, err := command.ReadConfig(yaml)
	if err != nil {
		t.Fatal(err)
	}
	again, err := FromFile(f, "dr-1", "produce", "kbk", slog.New(slog.DiscardHandler))
	if err != nil || !slices.Equal(again.Brokers, cfg.Brokers) || again.ClientID != "dr" || again.settings.get("sasl.password") != "of dr" {
		t.Errorf("from the file: %+v, %v", again, err)
	}
	t.Setenv("KBK_COMMAND_CONFIG", "")
	if again, err = FromFile(f, "", "produce", "kbk", slog.New(slog.DiscardHandler)); err != nil || !slices.Equal(again.Brokers, []string{"prod:2"}) || again.settings.get("sasl.password") != "of prod" {
		t.Errorf("from the file, and the environment: %+v, %v", again, err)
	}
	for _, test := range []struct{ args, want string }{
		{"--config " + yaml + " --cluster dr-1 -b prod:1", "--brokers and --cluster exclude one another"},
		{"--config " + yaml + " --cluster dr-1 --command-config x", "--command-config and --cluster exclude one another"},
		{"--config " + yaml + " --cluster dr-2", `no cluster of that name; did you mean "dr-1"?`},
		{"--config " + yaml + " --cluster bare", "it has no bootstrap.servers"},
		{"--config " + yaml + " --cluster typo", `clusters: typo:: property "cliend.id" is not known; did you mean "client.id"?`},
		{"--cluster dr-1", "there is no --config file"},
	} {
		if _, _, err := parse(t, strings.Fields(test.args)...); command.StatusOf(err) != command.Usage || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", test.args, err)
		}
	}
}

// TestPropertiesAsJava reads a file as java.util.Properties.load does.
func TestPropertiesAsJava(t *testing.T) {
	text := "! a comment\n# another = comment\n\n  bootstrap.servers : a:1,\\\n      b:2\nclient.id=join\\\n   ed\nsasl.username \t alice\\u00e9\n" +
		"sasl.password=with\\=equals\\ and spaces \nsecurity.protocol=SASL_PLAINTEXT\nsasl.mechanism=PLAIN\ngroup.id=ignored\nacks=all\nsasl.oauthbearer.scope=\n"
	s, cfg, err := parse(t, "--command-config", write(t, "client.properties", text))
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]string)
	for k, v := range s {
		got[k] = v.value
	}
	if want := map[string]string{
		"bootstrap.servers": "a:1,b:2", "client.id": "joined", "sasl.username": "aliceé", "sasl.password": "with=equals and spaces ",
		"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN", "sasl.oauthbearer.scope": "",
	}; !maps.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	if !slices.Equal(cfg.Brokers, []string{"a:1", "b:2"}) {
		t.Errorf("brokers %q", cfg.Brokers)
	}
	for text, want := range map[string]string{
		"sasl.pasword=x":           `property "sasl.pasword" is not known; did you mean "sasl.password"?`,
		"sasl.password=${file:/a}": "config providers are not supported",
		"sasl.password=\\u00zz":    "it is not a file of Java properties",
	} {
		if _, _, err := parse(t, "-b", "a:1", "--command-config", write(t, "p", text)); command.StatusOf(err) != command.Usage || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, _, err := parse(t, "-b", "a:1", "--command-config", "/nowhere"); command.StatusOf(err) != command.Usage || err.Error() != "--command-config /nowhere: no such file or directory" {
		t.Errorf("a file that is not there: %v", err)
	}
}

// TestOthers makes sure that what kbk honours is known to somebody else too, but for
// its own.
func TestOthers(t *testing.T) {
	if len(others) < 200 {
		t.Errorf("only %d names", len(others))
	}
	own := []string{"sasl.oauthbearer.token"}
	for _, key := range slices.Concat(honoured, slices.Collect(maps.Keys(aliases))) {
		if !others[key] && !slices.Contains(own, key) {
			t.Errorf("%s is nobody's", key)
		}
	}
}

func TestJAAS(t *testing.T) {
	for text, want := range map[string]map[string]string{
		`a.PlainLoginModule required username="al ice" password="p=w;d \"q\" \\";`: {"username": "al ice", "password": `p=w;d "q" \`},
		"a.X  required\n  a = 1\n  b='two' ;":                                      {"a": "1", "b": "two"},
		"a.X optional;":                                                            {},
	} {
		l, err := parseJAAS(text)
		if err != nil || !maps.Equal(l.options, want) {
			t.Errorf("%q: %+v, %v", text, l, err)
		}
	}
	for _, text := range []string{"", "a.X", "a.X required", `a.X required a="1`, "a.X required a=1 b;", "a.X sometimes a=1;", "a.X required a=1; b.Y required;"} {
		if l, err := parseJAAS(text); err == nil {
			t.Errorf("%q: %+v", text, l)
		} else if strings.Contains(err.Error(), "1") {
			t.Errorf("%q: the error quotes it: %v", text, err)
		}
	}
}

// TestDiscover asks a name server on loopback for SRV records.
func TestDiscover(t *testing.T) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go serveDNS(conn)
	before := resolver
	defer func() { resolver = before }()
	resolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
	got, err := discover(t.Context(), []string{"plain:1", "srv+_kafka._tcp.example.org"})
	if err != nil || !slices.Equal(got, []string{"plain:1", "b1.example.org:9092", "b2.example.org:9093"}) {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := discover(t.Context(), []string{"srv+_kafka._tcp.example.net"}); err == nil || err.Error() != "brokers srv+_kafka._tcp.example.net: no such host" {
		t.Errorf("a name without records: %v", err)
	}
}

// serveDNS answers questions for _kafka._tcp.example.org, and knows nothing else.
func serveDNS(conn net.PacketConn) {
	buf := make([]byte, 1500)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
			continue
		}
		q := m.Questions[0]
		out := dnsmessage.Message{Header: dnsmessage.Header{ID: m.ID, Response: true, Authoritative: true}, Questions: m.Questions}
		if q.Name.String() == "_kafka._tcp.example.org." && q.Type == dnsmessage.TypeSRV {
			for i, host := range []string{"b1.example.org.", "b2.example.org."} {
				out.Answers = append(out.Answers, dnsmessage.Resource{
					Header: dnsmessage.ResourceHeader{Name: q.Name, Type: dnsmessage.TypeSRV, Class: dnsmessage.ClassINET, TTL: 1},
					Body:   &dnsmessage.SRVResource{Priority: uint16(i), Port: uint16(9092 + i), Target: dnsmessage.MustNewName(host)},
				})
			}
		} else {
			out.RCode = dnsmessage.RCodeNameError
		}
		if b, err := out.Pack(); err == nil {
			_, _ = conn.WriteTo(b, from) // who asks asks again
		}
	}
}

// TestMSKIAM checks the shape of what is sent to Amazon's managed Kafka, which there is
// none of here: the host and the credentials' key, signed, and never the secret.
func TestMSKIAM(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "aws-secret-1v")
	t.Setenv("AWS_CONFIG_FILE", "/nowhere")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
	for _, args := range [][]string{
		{"-X", "sasl.mechanism=AWS_MSK_IAM"},
		{"-X", "sasl.mechanism=AWS_MSK_IAM", "-X", "sasl.jaas.config=software.amazon.msk.auth.iam.IAMLoginModule required;"},
	} {
		s, _, err := parse(t, append(args, "-b", "a:1", "-X", "security.protocol=SASL_SSL")...)
		if err != nil {
			t.Fatal(err)
		}
		m, err := s.mechanism()
		if err != nil || m.Name() != "AWS_MSK_IAM" {
			t.Fatal(m, err)
		}
		_, first, err := m.Authenticate(t.Context(), "b-1.demo.abc.c2.kafka.eu-central-1.amazonaws.com:9098")
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range []string{`"action":"kafka-cluster:Connect"`, `"host":"b-1.demo.abc.c2.kafka.eu-central-1.amazonaws.com"`, "AKIDEXAMPLE/", "eu-central-1/kafka-cluster/aws4_request", "x-amz-signature"} {
			if !strings.Contains(string(first), part) {
				t.Errorf("%s is not in %s", part, first)
			}
		}
		if strings.Contains(string(first), "aws-secret-1v") {
			t.Error("the secret is sent")
		}
	}
}
