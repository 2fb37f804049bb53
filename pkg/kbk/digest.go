package kbk

import (
	"bufio"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/kbkio/kbk/format"
	"github.com/kbkio/kbk/pkg/command"
)

func digestSpec() command.Spec {
	return command.Spec{
		Name: "digest", Usage: "print a digest of each partition in a stream of records",
		Description: `Prints a line for each partition of the records on standard input: topic, partition, number of
records, and a SHA-256 of their timestamps, keys, values and headers, in their order. Two
partitions with the same line after the topic hold the same records, wherever their offsets are.`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "prefix", Usage: "remove `TEXT` from the beginning of the topics' names"},
			command.MaxFrameFlag(),
		},
		Action: func(ctx context.Context, c *cli.Context, _ *command.Env) error {
			in, err := command.Stdin()
			if err != nil {
				return err
			}
			return digest(command.Interruptible(ctx, in), c.String("prefix"), int(command.SizeOf(c, "max-frame")), command.Text())
		},
	}
}

// A partition is one of a topic.
type partition struct {
	topic  string
	number int32
}

func compare(a, b partition) int {
	return cmp.Or(cmp.Compare(a.topic, b.topic), cmp.Compare(a.number, b.number))
}

// A sum is what is known of the records of a partition.
type sum struct {
	records int64
	hash    hash.Hash
}

// digest reads a stream of records to its end, and writes the digests.
func digest(in io.Reader, prefix string, maxFrame int, out io.Writer) error {
	r := format.NewReader(in, maxFrame)
	h, err := r.Header()
	if err != nil {
		return command.Input(err)
	}
	if h.Content != "records" {
		return command.WithHint(command.Usagef("standard input holds %s, and records are expected", h.Content), "unpack with kbk-pack -d, and leave out --batches")
	}
	sums := make(map[partition]*sum)
	var end *format.End
	var rec format.Record
	var buf []byte
	for {
		f, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return command.Input(err)
		}
		switch f.Kind {
		case format.KindRec:
			if err := f.Record(&rec); err != nil {
				return command.Input(err)
			}
			if !strings.HasPrefix(f.Topic, prefix) {
				return command.Usagef("topic %q does not begin with the prefix %q", f.Topic, prefix)
			}
			at := partition{strings.TrimPrefix(f.Topic, prefix), f.Partition}
			s := sums[at]
			if s == nil {
				s = &sum{hash: sha256.New()}
				sums[at] = s
			}
			s.records++
			buf = appendContent(buf[:0], &rec)
			s.hash.Write(buf)
		case format.KindEnd:
			if end, err = format.DecodeEnd(f.Raw); err != nil {
				return command.Input(err)
			}
		}
	}
	w := bufio.NewWriter(out)
	for _, at := range slices.SortedFunc(maps.Keys(sums), compare) {
		fmt.Fprintf(w, "%s %d %d %s\n", at.topic, at.number, sums[at].records, hex.EncodeToString(sums[at].hash.Sum(nil)))
	}
	return errors.Join(w.Flush(), command.EndStatus(end, "the digests are of what was read"))
}

// appendContent writes what makes a record what it is, and so that no two records have the
// same bytes.
func appendContent(b []byte, r *format.Record) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(r.Timestamp))
	b = appendBytes(b, r.Key)
	b = appendBytes(b, r.Value)
	b = binary.AppendUvarint(b, uint64(len(r.Headers)))
	for _, h := range r.Headers {
		b = appendBytes(b, h.Name)
		b = appendBytes(b, h.Value)
	}
	return b
}

// appendBytes writes a length, which is 0 for null, and the bytes.
func appendBytes(b, v []byte) []byte {
	if v == nil {
		return append(b, 0)
	}
	b = binary.AppendUvarint(b, uint64(len(v))+1)
	return append(b, v...)
}

// A line is what digest prints of a partition.
type line struct {
	at      partition
	records int64
	hash    string
}

// parseDigests reads what digest prints.
func parseDigests(text string) (map[partition]line, error) {
	out := make(map[partition]line)
	for _, l := range strings.Split(strings.TrimSpace(text), "\n") {
		if l == "" {
			continue
		}
		f := strings.Fields(l)
		if len(f) != 4 {
			return nil, fmt.Errorf("%q is not a digest", l)
		}
		number, err1 := strconv.ParseInt(f[1], 10, 32)
		records, err2 := strconv.ParseInt(f[2], 10, 64)
		if err1 != nil || err2 != nil {
			return nil, fmt.Errorf("%q is not a digest", l)
		}
		at := partition{f[0], int32(number)}
		out[at] = line{at, records, f[3]}
	}
	return out, nil
}
