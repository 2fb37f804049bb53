// The filter in Go: drops records whose key begins with PREFIX, and headers named HEADER.
package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"log"
	"os"
	"slices"
	"strings"

	"github.com/kbkio/kbk/format"
)

func main() {
	log.SetFlags(0)
	in, out, rec := format.NewReader(os.Stdin, 0), format.NewWriter(os.Stdout), format.Record{}
	header, err := in.Header()
	check(err)
	if header.Content != format.ContentRecords { // in others there are records that it would not see
		check(errors.New("standard input is not a stream of records: leave out --batches, or put kbk-pack -d before it"))
	}
	digest := sha256.Sum256([]byte(strings.Join(os.Args[1:], "\x00"))) // of what it was told to do
	header.Filters = append(header.Filters, fmt.Sprintf("filter.go:%x", digest[:4]))
	check(out.WriteHeader(header))
	for {
		f, err := in.Next() // an error, where the input is cut off
		check(err)
		raw := f.Raw // kinds that it does not know pass, too
		if f.Kind == format.KindEnd {
			end, err := format.DecodeEnd(raw)
			check(err)
			check(out.Close(end))
			return
		}
		if f.Kind == format.KindRec {
			check(f.Record(&rec))
			if bytes.HasPrefix(rec.Key, []byte(os.Args[1])) {
				continue
			}
			rec.Headers = slices.DeleteFunc(rec.Headers, func(h format.RecordHeader) bool { return string(h.Name) == os.Args[2] })
			raw = f.Rewrite(nil, &rec)
		}
		check(out.WriteRaw(raw))
	}
}

func check(err error) {
	if err != nil {
		log.Print("filter.go: error: ", err)
		os.Exit(3)
	}
}
