package tshyve

import (
	"strings"
	"testing"

	"k8s.io/minikube/pkg/libmachine/drivers"
	"k8s.io/minikube/pkg/minikube/config"
	"k8s.io/minikube/pkg/minikube/registry"
)

func TestRegistered(t *testing.T) {
	def := registry.Driver("tshyve")
	if def.Empty() || def.Init == nil || def.Status == nil {
		t.Fatalf("got %+v", def)
	}
	var d drivers.Driver = def.Init(nil)
	if d.DriverName() != "tshyve" {
		t.Errorf("name %q", d.DriverName())
	}
}

func TestStatusWithoutTheCommand(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	state := status(nil)
	if state.Installed || state.Error == nil || !strings.Contains(state.Fix, "npm install") || state.Doc == "" {
		t.Errorf("got %+v", state)
	}
}

func TestNetworks(t *testing.T) {
	for _, test := range []struct {
		goos, network, version, want, complaint string
	}{
		{"linux", "", "v0.0.0", "", ""},
		{"linux", "", "v1.35.1", "shared", ""},
		{"darwin", "", "v1.35.1", "", ""},
		{"linux", "shared:lab", "v1.35.1", "shared:lab", ""},
		{"linux", "user", "v0.0.0", "user", ""},
		{"linux", "user", "v1.35.1", "", "--network=shared"},
		{"linux", "user:lab", "v1.35.1", "", "--no-kubernetes"},
	} {
		cc := config.ClusterConfig{Network: test.network}
		cc.KubernetesConfig.KubernetesVersion = test.version
		got, err := chooseNetwork(cc, test.goos)
		if got != test.want || (err != nil) != (test.complaint != "") {
			t.Errorf("%+v: got %q, %v", test, got, err)
		}
		if err != nil && !strings.Contains(err.Error(), test.complaint) {
			t.Errorf("%v does not say %q", err, test.complaint)
		}
	}
}

func TestEveryNodeIsAMachine(t *testing.T) {
	cc := config.ClusterConfig{Name: "demo", CPUs: 2, Memory: 3000, DiskSize: 9000, ExtraDisks: 2, Network: "shared"}
	names := map[string]bool{}
	for _, n := range []config.Node{{ControlPlane: true}, {Name: "m02"}, {Name: "m03"}} {
		cc.Nodes = append(cc.Nodes, n)
	}
	for _, n := range cc.Nodes {
		made, err := configure(cc, n)
		if err != nil {
			t.Fatal(err)
		}
		c := made.(machineConfig)
		names[c.MachineName] = true
		if c.CPU != 2 || c.Memory != 3000 || c.DiskSize != 9000 || c.ExtraDisks != 2 || c.Network != "shared" {
			t.Errorf("got %+v", c)
		}
	}
	cc.HyperkitVSockPorts = []string{"1024", "2375"}
	made, err := configure(cc, cc.Nodes[0])
	if err != nil || len(made.(machineConfig).VSockPorts) != 2 {
		t.Errorf("got %+v, %v", made, err)
	}
	for _, name := range []string{"demo", "demo-m02", "demo-m03"} {
		if !names[name] {
			t.Errorf("no machine %q in %v", name, names)
		}
	}
}
