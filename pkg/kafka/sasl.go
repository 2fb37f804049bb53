package kafka

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/jcmturner/gokrb5/v8/client"
	krb5config "github.com/jcmturner/gokrb5/v8/config"
	"github.com/jcmturner/gokrb5/v8/credentials"
	"github.com/jcmturner/gokrb5/v8/keytab"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/aws"
	"github.com/twmb/franz-go/pkg/sasl/kerberos"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

// The login modules that sasl.jaas.config may name, by the end of the class's name.
const (
	plainModule = "PlainLoginModule"
	scramModule = "ScramLoginModule"
	oauthModule = "OAuthBearerLoginModule"
	krb5Module  = "Krb5LoginModule"
	awsModule   = "IAMLoginModule"
)

var modules = map[string]string{
	"PLAIN": plainModule, "SCRAM-SHA-256": scramModule, "SCRAM-SHA-512": scramModule,
	"OAUTHBEARER": oauthModule, "GSSAPI": krb5Module, "AWS_MSK_IAM": awsModule,
}

// mechanism makes of the properties of SASL what authenticates with it.
func (s settings) mechanism() (sasl.Mechanism, error) {
	const jaas = "sasl.jaas.config"
	name := s.get("sasl.mechanism")
	if name == "" {
		name = "GSSAPI" // Java's default (SaslConfigs)
	}
	module, known := modules[name]
	if !known {
		return nil, s.failf("sasl.mechanism", "%q is not PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER, GSSAPI or AWS_MSK_IAM", name)
	}
	in := &login{options: make(map[string]string)}
	if text := s.get(jaas); text != "" {
		var err error
		if in, err = parseJAAS(text); err != nil {
			return nil, s.failf(jaas, "%w", err)
		}
		if !strings.HasSuffix(in.module, "."+module) {
			return nil, s.failf(jaas, "login module %s is not one for %s", in.module, name)
		}
	}
	switch name {
	case "PLAIN":
		user, pass, err := s.userAndPassword(in)
		return plain.Auth{User: user, Pass: pass}.AsMechanism(), err
	case "SCRAM-SHA-256", "SCRAM-SHA-512":
		user, pass, err := s.userAndPassword(in)
		auth := scram.Auth{User: user, Pass: pass, IsToken: in.options["tokenauth"] == "true"}
		if name == "SCRAM-SHA-256" {
			return auth.AsSha256Mechanism(), err
		}
		return auth.AsSha512Mechanism(), err
	case "OAUTHBEARER":
		return s.oauth(in)
	case "AWS_MSK_IAM":
		return mskIAM(in), nil
	default:
		return s.kerberos(in)
	}
}

func (s settings) userAndPassword(in *login) (user, pass string, err error) {
	if user = s.get("sasl.username"); user == "" {
		user = in.options["username"]
	}
	if pass = s.get("sasl.password"); pass == "" {
		pass = in.options["password"]
	}
	if user == "" || pass == "" {
		err = s.failf("sasl.mechanism", "it needs sasl.username and sasl.password, or sasl.jaas.config")
	}
	return user, pass, err
}

