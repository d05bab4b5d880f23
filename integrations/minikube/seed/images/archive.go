package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// write makes the image in one layer and puts its archive into file, whole or not at all. The same programs make the same
// bytes. It returns the size in bytes.
func write(file, image, arch, program, iptablesRoot string, r recipe) (int64, error) {
	var content bytes.Buffer
	if err := layer(&content, program, iptablesRoot, r); err != nil {
		return 0, err
	}
	packed, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content.Bytes())), nil
	}, tarball.WithCompressionLevel(gzip.BestSpeed), tarball.WithCompressedCaching)
	if err != nil {
		return 0, err
	}
	built, err := mutate.AppendLayers(empty.Image, packed)
	if err != nil {
		return 0, err
	}
	config, err := built.ConfigFile()
	if err != nil {
		return 0, err
	}
	config = config.DeepCopy()
	config.Architecture, config.OS, config.Created = arch, "linux", v1.Time{Time: time.Unix(0, 0).UTC()}
	config.Config = v1.Config{
		Entrypoint: r.command,
		User:       r.user,
		Env:        []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		Labels:     map[string]string{"org.opencontainers.image.vendor": "tshyve"},
	}
	if r.command == nil {
		config.Config.Entrypoint = []string{path.Join(r.folder, r.program)}
	}
	if built, err = mutate.ConfigFile(built, config); err != nil {
		return 0, err
	}
	tag, err := name.NewTag(image, name.StrictValidation)
	if err != nil {
		return 0, err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return 0, err
	}
	unfinished, err := os.CreateTemp(filepath.Dir(file), ".new-")
	if err != nil {
		return 0, err
	}
	defer os.Remove(unfinished.Name())
	if err := errors.Join(tarball.Write(tag, built, unfinished), unfinished.Chmod(0o644), unfinished.Close()); err != nil {
		return 0, err
	}
	info, err := os.Stat(unfinished.Name())
	if err != nil {
		return 0, err
	}
	return info.Size(), os.Rename(unfinished.Name(), file)
}

// layer writes the file system: folders a program may want, iptables if asked for, and the program.
func layer(to io.Writer, program, iptablesRoot string, r recipe) error {
	archive := tar.NewWriter(to)
	for _, folder := range []string{"etc/", "tmp/", "usr/", "usr/local/", "usr/local/bin/"} {
		mode := int64(0o755)
		if folder == "tmp/" {
			mode = 0o1777
		}
		if err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: folder, Mode: mode, Format: tar.FormatPAX}); err != nil {
			return err
		}
	}
	if iptablesRoot != "" {
		if err := addIptables(archive, iptablesRoot); err != nil {
			return err
		}
	}
	content, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	if err := addFile(archive, strings.TrimPrefix(path.Join(r.folder, r.program), "/"), 0o755, bytes.NewReader(content), int64(len(content))); err != nil {
		return err
	}
	return archive.Close()
}

func addFile(archive *tar.Writer, name string, mode int64, content io.Reader, size int64) error {
	header := tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: size, Format: tar.FormatPAX}
	if err := archive.WriteHeader(&header); err != nil {
		return err
	}
	_, err := io.Copy(archive, content)
	return err
}

// multicall is Debian's one program of all the iptables commands, over nftables as in our guest image.
const multicall = "usr/sbin/xtables-nft-multi"

// addIptables copies iptables, its extensions and the C library out of a root file system of Debian, and nothing else.
// Debian's maintainer script would make the links to the commands, but has not run.
func addIptables(archive *tar.Writer, root string) error {
	source, err := os.Open(root)
	if err != nil {
		return err
	}
	defer source.Close()
	found := false
	for reader := tar.NewReader(source); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("%s: %w", root, err)
		}
		entry := strings.TrimPrefix(header.Name, "./")
		if !wantedOfDebian(entry) {
			continue
		}
		found = found || entry == multicall
		kept := tar.Header{Typeflag: header.Typeflag, Name: entry, Linkname: header.Linkname, Mode: header.Mode, Size: header.Size, Format: tar.FormatPAX}
		if err := archive.WriteHeader(&kept); err != nil {
			return err
		}
		if _, err := io.Copy(archive, reader); err != nil {
			return err
		}
	}
	if !found {
		return fmt.Errorf("%s has no %s", root, multicall)
	}
	for _, command := range []string{"iptables", "ip6tables"} {
		for _, suffix := range []string{"", "-save", "-restore"} {
			link := tar.Header{Typeflag: tar.TypeSymlink, Name: "usr/sbin/" + command + suffix, Linkname: path.Base(multicall), Mode: 0o777, Format: tar.FormatPAX}
			if err := archive.WriteHeader(&link); err != nil {
				return err
			}
		}
	}
	return nil
}

func wantedOfDebian(entry string) bool {
	for _, folder := range []string{"lib/", "lib64/", "usr/lib/", "usr/sbin/"} {
		if entry == folder || (strings.HasPrefix(entry, folder) && folder != "usr/sbin/") {
			return true
		}
	}
	return entry == multicall || entry == "etc/protocols"
}
