// Package security tests how the commands connect: to listeners of a real Kafka that
// want TLS, a certificate, or one of SASL's mechanisms.
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
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	kafkatest "github.com/kbkio/kbk/test/kafka"
)

// What must never be printed.
const (
	userSecret  = "alice-secret-9z"
	scramSecret = "scram-secret-5k"
	storeSecret = "store-secret-3q"
)

var (
	cluster *kafkatest.Cluster
	ca      *authority
	tokens  *issuer
	bin     string
	// said is all that the commands have printed and stored.
	said bytes.Buffer
	lock sync.Mutex // of said
)

func TestMain(m *testing.M) {
	status, err := testAll(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "security:", err)
		os.Exit(1)
	}
	os.Exit(status)
}

func testAll(m *testing.M) (status int, err error) {
	dir, err := os.MkdirTemp("", "kbk-security-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	if bin = os.Getenv("KBK_BIN"); bin == "" {
		bin = filepath.Join(dir, "bin") + "/"
		if out, err := exec.Command("go", "build", "-o", bin, "github.com/kbkio/kbk/cmd/kbk", "github.com/kbkio/kbk/cmd/kbk-fetch", "github.com/kbkio/kbk/cmd/kbk-produce").CombinedOutput(); err != nil {
			return 0, fmt.Errorf("build the commands: %w\n%s", err, out)
		}
	}
	if ca, err = newAuthority(dir, "ca"); err != nil {
		return 0, err
	}
	other, err := newAuthority(dir, "other")
	if err != nil {
		return 0, err
	}
	loopback := net.IPv4(127, 0, 0, 1)
	if tokens, err = newIssuer(); err != nil {
		return 0, err
	}
	defer tokens.Close()
	err = errors.Join(
		ca.server("server", time.Time{}, []string{"localhost"}, loopback),
		ca.server("expired", time.Now().Add(-time.Minute), nil, loopback),
		ca.server("elsewhere", time.Time{}, []string{"kafka.example.org"}),
		other.server("stranger", time.Time{}, nil, loopback),
		ca.client("client", storeSecret),
	)
	if err != nil {
		return 0, err
	}
	conf := map[string]string{
		"sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
		"authorizer.class.name":   "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
		"super.users":             "User:ANONYMOUS;User:alice;User:scram;User:oauth-user;User:CN=client",
	}
	tls := func(listener, file string) {
		prefix := "listener.name." + listener + ".ssl."
		conf[prefix+"keystore.type"], conf[prefix+"keystore.location"] = "PEM", ca.path(file+".pem")
		conf[prefix+"truststore.type"], conf[prefix+"truststore.location"] = "PEM", ca.path("ca.pem")
	}
	users := func(listener string) {
		prefix := "listener.name." + listener + "."
		conf[prefix+"plain.sasl.jaas.config"] = `org.apache.kafka.common.security.plain.PlainLoginModule required user_alice="` + userSecret + `" user_nobody="` + userSecret + `" user_reader="` + userSecret + `";`
		conf[prefix+"scram-sha-256.sasl.jaas.config"] = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
		conf[prefix+"scram-sha-512.sasl.jaas.config"] = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
		conf[prefix+"connections.max.reauth.ms"] = "4000"
	}
	tls("tls", "server")
	tls("mutual", "server")
	conf["listener.name.mutual.ssl.client.auth"] = "required"
	tls("expired", "expired")
	tls("elsewhere", "elsewhere")
	tls("stranger", "stranger")
	tls("secure", "server")
	users("secure")
	users("sasl")
	conf["listener.name.oauth.sasl.enabled.mechanisms"] = "OAUTHBEARER"
	conf["listener.name.oauth.oauthbearer.sasl.jaas.config"] = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;"
	conf["listener.name.oauth.oauthbearer.sasl.server.callback.handler.class"] = "org.apache.kafka.common.security.oauthbearer.OAuthBearerValidatorCallbackHandler"
	conf["listener.name.oauth.sasl.oauthbearer.jwks.endpoint.url"] = tokens.URL + "/jwks"
	conf["listener.name.oauth.sasl.oauthbearer.expected.audience"] = "kafka"
	conf["listener.name.oauth.connections.max.reauth.ms"] = "4000"
	cluster, err = kafkatest.Start(context.Background(), kafkatest.Options{
		Config: conf,
		JVM:    []string{"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls=" + tokens.URL + "/jwks"},
		Listeners: []kafkatest.Listener{
			{Name: "TLS", Protocol: "SSL"}, {Name: "MUTUAL", Protocol: "SSL"}, {Name: "EXPIRED", Protocol: "SSL"},
			{Name: "ELSEWHERE", Protocol: "SSL"}, {Name: "STRANGER", Protocol: "SSL"},
			{Name: "SASL", Protocol: "SASL_PLAINTEXT"}, {Name: "SECURE", Protocol: "SASL_SSL"}, {Name: "OAUTH", Protocol: "SASL_PLAINTEXT"},
		},
	})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, cluster.Close()) }()
	if err := seed(cluster.Bootstrap(), 20); err != nil {
		return 0, err
	}
	if status = m.Run(); status != 0 {
		return status, nil
	}
	for _, secret := range []string{userSecret, scramSecret, storeSecret, clientSecret, "wrong-secret", tokens.last()} {
		if secret != "" && strings.Contains(said.String(), secret) { // no token may have been issued
			return 0, fmt.Errorf("the secret %q is in what the commands print or store", secret)
		}
	}
	return 0, nil
}

