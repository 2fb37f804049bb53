// Command image writes a container image without a daemon and without a registry: the
// programs, links of the commands' names, and what TLS trusts. The file is what docker load
// reads.
//
//	image -o kbk-image.tar -arch amd64 -version v0.2.0 bin/kbk bin/kbk-catalog
package main

import (
	"archive/tar"
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"path"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// links are the other names of each program, as the Makefile has them.
var links = map[string][]string{
	"kbk":         {"kbk-cluster", "kbk-fetch", "kbk-filter", "kbk-offsets", "kbk-pack", "kbk-produce"},
	"kbk-catalog": {"kbk-import", "kbk-pull", "kbk-push"},
}

// user is nobody's: the image needs no rights.
const user = 65532

// made is the time of all files: the same programs make the same image.
var made = time.Unix(0, 0).UTC()

func main() {
	out := flag.String("o", "kbk-image.tar", "write the image to `FILE`")
	arch := flag.String("arch", "amd64", "the programs are for `ARCH`: amd64 or arm64")
	version := flag.String("version", "devel", "the image's tag")
	trust := flag.String("ca", "/etc/ssl/certs/ca-certificates.crt", "trust the authorities in `FILE`")
	flag.Parse()
	if err := run(*out, *arch, *version, *trust, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "image: error:", err)
		os.Exit(1)
	}
}

func run(out, arch, version, trust string, programs []string) error {
	tag, err := name.NewTag("kbk:" + version)
	if err != nil {
		return err
	}
	files, err := filesOf(trust, programs)
	if err != nil {
		return err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(files)), nil })
	if err != nil {
		return err
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return err
	}
	config.Created, config.Architecture, config.OS = v1.Time{Time: made}, arch, "linux"
	config.Config = v1.Config{
		User: fmt.Sprint(user), Env: []string{"PATH=/usr/bin", "HOME=/home/kbk"}, WorkingDir: "/home/kbk", Cmd: []string{"kbk", "--help"},
		Labels: map[string]string{"org.opencontainers.image.version": version, "org.opencontainers.image.source": "https://github.com/kbkio/kbk", "org.opencontainers.image.licenses": "Apache-2.0"},
	}
	if image, err = mutate.ConfigFile(image, config); err != nil {
		return err
	}
	return tarball.WriteToFile(out, tag, image)
}

// filesOf is what the image has, as a tar archive.
func filesOf(trust string, programs []string) ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	var err error
	add := func(h *tar.Header, content []byte) {
		h.ModTime, h.Format, h.Size = made, tar.FormatPAX, int64(len(content))
		if err == nil {
			err = w.WriteHeader(h)
		}
		if err == nil {
			_, err = w.Write(content)
		}
	}
	file := func(from, to string, mode int64) {
		content, readErr := os.ReadFile(from)
		if err == nil {
			err = readErr
		}
		add(&tar.Header{Typeflag: tar.TypeReg, Name: to, Mode: mode}, content)
	}
	for _, dir := range []string{"etc", "etc/ssl", "etc/ssl/certs", "usr", "usr/bin", "home"} {
		add(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}, nil)
	}
	add(&tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777}, nil)
	add(&tar.Header{Typeflag: tar.TypeDir, Name: "home/kbk/", Mode: 0o755, Uid: user, Gid: user}, nil)
	add(&tar.Header{Typeflag: tar.TypeReg, Name: "etc/passwd", Mode: 0o644},
		fmt.Appendf(nil, "root:x:0:0:root:/:/sbin/nologin\nkbk:x:%d:%d:kbk:/home/kbk:/sbin/nologin\n", user, user))
	file(trust, "etc/ssl/certs/ca-certificates.crt", 0o644)
	for _, p := range programs {
		program := path.Base(p)
		file(p, "usr/bin/"+program, 0o755)
		for _, link := range links[program] {
			add(&tar.Header{Typeflag: tar.TypeSymlink, Name: "usr/bin/" + link, Linkname: program, Mode: 0o777}, nil)
		}
	}
	if err == nil {
		err = w.Close()
	}
	return buf.Bytes(), err
}
