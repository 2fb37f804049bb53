package main

import (
	"bufio"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/kbkio/kbk/format"
)

const segmentSize = 32 << 20 // what 128 MiB of JSON, the default, come to

// benchStore measures push and pull beside rclone on the same bytes: on a local disk,
// and on an S3 server on loopback that stores on that disk.
func benchStore(bin string, size int64, runs int) (err error) {
	tools, err := filepath.Abs(filepath.Join(bin, "test"))
	if err != nil {
		return err
	}
	for name, pkg := range map[string]string{"rclone": "github.com/rclone/rclone", "versitygw": "github.com/versity/versitygw/cmd/versitygw"} {
		out, err := exec.Command("go", "build", "-C", "test/stores/tools", "-o", filepath.Join(tools, name), pkg).CombinedOutput()
		if err != nil {
			return fmt.Errorf("build %s: %w: %s", name, err, out)
		}
	}
	dir, err := os.MkdirTemp("", "kbk-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	segments := filepath.Join(dir, "segments")
	if err := writeSegments(segments, size); err != nil {
		return err
	}
	endpoint, stop, err := serveS3(filepath.Join(tools, "versitygw"), filepath.Join(dir, "s3"))
	if err != nil {
		return err
	}
	defer stop()
	for name, value := range map[string]string{"TYPE": "s3", "PROVIDER": "Other", "ACCESS_KEY_ID": "bench", "SECRET_ACCESS_KEY": "benchbench", "ENDPOINT": endpoint} {
		os.Setenv("RCLONE_CONFIG_S3_"+name, value)
	}
	os.Setenv("RCLONE_CONFIG", "") // nobody's own

	local, copied, restored := filepath.Join(dir, "local"), filepath.Join(dir, "copied"), filepath.Join(dir, "restored")
	rclone := func(args ...string) []string {
		return append([]string{filepath.Join(tools, "rclone"), "-q", "--transfers", "4"}, args...)
	}
	push, pull := filepath.Join(bin, "kbk-push"), filepath.Join(bin, "kbk-pull")
	topics := filepath.Join(local, "topics")
	fmt.Printf("%d MiB in segments of %d MiB that do not compress\n\n", size>>20, segmentSize>>20)
	fmt.Println("| | wall s | MB/s | CPU s/GB | peak RSS MiB |")
	fmt.Println("| --- | ---: | ---: | ---: | ---: |")
	for _, row := range []struct {
		name  string
		clear string // folder that is removed before each run
		stdin string
		args  []string
	}{
		{"kbk-push to a folder", local, segments, []string{push, "-q", local}},
		{"rclone copy, folder to folder", copied, "", rclone("copy", topics, copied)},
		{"kbk-pull from a folder > /dev/null", "", "", []string{pull, "-q", local}},
		{"kbk-push to S3", filepath.Join(dir, "s3", "pushed"), segments, []string{push, "-q", "s3:pushed/b"}},
		{"rclone copy, folder to S3", filepath.Join(dir, "s3", "copied"), "", rclone("copy", topics, "s3:copied/b")},
		{"kbk-pull from S3 > /dev/null", "", "", []string{pull, "-q", "s3:pushed/b"}},
		{"rclone copy, S3 to folder", restored, "", rclone("copy", "s3:copied/b", restored)},
	} {
		var all []once
		for range runs {
			if row.clear != "" {
				if err := os.RemoveAll(row.clear); err != nil {
					return err
				}
			}
			o, err := measureOnce(row.stdin, row.args)
			if err != nil {
				return fmt.Errorf("%s: %w", row.name, err)
			}
			all = append(all, o)
		}
		slices.SortFunc(all, func(a, b once) int { return int(a.wall - b.wall) })
		o := all[len(all)/2]
		fmt.Printf("| %s | %.2f | %.0f | %.2f | %d |\n", row.name, o.wall.Seconds(), float64(size)/1e6/o.wall.Seconds(), o.cpu.Seconds()*1e9/float64(size), o.rss>>20)
	}
	return nil
}

type once struct {
	wall, cpu time.Duration
	rss       int64
}

func measureOnce(stdin string, args []string) (once, error) {
	syscall.Sync() // what was written before does not count
	cmd := exec.Command(args[0], args[1:]...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if stdin != "" {
		f, err := os.Open(stdin)
		if err != nil {
			return once{}, err
		}
		defer f.Close()
		cmd.Stdin = f
	}
	began := time.Now()
	if err := cmd.Run(); err != nil {
		return once{}, fmt.Errorf("%w: %s", err, &stderr)
	}
	s := cmd.ProcessState
	return once{time.Since(began), s.UserTime() + s.SystemTime(), peak(s)}, nil
}

// writeSegments writes a stream of segments of one topic to a file.
func writeSegments(name string, size int64) (err error) {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	b := bufio.NewWriterSize(f, 1<<20)
	w := format.NewWriter(b)
	if err := w.WriteHeader(&format.Header{Content: format.ContentSegments}); err != nil {
		return err
	}
	data := make([]byte, segmentSize)
	for i := range size / segmentSize {
		rand.Read(data)
		sum := sha256.Sum256(data)
		n := i / partitions
		err := w.WriteSegment(&format.Segment{
			Topic: topic, Partition: int32(i % partitions), From: n, Next: n + 1, First: n, Last: n, Records: 1,
			Codec: "zstd", RawSize: segmentSize, Size: segmentSize, SHA256: sum[:],
		}, data)
		if err != nil {
			return err
		}
	}
	return errors.Join(w.Close(&format.End{}), b.Flush())
}

// serveS3 starts an S3 server on a folder.
func serveS3(program, dir string) (endpoint string, stop func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	addr := l.Addr().String()
	l.Close()
	cmd := exec.Command(program, "--port", addr, "--access", "bench", "--secret", "benchbench", "--quiet", "posix", dir)
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	stop = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	for range 100 {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			return "http://" + addr, stop, nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	stop()
	return "", nil, errors.New("the S3 server does not listen")
}
