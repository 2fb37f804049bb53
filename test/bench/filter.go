package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// filter measures kbk-filter, beside cat and jq, on a stream of records and on the same
// as lines of JSON. Everything is in the page cache.
func filter(ctx context.Context, bin string, records, runs int) error {
	bin, err := filepath.Abs(bin)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "kbk-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	size, err := writeStream(filepath.Join(dir, "records"), records)
	if err != nil {
		return err
	}
	if _, err := line(ctx, dir, bin, "kbk-filter -q --to json < records > lines"); err != nil {
		return err
	}
	fmt.Printf("A stream of %d MB: %d records of %d B in %d partitions\n\n", size/1e6, records, valueSize, partitions)
	fmt.Println("| command | MB/s | records/s | records/s and core | peak RSS MiB |")
	fmt.Println("| --- | ---: | ---: | ---: | ---: |")
	for _, cmd := range []string{
		"cat < records | cat",
		"cat < records | kbk-filter -q",
		"kbk-filter -q --topic ^ord --since @5 < records",
		"kbk-filter -q --value parcel < records",
		"kbk-filter -q --value 'DE.*parcel' < records",
		"kbk-filter -q --mask value.customer=redact < records",
		`kbk-filter -q --jq 'select(.value.country=="DE") | .value.customer |= "***"' < records`,
		"kbk-filter -q --to json < records",
		"kbk-filter -q --from json < lines",
		"jq -c . < lines",
		`jq -c 'select(.payload) | .payload |= (fromjson | select(.country=="DE") | .customer |= "***" | tojson)' < lines`,
	} {
		var took []usage
		for range runs {
			u, err := line(ctx, dir, bin, cmd+" > /dev/null")
			if err != nil {
				return err
			}
			took = append(took, u)
		}
		slices.SortFunc(took, func(a, b usage) int { return int(a.wall - b.wall) })
		u := took[len(took)/2]
		fmt.Printf("| `%s` | %.0f | %.0f | %.0f | %d |\n", strings.ReplaceAll(cmd, "|", "\\|"),
			float64(size)/1e6/u.wall.Seconds(), float64(records)/u.wall.Seconds(), float64(records)/u.cpu.Seconds(), u.rss)
	}
	return nil
}
