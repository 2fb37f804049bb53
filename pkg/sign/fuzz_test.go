package sign

import (
	"bytes"
	"crypto/ed25519"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// keyOf is a key that is the same each time.
func keyOf(f *testing.F) *Key {
	signer, err := ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))
	if err != nil {
		f.Fatal(err)
	}
	return &Key{signer: signer}
}

// FuzzSigners reads any allowed signers. Each that is read verifies what it has signed, or
// says why not.
func FuzzSigners(f *testing.F) {
	key := keyOf(f)
	public := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key.signer.PublicKey())))
	for _, line := range []string{"* %s", `"a b",c namespaces="kbk-*,!x" %s me`, "x valid-after=20200101,valid-before=\"20300101235959Z\" %s\n# no\n", "x cert-authority %s"} {
		f.Add(fmt.Sprintf(line, public))
	}
	message := []byte("message")
	sig, err := key.Sign(message)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		all, err := ReadSigners(strings.NewReader(text))
		if err != nil {
			if all != nil {
				t.Fatal(all, err)
			}
			return
		}
		named := strings.Contains(text, strings.Fields(public)[1])
		if _, err := all.Verify(Namespace, message, sig, time.Unix(1_700_000_000, 0)); err == nil && !named {
			t.Fatalf("%q allows a key that is not in it", text)
		}
	})
}

// FuzzVerify gives any signature for a message. Only that of the message counts.
func FuzzVerify(f *testing.F) {
	key := keyOf(f)
	f.Add([]byte("message"), []byte("message"), []byte(nil))
	f.Add([]byte("message"), []byte("messagf"), []byte(nil))
	sig, err := key.Sign([]byte("message"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte("message"), []byte{}, sig)
	block, _ := pem.Decode(sig)
	f.Add([]byte("message"), []byte{}, block.Bytes)
	f.Fuzz(func(t *testing.T, message, other, signature []byte) {
		if len(signature) == 0 { // of the other message
			if signature, err = key.Sign(other); err != nil {
				t.Fatal(err)
			}
		} else if !bytes.HasPrefix(signature, []byte("-----")) {
			signature = pem.EncodeToMemory(&pem.Block{Type: "SSH SIGNATURE", Bytes: signature})
			other = nil
		}
		_, err := key.Signers().Verify(Namespace, message, signature, time.Now())
		if err == nil && !bytes.Equal(message, other) && !bytes.Equal(message, []byte("message")) {
			t.Fatalf("%q passes for a signature of %q", message, other)
		}
	})
}
