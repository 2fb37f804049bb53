package kafka

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kbkio/kbk/pkg/command"
)

// TestBrokerProtocols takes protocols before the brokers from all places.
func TestBrokerProtocols(t *testing.T) {
	for _, c := range []struct {
		brokers, protocol string // given
		want, is          string // brokers, and protocol; "" for an error
	}{
		{"a:1", "", "a:1", "PLAINTEXT"},
		{"PLAINTEXT://a:1", "", "a:1", "PLAINTEXT"},
		{"plaintext://a:1, PLAINTEXT://b:2/", "", "a:1 b:2", "PLAINTEXT"},
		{"SSL://[::1]:9093,b:2", "", "[::1]:9093 b:2", "SSL"},
		{"SSL://a:1", "ssl", "a:1", "SSL"},
		{"SSL://srv+_kafka._tcp.example.org", "", "srv+_kafka._tcp.example.org", "SSL"},
		{"SSL://a:1", "PLAINTEXT", "", ""},
		{"SSL://a:1,PLAINTEXT://b:2", "", "", ""},
		{"INTERNAL://a:1", "", "", ""},
		{"://a:1", "", "", ""},
	} {
		check := func(where string, cfg Config, err error) {
			t.Helper()
			switch {
			case c.want == "" && (err == nil || command.StatusOf(err) != command.Usage):
				t.Errorf("%s: %q beside %q: %v", where, c.brokers, c.protocol, err)
			case c.want == "":
			case err != nil || strings.Join(cfg.Brokers, " ") != c.want || cfg.settings.protocol() != c.is:
				t.Errorf("%s: %q: %+v, %v", where, c.brokers, cfg, err)
			}
		}
		var more []string
		if c.protocol != "" {
			more = []string{"-X", "security.protocol=" + c.protocol}
		}
		_, cfg, err := parse(t, append([]string{"-b", c.brokers}, more...)...)
		check("-b", cfg, err)
		_, cfg, err = parse(t, append([]string{"--command-config", write(t, "client.properties", "bootstrap.servers="+c.brokers)}, more...)...)
		check("client.properties", cfg, err)
		_, cfg, err = parse(t, append([]string{"--config", write(t, "kbk.yaml", "cluster:\n  bootstrap.servers: '"+c.brokers+"'\n")}, more...)...)
		check("kbk.yaml", cfg, err)
		t.Setenv("KBK_BROKERS", c.brokers)
		_, cfg, err = parse(t, more...)
		check("environment", cfg, err)
		t.Setenv("KBK_BROKERS", "")
	}
	_, _, err := parse(t, "-b", "SSL://a:1", "-X", "security.protocol=SASL_SSL")
	if want := "-b: SSL://a:1 contradicts -X security.protocol, which says SASL_SSL"; err == nil || err.Error() != want {
		t.Errorf("it says %v", err)
	}
}

// TestNoSecretInErrors makes mistakes with a password in them.
func TestNoSecretInErrors(t *testing.T) {
	for _, args := range [][]string{
		{"-X", "sasl.password:hunter2"}, {"-X", "sasl.password:hunter2="}, {"-X", "sasl.password hunter2=x"}, {"-X", "hunter2"},
		{"--command-config", write(t, "a.properties", "sasl.password\\:hunter2=x\n")},
		{"--config", write(t, "kbk.yaml", "cluster:\n  'sasl.password:hunter2': x\n")},
	} {
		_, _, err := parse(t, append([]string{"-b", "a:1"}, args...)...)
		if command.StatusOf(err) != command.Usage || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: %v", args, err)
		}
	}
}

