package kafka

import (
	"strings"
	"sync/atomic"
	"testing"

	"github.com/kbkio/kbk/pkg/command"
)

// FuzzProperties reads any file of properties, and makes of them what a client needs, as
// far as no other file is named. What is wrong is wrong usage, and no value of a password is
// in what is said of it.
func FuzzProperties(f *testing.F) {
	for _, text := range []string{
		"! a comment\n# another = comment\n\n  bootstrap.servers : a:1,\\\n      b:2\nsasl.username \t alice\\u00e9\nsecurity.protocol=SASL_PLAINTEXT\nsasl.mechanism=PLAIN\nacks=all\n",
		"security.protocol=SASL_SSL\nsasl.mechanism=SCRAM-SHA-512\nsasl.jaas.config=a.ScramLoginModule required username=\"u\" password=\"hunter2\" ;\nssl.enabled.protocols=TLSv1.3\n",
		"bootstrap.servers=SASL_SSL://h:1,SSL://g:2\nssl.cipher.suites=TLS_AES_128_GCM_SHA256\nssl.endpoint.identification.algorithm=\n",
		"security.protocol=SASL_PLAINTEXT\nsasl.mechanism=OAUTHBEARER\nsasl.oauthbearer.token=hunter2\nsasl.jaas.config=x.OAuthBearerLoginModule required extension_a=b;\n",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		s := make(settings)
		if err := s.load(raw, "file:"); err != nil {
			if command.StatusOf(err) != command.Usage {
				t.Fatal(err)
			}
			return
		}
		for key := range s { // those that name files and endpoints
			if strings.Contains(key, "location") || strings.Contains(key, "url") || strings.Contains(key, "keytab") || strings.Contains(key, "kerberos") || strings.Contains(key, "file") {
				return
			}
		}
		if m := s.get("sasl.mechanism"); m == "" || m == "GSSAPI" || m == "AWS_MSK_IAM" || strings.Contains(s.get("sasl.jaas.config"), "unsecured") {
			delete(s, "sasl.mechanism")
			s[protocolKey] = setting{"PLAINTEXT", "file"}
		}
		_, err := s.brokers(s["bootstrap.servers"])
		s.warnings()
		if err == nil {
			_, err = s.options(nil, new(atomic.Value))
		}
		for _, key := range []string{"sasl.password", "sasl.oauthbearer.token", "ssl.key.password", "ssl.keystore.password"} {
			if secret := s.get(key); err != nil && len(secret) > 6 && strings.Contains(err.Error(), secret) {
				t.Fatalf("%s is in: %v", key, err)
			}
		}
	})
}

// FuzzJAAS reads any sasl.jaas.config. One that is read is the same when it is written
// with quotes.
func FuzzJAAS(f *testing.F) {
	for _, s := range []string{`a.PlainLoginModule required username="al ice" password="p=w;d \"q\" \\";`, "a.X  required\n  a = 1\n  b='two' ;", "a.X optional;"} {
		f.Add(s)
	}
	quote := func(s string) string { return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"` }
	f.Fuzz(func(t *testing.T, s string) {
		l, err := parseJAAS(s)
		if err != nil {
			return
		}
		text := quote(l.module) + " required"
		for name, value := range l.options {
			text += " " + quote(name) + "=" + quote(value)
		}
		again, err := parseJAAS(text + ";")
		if err != nil || again.module != l.module || len(again.options) != len(l.options) {
			t.Fatalf("%q: %+v became %+v, %v", s, l, again, err)
		}
		for name, value := range l.options {
			if again.options[name] != value {
				t.Fatalf("%q: %s is %q, and then %q", s, name, value, again.options[name])
			}
		}
	})
}