// seed makes the topic t with n records, and the users of SCRAM.
func seed(brokers string, n int) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(brokers, ",")...))
	if err != nil {
		return err
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	if _, err := adm.CreateTopic(ctx, 3, 1, nil, "t"); err != nil {
		return err
	}
	for _, m := range []kadm.ScramMechanism{kadm.ScramSha256, kadm.ScramSha512} { // a request may name a user once
		altered, err := adm.AlterUserSCRAMs(ctx, nil, []kadm.UpsertSCRAM{{User: "scram", Mechanism: m, Iterations: 4096, Password: scramSecret}})
		if err == nil {
			err = altered.Error()
		}
		if err != nil {
			return err
		}
	}
	for i := range n {
		if err := cl.ProduceSync(ctx, &kgo.Record{Topic: "t", Value: fmt.Append(nil, i)}).FirstErr(); err != nil {
			return err
		}
	}
	return nil
}

// A call is a command that connects.
type call struct {
	listener string
	broker   string            // instead of the listener's
	args     []string          // -X, as key=value
	env      map[string]string // and in the environment
	file     string            // the contents of --command-config
	topic    string            // t unless given
	want     string            // an expression for the one line of error; empty: it works
	hint     string
	status   int // 1 unless given, with want
}

func (c call) run(t *testing.T) {
	t.Helper()
	addr := c.broker
	if addr == "" {
		addr = cluster.Listener(c.listener, 0)
	}
	topic := c.topic
	if topic == "" {
		topic = "t"
	}
	args := []string{"-b", addr, "-t", topic, "--verbose"}
	for _, x := range c.args {
		args = append(args, "-X", x)
	}
	if c.file != "" {
		name := filepath.Join(t.TempDir(), "client.properties")
		if err := os.WriteFile(name, []byte(c.file), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--command-config", name)
	}
	for _, format := range []string{"text", "json"} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, filepath.Join(bin, "kbk-fetch"), append(args, "--log-format", format)...)
		cmd.Env = os.Environ()
		for k, v := range c.env {
			cmd.Env = append(cmd.Env, k+"="+v)
		}
		var out, log bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &log
		err := cmd.Run()
		lock.Lock()
		said.Write(out.Bytes())
		said.Write(log.Bytes())
		lock.Unlock()
		if format == "json" {
			continue
		}
		text := log.String()
		status := cmd.ProcessState.ExitCode()
		if c.want == "" {
			if err != nil || !strings.Contains(text, "read 20 records") {
				t.Errorf("status %d:\n%s", status, text)
			}
			continue
		}
		line := regexp.MustCompile(`(?m)^kbk-fetch: error: (.*)$`).FindStringSubmatch(text)
		wantStatus := max(c.status, 1)
		if line == nil || !regexp.MustCompile(c.want).MatchString(line[1]) || status != wantStatus || out.Len() > 0 {
			t.Errorf("status %d, %d bytes, and not %q:\n%s", status, out.Len(), c.want, text)
		}
		if !strings.Contains(text, c.hint) {
			t.Errorf("the hint is not %q:\n%s", c.hint, text)
		}
		if line != nil && wantStatus == 1 && c.broker == "" && c.topic == "" && !strings.Contains(line[1], addr) {
			t.Errorf("the error does not name the broker %s: %s", addr, line[1])
		}
	}
}

