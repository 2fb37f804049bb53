package kafka

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jcmturner/gokrb5/v8/krberror"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl"
)

// listen serves connections to a loopback address until the test is over.
func listen(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { _ = c.Close() }) // what is not held is closed by the garbage collector
			serve(c)
		}
	}()
	return l.Addr().String()
}

// nobody is an address where nobody listens.
func nobody(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// TestDialErrors holds what is said of a broker against the kind of error that it is for
// franz-go: a "dial" is tried again, and one without any network error ends the run.
func TestDialErrors(t *testing.T) {
	https := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(https.Close)
	strict := tls.Config{MinVersion: tls.VersionTLS12}
	for name, c := range map[string]struct {
		broker    string
		tls       *tls.Config
		want      string // what is said
		op        string // of the *net.OpError
		transient bool
	}{
		"refused":         {nobody(t), nil, "connection refused", "dial", true},
		"unknown name":    {"kafka.invalid:9092", nil, "no such host", "dial", true},
		"TLS, refused":    {nobody(t), &strict, "connection refused", "dial", true},
		"TLS, closed":     {listen(t, func(c net.Conn) { _ = c.Close() }), &strict, "TLS: the broker does not speak it there", "dial", true},
		"TLS, not TLS":    {listen(t, func(c net.Conn) { _, _ = io.WriteString(c, "no TLS here") }), &strict, "TLS: the broker does not speak it there", "TLS handshake", false},
		"TLS, unknown CA": {https.Listener.Addr().String(), &strict, "TLS: the broker's certificate, issued by O=Acme Co, is not signed by a trusted authority", "TLS handshake", false},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := (&dialer{tls: c.tls}).dial(t.Context(), "tcp", c.broker)
			if err == nil || err.Error() != c.broker+": "+c.want {
				t.Fatalf("it says %v", err)
			}
			var network *net.OpError
			if !errors.As(err, &network) || network.Op != c.op {
				t.Errorf("%v is of kind %+v, not %s", err, network, c.op)
			}
			var dns *net.DNSError
			if errors.As(err, &dns) || errors.Is(err, io.EOF) {
				t.Error("franz-go takes it for final")
			}
			if got := Transient(fmt.Errorf("wrapped: %w", err)); got != c.transient {
				t.Errorf("transient: %v", got)
			}
		})
	}
}

// TestDialCancelled wants a dial that was cancelled to say so, and not that a broker is away.
func TestDialCancelled(t *testing.T) {
	hangs := listen(t, func(net.Conn) {})
	for name, cfg := range map[string]*tls.Config{"TCP": nil, "TLS": {MinVersion: tls.VersionTLS12}} {
		ctx, cancel := context.WithCancel(t.Context())
		if cfg == nil {
			cancel()
		} else {
			time.AfterFunc(50*time.Millisecond, cancel)
		}
		_, err := (&dialer{tls: cfg}).dial(ctx, "tcp", hangs)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
	}
}

// TestHandshakeErrors does the same for errors that are hard to come by.
func TestHandshakeErrors(t *testing.T) {
	for _, c := range []struct {
		err       error
		transient bool
	}{
		{io.EOF, true}, {syscall.ECONNRESET, true}, {syscall.EPIPE, true}, {context.DeadlineExceeded, true},
		{&net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNRESET)}, true},
		{tls.AlertError(42), false}, {tls.RecordHeaderError{}, false}, {errors.New("tls: something else"), false},
	} {
		err := handshakeError("b:1", c.err)
		if got := Transient(err); got != c.transient {
			t.Errorf("%v, made of %v, is transient: %v", err, c.err, got)
		}
		var network *net.OpError
		if !errors.As(err, &network) {
			t.Errorf("%v: franz-go tries no other broker", err)
		}
	}
}

func TestTransient(t *testing.T) {
	for _, c := range []struct {
		err  error
		want bool
	}{
		{nil, false}, {errors.New("x"), false}, {kerr.NotLeaderForPartition, true}, {kerr.TopicAuthorizationFailed, false},
		{kerr.SaslAuthenticationFailed, false}, {io.EOF, true}, {away(syscall.ECONNREFUSED), true}, {away(syscall.EACCES), false},
		{awayError{errors.New("token endpoint: 503")}, true},
	} {
		if got := Transient(c.err); got != c.want {
			t.Errorf("%v: %v", c.err, got)
		}
	}
}

// failing is a mechanism that cannot do it.
type failing struct{ err error }

func (failing) Name() string { return "GSSAPI" }
func (f failing) Authenticate(context.Context, string) (sasl.Session, []byte, error) {
	return nil, nil, f.err
}

// TestKDCAway wants a KDC that cannot be reached to be as transient as a broker.
func TestKDCAway(t *testing.T) {
	for root, want := range map[string]bool{krberror.NetworkingError: true, krberror.KDCError: false} {
		_, _, err := named{failing{krberror.New(root, "x")}, new(atomic.Value)}.Authenticate(t.Context(), "b:1")
		if Transient(err) != want {
			t.Errorf("%v is transient: %v", err, !want)
		}
	}
}

func TestRetry(t *testing.T) {
	c, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	cl, err := NewClient(t.Context(), Config{Brokers: c.ListenAddrs()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	adm := kadm.NewClient(cl)
	asked := 0
	c.ControlKey(int16(kmsg.Metadata), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		asked++
		return nil, nil, false
	})
	if _, err := cl.Broker(99).Request(t.Context(), kmsg.NewPtrDescribeClusterRequest()); !Transient(err) {
		t.Errorf("a broker that is gone: %v", err)
	}
	asked = 0
	calls := 0
	err = Retry(t.Context(), adm, time.Minute, func() error {
		if calls++; calls < 3 {
			return away(syscall.ECONNREFUSED)
		}
		return nil
	})
	if err != nil || calls != 3 {
		t.Errorf("%d calls, %v", calls, err)
	}
	if asked != 2 { // or the client keeps to a coordinator that is gone
		t.Errorf("the brokers were looked up %d times", asked)
	}
	for name, c := range map[string]struct {
		patience time.Duration
		err      error
	}{"final": {time.Minute, kerr.InvalidTopicException}, "no patience": {0, kerr.LeaderNotAvailable}} {
		calls = 0
		if err := Retry(t.Context(), adm, c.patience, func() error { calls++; return c.err }); !errors.Is(err, c.err) || calls != 1 {
			t.Errorf("%s: %d calls, %v", name, calls, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := Retry(ctx, adm, time.Minute, func() error { cancel(); return kerr.LeaderNotAvailable }); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestFirstContact connects where brokers are dead, or hang, before one that lives.
func TestFirstContact(t *testing.T) {
	c, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	lives := c.ListenAddrs()[0]
	hangs := listen(t, func(net.Conn) {})
	for name, brokers := range map[string][]string{
		"one dead": {nobody(t), lives}, "one hangs": {hangs, lives}, "both": {nobody(t), hangs, lives}, "last": {lives, hangs},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			cl, err := NewClient(t.Context(), Config{Brokers: brokers})
			if err != nil {
				t.Fatal(err)
			}
			defer cl.Close()
			if took := time.Since(began); took > dialTimeout/2 {
				t.Errorf("it took %s", took)
			}
			if _, err := kmsg.NewPtrDescribeClusterRequest().RequestWith(t.Context(), cl); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("all dead", func(t *testing.T) {
		t.Parallel()
		first := nobody(t)
		_, err := NewClient(t.Context(), Config{Brokers: []string{first, nobody(t)}})
		if err == nil || err.Error() != "connect to "+first+": connection refused" {
			t.Error(err)
		}
	})
}
