package commitlog

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"strconv"
	"strings"
)

// The last field of a file, alone on its line, is the SHA-256 of all the lines before it,
// what `head -n -2 FILE | sha256sum` prints, and behind a colon their locator: the numbers
// of all bits that are set, exclusive-or. One bit that flips changes the locator by its
// number, so that it can be found and put back, and the SHA-256 tells whether that was it.
// Every version from 2 on ends like this.
const (
	sealBegin = `  "checksum": "`
	sealEnd   = "\"\n}\n"
	sealSize  = len(sealBegin) + 64 + 1 + 8 + len(sealEnd)
)

// seal puts the checksum into what [encode] made.
func seal(data []byte) []byte {
	data = append(bytes.TrimSuffix(data, []byte("\n}\n")), ",\n"...)
	return append(data, sealOf(data)...)
}

// sealOf is what comes behind body.
func sealOf(body []byte) string {
	return fmt.Sprintf("%s%s:%08x%s", sealBegin, Sum(body), locator(body), sealEnd)
}

// locator is the exclusive or of the numbers of the bits that are set.
func locator(data []byte) uint32 {
	var x uint32
	for i, b := range data {
		if bits.OnesCount8(b)%2 == 1 {
			x ^= uint32(i) << 3
		}
		for ; b != 0; b &= b - 1 {
			x ^= uint32(bits.TrailingZeros8(b))
		}
	}
	return x
}

// A sealing is what the end of a file says of it.
type sealing struct {
	sealed   bool   // there is a checksum
	intact   bool   // and it is right
	mended   bool   // since one bit was put back
	original []byte // the file as it was written, if it is intact
}

// checkSeal holds a file against its checksum. It does not change data.
func checkSeal(data []byte) sealing {
	n := len(data) - sealSize
	if n < 0 {
		return sealing{original: data}
	}
	body, end := data[:n], string(data[n:])
	want := sealOf(body)
	switch {
	case end == want:
		return sealing{sealed: true, intact: true, original: data}
	case flipped(end, want) == 1:
		return sealing{true, true, true, append(bytes.Clone(body), want...)}
	case !strings.HasPrefix(end, sealBegin) || !strings.HasSuffix(end, sealEnd):
		return sealing{original: data}
	}
	_, at, _ := strings.Cut(end[len(sealBegin):len(end)-len(sealEnd)], ":")
	stored, err := strconv.ParseUint(at, 16, 32)
	bit := uint32(stored) ^ locator(body)
	if err == nil && int64(bit) < int64(n)*8 {
		whole := bytes.Clone(data)
		whole[bit/8] ^= 1 << (bit % 8)
		if sealOf(whole[:n]) == end {
			return sealing{true, true, true, whole}
		}
	}
	return sealing{sealed: true}
}

// flipped counts the bits in which two strings of the same length differ.
func flipped(a, b string) (n int) {
	for i := range len(a) {
		n += bits.OnesCount8(a[i] ^ b[i])
	}
	return n
}

// open reads a file of the log into v, a pointer to what has a field for the checksum too.
// Where there is a checksum, keys that this version does not know are left to a later
// version of the same format, and the first of them is named.
func open(data []byte, v any) (end sealing, unknown string, err error) {
	end = checkSeal(data)
	if end.sealed && !end.intact {
		return end, "", errors.New("its checksum is wrong")
	}
	var head struct{ Version int }
	if err := json.Unmarshal(end.original, &head); err != nil {
		return end, "", fmt.Errorf("not JSON: %w", err)
	}
	switch {
	case head.Version > Version && end.sealed:
		return end, "", fmt.Errorf("version %d: %w", head.Version, ErrVersion)
	case head.Version < 1 || head.Version > Version:
		return end, "", fmt.Errorf("version %d is not known", head.Version)
	case head.Version > 1 && !end.sealed:
		return end, "", errors.New("it has no checksum")
	}
	d := json.NewDecoder(bytes.NewReader(end.original))
	d.DisallowUnknownFields()
	if err = d.Decode(v); err == nil {
		if _, more := d.Token(); more != io.EOF {
			err = errors.New("there is something behind it")
		}
		return end, "", err
	}
	name, isUnknown := strings.CutPrefix(err.Error(), "json: unknown field ")
	if !isUnknown || !end.sealed {
		return end, "", err
	}
	return end, strings.Trim(name, `"`), json.Unmarshal(end.original, v)
}

// Mended returns a file of the log as it was written, and whether one bit of data has to
// be put back for it. The file must be one that can be decoded.
func Mended(data []byte) (original []byte, mended bool) {
	end := checkSeal(data)
	return end.original, end.mended
}
