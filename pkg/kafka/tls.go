package kafka

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/pavlo-v-chernykh/keystore-go/v4"
	"github.com/youmark/pkcs8"
	"software.sslmate.com/src/go-pkcs12"
)

// tlsConfig makes of the properties of TLS what connects with it: the roots, a
// certificate of one's own for mutual TLS, and whether the broker's name is verified.
func (s settings) tlsConfig() (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if err := s.narrow(cfg); err != nil {
		return nil, err
	}
	var err error
	if cfg.RootCAs, err = s.roots(x509.NewCertPool()); err != nil {
		return nil, err
	}
	own, err := s.ownCertificate()
	if err != nil {
		return nil, err
	}
	if own != nil {
		// Always this one: a broker that names other issuers says itself what is wrong.
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return own, nil }
	}
	switch v := strings.ToLower(s.get("enable.ssl.certificate.verification")); v {
	case "", "true":
	case "false":
		cfg.InsecureSkipVerify = true
		return cfg, nil
	default:
		return nil, s.failf("enable.ssl.certificate.verification", "it is neither true nor false")
	}
	named, given := s["ssl.endpoint.identification.algorithm"]
	switch v := strings.ToLower(named.value); {
	case !given || v == "https":
	case v == "" || v == "none":
		cfg.InsecureSkipVerify = true // but for the name, which only this turns off
		roots, before := cfg.RootCAs, cfg.VerifyConnection
		cfg.VerifyConnection = func(state tls.ConnectionState) error {
			if before != nil {
				if err := before(state); err != nil {
					return err
				}
			}
			rest := x509.NewCertPool()
			for _, c := range state.PeerCertificates[1:] {
				rest.AddCert(c)
			}
			_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: rest})
			if err != nil {
				return &tls.CertificateVerificationError{UnverifiedCertificates: state.PeerCertificates, Err: err}
			}
			return nil
		}
	default:
		return nil, s.failf("ssl.endpoint.identification.algorithm", "it is neither https nor empty")
	}
	return cfg, nil
}

// roots are the certificates that are trusted, nil for the system's: those in pool, and
// the ones that are given.
func (s settings) roots(pool *x509.CertPool) (*x509.CertPool, error) {
	var some bool
	addPEM := func(key string, data []byte) error {
		if !pool.AppendCertsFromPEM(data) {
			return s.failf(key, "there is no certificate in PEM")
		}
		some = true
		return nil
	}
	for _, key := range []string{"ssl.ca.pem", "ssl.truststore.certificates"} {
		if v := s.get(key); v != "" {
			if err := addPEM(key, []byte(v)); err != nil {
				return nil, err
			}
		}
	}
	for key, kind := range map[string]string{"ssl.ca.location": "PEM", "ssl.truststore.location": s.get("ssl.truststore.type")} {
		if s.get(key) == "" {
			continue
		}
		data, err := s.read(key)
		if err != nil {
			return nil, err
		}
		if storeType(kind, data) == "PEM" {
			if err := addPEM(key, data); err != nil {
				return nil, err
			}
			continue
		}
		certs, err := trusted(storeType(kind, data), data, s.get("ssl.truststore.password"))
		if err != nil {
			return nil, s.failf(key, "%w", err)
		}
		for _, c := range certs {
			pool.AddCert(c)
			some = true
		}
		if len(certs) == 0 {
			return nil, s.failf(key, "the trust store is empty")
		}
	}
	if !some {
		return nil, nil
	}
	return pool, nil
}

// ownCertificate is the certificate that the brokers are shown, nil for none.
func (s settings) ownCertificate() (*tls.Certificate, error) {
	if s.get("ssl.keystore.location") != "" {
		return s.fromKeyStore()
	}
	var parts [2][]byte // certificate and key
	names := [2]string{}
	for i, keys := range [2][]string{
		{"ssl.certificate.pem", "ssl.keystore.certificate.chain", "ssl.certificate.location"},
		{"ssl.key.pem", "ssl.keystore.key", "ssl.key.location"},
	} {
		for _, key := range keys {
			switch v := s.get(key); {
			case v == "":
				continue
			case strings.HasSuffix(key, ".location"):
				data, err := s.read(key)
				if err != nil {
					return nil, err
				}
				parts[i] = data
			default:
				parts[i] = []byte(v)
			}
			names[i] = key
			break
		}
	}
	switch {
	case parts[0] == nil && parts[1] == nil:
		return nil, nil
	case parts[0] == nil:
		return nil, s.failf(names[1], "there is a key and no certificate: give ssl.certificate.location")
	case parts[1] == nil:
		return nil, s.failf(names[0], "there is a certificate and no key: give ssl.key.location")
	}
	return s.pair(names[1], parts[0], parts[1])
}

// pair makes a certificate of PEM blocks.
func (s settings) pair(name string, certs, key []byte) (*tls.Certificate, error) {
	key, err := plainKey(key, s.get("ssl.key.password"))
	if err != nil {
		return nil, s.failf(name, "%w", err)
	}
	pair, err := tls.X509KeyPair(certs, key)
	if err != nil {
		return nil, s.failf(name, "%s", strings.TrimPrefix(err.Error(), "tls: "))
	}
	return &pair, nil
}