func TestConnect(t *testing.T) {
	plain := []string{"security.protocol=SASL_PLAINTEXT", "sasl.mechanism=PLAIN", "sasl.username=alice"}
	password := map[string]string{"KBK_SASL_PASSWORD": userSecret}
	ca0 := "ssl.ca.location=" + ca.path("ca.pem")
	for name, c := range map[string]call{
		"TLS, own CA":               {listener: "TLS", args: []string{"security.protocol=ssl", ca0}},
		"TLS, PEM trust store":      {listener: "TLS", file: "security.protocol=SSL\nssl.truststore.type=PEM\nssl.truststore.location=" + ca.path("ca.pem")},
		"TLS, PKCS12 trust store":   {listener: "TLS", file: "security.protocol=SSL\nssl.truststore.location=" + ca.path("trust.p12") + "\nssl.truststore.password=" + storeSecret},
		"TLS, JKS trust store":      {listener: "TLS", file: "security.protocol=SSL\nssl.truststore.type=JKS\nssl.truststore.location=" + ca.path("trust.jks") + "\nssl.truststore.password=" + storeSecret},
		"TLS, any name":             {listener: "ELSEWHERE", args: []string{"security.protocol=SSL", ca0, "ssl.endpoint.identification.algorithm="}},
		"TLS, any certificate":      {listener: "STRANGER", args: []string{"security.protocol=SSL", "enable.ssl.certificate.verification=false"}},
		"mutual TLS, PEM":           {listener: "MUTUAL", args: []string{"security.protocol=SSL", ca0, "ssl.certificate.location=" + ca.path("client.crt"), "ssl.key.location=" + ca.path("client.key")}},
		"mutual TLS, encrypted key": {listener: "MUTUAL", args: []string{"security.protocol=SSL", ca0, "ssl.certificate.location=" + ca.path("client.crt"), "ssl.key.location=" + ca.path("client-encrypted.key")}, env: map[string]string{"KBK_SSL_KEY_PASSWORD": storeSecret}},
		"mutual TLS, PKCS12":        {listener: "MUTUAL", file: "security.protocol = SSL\nssl.truststore.location : " + ca.path("trust.p12") + "\nssl.truststore.password=" + storeSecret + "\nssl.keystore.location=" + ca.path("client.p12") + "\nssl.keystore.password=" + storeSecret + "\nssl.key.password=" + storeSecret},
		"mutual TLS, JKS":           {listener: "MUTUAL", file: "security.protocol=SSL\nssl.truststore.location=" + ca.path("trust.jks") + "\nssl.truststore.password=" + storeSecret + "\nssl.keystore.location=" + ca.path("client.jks") + "\nssl.keystore.password=" + storeSecret},
		"PLAIN":                     {listener: "SASL", args: plain, env: password},
		"PLAIN, client.properties":  {listener: "SASL", file: "# as the Java tools have it\nsecurity.protocol=SASL_PLAINTEXT\nsasl.mechanism=PLAIN\nrequest.timeout.ms=5000\nsasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \\\n  username=\"alice\" \\\n  password=\"" + userSecret + "\";\n"},
		"PLAIN over TLS":            {listener: "SECURE", args: []string{"security.protocol=SASL_SSL", ca0, "sasl.mechanisms=PLAIN", "sasl.username=alice"}, env: password},
		"SCRAM-SHA-256":             {listener: "SASL", args: []string{"security.protocol=SASL_PLAINTEXT", "sasl.mechanism=SCRAM-SHA-256", "sasl.username=scram"}, env: map[string]string{"KBK_SASL_PASSWORD": scramSecret}},
		"SCRAM-SHA-512 over TLS":    {listener: "SECURE", file: "security.protocol=SASL_SSL\nssl.truststore.location=" + ca.path("trust.jks") + "\nssl.truststore.password=" + storeSecret + "\nsasl.mechanism=SCRAM-SHA-512\nsasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required username=scram password='" + scramSecret + "';"},
		"OAUTHBEARER, a token":      {listener: "OAUTH", args: []string{"security.protocol=SASL_PLAINTEXT", "sasl.mechanism=OAUTHBEARER"}, env: map[string]string{"KBK_SASL_OAUTHBEARER_TOKEN": tokens.token(time.Now().Add(time.Hour))}},
		"OAUTHBEARER, an endpoint":  {listener: "OAUTH", file: "security.protocol=SASL_PLAINTEXT\nsasl.mechanism=OAUTHBEARER\nsasl.login.callback.handler.class=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginCallbackHandler\nsasl.oauthbearer.token.endpoint.url=" + tokens.URL + "/token\nsasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required clientId=\"" + clientID + "\" clientSecret=\"" + clientSecret + "\" scope=\"kafka\";"},

		"wrong password":       {listener: "SASL", args: plain, env: map[string]string{"KBK_SASL_PASSWORD": "wrong-secret"}, want: `^connect to \S+: the broker refuses the credentials: .*[Ii]nvalid username or password`},
		"wrong SCRAM password": {listener: "SASL", args: []string{"security.protocol=SASL_PLAINTEXT", "sasl.mechanism=SCRAM-SHA-256", "sasl.username=scram"}, env: map[string]string{"KBK_SASL_PASSWORD": "wrong-secret"}, want: `^connect to \S+: .*(refuses the credentials|SCRAM)`},
		"wrong client secret":  {listener: "OAUTH", args: []string{"security.protocol=SASL_PLAINTEXT", "sasl.mechanism=OAUTHBEARER", "sasl.oauthbearer.token.endpoint.url=" + tokens.URL + "/token", "sasl.oauthbearer.client.id=" + clientID, "sasl.oauthbearer.scope=kafka"}, env: map[string]string{"KBK_SASL_OAUTHBEARER_CLIENT_SECRET": "wrong-secret"}, want: `^connect to \S+: OAUTHBEARER: token endpoint http://\S+/token: invalid_client$`},
		"expired token":        {listener: "OAUTH", args: []string{"security.protocol=SASL_PLAINTEXT", "sasl.mechanism=OAUTHBEARER"}, env: map[string]string{"KBK_SASL_OAUTHBEARER_TOKEN": tokens.token(time.Now().Add(-time.Hour))}, want: `^connect to \S+: the broker refuses the token`},
		"mechanism disabled":   {listener: "OAUTH", args: plain, env: password, want: `^connect to \S+: the broker does not have this sasl.mechanism enabled`},
		"expired certificate":  {listener: "EXPIRED", args: []string{"security.protocol=SSL", ca0}, want: `^connect to \S+: TLS: the broker's certificate is valid from \S+ to \S+, and it is `},
		"wrong CA":             {listener: "STRANGER", args: []string{"security.protocol=SSL", ca0}, want: `^connect to \S+: TLS: the broker's certificate, issued by CN=other, is not signed by a trusted authority`, hint: "ssl.ca.location"},
		"system roots":         {listener: "TLS", args: []string{"security.protocol=SSL"}, want: `not signed by a trusted authority`},
		"wrong name":           {listener: "ELSEWHERE", args: []string{"security.protocol=SSL", ca0}, want: `^connect to \S+: TLS: the broker's certificate is for kafka.example.org, and not for 127.0.0.1`},
		"wrong CA, any name":   {listener: "STRANGER", args: []string{"security.protocol=SSL", ca0, "ssl.endpoint.identification.algorithm=none"}, want: `not signed by a trusted authority`},
		"no certificate":       {listener: "MUTUAL", args: []string{"security.protocol=SSL", ca0}, want: `^connect to \S+: `, hint: "certificate"},
		"plaintext to TLS":     {listener: "TLS", args: []string{"security.protocol=PLAINTEXT"}, want: `^connect to \S+: the broker closes the connection`, hint: "security.protocol"},
		"plaintext to SASL":    {listener: "SASL", want: `^connect to \S+: the broker closes the connection`, hint: "SASL"},
		"TLS to plaintext":     {broker: cluster.Bootstrap(), args: []string{"security.protocol=SSL", ca0}, want: `^connect to 127.0.0.1:\d+: TLS: the broker does not speak it there`, hint: "PLAINTEXT"},
		"SASL to plaintext":    {broker: cluster.Bootstrap(), args: plain, env: password, want: `^connect to 127.0.0.1:\d+: the broker does not accept SASL there`},
		"unknown host":         {broker: "kafka.invalid:9092", want: `^connect to kafka.invalid:9092: no such host`},
		"nobody there":         {broker: "127.0.0.1:1", want: `^connect to 127.0.0.1:1: connection refused`},
		"unknown SRV name":     {broker: "srv+_kafka._tcp.invalid", want: `^brokers srv\+_kafka._tcp.invalid: `},
		"unauthorised topic":   {listener: "SASL", args: []string{"security.protocol=SASL_PLAINTEXT", "sasl.mechanism=PLAIN", "sasl.username=nobody"}, env: password, topic: "t", want: `^topic "t": not authorized`},

		"unknown property":  {listener: "TLS", args: []string{"security.protokol=SSL"}, status: 2, want: `^-X: property "security.protokol" is not known; did you mean "security.protocol"\?$`},
		"useless property":  {listener: "TLS", args: []string{"linger.ms=5"}, status: 2, want: `^-X: kbk does not use linger.ms$`},
		"unknown in a file": {listener: "TLS", file: "sasl.mechanizm=PLAIN", status: 2, want: `^--command-config \S+: property "sasl.mechanizm" is not known; did you mean "sasl.mechanism"\?$`},
		"wrong protocol":    {listener: "TLS", args: []string{"security.protocol=TLS"}, status: 2, want: `^-X security.protocol: "TLS" is not PLAINTEXT, SSL`},
		"forgotten":         {listener: "SASL", args: []string{"sasl.mechanism=PLAIN"}, status: 2, want: `^-X sasl.mechanism: it has no effect without security.protocol`},
		"no password":       {listener: "SASL", args: plain, status: 2, want: `sasl.username and sasl.password`},
		"store password":    {listener: "MUTUAL", file: "security.protocol=SSL\nssl.keystore.location=" + ca.path("client.jks") + "\nssl.keystore.password=wrong-secret", status: 2, want: `ssl.keystore.location: the store cannot be opened: is its password right\?$`},
		"PKCS12 password":   {listener: "MUTUAL", file: "security.protocol=SSL\nssl.keystore.location=" + ca.path("client.p12") + "\nssl.keystore.password=wrong-secret", status: 2, want: `ssl.keystore.location: the store cannot be opened: is its password right\?$`},
		"key password":      {listener: "MUTUAL", args: []string{"security.protocol=SSL", ca0, "ssl.certificate.location=" + ca.path("client.crt"), "ssl.key.location=" + ca.path("client-encrypted.key")}, env: map[string]string{"KBK_SSL_KEY_PASSWORD": "wrong-secret"}, status: 2, want: `the key cannot be decrypted: is the password right\?$`},
		"missing file":      {listener: "TLS", args: []string{"security.protocol=SSL", "ssl.ca.location=/nowhere/ca.pem"}, status: 2, want: `^-X ssl.ca.location: open /nowhere/ca.pem: no such file or directory$`},
		"not JAAS":          {listener: "SASL", file: "security.protocol=SASL_PLAINTEXT\nsasl.mechanism=PLAIN\nsasl.jaas.config=username=alice password=" + userSecret, status: 2, want: `sasl.jaas.config: not of the form `},
	} {
		t.Run(name, func(t *testing.T) { c.run(t) })
	}
}

