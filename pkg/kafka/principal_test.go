package kafka

import "testing"

func TestPrincipal(t *testing.T) {
	const jaas = `org.apache.kafka.common.security.scram.ScramLoginModule required username="bob" password="p";`
	for _, c := range []struct {
		properties map[string]string
		want       string
	}{
		{nil, "User:ANONYMOUS"},
		{map[string]string{"security.protocol": "SSL"}, "User:ANONYMOUS"},
		{map[string]string{"security.protocol": "SSL", "ssl.certificate.location": "c.pem"}, ""},
		{map[string]string{"security.protocol": "SASL_SSL", "sasl.mechanism": "PLAIN", "sasl.username": "alice", "sasl.password": "p", "ssl.certificate.location": "c.pem"}, "User:alice"},
		{map[string]string{"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "SCRAM-SHA-512", "sasl.jaas.config": jaas}, "User:bob"},
		{map[string]string{"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "GSSAPI"}, ""},
		{map[string]string{"security.protocol": "SASL_SSL", "sasl.mechanism": "OAUTHBEARER", "sasl.username": "alice"}, ""},
	} {
		s := make(settings)
		for key, value := range c.properties {
			s[key] = setting{value, "a test"}
		}
		if got := (Config{settings: s}).Principal(); got != c.want {
			t.Errorf("%v: %q, and not %q", c.properties, got, c.want)
		}
	}
}
