package kafka

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jcmturner/gokrb5/v8/krberror"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"

	"github.com/kbkio/kbk/pkg/command"
)

// srvPrefix marks a name of SRV records (RFC 2782) where a broker is due:
// srv+_kafka._tcp.example.org.
const srvPrefix = "srv+"

// resolver looks up SRV records; tests have their own.
var resolver = net.DefaultResolver

// discover replaces names of SRV records by the brokers that they stand for.
func discover(ctx context.Context, brokers []string) ([]string, error) {
	var out []string
	for _, b := range brokers {
		name, ok := strings.CutPrefix(b, srvPrefix)
		if !ok {
			out = append(out, b)
			continue
		}
		_, records, err := resolver.LookupSRV(ctx, "", "", name)
		if err != nil {
			return nil, fmt.Errorf("brokers %s: %w", b, dnsError(err))
		}
		for _, r := range records {
			out = append(out, net.JoinHostPort(strings.TrimSuffix(r.Target, "."), strconv.Itoa(int(r.Port))))
		}
		if len(records) == 0 {
			return nil, fmt.Errorf("brokers %s: there are no such SRV records", b)
		}
	}
	return out, nil
}

func dnsError(err error) error {
	var dns *net.DNSError
	if errors.As(err, &dns) && dns.IsNotFound {
		return errors.New("no such host")
	}
	return err
}

const (
	isItUp = "is the broker up, and is this its listener for clients?"
	noTLS  = "is this a listener without TLS? Then security.protocol is PLAINTEXT or SASL_PLAINTEXT"
)

// A dialer connects to brokers, and says in one line why one cannot be had.
type dialer struct {
	tls     *tls.Config
	connect dialFunc // nil: over TCP
}

type dialFunc = func(ctx context.Context, network, address string) (net.Conn, error)

func (d *dialer) dial(ctx context.Context, network, broker string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	connect := d.connect
	if connect == nil {
		connect = new(net.Dialer).DialContext
	}
	conn, err := connect(ctx, network, broker)
	if err != nil {
		return nil, unreachable(broker, err)
	}
	if d.tls == nil {
		return conn, nil
	}
	cfg := d.tls.Clone()
	if cfg.ServerName, _, err = net.SplitHostPort(broker); err != nil {
		cfg.ServerName = broker
	}
	secure := tls.Client(conn, cfg)
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = conn.Close() // the handshake's error is the one that counts
		return nil, handshakeError(broker, err)
	}
	return secure, nil
}

// A brokerError says what is wrong with one broker, to people by err and hint. What
// kind of error it is, franz-go tells by its type: kind has it, and Unwrap must lead
// there, or a client gives up on a broker that is away for a moment.
type brokerError struct {
	broker string
	err    error
	kind   error // nil where err is of the right kind
	hint   string
}

func (e *brokerError) Error() string { return e.broker + ": " + e.err.Error() }

func (e *brokerError) Unwrap() []error {
	if e.kind == nil {
		return []error{e.err}
	}
	return []error{e.err, e.kind}
}

// away is the kind of error of a broker that is not there: franz-go tries another one,
// or this one again after a while, if and only if it finds a *net.OpError of "dial".
func away(why error) error { return &net.OpError{Op: "dial", Net: "tcp", Err: why} }

// awayError is an error of that kind, of something else that a connection needs: a KDC, a
// token endpoint.
type awayError struct{ error }

// Unwrap leads to the error and to its kind.
func (e awayError) Unwrap() []error { return []error{e.error, away(e.error)} }

// unreachable explains why TCP does not connect, without the addresses.
func unreachable(broker string, err error) error {
	out := &brokerError{broker: broker, err: err, kind: err, hint: isItUp}
	var dns *net.DNSError
	var number syscall.Errno
	switch {
	case errors.As(err, &dns):
		out.err = dnsError(dns)
		// A name without an address is final for franz-go. But the name of a pod goes
		// away with it, and comes back.
		out.kind = away(out.err)
	case errors.Is(err, context.DeadlineExceeded):
		out.err = fmt.Errorf("no answer within %s", dialTimeout)
	case errors.As(err, &number):
		out.err = number
	}
	return out
}