// TestNarrowing wants what would let other clients trust less to be in force, or an error.
func TestNarrowing(t *testing.T) {
	const suites12, suites13 = "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "TLS_AES_128_GCM_SHA256"
	for _, c := range []struct {
		text     string
		min, max uint16 // 0 and 0: an error
	}{
		{"", tls.VersionTLS12, 0},
		{"ssl.enabled.protocols=TLSv1.2,TLSv1.3", tls.VersionTLS12, tls.VersionTLS13},
		{"ssl.enabled.protocols=TLSv1.3", tls.VersionTLS13, tls.VersionTLS13},
		{"ssl.enabled.protocols=TLSv1, TLSv1.1, TLSv1.2", tls.VersionTLS12, tls.VersionTLS12},
		{"ssl.enabled.protocols=TLSv1.1", 0, 0},
		{"ssl.enabled.protocols=SSLv3", 0, 0},
		{"ssl.cipher.suites=" + suites12, tls.VersionTLS12, tls.VersionTLS12},
		{"ssl.cipher.suites=" + suites13, tls.VersionTLS13, 0},
		{"ssl.cipher.suites=" + suites12 + "," + suites13, tls.VersionTLS12, 0},
		{"ssl.cipher.suites=TLS_DHE_RSA_WITH_AES_128_GCM_SHA256," + suites13, tls.VersionTLS13, 0},
		{"ssl.cipher.suites=TLS_DHE_RSA_WITH_AES_128_GCM_SHA256", 0, 0},
		{"ssl.cipher.suites=ECDHE-RSA-AES128-GCM-SHA256:HIGH", 0, 0},
		{"ssl.enabled.protocols=TLSv1.3\nssl.cipher.suites=" + suites12, 0, 0},
		{"ssl.crl.location=crl.pem", 0, 0},
		{"ssl.crl.location=", tls.VersionTLS12, 0},
		{"ssl.curves.list=P-521", 0, 0},
	} {
		s, _, err := parse(t, "-b", "a:1", "--command-config", write(t, "client.properties", "security.protocol=SSL\n"+c.text+"\n"))
		if c.min == 0 {
			if command.StatusOf(err) != command.Usage {
				t.Errorf("%q: %v", c.text, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", c.text, err)
			continue
		}
		cfg, err := s.tlsConfig()
		if err != nil || cfg.MinVersion != c.min || cfg.MaxVersion != c.max {
			t.Errorf("%q: versions %x to %x, %v", c.text, cfg.MinVersion, cfg.MaxVersion, err)
		}
	}
}

// TestCipherSuite connects to a server with one suite of TLS 1.3 alone.
func TestCipherSuite(t *testing.T) {
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.TLS = &tls.Config{MinVersion: tls.VersionTLS13}
	server.StartTLS()
	defer server.Close()
	ca := write(t, "ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})))
	for _, name := range []string{"https", "none"} { // which have checks of their own
		for suite, want := range map[string]bool{"TLS_AES_128_GCM_SHA256,TLS_AES_256_GCM_SHA384,TLS_CHACHA20_POLY1305_SHA256": true, "TLS_AES_256_GCM_SHA384": false} {
			s := settings{"ssl.ca.location": {ca, ""}, "ssl.cipher.suites": {suite, ""}, "ssl.endpoint.identification.algorithm": {name, ""}}
			cfg, err := s.tlsConfig()
			if err != nil {
				t.Fatal(err)
			}
			conn, err := (&dialer{tls: cfg}).dial(t.Context(), "tcp", server.Listener.Addr().String())
			if (err == nil) != want {
				t.Errorf("%s, name %s: %v", suite, name, err)
			}
			if err == nil {
				_ = conn.Close()
			}
		}
	}
}

// TestUseless wants properties that are not in force to be named.
func TestUseless(t *testing.T) {
	for text, want := range map[string]string{
		"security.protocol=PLAINTEXT\nsasl.mechanism=PLAIN\nsasl.password=hunter2": "without effect, as security.protocol is PLAINTEXT: sasl.mechanism, sasl.password",
		"security.protocol=PLAINTEXT\nssl.endpoint.identification.algorithm=":      "",
		"security.protocol=SSL\nsasl.mechanism=PLAIN":                              "without effect, as security.protocol is SSL: sasl.mechanism",
		"security.protocol=PLAINTEXT\nacks=all":                                    "",
	} {
		s, _, err := parse(t, "-b", "a:1", "--command-config", write(t, "client.properties", text))
		if got := strings.Join(s.warnings(), "\n"); err != nil || got != want {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
}

// TestTokenClient asks an endpoint with a certificate of ssl.ca.location.
func TestTokenClient(t *testing.T) {
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	ca := write(t, "ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})))
	for s, want := range map[*settings]bool{{"ssl.ca.location": {ca, ""}}: true, {}: false} {
		c, err := s.tokenClient()
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.Get(server.URL)
		var unknown x509.UnknownAuthorityError
		if want && err != nil || !want && !errors.As(err, &unknown) {
			t.Errorf("%v: %v", *s, err)
		}
		if err == nil {
			_ = resp.Body.Close()
		}
		if c.Timeout <= 0 {
			t.Error("it waits for ever")
		}
	}
}

// TestTokenEndpointAway wants an endpoint that fails to be as transient as a broker, and a
// refusal to be final. Neither says what was sent.
func TestTokenEndpointAway(t *testing.T) {
	var status int
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, secret, _ := r.BasicAuth()
		http.Error(w, secret, status)
	}))
	endpoint := server.URL
	defer server.Close()
	try := func(want bool) {
		t.Helper()
		s := settings{
			"sasl.mechanism": {"OAUTHBEARER", ""}, "sasl.oauthbearer.token.endpoint.url": {endpoint, ""},
			"sasl.oauthbearer.client.credentials.client.id": {"me", ""}, "sasl.oauthbearer.client.credentials.client.secret": {"hunter2", ""},
		}
		m, err := s.mechanism()
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = m.Authenticate(t.Context(), "b:1")
		if err == nil || Transient(err) != want || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("status %d: transient is %v: %v", status, Transient(err), err)
		}
	}
	for status = range map[int]bool{http.StatusUnauthorized: false, http.StatusServiceUnavailable: true, http.StatusTooManyRequests: true} {
		try(status != http.StatusUnauthorized)
	}
	endpoint = "http://" + nobody(t)
	try(true)
}

// TestWatch has brokers fail and come back, by a clock of its own.
func TestWatch(t *testing.T) {
	var out bytes.Buffer
	now := time.Unix(0, 0)
	w := newWatch(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})))
	w.now = func() time.Time { return now }
	refused := &brokerError{broker: "a:1", err: errors.New("connection refused")}
	a, b := kgo.BrokerMetadata{Host: "a", Port: 1}, kgo.BrokerMetadata{Host: "b", Port: 2}
	for _, step := range []struct {
		after time.Duration
		meta  kgo.BrokerMetadata
		err   error
		want  string
	}{
		{0, a, refused, ""},
		{20 * time.Second, a, refused, ""},
		{0, b, refused, ""},
		{time.Second, b, nil, ""}, // soon back: not a word
		{9 * time.Second, a, context.Canceled, ""},
		{0, a, refused, `level=WARN msg="broker a:1 has been away for 30s: connection refused"`},
		{time.Minute, a, refused, ""}, // once
		{30 * time.Second, a, nil, `level=INFO msg="broker a:1 is back after 2m0s"`},
		{time.Second, a, refused, ""}, // another time
		{40 * time.Second, a, context.DeadlineExceeded, `level=WARN msg="broker a:1 has been away for 40s: it does not answer"`},
	} {
		out.Reset()
		now = now.Add(step.after)
		if errors.Is(step.err, refused) {
			w.OnBrokerConnect(step.meta, 0, nil, step.err)
		} else {
			w.OnBrokerE2E(step.meta, 0, kgo.BrokerE2E{ReadErr: step.err})
		}
		if got := strings.TrimSpace(out.String()); got != step.want {
			t.Errorf("at %s: %q, not %q", now.UTC().Format(time.TimeOnly), got, step.want)
		}
	}
}

// TestFranzLogger wants franz-go's messages with --verbose, and no other time.
func TestFranzLogger(t *testing.T) {
	for level, want := range map[slog.Level][]kgo.LogLevel{slog.LevelInfo: nil, slog.LevelDebug: {kgo.LogLevelWarn, kgo.LogLevelInfo}} {
		var out bytes.Buffer
		l := franzLogger{slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: level}))}
		for _, of := range []kgo.LogLevel{kgo.LogLevelWarn, kgo.LogLevelInfo, kgo.LogLevelDebug} {
			out.Reset()
			l.Log(of, "message", "key", "value")
			if got := strings.Contains(out.String(), `level=DEBUG msg="kafka: message" key=value`); got != slices.Contains(want, of) {
				t.Errorf("level %s, %s: %q", level, of, out.String())
			}
		}
	}
}
