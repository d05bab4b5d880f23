package main

import (
	"debug/buildinfo"
	"fmt"
	"path"
	goruntime "runtime"
	"runtime/debug"
	"strings"

	"k8s.io/minikube/pkg/minikube/bootstrapper/images"
	"k8s.io/minikube/pkg/minikube/constants"
	"k8s.io/minikube/pkg/minikube/download"
)

// recipe says what goes into an image of ours, and how it is started. Paths, user and command are those that the
// manifests of kubeadm and minikube expect.
type recipe struct {
	program string // file name among the programs that were built
	folder  string // where the image has it
	command []string
	user    string
	// The module whose version the image's tag states; empty where the program is ours and the tag is only a name.
	module string
	// Whether Debian's iptables is needed beside the program.
	iptables bool
}

const programFolder = "/usr/local/bin"

var recipes = map[string]recipe{
	"kube-apiserver":          {program: "kube-apiserver", folder: programFolder, module: "k8s.io/kubernetes"},
	"kube-controller-manager": {program: "kube-controller-manager", folder: programFolder, module: "k8s.io/kubernetes"},
	"kube-scheduler":          {program: "kube-scheduler", folder: programFolder, module: "k8s.io/kubernetes"},
	"kube-proxy":              {program: "kube-proxy", folder: programFolder, module: "k8s.io/kubernetes", iptables: true},
	"etcd":                    {program: "etcd", folder: programFolder, module: "go.etcd.io/etcd/server/v3"},
	"coredns":                 {program: "coredns", folder: "/", command: []string{"/coredns"}, module: "github.com/coredns/coredns"},
	"pause":                   {program: "pause", folder: "/", command: []string{"/pause"}, user: "65535:65535"},
	// Its tag counts on its own.
	"storage-provisioner": {program: "storage-provisioner", folder: "/", command: []string{"/storage-provisioner"}},
}

// required lists the images that a start of the pinned minikube asks for, with its default Kubernetes, by full name. They
// are asked of minikube itself, so that a newer one cannot be missed.
func required() ([]string, error) {
	list, err := images.Kubeadm("", constants.DefaultKubernetesVersion)
	if err != nil {
		return nil, fmt.Errorf("minikube does not know the images of its default Kubernetes: %w", err)
	}
	for _, name := range list {
		if _, _, tag, ok := split(name); !ok || tag == "" {
			return nil, fmt.Errorf("minikube names an image %q without a tag; was storageProvisionerVersion set?", name)
		}
	}
	return list, nil
}

// lack is a file of minikube's cache that can be had from its publisher only. ARCH stands for the architecture.
type lack struct{ file, purpose string }

// unavailable lists what minikube may look for in its cache and no program here can make.
func unavailable() []lack {
	image := func(name string) string { return "images/ARCH/" + strings.ReplaceAll(name, ":", "_") }
	tarball := func(runtime string) string {
		name := download.TarballName(constants.DefaultKubernetesVersion, runtime)
		return "preloaded-tarball/" + strings.Replace(name, "-"+goruntime.GOARCH+".", "-ARCH.", 1)
	}
	return []lack{
		{tarball("containerd"), "spares the images and programs one by one; needs no more than these"},
		{tarball("docker"), "the same for --container-runtime=docker"},
		{image(images.KindNet("")), "several nodes, or --cni=kindnet"},
		{image(images.CalicoDaemonSet("")), "--cni=calico"},
		{image(images.CalicoDeployment("")), "--cni=calico"},
		{image(images.CalicoBin("")), "--cni=calico"},
	}
}

// split takes registry.k8s.io/coredns/coredns:v1 apart into repository, last part and tag.
func split(image string) (repository, last, tag string, ok bool) {
	colon := strings.LastIndexByte(image, ':')
	if colon < 0 {
		return "", "", "", false
	}
	repository = image[:colon]
	return repository, path.Base(repository), image[colon+1:], true
}

// check refuses a program that is not what the image's tag says: of another version, or for another machine. Go records
// both in what it builds.
func check(file, arch, tag string, r recipe) error {
	info, err := buildinfo.ReadFile(file)
	if err != nil {
		return fmt.Errorf("%s is not a program that Go has built: %w", file, err)
	}
	settings := map[string]string{}
	for _, setting := range info.Settings {
		settings[setting.Key] = setting.Value
	}
	if settings["GOOS"] != "linux" || settings["GOARCH"] != arch {
		return fmt.Errorf("%s is for %s/%s, not linux/%s", file, settings["GOOS"], settings["GOARCH"], arch)
	}
	if err := checkVersion(info, tag, r.module); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if settings["CGO_ENABLED"] != "0" {
		return fmt.Errorf("%s needs a C library, which its image lacks; build it with CGO_ENABLED=0", file)
	}
	return nil
}

func checkVersion(info *buildinfo.BuildInfo, tag, wanted string) error {
	if wanted == "" {
		return nil
	}
	// Go calls the module of package main the main one, though it was built as a dependency of ours.
	for _, module := range append([]*debug.Module{&info.Main}, info.Deps...) {
		if module.Path != wanted {
			continue
		}
		if release(tag) != release(module.Version) {
			return fmt.Errorf("it is %s %s, but the image has the tag %s; change the go.mod that pins it", module.Path, module.Version, tag)
		}
		return nil
	}
	return fmt.Errorf("it was not built from %s", wanted)
}

// release is a tag without what differs between an image and the module it was built from: v1.2.3, 1.2.3 and, as etcd
// counts the builds of its image, 1.2.3-0 are one release.
func release(tag string) string {
	return strings.TrimSuffix(strings.TrimPrefix(tag, "v"), "-0")
}