// plainKey is a private key in PEM, decrypted where it has to be.
func plainKey(data []byte, password string) ([]byte, error) {
	for rest := data; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return data, nil // what is wrong with it is said by whoever wants it
		}
		switch {
		case block.Type == "ENCRYPTED PRIVATE KEY":
		case block.Headers["DEK-Info"] != "":
			return nil, errors.New("the key is encrypted in OpenSSL's old format: convert it with openssl pkcs8 -topk8")
		default:
			continue
		}
		if password == "" {
			return nil, errors.New("the key is encrypted: give ssl.key.password, best in KBK_SSL_KEY_PASSWORD or --command-config")
		}
		key, err := pkcs8.ParsePKCS8PrivateKey(block.Bytes, []byte(password))
		if err != nil {
			return nil, errors.New("the key cannot be decrypted: is the password right?")
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return nil, err
		}
		return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
	}
}

// fromKeyStore reads the certificate out of ssl.keystore.location.
func (s settings) fromKeyStore() (*tls.Certificate, error) {
	const key = "ssl.keystore.location"
	data, err := s.read(key)
	if err != nil {
		return nil, err
	}
	password := s.get("ssl.keystore.password")
	switch kind := storeType(s.get("ssl.keystore.type"), data); kind {
	case "PEM":
		return s.pair(key, data, data)
	case "PKCS12":
		own, leaf, chain, err := pkcs12.DecodeChain(data, password)
		if err != nil {
			return nil, s.failf(key, "%w", storeError(err))
		}
		return certificate(own, append([]*x509.Certificate{leaf}, chain...)), nil
	case "JKS":
		return s.fromJKS(key, data, password)
	default:
		return nil, s.failf("ssl.keystore.type", "%s is neither JKS, PKCS12 nor PEM", kind)
	}
}

func (s settings) fromJKS(name string, data []byte, password string) (*tls.Certificate, error) {
	ks := keystore.New()
	if err := ks.Load(bytes.NewReader(data), []byte(password)); err != nil {
		return nil, s.failf(name, "%w", storeError(err))
	}
	keyPassword := s.get("ssl.key.password")
	if keyPassword == "" {
		keyPassword = password
	}
	for _, alias := range ks.Aliases() {
		if !ks.IsPrivateKeyEntry(alias) {
			continue
		}
		entry, err := ks.GetPrivateKeyEntry(alias, []byte(keyPassword))
		if err != nil {
			return nil, s.failf(name, "the key cannot be decrypted: is ssl.key.password right?")
		}
		own, err := x509.ParsePKCS8PrivateKey(entry.PrivateKey)
		if err != nil {
			return nil, s.failf(name, "%w", err)
		}
		var chain []*x509.Certificate
		for _, c := range entry.CertificateChain {
			cert, err := x509.ParseCertificate(c.Content)
			if err != nil {
				return nil, s.failf(name, "%w", err)
			}
			chain = append(chain, cert)
		}
		return certificate(own, chain), nil
	}
	return nil, s.failf(name, "the key store holds no private key")
}

func certificate(own crypto.PrivateKey, chain []*x509.Certificate) *tls.Certificate {
	out := &tls.Certificate{PrivateKey: own}
	for _, c := range chain {
		out.Certificate = append(out.Certificate, c.Raw)
	}
	return out
}

// trusted are the certificates in a trust store.
func trusted(kind string, data []byte, password string) (certs []*x509.Certificate, err error) {
	switch kind {
	case "PKCS12":
		if certs, err = pkcs12.DecodeTrustStore(data, password); err != nil {
			err = storeError(err)
		}
		return certs, err
	case "JKS":
		ks := keystore.New()
		if err := ks.Load(bytes.NewReader(data), []byte(password)); err != nil {
			return nil, storeError(err)
		}
		for _, alias := range ks.Aliases() {
			entry, err := ks.GetTrustedCertificateEntry(alias)
			if err != nil {
				continue // a private key
			}
			cert, err := x509.ParseCertificate(entry.Certificate.Content)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", alias, err)
			}
			certs = append(certs, cert)
		}
		return certs, nil
	}
	return nil, fmt.Errorf("type %s is neither JKS, PKCS12 nor PEM", kind)
}

// storeType is the type of a store, looked up in it where nobody says: Java's default
// is JKS, and its keytool writes PKCS12.
func storeType(given string, data []byte) string {
	switch {
	case given != "" && !strings.EqualFold(given, "JKS"):
		return strings.ToUpper(given)
	case bytes.HasPrefix(data, []byte{0xfe, 0xed, 0xfe, 0xed}):
		return "JKS"
	case bytes.Contains(data, []byte("-----BEGIN ")):
		return "PEM"
	}
	return "PKCS12"
}

// storeError says in one way what several libraries say of a wrong password.
func storeError(err error) error {
	text := err.Error()
	if errors.Is(err, pkcs12.ErrIncorrectPassword) || strings.Contains(text, "digest") || strings.Contains(text, "password") {
		return errors.New("the store cannot be opened: is its password right?")
	}
	return fmt.Errorf("not a key store: %s", text)
}

// read reads the file that a property names.
func (s settings) read(key string) ([]byte, error) {
	data, err := os.ReadFile(s.get(key))
	if err != nil {
		return nil, s.failf(key, "%w", err)
	}
	return data, nil
}