// handshakeError explains why TLS failed. What a broker that starts or ends may cause is
// of the kind of one that is away; anything else is final for that broker, and another
// one may do.
func handshakeError(broker string, err error) error {
	out := &brokerError{broker: broker, err: fmt.Errorf("TLS: %s", strings.TrimPrefix(err.Error(), "tls: "))}
	out.kind = &net.OpError{Op: "TLS handshake", Net: "tcp", Err: out.err}
	var record tls.RecordHeaderError
	var invalid x509.CertificateInvalidError
	var name x509.HostnameError
	var authority x509.UnknownAuthorityError
	var alert tls.AlertError
	switch {
	case errors.As(err, &record):
		out.err = errors.New("TLS: the broker does not speak it there")
		out.hint = noTLS
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		out.err = errors.New("TLS: the broker does not speak it there")
		out.hint = noTLS
		out.kind = away(errors.New("closed during the TLS handshake")) // not io.EOF, which is final for franz-go
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		out.err = fmt.Errorf("TLS: the broker's certificate is valid from %s to %s, and it is %s", invalid.Cert.NotBefore.UTC().Format(time.RFC3339),
			invalid.Cert.NotAfter.UTC().Format(time.RFC3339), time.Now().UTC().Format(time.RFC3339))
	case errors.As(err, &name):
		out.err = fmt.Errorf("TLS: the broker's certificate is for %s, and not for %s", strings.Join(certNames(name.Certificate), ", "), name.Host)
	case errors.As(err, &authority):
		out.err = fmt.Errorf("TLS: the broker's certificate, issued by %s, is not signed by a trusted authority", authority.Cert.Issuer)
		out.hint = "give the cluster's own authority as ssl.ca.location or ssl.truststore.location"
	case errors.As(err, &alert):
		out.err = fmt.Errorf("TLS: the broker refuses: %s", strings.TrimPrefix(alert.Error(), "tls: "))
		out.hint = "does the broker want a client certificate (ssl.certificate.location, ssl.keystore.location), and does it trust yours?"
	case errors.Is(err, context.DeadlineExceeded):
		out.err = fmt.Errorf("TLS: no answer within %s", dialTimeout)
		out.kind = away(os.ErrDeadlineExceeded)
	case errors.Is(err, context.Canceled):
		out.kind = err
	}
	return out
}

func certNames(c *x509.Certificate) []string {
	names := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	if len(names) == 0 {
		names = append(names, "no name")
	}
	return names
}

// named is a mechanism whose errors name the broker.
type named struct {
	sasl.Mechanism
	last *atomic.Value // the broker of the last attempt, a string
}

// Authenticate implements sasl.Mechanism.
func (n named) Authenticate(ctx context.Context, broker string) (sasl.Session, []byte, error) {
	n.last.Store(broker)
	s, first, err := n.Mechanism.Authenticate(ctx, broker)
	if err != nil {
		var kerberos krberror.Krberror
		if errors.As(err, &kerberos) && kerberos.RootCause == krberror.NetworkingError {
			err = awayError{err}
		}
		return nil, nil, &brokerError{broker: broker, err: fmt.Errorf("%s: %w", n.Name(), err)}
	}
	return namedSession{s, broker, n.Name()}, first, nil
}

// Close implements sasl.ClosingMechanism.
func (n named) Close() {
	if c, ok := n.Mechanism.(sasl.ClosingMechanism); ok {
		c.Close()
	}
}

type namedSession struct {
	sasl.Session
	broker, mechanism string
}

// Challenge implements sasl.Session.
func (s namedSession) Challenge(b []byte) (bool, []byte, error) {
	if s.mechanism == "OAUTHBEARER" && len(b) > 0 { // an error, RFC 7628, section 3.2.3
		var refused struct{ Status string }
		_ = json.Unmarshal(b, &refused) // without a status the answer is no all the same
		return false, nil, &brokerError{broker: s.broker, err: fmt.Errorf("the broker refuses the token: %s", cmp.Or(refused.Status, "it does not say why"))}
	}
	done, next, err := s.Session.Challenge(b)
	if err != nil {
		err = &brokerError{broker: s.broker, err: fmt.Errorf("%s: %w", s.mechanism, err)}
	}
	return done, next, err
}

// explain says in one line why a first request failed, and names the broker.
func explain(err error, brokers []string, last *atomic.Value) error {
	var at *brokerError
	var first *kgo.ErrFirstReadEOF
	tried, _ := last.Load().(string)
	if tried == "" {
		tried = strings.Join(brokers, ",")
	}
	switch {
	case errors.As(err, &at):
		if at.hint == "" {
			return fmt.Errorf("connect to %w", at)
		}
		return command.WithHint(fmt.Errorf("connect to %w", at), at.hint)
	case errors.Is(err, kerr.SaslAuthenticationFailed):
		return fmt.Errorf("connect to %s: the broker refuses the credentials: %s", tried, saslReason(err))
	case errors.Is(err, kerr.UnsupportedSaslMechanism):
		return fmt.Errorf("connect to %s: the broker does not have this sasl.mechanism enabled", tried)
	case errors.Is(err, kerr.IllegalSaslState):
		return command.WithHint(fmt.Errorf("connect to %s: the broker does not accept SASL there", tried), "is security.protocol right for this listener?")
	case errors.As(err, &first), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return command.WithHint(fmt.Errorf("connect to %s: the broker closes the connection", tried),
			"does this listener want TLS or SASL? Then security.protocol is SSL, SASL_PLAINTEXT or SASL_SSL")
	case errors.Is(err, context.DeadlineExceeded):
		return command.WithHint(fmt.Errorf("connect to %s: no answer within %s", tried, dialTimeout), isItUp)
	}
	return fmt.Errorf("connect to %s: %w", tried, err)
}

// saslReason is what the broker itself says of an authentication that failed.
func saslReason(err error) string {
	text := err.Error()
	if _, after, ok := strings.Cut(text, kerr.SaslAuthenticationFailed.Message+": "); ok {
		text = after
	}
	return strings.TrimSpace(strings.ReplaceAll(text, "\n", " "))
}