// TestReauthentication reads for longer than a session may last: the broker closes the
// connections of clients that do not authenticate again (KIP-368). The token of
// OAUTHBEARER, which lasts as long, is another each time; in a file it is read again.
func TestReauthentication(t *testing.T) {
	tokenFile := filepath.Join(t.TempDir(), "token")
	write := func() {
		if err := os.WriteFile(tokenFile+".new", []byte(tokens.token(time.Now().Add(5*time.Second))+"\n"), 0o600); err != nil {
			t.Error(err)
		}
		if err := os.Rename(tokenFile+".new", tokenFile); err != nil {
			t.Error(err)
		}
	}
	write()
	ctx, cancel := context.WithCancel(context.Background())
	var writing sync.WaitGroup
	t.Cleanup(func() { // after the parallel tests
		cancel()
		writing.Wait()
	})
	writing.Go(func() {
		for ctx.Err() == nil {
			time.Sleep(500 * time.Millisecond)
			write()
		}
	})
	oauth := []string{"security.protocol=SASL_PLAINTEXT", "sasl.mechanism=OAUTHBEARER"}
	for name, c := range map[string]call{
		"PLAIN":    {listener: "SASL", args: []string{"security.protocol=SASL_PLAINTEXT", "sasl.mechanism=PLAIN", "sasl.username=alice"}, env: map[string]string{"KBK_SASL_PASSWORD": userSecret}},
		"endpoint": {listener: "OAUTH", args: append(oauth, "sasl.oauthbearer.token.endpoint.url="+tokens.URL+"/token", "sasl.oauthbearer.client.id="+clientID, "sasl.oauthbearer.scope=kafka"), env: map[string]string{"KBK_SASL_OAUTHBEARER_CLIENT_SECRET": clientSecret}},
		"file":     {listener: "OAUTH", args: append(oauth, "sasl.oauthbearer.token.endpoint.url=file://"+tokenFile)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			before := tokens.issued.Load()
			cmd := exec.Command(filepath.Join(bin, "kbk-fetch"), append([]string{"-b", cluster.Listener(c.listener, 0), "-t", "t", "--follow", "--refresh", "500ms", "--verbose"}, flags(c.args)...)...)
			cmd.Env = os.Environ()
			for k, v := range c.env {
				cmd.Env = append(cmd.Env, k+"="+v)
			}
			var log bytes.Buffer
			cmd.Stderr = &log
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(11 * time.Second) // three sessions; a broker wants a second between two
			if err := cmd.Process.Signal(os.Interrupt); err != nil {
				t.Error(err)
			}
			_ = cmd.Wait() // the status says it
			if status := cmd.ProcessState.ExitCode(); status != 130 || !strings.Contains(log.String(), "read 20 records") || strings.Contains(log.String(), "cannot") {
				t.Errorf("status %d:\n%s", status, log.String())
			}
			if name == "endpoint" && tokens.issued.Load()-before < 2 {
				t.Error("the token was not renewed")
			}
			lock.Lock()
			defer lock.Unlock()
			said.Write(log.Bytes())
		})
	}
}

