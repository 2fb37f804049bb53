package rest

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/kbkio/kbk/pkg/command"
)

// Flags are the flags for a server, by the name of the flag that has its URL.
func Flags(name, title string) []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: name, Usage: title + " is at `URL`; it may hold user:password@", EnvVars: []string{"KBK_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))}},
		&cli.StringFlag{Name: name + "-auth", Usage: "log in to " + title + " with the user:password in `FILE`, or with the token behind \"Bearer\""},
		&cli.StringFlag{Name: name + "-ca", Usage: "trust the certificates in `FILE` (PEM) for " + title},
		&cli.StringFlag{Name: name + "-cert", Usage: "show " + title + " the certificate in `FILE` (PEM, with its key)"},
	}
}

// FromFlags reads the flags of [Flags]. The server is nil where there is no URL.
func FromFlags(c *cli.Context, name, title string) (*Server, error) {
	text := c.String(name)
	if text == "" {
		for _, more := range []string{"-auth", "-ca", "-cert"} {
			if c.String(name+more) != "" {
				return nil, command.Usagef("--%s%s is only for --%s", name, more, name)
			}
		}
		return nil, nil
	}
	s, err := parse(text)
	if err != nil {
		return nil, command.Usagef("--%s %w", name, err)
	}
	s.Title = title
	if file := c.String(name + "-auth"); file != "" {
		if s.User != "" || s.Password != "" {
			return nil, command.Usagef("--%s-auth, and a user in the URL of --%s: one of them", name, name)
		}
		if err := s.logIn(file); err != nil {
			return nil, command.WithStatus(command.Usage, fmt.Errorf("--%s-auth: %w", name, err))
		}
	}
	if s.TLS, err = tlsConfig(c.String(name+"-ca"), c.String(name+"-cert")); err != nil {
		return nil, command.WithStatus(command.Usage, fmt.Errorf("--%s: %w", name, err))
	}
	return s, nil
}

// parse takes the credentials out of a URL. Its errors do not quote it.
func parse(text string) (*Server, error) {
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "":
		return nil, errors.New("is not a URL")
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("is a URL of %s, not of http or https", u.Scheme)
	case u.RawQuery != "" || u.Fragment != "":
		return nil, errors.New("is a URL with more than a path")
	}
	s := new(Server)
	if u.User != nil {
		s.User = u.User.Username()
		s.Password, _ = u.User.Password()
		u.User = nil
	}
	s.URL = strings.TrimRight(u.String(), "/")
	return s, nil
}

// logIn reads a file with credentials. Its errors do not quote it.
func (s *Server) logIn(file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	text := strings.TrimSpace(string(b))
	if kind, token, found := strings.Cut(text, " "); found && strings.EqualFold(kind, "Bearer") {
		s.Token = strings.TrimSpace(token)
		return nil
	}
	var found bool
	if s.User, s.Password, found = strings.Cut(text, ":"); !found || strings.Contains(text, "\n") {
		return fmt.Errorf("%s has neither user:password nor \"Bearer TOKEN\", on one line", file)
	}
	return nil
}

func tlsConfig(ca, cert string) (*tls.Config, error) {
	if ca == "" && cert == "" {
		return nil, nil
	}
	conf := new(tls.Config)
	if ca != "" {
		b, err := os.ReadFile(ca)
		if err != nil {
			return nil, err
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(b) {
			return nil, fmt.Errorf("%s has no certificate", ca)
		}
	}
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, cert)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", cert, err)
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	return conf, nil
}
