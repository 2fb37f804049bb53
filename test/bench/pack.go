package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/kbkio/kbk/format"
)

// pack measures kbk-pack, both ways, by every codec with and without encryption, and
// beside each the public tools on the same bytes. Everything is in the page cache.
func pack(ctx context.Context, bin string, records, runs int) error {
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
	if _, err := line(ctx, dir, bin, "age-keygen -o key 2>/dev/null && age-keygen -y key > pub"); err != nil {
		return err
	}
	fmt.Printf("A stream of %d MB: %d records of %d B in %d partitions\n\n", size/1e6, records, valueSize, partitions)
	fmt.Println("| command | ratio | MB/s | CPU s per GB | peak RSS MiB |")
	fmt.Println("| --- | ---: | ---: | ---: | ---: |")
	for _, c := range []struct{ codec, compress, decompress string }{
		{"zstd", "zstd -1 -T0 -q -c", "zstd -d -q -c"},
		{"lz4", "lz4 -1 -q -c", "lz4 -d -q -c"},
		{"gzip", "gzip -1 -c", "gzip -d -c"},
		{"snappy", "", ""},
		{"none", "cat", "cat"},
	} {
		for _, cmd := range []struct{ show, from, to string }{
			{"kbk-pack -q --codec " + c.codec, "records", "packed"},
			{c.compress, "records", "tool"},
			{"kbk-pack -q --codec " + c.codec + " -R pub", "records", "sealed"},
			{c.compress + " | age -R pub", "records", "tool.age"},
			{"kbk-pack -q -d", "packed", ""},
			{c.decompress, "tool", ""},
			{"kbk-pack -q -d -i key", "sealed", ""},
			{"age -d -i key | " + c.decompress, "tool.age", ""},
		} {
			if c.compress == "" && !strings.HasPrefix(cmd.show, "kbk") {
				continue
			}
			to := cmd.to
			if to == "" {
				to = "/dev/null"
			}
			// The input is the first command's, the output the last one's.
			first, rest, piped := strings.Cut(cmd.show, " | ")
			whole := first + " < " + cmd.from
			if piped {
				whole += " | " + rest
			}
			whole += " > " + to
			var took []usage
			for range runs {
				u, err := line(ctx, dir, bin, whole)
				if err != nil {
					return err
				}
				took = append(took, u)
			}
			slices.SortFunc(took, func(a, b usage) int { return int(a.wall - b.wall) })
			u, ratio := took[len(took)/2], ""
			if cmd.to != "" {
				info, err := os.Stat(filepath.Join(dir, to))
				if err != nil {
					return err
				}
				ratio = fmt.Sprintf("%.2f", float64(size)/float64(info.Size()))
			}
			fmt.Printf("| `%s` | %s | %.0f | %.2f | %d |\n", strings.ReplaceAll(cmd.show, "|", "\\|"), ratio, float64(size)/1e6/u.wall.Seconds(), u.cpu.Seconds()/(float64(size)/1e9), u.rss)
		}
	}
	return nil
}

// line runs a line of shell in dir. What it took is that of all its processes; its memory
// is that of the largest.
func line(ctx context.Context, dir, bin, text string) (usage, error) {
	cmd := exec.CommandContext(ctx, "bash", "-o", "pipefail", "-c", text)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	began := time.Now()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return usage{}, fmt.Errorf("%s: %w: %s", text, err, out)
	}
	s := cmd.ProcessState
	return usage{wall: time.Since(began), cpu: s.UserTime() + s.SystemTime(), rss: peak(s) >> 20}, nil
}

func writeStream(path string, records int) (int64, error) {
	f, err := os.Create(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	w := format.NewWriter(f)
	if err := w.WriteHeader(&format.Header{Content: format.ContentRecords}); err != nil {
		return 0, err
	}
	r := rand.New(rand.NewPCG(1, 2))
	for i := range records {
		if err := w.WriteRecord(&format.Record{
			Topic: topic, Partition: int32(i % partitions), Offset: int64(i / partitions), Timestamp: int64(i),
			Key: fmt.Appendf(nil, "o-%09d", i), Value: event(r, i, valueSize),
		}); err != nil {
			return 0, err
		}
	}
	if err := w.Close(&format.End{Records: int64(records)}); err != nil {
		return 0, err
	}
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), f.Close()
}
