package security

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/youmark/pkcs8"
	"software.sslmate.com/src/go-pkcs12"

	kafkatest "github.com/kbkio/kbk/test/kafka"
)

// An authority issues certificates into a folder.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

var serial int64

func issue(template *x509.Certificate, parent *x509.Certificate, signer *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial++
	template.SerialNumber = big.NewInt(serial)
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	}
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return cert, key, err
}

func newAuthority(dir, name string) (*authority, error) {
	cert, key, err := issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, nil, nil)
	if err != nil {
		return nil, err
	}
	a := &authority{dir: dir, cert: cert, key: key}
	return a, os.WriteFile(a.path(name+".pem"), certPEM(cert), 0o600)
}

func (a *authority) path(name string) string { return filepath.Join(a.dir, name) }

func certPEM(certs ...*x509.Certificate) []byte {
	var b bytes.Buffer
	for _, c := range certs {
		_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}) // a buffer takes all
	}
	return b.Bytes()
}

// server writes name.pem, a key and a certificate for the loopback address as a broker's
// key store wants them.
func (a *authority) server(name string, until time.Time, names []string, ips ...net.IP) error {
	t := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, DNSNames: names, IPAddresses: ips, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if !until.IsZero() {
		t.NotBefore, t.NotAfter = until.Add(-time.Hour), until
	}
	cert, key, err := issue(t, a.cert, a.key)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	all := append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), certPEM(cert, a.cert)...)
	return os.WriteFile(a.path(name+".pem"), all, 0o600)
}

// client writes a certificate in all the forms that clients have it in: name.crt and
// name.key, name-encrypted.key, name.p12, and by Java's keytool name.jks; and the
// authority as trust stores.
func (a *authority) client(name, password string) error {
	cert, key, err := issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, a.cert, a.key)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	encrypted, err := pkcs8.MarshalPrivateKey(key, []byte(password), nil)
	if err != nil {
		return err
	}
	store, err := pkcs12.Modern.Encode(key, cert, []*x509.Certificate{a.cert}, password)
	if err != nil {
		return err
	}
	trust, err := pkcs12.Modern.EncodeTrustStore([]*x509.Certificate{a.cert}, password)
	if err != nil {
		return err
	}
	for file, data := range map[string][]byte{
		name + ".crt":           certPEM(cert, a.cert),
		name + ".key":           pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}),
		name + "-encrypted.key": pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: encrypted}),
		name + ".p12":           store,
		"trust.p12":             trust,
	} {
		if err := os.WriteFile(a.path(file), data, 0o600); err != nil {
			return err
		}
	}
	for _, args := range [][]string{
		{"-importkeystore", "-noprompt", "-srckeystore", a.path(name + ".p12"), "-srcstoretype", "PKCS12", "-srcstorepass", password,
			"-destkeystore", a.path(name + ".jks"), "-deststoretype", "JKS", "-deststorepass", password},
		{"-importcert", "-noprompt", "-alias", "ca", "-file", a.path("ca.pem"), "-keystore", a.path("trust.jks"), "-storetype", "JKS", "-storepass", password},
	} {
		keytool, err := kafkatest.JavaTool("keytool")
		if err != nil {
			return err
		}
		if out, err := exec.Command(keytool, args...).CombinedOutput(); err != nil {
			return fmt.Errorf("keytool: %w\n%s", err, out)
		}
	}
	return nil
}
