package kafka

import (
	"slices"
)

// Principal is the principal by which the brokers know this client, "User:alice", and "" where
// that cannot be told: they make it of a certificate, a ticket or a token by rules of their own.
func (c Config) Principal() string {
	const anonymous = "User:ANONYMOUS"
	use := protocols[c.settings.protocol()]
	if !use.sasl {
		certificate := []string{"ssl.keystore.location", "ssl.keystore.certificate.chain", "ssl.certificate.location", "ssl.certificate.pem"}
		if use.tls && slices.ContainsFunc(certificate, func(key string) bool { return c.settings.get(key) != "" }) {
			return ""
		}
		return anonymous
	}
	switch c.settings.get("sasl.mechanism") {
	case "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512":
		in := new(login)
		if text := c.settings.get("sasl.jaas.config"); text != "" {
			parsed, err := parseJAAS(text)
			if err != nil {
				return ""
			}
			in = parsed
		}
		if user, _, err := c.settings.userAndPassword(in); err == nil && in.options["tokenauth"] != "true" {
			return "User:" + user
		}
	}
	return ""
}
