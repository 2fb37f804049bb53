// Command image writes a container image without a daemon and without a registry: the
// programs, links of the commands' names, and what TLS trusts. The file is both an OCI image
// layout and what docker load reads.
//
//	image -o kbk-image.tar -arch amd64 -version v0.2.0 bin/kbk bin/kbk-catalog
package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"
)

// links are the other names of each program, as the Makefile has them.
var links = map[string][]string{
	"kbk":         {"kbk-fetch", "kbk-filter", "kbk-offsets", "kbk-pack", "kbk-produce"},
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
	layer, plain, err := layerOf(trust, programs)
	if err != nil {
		return err
	}
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := writeImage(f, arch, version, layer, plain); err != nil {
		return err
	}
	return f.Close()
}

// layerOf is the one layer of the image, compressed, and the digest of what it decompresses to.
func layerOf(trust string, programs []string) (layer []byte, plain string, err error) {
	var buf bytes.Buffer
	zw := gzip.NewWriter(&buf)
	sum := sha256.New()
	tw := tar.NewWriter(io.MultiWriter(zw, sum))
	add := func(h *tar.Header, content []byte) {
		h.ModTime, h.Format, h.Size = made, tar.FormatPAX, int64(len(content))
		if err == nil {
			err = tw.WriteHeader(h)
		}
		if err == nil {
			_, err = tw.Write(content)
		}
	}
	for _, dir := range []string{"etc", "etc/ssl", "etc/ssl/certs", "usr", "usr/bin", "home"} {
		add(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}, nil)
	}
	add(&tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777}, nil)
	add(&tar.Header{Typeflag: tar.TypeDir, Name: "home/kbk/", Mode: 0o755, Uid: user, Gid: user}, nil)
	add(&tar.Header{Typeflag: tar.TypeReg, Name: "etc/passwd", Mode: 0o644},
		fmt.Appendf(nil, "root:x:0:0:root:/:/sbin/nologin\nkbk:x:%d:%d:kbk:/home/kbk:/sbin/nologin\n", user, user))
	files := map[string]string{trust: "etc/ssl/certs/ca-certificates.crt"}
	for _, p := range append([]string{trust}, programs...) {
		content, readErr := os.ReadFile(p)
		if readErr != nil {
			return nil, "", readErr
		}
		if to, ok := files[p]; ok {
			add(&tar.Header{Typeflag: tar.TypeReg, Name: to, Mode: 0o644}, content)
			continue
		}
		name := path.Base(p)
		add(&tar.Header{Typeflag: tar.TypeReg, Name: "usr/bin/" + name, Mode: 0o755}, content)
		for _, link := range links[name] {
			add(&tar.Header{Typeflag: tar.TypeSymlink, Name: "usr/bin/" + link, Linkname: name, Mode: 0o777}, nil)
		}
	}
	for _, close := range []func() error{tw.Close, zw.Close} {
		if closeErr := close(); err == nil {
			err = closeErr
		}
	}
	return buf.Bytes(), fmt.Sprintf("sha256:%x", sum.Sum(nil)), err
}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// writeImage writes the layer, and what names it, as the OCI's layout of an image has them.
func writeImage(w io.Writer, arch, version string, layer []byte, plain string) (err error) {
	tw := tar.NewWriter(w)
	add := func(name string, content []byte) {
		if err == nil {
			err = tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, ModTime: made, Size: int64(len(content))})
		}
		if err == nil {
			_, err = tw.Write(content)
		}
	}
	blob := func(mediaType string, content []byte) descriptor {
		sum := fmt.Sprintf("%x", sha256.Sum256(content))
		add("blobs/sha256/"+sum, content)
		return descriptor{MediaType: mediaType, Digest: "sha256:" + sum, Size: len(content)}
	}
	encode := func(v any) []byte {
		text, encodeErr := json.Marshal(v)
		if err == nil {
			err = encodeErr
		}
		return text
	}
	rootfs := map[string]any{"type": "layers", "diff_ids": []string{plain}}
	config := blob("application/vnd.oci.image.config.v1+json", encode(map[string]any{
		"created": made, "architecture": arch, "os": "linux", "rootfs": rootfs,
		"config": map[string]any{
			"User": fmt.Sprint(user), "Env": []string{"PATH=/usr/bin", "HOME=/home/kbk"}, "WorkingDir": "/home/kbk", "Cmd": []string{"kbk", "--help"},
			"Labels": map[string]string{"org.opencontainers.image.version": version, "org.opencontainers.image.source": "https://github.com/kbkio/kbk", "org.opencontainers.image.licenses": "Apache-2.0"},
		},
	}))
	content := blob("application/vnd.oci.image.layer.v1.tar+gzip", layer)
	manifest := blob("application/vnd.oci.image.manifest.v1+json", encode(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": []descriptor{content},
	}))
	manifest.Annotations = map[string]string{"org.opencontainers.image.ref.name": version}
	add("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	add("index.json", encode(map[string]any{"schemaVersion": 2, "manifests": []descriptor{manifest}}))
	inTar := func(d descriptor) string { return "blobs/" + strings.Replace(d.Digest, ":", "/", 1) }
	add("manifest.json", encode([]map[string]any{{
		"Config": inTar(config), "RepoTags": []string{"kbk:" + version}, "Layers": []string{inTar(content)},
	}}))
	if err != nil {
		return err
	}
	return tw.Close()
}