// TestWholePipe restores through SASL_SSL what was read through mutual TLS, with the
// cluster in a configuration file, and looks for secrets in all that is stored.
func TestWholePipe(t *testing.T) {
	dir := t.TempDir()
	source, target := filepath.Join(dir, "source.yaml"), filepath.Join(dir, "target.yaml")
	for name, text := range map[string]string{
		source: "cluster:\n  bootstrap.servers: " + cluster.Listener("MUTUAL", 0) + "\n  security.protocol: SSL\n  ssl.truststore.location: " + ca.path("trust.p12") +
			"\n  ssl.truststore.password: " + storeSecret + "\n  ssl.keystore.location: " + ca.path("client.p12") + "\n  ssl.keystore.password: " + storeSecret + "\nfetch:\n  topic: t\n",
		target: "cluster:\n  bootstrap.servers: " + cluster.Listener("SECURE", 0) + "\n  security.protocol: SASL_SSL\n  ssl.ca.location: " + ca.path("ca.pem") +
			"\n  sasl.mechanism: SCRAM-SHA-512\n  sasl.username: scram\n  sasl.password: " + scramSecret + "\nproduce:\n  create-topics: true\n  rename: t=restored\n",
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	line := fmt.Sprintf("set -o pipefail; kbk-fetch --config %s --verbose > records.kbk && kbk-produce --config %s --verbose < records.kbk > map.kbk", source, target)
	cmd := exec.Command("bash", "-c", line)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "produced 20 records") {
		t.Fatalf("%v\n%s", err, out)
	}
	lock.Lock()
	defer lock.Unlock()
	said.Write(out)
	for _, name := range []string{"records.kbk", "map.kbk"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		said.Write(b)
	}
}

// TestSecretsAreFound makes sure that the search at the end can find something.
func TestSecretsAreFound(t *testing.T) {
	lock.Lock()
	defer lock.Unlock()
	if !strings.Contains(said.String(), "connect to ") {
		t.Error("nothing was said")
	}
	if tokens.last() == "" {
		t.Error("no token was issued")
	}
}
