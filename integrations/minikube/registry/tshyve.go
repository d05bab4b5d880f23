// Package tshyve registers the tshyve driver with minikube.
package tshyve

import (
	"context"
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"k8s.io/minikube/pkg/libmachine/drivers"
	"k8s.io/minikube/pkg/minikube/config"
	"k8s.io/minikube/pkg/minikube/constants"
	"k8s.io/minikube/pkg/minikube/download"
	"k8s.io/minikube/pkg/minikube/localpath"
	"k8s.io/minikube/pkg/minikube/registry"
	"k8s.io/minikube/pkg/minikube/run"

	tshyve "github.com/tshyve/tshyve/integrations/minikube/driver"
)

const (
	docURL = "https://www.npmjs.com/package/tshyve"
	// probing a hypervisor takes a fraction of a second; a cold disk may take more.
	doctorTimeout = 30 * time.Second
)

func init() {
	if err := registry.Register(registry.DriverDef{
		Name:     tshyve.Name,
		Init:     func(*run.CommandOptions) drivers.Driver { return &tshyve.Driver{} },
		Config:   configure,
		Status:   status,
		Priority: registry.Experimental,
	}); err != nil {
		panic(fmt.Sprintf("register failed: %v", err))
	}
}

// machineConfig is what a new machine is made from; the keys are tshyve's.
type machineConfig struct {
	MachineName    string
	StorePath      string
	SSHUser        string
	Boot2DockerURL string
	CPU            int
	Memory         int
	DiskSize       int
	ExtraDisks     int
	Network        string   `json:",omitempty"`
	VSockPorts     []string `json:",omitempty"`
	Cmdline        string
}

func configure(cc config.ClusterConfig, n config.Node) (any, error) {
	network, err := chooseNetwork(cc, runtime.GOOS)
	if err != nil {
		return nil, err
	}
	return machineConfig{
		MachineName:    config.MachineName(cc, n),
		StorePath:      localpath.MiniPath(),
		SSHUser:        "docker",
		Boot2DockerURL: download.LocalISOResource(cc.MinikubeISO),
		CPU:            cc.CPUs,
		Memory:         cc.Memory,
		DiskSize:       cc.DiskSize,
		ExtraDisks:     cc.ExtraDisks,
		Network:        network,
		// minikube has this setting for the driver that tshyve is the heir of.
		VSockPorts: cc.HyperkitVSockPorts,
		Cmdline:    "tshyve.identity=buildroot",
	}, nil
}

// chooseNetwork returns "" for tshyve's own default. On a user-mode network the host knows a machine by a loopback
// address, which the kubelet refuses as a node's address; Kubernetes therefore needs one of the others.
func chooseNetwork(cc config.ClusterConfig, goos string) (string, error) {
	kubernetes := cc.KubernetesConfig.KubernetesVersion != constants.NoKubernetesVersion
	network := cc.Network
	if network == "" && kubernetes && goos != "darwin" {
		return "shared", nil
	}
	if kubernetes && (network == "user" || strings.HasPrefix(network, "user:")) {
		return "", fmt.Errorf("kubernetes cannot run on the network %q, where a node has no address of its own: "+
			"use --network=shared (Linux, after \"tshyve network up shared\"), --network=nat (macOS) or --no-kubernetes", network)
	}
	return network, nil
}

func status(*run.CommandOptions) registry.State {
	if _, err := exec.LookPath(tshyve.Command); err != nil {
		return registry.State{Error: err, Fix: "Run 'npm install --global tshyve'", Doc: docURL}
	}
	ctx, cancel := context.WithTimeout(context.Background(), doctorTimeout)
	defer cancel()
	version, err := exec.CommandContext(ctx, tshyve.Command, "--version").Output()
	if err != nil {
		err = fmt.Errorf("'tshyve --version' fails: %w", err)
		return registry.State{Installed: true, Error: err, Fix: "Run 'npm install --global tshyve' again", Doc: docURL}
	}
	state := registry.State{Installed: true, Version: strings.TrimSpace(string(version))}
	if report, err := exec.CommandContext(ctx, tshyve.Command, "doctor").CombinedOutput(); err != nil {
		state.Error = fmt.Errorf("'tshyve doctor' finds that this host cannot run machines: %s", strings.TrimSpace(string(report)))
		state.Fix = "Run 'tshyve doctor' and do what it says"
		state.Doc = docURL
		return state
	}
	state.Healthy = true
	state.Running = true
	return state
}