// oauth is OAUTHBEARER with a token that is given, that is in a file, which is read for
// every new connection, or that an endpoint hands out for client credentials (RFC 6749,
// section 4.4).
func (s settings) oauth(in *login) (sasl.Mechanism, error) {
	extensions := make(map[string]string)
	for name, value := range in.options {
		if ext, ok := strings.CutPrefix(name, "extension_"); ok { // OAuthBearerLoginModule
			extensions[ext] = value
		}
	}
	mechanism := func(token func(context.Context) (string, error)) sasl.Mechanism {
		return oauth.Oauth(func(ctx context.Context) (oauth.Auth, error) {
			t, err := token(ctx)
			return oauth.Auth{Token: t, Extensions: extensions}, err
		})
	}
	const tokenKey, endpointKey = "sasl.oauthbearer.token", "sasl.oauthbearer.token.endpoint.url"
	if token := s.get(tokenKey); token != "" {
		return mechanism(func(context.Context) (string, error) { return token, nil }), nil
	}
	endpoint, err := url.Parse(s.get(endpointKey))
	switch {
	case s.get(endpointKey) == "":
		return nil, s.failf("sasl.mechanism", "OAUTHBEARER needs %s, which may also be a file://, or %s", endpointKey, tokenKey)
	case err != nil:
		return nil, s.failf(endpointKey, "it is not a URL")
	case endpoint.Scheme == "file":
		return mechanism(func(context.Context) (string, error) {
			b, err := os.ReadFile(endpoint.Path)
			if err != nil {
				return "", fmt.Errorf("read the token: %w", err)
			}
			return strings.TrimSpace(string(b)), nil
		}), nil
	case endpoint.Scheme != "https" && endpoint.Scheme != "http":
		return nil, s.failf(endpointKey, "it is neither https, http nor file")
	}
	first := func(values ...string) string {
		for _, v := range values {
			if v != "" {
				return v
			}
		}
		return ""
	}
	cfg := clientcredentials.Config{
		ClientID:     first(s.get("sasl.oauthbearer.client.credentials.client.id"), in.options["clientId"]),
		ClientSecret: first(s.get("sasl.oauthbearer.client.credentials.client.secret"), in.options["clientSecret"]),
		TokenURL:     endpoint.String(),
		AuthStyle:    oauth2.AuthStyleInHeader, // as Java's HttpJwtRetriever does
	}
	if scope := first(s.get("sasl.oauthbearer.scope"), in.options["scope"]); scope != "" {
		cfg.Scopes = strings.Fields(scope)
	}
	if cfg.ClientID == "" || cfg.ClientSecret == "" {
		return nil, s.failf(endpointKey, "it needs sasl.oauthbearer.client.credentials.client.id and …client.secret")
	}
	ask, err := s.tokenClient()
	if err != nil {
		return nil, err
	}
	source := oauth2.ReuseTokenSource(nil, cfg.TokenSource(context.WithValue(context.Background(), oauth2.HTTPClient, ask)))
	return mechanism(func(context.Context) (string, error) {
		token, err := source.Token()
		if err != nil {
			return "", tokenError(endpoint, err)
		}
		return token.AccessToken, nil
	}), nil
}

// tokenTimeout is how long a token endpoint may take.
const tokenTimeout = 10 * time.Second

// tokenClient asks for tokens. It trusts the system's authorities, as an identity provider
// may be anywhere, and those that are given for the brokers.
func (s settings) tokenClient() (*http.Client, error) {
	system, err := x509.SystemCertPool()
	if err != nil {
		system = x509.NewCertPool()
	}
	roots, err := s.roots(system)
	if err != nil {
		return nil, err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}
	return &http.Client{Transport: transport, Timeout: tokenTimeout}, nil
}

// tokenError leaves out what the endpoint answered but for its error code: it may say
// what was sent.
func tokenError(endpoint *url.URL, err error) error {
	var refused *oauth2.RetrieveError
	var failed *url.Error
	switch {
	case errors.As(err, &refused):
		code := refused.ErrorCode
		if code == "" {
			code = refused.Response.Status
		}
		err := fmt.Errorf("token endpoint %s: %s", endpoint.Redacted(), code)
		if status := refused.Response.StatusCode; status >= 500 || status == http.StatusTooManyRequests {
			return awayError{err}
		}
		return err
	case errors.As(err, &failed):
		return awayError{fmt.Errorf("token endpoint %s: %w", endpoint.Redacted(), failed.Err)}
	}
	return fmt.Errorf("token endpoint %s: it did not answer with a token", endpoint.Redacted())
}

