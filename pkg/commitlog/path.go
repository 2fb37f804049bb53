package commitlog

import (
	"fmt"
	"path"
	"strconv"
	"strings"
)

// The fixed names in a backup's folder.
const (
	ManifestName = "manifest.json"
	LogDir       = "log"
	TopicsDir    = "topics"

	entrySuffix = ".json"
)

// maxTopicName is Kafka's bound on a topic's name (org.apache.kafka.common.internals.Topic).
const maxTopicName = 249

// ValidTopic tells whether Kafka would take name for a topic: 1 to 249 characters
// out of [a-zA-Z0-9._-], and neither "." nor "..". Such a name is one path element
// and cannot lead out of the backup's folder.
func ValidTopic(name string) error {
	switch {
	case name == "" || name == "." || name == "..":
		return fmt.Errorf("topic name %q is not legal in Kafka", name)
	case len(name) > maxTopicName:
		return fmt.Errorf("topic name of %d characters is longer than Kafka's %d", len(name), maxTopicName)
	}
	for _, c := range []byte(name) {
		if !isAlphanumeric(c) && c != '.' && c != '_' && c != '-' {
			return fmt.Errorf("topic name %q holds a character that Kafka does not allow", name)
		}
	}
	return nil
}

func isAlphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// SegmentPath returns where the object of s lives, relative to the backup's folder:
//
//	topics/<topic>/partition=<p>/segment-<first>-<last>-<sha8>[-<run>].cbor[.<codec>][.<cipher>]
//
// The eight digits of the content's SHA-256 keep two contents of a run from ever sharing a
// name, while a retried upload gets the same one. It fails when a field does not
// fit into a path.
func SegmentPath(s *Segment) (string, error) {
	if err := ValidTopic(s.Topic); err != nil {
		return "", err
	}
	if s.Partition < 0 {
		return "", fmt.Errorf("partition %d is negative", s.Partition)
	}
	if s.First < 0 || s.Last < s.First {
		return "", fmt.Errorf("records %d to %d are not a range of offsets", s.First, s.Last)
	}
	ext, err := extension(s.Codec, s.Cipher)
	if err != nil {
		return "", err
	}
	run := ""
	if s.Run != "" {
		if !isHex(s.Run, runDigits) {
			return "", fmt.Errorf("%q is not the name of a run", s.Run)
		}
		run = "-" + s.Run
	}
	name := fmt.Sprintf("segment-%020d-%020d-%x%s%s", s.First, s.Last, s.SHA256[:4], run, ext)
	return path.Join(TopicsDir, s.Topic, "partition="+strconv.Itoa(int(s.Partition)), name), nil
}

// extensions are what the public tools call their files, where that is not the name of
// the codec: .zst (RFC 8878), .gz (RFC 1952), .sz (snappy's framing format).
var extensions = map[string]string{"zstd": "zst", "gzip": "gz", "snappy": "sz", "none": ""}

// extension names what is around the CBOR, innermost first.
func extension(codec, cipher string) (string, error) {
	ext := cborSuffix
	for _, layer := range []string{codec, cipher} {
		if len(layer) > 16 || strings.ContainsFunc(layer, func(r rune) bool {
			return r > 0x7f || !isAlphanumeric(byte(r))
		}) {
			return "", fmt.Errorf("codec or cipher %q is not a plain name", layer)
		}
		if short, ok := extensions[layer]; ok {
			layer = short
		}
		if layer != "" {
			ext += "." + layer
		}
	}
	return ext, nil
}

const cborSuffix = ".cbor"

// WriterOf returns the run that is in the name of a segment's object, "" where there is
// none.
func WriterOf(name string) string {
	base, _, _ := strings.Cut(path.Base(name), cborSuffix)
	parts := strings.Split(base, "-")
	if len(parts) != 5 || !isHex(parts[4], runDigits) {
		return ""
	}
	return parts[4]
}

// Layers tells the codec and the cipher of a file by its name, and false where it is
// not named like a segment.
func Layers(name string) (codec, cipher string, ok bool) {
	i := strings.LastIndex(name, cborSuffix)
	if i < 0 {
		return "", "", false
	}
	codec = "none"
	for n, layer := range strings.Split(strings.TrimPrefix(name[i:], cborSuffix), ".") {
		switch {
		case n == 0:
			ok = layer == ""
		case layer == "":
			ok = false
		case layer == "age" && cipher == "":
			cipher = layer
		case n == 1:
			codec = layer
			for long, short := range extensions {
				if short == layer && short != "" {
					codec = long
				}
			}
		default:
			ok = false
		}
	}
	return codec, cipher, ok
}

// isHex tells whether s is n lower-case hexadecimal digits.
func isHex(s string, n int) bool {
	return len(s) == n && strings.Trim(s, "0123456789abcdef") == ""
}
