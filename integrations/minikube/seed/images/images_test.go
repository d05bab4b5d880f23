package main

import (
	"archive/tar"
	"bytes"
	"debug/buildinfo"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"k8s.io/minikube/pkg/minikube/constants"
	"k8s.io/minikube/pkg/minikube/download"
)

// built builds our pause program, the smallest there is.
func built(t *testing.T, environment ...string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "pause")
	command := exec.Command("go", "build", "-buildvcs=false", "-o", file, "../pause")
	command.Env = append(append(os.Environ(), "GOFLAGS=", "GOOS=linux", "GOARCH=amd64", "CGO_ENABLED=0"), environment...)
	if output, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	return file
}

// pinned returns the version of a module in one of our go.mod files.
func pinned(t *testing.T, folder, module string) string {
	t.Helper()
	command := exec.Command("go", "list", "-mod=readonly", "-m", "-f", "{{.Version}}", module)
	command.Dir = filepath.Join("..", folder)
	output, err := command.Output()
	if err != nil {
		t.Fatalf("%s: %v", module, err)
	}
	return strings.TrimSpace(string(output))
}

func TestPinsAreWhatMinikubeWants(t *testing.T) {
	modules := map[string]string{"etcd": "etcd", "coredns": "coredns"}
	list, err := required()
	// The linker sets the version of this one image.
	if err == nil || !strings.Contains(err.Error(), "storage-provisioner") {
		t.Fatalf("a list without the storage provisioner's version was taken: %v, %v", list, err)
	}
	if v := pinned(t, "kubernetes", "k8s.io/kubernetes"); v != constants.DefaultKubernetesVersion {
		t.Errorf("kubernetes/go.mod pins %s, minikube's default is %s", v, constants.DefaultKubernetesVersion)
	}
	tags := constants.KubeadmImages[constants.DefaultKubernetesVersion]
	for image, tag := range tags {
		last := image[strings.LastIndexByte(image, '/')+1:]
		r, known := recipes[last]
		if !known {
			t.Errorf("no recipe for %s", image)
			continue
		}
		if r.module == "" {
			continue
		}
		if v := pinned(t, modules[last], r.module); release(v) != release(tag) {
			t.Errorf("%s/go.mod pins %s, minikube's Kubernetes goes with %s", modules[last], v, tag)
		}
	}
}