// mskIAM is the mechanism of Amazon's managed Kafka: the credentials are those that
// AWS's own tools would find, of a profile where the login module names one.
func mskIAM(in *login) sasl.Mechanism {
	return aws.ManagedStreamingIAM(func(ctx context.Context) (aws.Auth, error) {
		cfg, err := awsconfig.LoadDefaultConfig(ctx, awsconfig.WithSharedConfigProfile(in.options["awsProfileName"]))
		if err != nil {
			return aws.Auth{}, fmt.Errorf("AWS credentials: %w", err)
		}
		creds, err := cfg.Credentials.Retrieve(ctx)
		if err != nil {
			missing := errors.New("AWS credentials: there are none in the environment, in a profile or in this machine's role")
			var network net.Error
			if errors.As(err, &network) {
				return aws.Auth{}, awayError{missing}
			}
			return aws.Auth{}, missing
		}
		return aws.Auth{AccessKey: creds.AccessKeyID, SecretKey: creds.SecretAccessKey, SessionToken: creds.SessionToken}, nil
	})
}

// kerberos is GSSAPI: a ticket for SERVICE/HOST of each broker, with a keytab or with
// the tickets that kinit left.
func (s settings) kerberos(in *login) (sasl.Mechanism, error) {
	option := func(key, name string) string {
		if v := s.get(key); v != "" {
			return v
		}
		return in.options[name]
	}
	service := option("sasl.kerberos.service.name", "serviceName")
	if service == "" {
		return nil, s.failf("sasl.mechanism", "GSSAPI needs sasl.kerberos.service.name, the first part of the brokers' principals")
	}
	file := os.Getenv("KRB5_CONFIG")
	if file == "" {
		file = "/etc/krb5.conf"
	}
	cfg, err := krb5config.Load(file)
	if err != nil {
		return nil, s.failf("sasl.mechanism", "Kerberos configuration %s (KRB5_CONFIG): %w", file, err)
	}
	var cl *client.Client
	if tab := option("sasl.kerberos.keytab", "keyTab"); tab != "" {
		kt, err := keytab.Load(tab)
		if err != nil {
			return nil, s.failf("sasl.kerberos.keytab", "keytab %s: %w", tab, err)
		}
		principal, realm, ok := strings.Cut(option("sasl.kerberos.principal", "principal"), "@")
		if principal == "" {
			return nil, s.failf("sasl.kerberos.keytab", "it needs sasl.kerberos.principal")
		}
		if !ok {
			realm = cfg.LibDefaults.DefaultRealm
		}
		cl = client.NewWithKeytab(principal, realm, kt, cfg, client.DisablePAFXFAST(true))
	} else {
		name := strings.TrimPrefix(os.Getenv("KRB5CCNAME"), "FILE:")
		if name == "" {
			name = fmt.Sprintf("/tmp/krb5cc_%d", os.Getuid())
		}
		cache, err := credentials.LoadCCache(name)
		if err != nil {
			return nil, s.failf("sasl.mechanism", "no sasl.kerberos.keytab, and no ticket cache: %w", err)
		}
		if cl, err = client.NewFromCCache(cache, cfg, client.DisablePAFXFAST(true)); err != nil {
			return nil, s.failf("sasl.mechanism", "ticket cache %s: %w", name, err)
		}
	}
	return kerberos.Auth{Client: cl, Service: service}.AsMechanismWithClose(), nil
}

// options are what the properties ask of a client whose connections connect makes.
func (s settings) options(connect dialFunc, last *atomic.Value) ([]kgo.Opt, error) {
	use, known := protocols[s.protocol()]
	if !known {
		return nil, s.failf(protocolKey, "%q is not PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL", s.get(protocolKey))
	}
	if useless := s.useless(); len(useless) > 0 && s.get(protocolKey) == "" {
		return nil, s.failf(useless[0], "it has no effect without security.protocol: SSL, SASL_PLAINTEXT or SASL_SSL")
	}
	d := &dialer{connect: connect}
	if use.tls {
		var err error
		if d.tls, err = s.tlsConfig(); err != nil {
			return nil, err
		}
	}
	opts := []kgo.Opt{kgo.Dialer(d.dial)}
	if use.sasl {
		m, err := s.mechanism()
		if err != nil {
			return nil, err
		}
		opts = append(opts, kgo.SASL(named{m, last}))
	}
	return opts, nil
}
