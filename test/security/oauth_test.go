package security

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"time"
)

// An issuer hands out tokens (JWT, RS256) for client credentials, and publishes the key
// that the broker checks them with.
type issuer struct {
	*httptest.Server
	key    *rsa.PrivateKey
	issued atomic.Int64
	latest atomic.Value // the token issued last
}

const (
	clientID     = "kbk-client"
	clientSecret = "client-secret-7x"
)

func newIssuer() (*issuer, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	i := &issuer{key: key}
	mux := http.NewServeMux()
	mux.HandleFunc("/jwks", func(w http.ResponseWriter, _ *http.Request) {
		e := big.NewInt(int64(key.E)).Bytes()
		_ = json.NewEncoder(w).Encode(map[string]any{"keys": []map[string]string{{
			"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "1", "n": b64(key.N.Bytes()), "e": b64(e),
		}}})
	})
	mux.HandleFunc("/token", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		id, secret, _ := r.BasicAuth()
		if id != clientID || secret != clientSecret || r.FormValue("grant_type") != "client_credentials" || r.FormValue("scope") != "kafka" {
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprintf(w, `{"error": "invalid_client", "error_description": "the secret %s is wrong"}`, secret)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"access_token": i.token(time.Now().Add(5 * time.Second)), "token_type": "bearer", "expires_in": 5})
	})
	i.Server = httptest.NewServer(mux)
	return i, nil
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// token returns one that is valid until a time.
func (i *issuer) token(until time.Time) string {
	i.issued.Add(1)
	head, _ := json.Marshal(map[string]string{"alg": "RS256", "typ": "JWT", "kid": "1"})
	claims, _ := json.Marshal(map[string]any{
		"sub": "oauth-user", "iss": "kbk-test", "aud": "kafka", "scope": "kafka", "iat": time.Now().Add(-time.Minute).Unix(), "exp": until.Unix(),
	})
	text := b64(head) + "." + b64(claims)
	sum := sha256.Sum256([]byte(text))
	sig, err := rsa.SignPKCS1v15(rand.Reader, i.key, crypto.SHA256, sum[:])
	if err != nil {
		panic(err) // the key is good
	}
	text += "." + b64(sig)
	i.latest.Store(text)
	return text
}

// last is the token that was issued last.
func (i *issuer) last() string {
	token, _ := i.latest.Load().(string)
	return token
}
