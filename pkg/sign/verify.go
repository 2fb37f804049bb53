package sign

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
)

// What a caller may want to tell apart.
var (
	// ErrSigner is the error for a signature by a key that is not allowed to make it.
	ErrSigner = errors.New("not signed by a key that is allowed to")
	// ErrSignature is the error for a signature that is none of the message, or none
	// at all.
	ErrSignature = errors.New("the signature is wrong")
)

// Signers are the keys that may sign, as a file of OpenSSH's names them
// (ssh-keygen(1), "ALLOWED SIGNERS"): principals, options, key.
type Signers []signer

type signer struct {
	principals    string
	namespaces    []string // patterns; empty: any
	after, before time.Time
	key           []byte // in wire format
}

// ReadSigners reads an allowed signers file. Lines with cert-authority are left out:
// they are for certificates, and kbk signs with plain keys.
func ReadSigners(r io.Reader) (Signers, error) {
	var all Signers
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		s, err := parseSigner(line)
		if err != nil {
			return nil, fmt.Errorf("allowed signers: line %d: %w", n, err)
		}
		if s != nil {
			all = append(all, *s)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("allowed signers: %w", err)
	}
	return all, nil
}

func parseSigner(line string) (*signer, error) {
	s := new(signer)
	var rest string
	if quoted, ok := strings.CutPrefix(line, `"`); ok {
		s.principals, rest, ok = strings.Cut(quoted, `"`)
		if !ok {
			return nil, errors.New("a quote is not closed")
		}
	} else {
		end := strings.IndexAny(line, " \t")
		if end < 0 {
			return nil, errors.New("there is no key behind the principals")
		}
		s.principals, rest = line[:end], line[end:]
	}
	key, _, options, _, err := ssh.ParseAuthorizedKey([]byte(rest))
	if err != nil {
		return nil, errors.New("not a list of principals, perhaps options, and a public key")
	}
	s.key = key.Marshal()
	for _, o := range options {
		name, value, _ := strings.Cut(o, "=")
		value = strings.Trim(value, `"`)
		switch strings.ToLower(name) {
		case "cert-authority":
			return nil, nil
		case "namespaces":
			s.namespaces = strings.Split(value, ",")
		case "valid-after":
			s.after, err = parseTime(value)
		case "valid-before":
			s.before, err = parseTime(value)
		default:
			err = fmt.Errorf("option %q is not known", name)
		}
		if err != nil {
			return nil, err
		}
	}
	return s, nil
}

// parseTime reads YYYYMMDD, YYYYMMDDHHMM or YYYYMMDDHHMMSS, in local time or, with
// a Z behind it, in UTC.
func parseTime(text string) (time.Time, error) {
	digits, utc := strings.CutSuffix(text, "Z")
	zone := time.Local
	if utc {
		zone = time.UTC
	}
	for _, layout := range []string{"20060102", "200601021504", "20060102150405"} {
		if len(digits) == len(layout) {
			if t, err := time.ParseInLocation(layout, digits, zone); err == nil {
				return t, nil
			}
		}
	}
	return time.Time{}, fmt.Errorf("%q is not a time such as 20261231 or 202612312359Z", text)
}

// Verify checks that signature, an armored one, is of message, for namespace, and by
// one of the keys, valid at the time given. It returns the principals that the file
// names for the key. It fails with [ErrSigner] or [ErrSignature].
func (s Signers) Verify(namespace string, message, signature []byte, at time.Time) (principals string, err error) {
	sig, err := sshsig.Unarmor(signature)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrSignature, err)
	}
	// Whose it claims to be says little until it has been checked.
	if err := sshsig.Verify(bytes.NewReader(message), sig, sig.PublicKey, sig.HashAlgorithm, namespace); err != nil {
		return "", fmt.Errorf("%w: %w", ErrSignature, err)
	}
	key := sig.PublicKey.Marshal()
	why := ErrSigner
	for _, a := range s {
		if !bytes.Equal(a.key, key) {
			continue
		}
		switch {
		case !a.allows(namespace):
			why = fmt.Errorf("%w: its key is not for %q", ErrSigner, namespace)
		case !a.after.IsZero() && at.Before(a.after), !a.before.IsZero() && at.After(a.before):
			why = fmt.Errorf("%w: its key was not valid at %s", ErrSigner, at.UTC().Format(time.RFC3339))
		default:
			return a.principals, nil
		}
	}
	return "", fmt.Errorf("%w (%s)", why, ssh.FingerprintSHA256(sig.PublicKey))
}

// Check returns a function that fails where a file of the log was not signed by one of
// these; nil where there are none of them.
func (s Signers) Check() func(data, signature []byte, at time.Time) error {
	if s == nil {
		return nil
	}
	return func(data, signature []byte, at time.Time) error {
		if signature == nil {
			return errors.New("there is no signature")
		}
		_, err := s.Verify(Namespace, data, signature, at)
		return err
	}
}

// literal takes their meaning from what path.Match knows beside * and ?.
var literal = strings.NewReplacer(`\`, `\\`, `[`, `\[`)

// allows tells whether a pattern of the signer matches namespace. As in OpenSSH the
// patterns have * and ?, and one behind ! takes away.
func (s signer) allows(namespace string) bool {
	if len(s.namespaces) == 0 {
		return true
	}
	allowed := false
	for _, pattern := range s.namespaces {
		positive, not := strings.CutPrefix(pattern, "!")
		if ok, _ := path.Match(literal.Replace(positive), namespace); ok {
			if not {
				return false
			}
			allowed = true
		}
	}
	return allowed
}
