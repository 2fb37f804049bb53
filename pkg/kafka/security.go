package kafka

import (
	"crypto/tls"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/kbkio/kbk/pkg/command"
)

const protocolKey = "security.protocol"

// protocols are the values of security.protocol.
var protocols = map[string]struct{ tls, sasl bool }{
	"PLAINTEXT":      {false, false},
	"SSL":            {true, false},
	"SASL_PLAINTEXT": {false, true},
	"SASL_SSL":       {true, true},
}

// protocol is security.protocol, in capital letters; Java's default is PLAINTEXT.
func (s settings) protocol() string {
	if p := s.get(protocolKey); p != "" {
		return strings.ToUpper(p)
	}
	return "PLAINTEXT"
}

// brokers splits a list of brokers. What is before :// says the protocol, as kcat and
// Java's tools take it.
func (s settings) brokers(list setting) ([]string, error) {
	var out []string
	for _, b := range strings.Split(list.value, ",") {
		if b = strings.TrimSpace(b); b == "" {
			continue
		}
		protocol, address, ok := strings.Cut(b, "://")
		if !ok {
			out = append(out, b)
			continue
		}
		protocol = strings.ToUpper(protocol)
		if _, known := protocols[protocol]; !known {
			return nil, command.Usagef("%s: %s: the protocol is not PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL", list.from, b)
		}
		if s.get(protocolKey) == "" {
			s[protocolKey] = setting{protocol, list.from}
		}
		if said := s[protocolKey]; protocol != s.protocol() {
			return nil, command.Usagef("%s: %s contradicts %s, which says %s", list.from, b, said.from, said.value)
		}
		out = append(out, strings.TrimSuffix(address, "/"))
	}
	return out, nil
}

// useless are the properties that the protocol makes no use of.
func (s settings) useless() []string {
	use := protocols[s.protocol()]
	tokens := use.sasl && s.get("sasl.mechanism") == "OAUTHBEARER" // of an endpoint with TLS
	var out []string
	for _, key := range slices.Sorted(maps.Keys(s)) {
		ofSASL, ofTLS := strings.HasPrefix(key, "sasl."), strings.HasPrefix(key, "ssl.")
		if s.get(key) != "" && (ofSASL && !use.sasl || ofTLS && !use.tls && !tokens) {
			out = append(out, key)
		}
	}
	return out
}

// warnings says what a person may have meant to be in force, and is not.
func (s settings) warnings() []string {
	var out []string
	if useless := s.useless(); len(useless) > 0 {
		out = append(out, fmt.Sprintf("without effect, as security.protocol is %s: %s", s.protocol(), strings.Join(useless, ", ")))
	}
	return out
}

// narrowing are properties of other clients that let these trust less. Nobody is to think
// that they are in force.
var narrowing = map[string]string{
	"ssl.crl.location":         "certificates are not checked against revocation lists",
	"ssl.curves.list":          "the curves of TLS cannot be chosen",
	"ssl.sigalgs.list":         "the signature algorithms of TLS cannot be chosen",
	"ssl.engine.factory.class": "what a Java class checks is not checked",
	"security.providers":       "what a Java class checks is not checked",
}

// tlsVersions are the values in ssl.enabled.protocols, as Java has them.
var tlsVersions = map[string]uint16{"TLSV1": tls.VersionTLS10, "TLSV1.1": tls.VersionTLS11, "TLSV1.2": tls.VersionTLS12, "TLSV1.3": tls.VersionTLS13}

// narrow limits the versions and the cipher suites of TLS.
func (s settings) narrow(cfg *tls.Config) error {
	const versionsKey, suitesKey = "ssl.enabled.protocols", "ssl.cipher.suites"
	if list := s.get(versionsKey); list != "" {
		cfg.MinVersion, cfg.MaxVersion = 0, 0
		for _, name := range strings.Split(list, ",") {
			v, known := tlsVersions[strings.ToUpper(strings.TrimSpace(name))]
			if !known {
				return s.failf(versionsKey, "%q is not TLSv1.2 or TLSv1.3", strings.TrimSpace(name))
			}
			if v < tls.VersionTLS12 { // never used, and so not less than what is asked for
				continue
			}
			if cfg.MinVersion == 0 || v < cfg.MinVersion {
				cfg.MinVersion = v
			}
			cfg.MaxVersion = max(cfg.MaxVersion, v)
		}
		if cfg.MaxVersion == 0 {
			return s.failf(versionsKey, "kbk supports only TLSv1.2 and TLSv1.3")
		}
	}
	list := s.get(suitesKey)
	if list == "" {
		return nil
	}
	suites, err := cipherSuites(list)
	if err != nil {
		return s.failf(suitesKey, "%w", err)
	}
	old, since13 := 0, 0
	for _, suite := range suites {
		cfg.CipherSuites = append(cfg.CipherSuites, suite.ID)
		if slices.Contains(suite.SupportedVersions, tls.VersionTLS13) {
			since13++
		} else {
			old++
		}
	}
	if old == 0 {
		cfg.MinVersion = tls.VersionTLS13
	}
	if since13 == 0 {
		cfg.MaxVersion = tls.VersionTLS12
	}
	if cfg.MaxVersion != 0 && cfg.MinVersion > cfg.MaxVersion {
		return s.failf(suitesKey, "none of them belongs to an enabled version")
	}
	allowed := cfg.CipherSuites
	cfg.VerifyConnection = func(state tls.ConnectionState) error { // crypto/tls chooses freely among those of TLS 1.3
		if !slices.Contains(allowed, state.CipherSuite) {
			return fmt.Errorf("the cipher suite %s is not one of %s", tls.CipherSuiteName(state.CipherSuite), suitesKey)
		}
		return nil
	}
	return nil
}

// cipherSuites finds suites by the names that Java has for them. Those that there are, and
// crypto/tls does not have, are left out; a name of another kind is an error.
func cipherSuites(list string) (out []*tls.CipherSuite, err error) {
	all := slices.Concat(tls.CipherSuites(), tls.InsecureCipherSuites())
	for _, name := range strings.Split(list, ",") {
		name = strings.TrimSpace(name)
		if !strings.HasPrefix(name, "TLS_") {
			return nil, fmt.Errorf("%q is not one of Java's names, such as TLS_AES_256_GCM_SHA384", name)
		}
		if i := slices.IndexFunc(all, func(c *tls.CipherSuite) bool { return c.Name == name }); i >= 0 {
			out = append(out, all[i])
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("kbk has none of them")
	}
	return out, nil
}
