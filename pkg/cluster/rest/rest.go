// Package rest speaks JSON with the servers beside a cluster: a schema registry and Kafka Connect.
package rest

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	// AtOnce is how many requests are on their way to a server at the most.
	AtOnce = 16

	requestLimit = 2 * time.Minute // a large registry takes its time for all of its schemas
	bodyLimit    = 1 << 30
	tries        = 8
	firstWait    = 250 * time.Millisecond // before the second try; twice as long before each one after it,
	longestWait  = 5 * time.Second        // up to this
)

// A Server is where requests go, and who sends them.
type Server struct {
	Title          string // for messages: "the schema registry"
	URL            string // without credentials, and without a slash at its end
	User, Password string
	Token          string // instead of a user: a bearer token
	TLS            *tls.Config
}

// A Client sends requests to one server. Any number of goroutines may use it.
type Client struct {
	server Server
	http   *http.Client
	// Again tells whether an answer is worth another try, beside those that always are.
	again func(*Error) bool
	wait  time.Duration
}

// New returns a client of s. Answers that again approves of are tried again, a few times.
func New(s *Server, again func(*Error) bool) *Client {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConnsPerHost, t.MaxConnsPerHost, t.TLSClientConfig = AtOnce, AtOnce, s.TLS
	return &Client{server: *s, http: &http.Client{Transport: t, Timeout: requestLimit}, again: again, wait: firstWait}
}

// URL is the server's, without credentials.
func (c *Client) URL() string { return c.server.URL }

// Close closes connections that are not in use.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// An Error is an answer that says no.
type Error struct {
	Method, Path string
	Status       int // of HTTP
	Code         int // of the server, 0 for none
	Message      string
}

func (e *Error) Error() string {
	text := fmt.Sprintf("%s %s: status %d", e.Method, e.Path, e.Status)
	if e.Code != 0 && e.Code != e.Status {
		text += fmt.Sprintf(", error %d", e.Code)
	}
	if e.Message != "" {
		text += ": " + e.Message
	}
	return text
}

// Answered returns the server's no that err is, nil for all other errors.
func Answered(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return nil
}

// Status is the HTTP status of the no that err is, 0 for all other errors.
func Status(err error) int {
	if e := Answered(err); e != nil {
		return e.Status
	}
	return 0
}

// Path joins the parts of a path, each escaped.
func Path(parts ...string) string {
	var b strings.Builder
	for _, p := range parts {
		b.WriteByte('/')
		// A part of dots alone would be taken for a folder.
		if p = url.PathEscape(p); strings.Trim(p, ".") == "" {
			p = strings.ReplaceAll(p, ".", "%2E")
		}
		b.WriteString(p)
	}
	return b.String()
}

// Get decodes the answer to a GET into into.
func (c *Client) Get(ctx context.Context, path string, query url.Values, into any) error {
	return c.Do(ctx, http.MethodGet, path, query, nil, into)
}

// Do sends a request with body as JSON, unless it is nil, and decodes the answer into into,
// unless that is nil or the answer is empty. The path is escaped already: see [Path]. What
// fails on the way, or because the server is busy, is tried again, so it must be something that may
// be done twice.
func (c *Client) Do(ctx context.Context, method, path string, query url.Values, body, into any) error {
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			return fmt.Errorf("%s %s: %w", method, path, err)
		}
	}
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	wait := c.wait
	for try := 1; ; try++ {
		err := c.once(ctx, method, path, text, into)
		if err == nil || try == tries || ctx.Err() != nil && errors.Is(err, ctx.Err()) || !c.passing(err) {
			return err
		}
		select {
		case <-time.After(wait):
			wait = min(2*wait, longestWait)
		case <-ctx.Done():
			return fmt.Errorf("%w; before that: %w", ctx.Err(), err)
		}
	}
}

// passing tells whether an error may be gone at the next try.
func (c *Client) passing(err error) bool {
	e := Answered(err)
	if e == nil {
		var network net.Error
		var certificate *tls.CertificateVerificationError
		return errors.As(err, &network) && !network.Timeout() && !errors.As(err, &certificate) ||
			errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
	}
	switch e.Status {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return c.again != nil && c.again(e)
}

func (c *Client) once(ctx context.Context, method, path string, body []byte, into any) error {
	var in io.Reader
	if body != nil {
		in = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.server.URL+path, in)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	req.Header.Set("Accept", "application/vnd.schemaregistry.v1+json, application/json")
	req.Header.Set("User-Agent", "kbk")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	switch {
	case c.server.Token != "":
		req.Header.Set("Authorization", "Bearer "+c.server.Token)
	case c.server.User != "" || c.server.Password != "":
		req.SetBasicAuth(c.server.User, c.server.Password)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("asking %s: %w", c.server.Title, err) // it names the method and the URL
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, bodyLimit+1))
	switch {
	case err != nil:
		return fmt.Errorf("%s %s: reading the answer: %w", method, path, err)
	case len(text) > bodyLimit:
		return fmt.Errorf("%s %s: the answer is larger than %d bytes", method, path, bodyLimit)
	case res.StatusCode/100 != 2:
		return refusal(method, path, res.StatusCode, text)
	case into == nil || res.StatusCode == http.StatusNoContent:
		return nil
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("%s %s: reading the answer: %w", method, path, err)
	}
	return nil
}

// refusal makes an error of an answer. What is no JSON is a page of a proxy, say, and is not quoted.
func refusal(method, path string, status int, text []byte) error {
	var answer struct {
		Code    int    `json:"error_code"`
		Message string `json:"message"`
	}
	e := &Error{Method: method, Path: path, Status: status}
	if json.Unmarshal(text, &answer) == nil {
		e.Code, e.Message = answer.Code, strings.TrimSpace(strings.ReplaceAll(answer.Message, "\n", " "))
	} else {
		e.Message = http.StatusText(status)
	}
	return e
}