func TestRefusesAProgramThatIsNotWhatTheTagSays(t *testing.T) {
	ours := recipes["pause"]
	if err := check(built(t), "amd64", "3.10.1", ours); err != nil {
		t.Errorf("refused: %v", err)
	}
	for what, try := range map[string]struct {
		file, arch, want string
		r                recipe
	}{
		"foreign":      {built(t, "GOARCH=arm64"), "amd64", "not linux/amd64", ours},
		"other module": {built(t), "amd64", "was not built from go.etcd.io", recipes["etcd"]},
		"no Go":        {"/bin/sh", "amd64", "not a program that Go has built", ours},
		"missing":      {"/nonexistent", "amd64", "nonexistent", ours},
	} {
		if err := check(try.file, try.arch, "3.6.6-0", try.r); err == nil || !strings.Contains(err.Error(), try.want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	etcd := debug.Module{Path: "go.etcd.io/etcd/server/v3", Version: "v3.6.6"}
	for _, info := range []*buildinfo.BuildInfo{{Main: etcd}, {Deps: []*debug.Module{&etcd}}} {
		if err := checkVersion(info, "3.6.6-0", etcd.Path); err != nil {
			t.Error(err)
		}
		if err := checkVersion(info, "3.6.5-0", etcd.Path); err == nil || !strings.Contains(err.Error(), "v3.6.6, but the image has the tag 3.6.5-0") {
			t.Errorf("other version: %v", err)
		}
	}
}

func TestNamesWhatCannotBeMade(t *testing.T) {
	want := "preloaded-tarball/preloaded-images-k8s-" + download.PreloadVersion + "-" + constants.DefaultKubernetesVersion + "-containerd-overlay2-ARCH.tar.lz4"
	list := unavailable()
	if list[0].file != want {
		t.Errorf("%s, not %s", list[0].file, want)
	}
	for _, missing := range list[2:] {
		if !strings.HasPrefix(missing.file, "images/ARCH/docker.io/") || strings.Contains(missing.file, ":") {
			t.Errorf("no file of the cache: %s", missing.file)
		}
	}
}

func TestReleases(t *testing.T) {
	for tag, want := range map[string]string{"v1.2.3": "1.2.3", "3.6.6-0": "3.6.6", "v3.6.6": "3.6.6", "3.6.6-1": "3.6.6-1"} {
		if got := release(tag); got != want {
			t.Errorf("release(%q) = %q, not %q", tag, got, want)
		}
	}
}

func TestArchive(t *testing.T) {
	const image = "registry.k8s.io/kube-proxy:v1.2.3"
	program := built(t)
	root := filepath.Join(t.TempDir(), "root.tar")
	writeTar(t, root, map[string]string{
		"./usr/sbin/xtables-nft-multi": "iptables", "./usr/sbin/zic": "unwanted", "./lib/x/libc.so.6": "C",
		"./etc/protocols": "tcp", "./etc/apt/sources.list": "unwanted",
	})
	file := filepath.Join(t.TempDir(), "deep", "kube-proxy_v1.2.3")
	r := recipe{program: "kube-proxy", folder: programFolder, iptables: true}
	size, err := write(file, image, "arm64", program, root, r)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(file); err != nil || info.Size() != size || info.Mode().Perm() != 0o644 {
		t.Errorf("%v, %v, size %d", info, err, size)
	}
	tag, err := name.NewTag(image)
	if err != nil {
		t.Fatal(err)
	}
	read, err := tarball.ImageFromPath(file, &tag)
	if err != nil {
		t.Fatalf("minikube's own reader cannot find the image: %v", err)
	}
	config, err := read.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if config.Architecture != "arm64" || config.OS != "linux" || config.Config.Entrypoint[0] != "/usr/local/bin/kube-proxy" {
		t.Errorf("config: %+v", config)
	}
	entries := map[string]string{}
	files := mutate.Extract(read)
	defer files.Close()
	for reader := tar.NewReader(files); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(reader)
		if err != nil {
			t.Fatal(err)
		}
		entries[header.Name] = header.Linkname + string(content)
	}
	want, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	if entries["usr/local/bin/kube-proxy"] != string(want) {
		t.Error("the program is not in the image as it was")
	}
	for entry, content := range map[string]string{
		"usr/sbin/xtables-nft-multi": "iptables", "usr/sbin/ip6tables-restore": "xtables-nft-multi", "lib/x/libc.so.6": "C", "etc/protocols": "tcp",
	} {
		if entries[entry] != content {
			t.Errorf("%s holds %q, not %q", entry, entries[entry], content)
		}
	}
	for _, entry := range []string{"usr/sbin/zic", "etc/apt/sources.list"} {
		if _, there := entries[entry]; there {
			t.Errorf("%s is in the image", entry)
		}
	}
	again := filepath.Join(t.TempDir(), "again")
	if _, err := write(again, image, "arm64", program, root, r); err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	second, err := os.ReadFile(again)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, second) {
		t.Error("the same program made another image")
	}
}

func TestRefusesARootWithoutIptables(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root.tar")
	writeTar(t, root, map[string]string{"./lib/x": "y"})
	folder := t.TempDir()
	_, err := write(filepath.Join(folder, "x"), "registry.k8s.io/kube-proxy:v1", "amd64", built(t), root, recipes["kube-proxy"])
	if err == nil || !strings.Contains(err.Error(), multicall) {
		t.Errorf("taken: %v", err)
	}
	if left, err := os.ReadDir(folder); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func writeTar(t *testing.T, file string, files map[string]string) {
	t.Helper()
	var buffer bytes.Buffer
	archive := tar.NewWriter(&buffer)
	for name, content := range files {
		if err := archive.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := archive.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(archive.Close(), os.WriteFile(file, buffer.Bytes(), 0o600)); err != nil {
		t.Fatal(err)
	}
}
