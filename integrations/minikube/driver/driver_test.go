package tshyve

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/minikube/pkg/libmachine/drivers"
	"k8s.io/minikube/pkg/libmachine/state"
)

// useCommand puts this repository's tshyve on the PATH.
func useCommand(t *testing.T) {
	t.Helper()
	built, err := filepath.Abs("../../../dist/tshyve.cjs")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(built); err != nil {
		t.Fatalf("build the package first (npm run build): %v", err)
	}
	bin := t.TempDir()
	if err := os.Symlink(built, filepath.Join(bin, Command)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(built, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	if out, err := exec.Command(Command, "--version").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func machine(t *testing.T, extra string) *Driver {
	t.Helper()
	d := &Driver{}
	config := `{"MachineName":"m1","StorePath":"` + t.TempDir() + `"` + extra + `}`
	if err := json.Unmarshal([]byte(config), d); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestConfigKeepsUnknownKeys(t *testing.T) {
	d := machine(t, `,"FromTheFuture":{"a":[1]}`)
	text, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), `"FromTheFuture":{"a":[1]}`) {
		t.Errorf("lost a key: %s", text)
	}
	if d.GetMachineName() != "m1" || d.GetSSHUsername() != "docker" {
		t.Errorf("name %q, user %q", d.GetMachineName(), d.GetSSHUsername())
	}
}

func TestMissingMachineIsNone(t *testing.T) {
	useCommand(t)
	d := machine(t, "")
	s, err := d.GetState()
	if err != nil || s != state.None {
		t.Errorf("state %v, %v", s, err)
	}
	if err := d.Remove(); err != nil {
		t.Errorf("removing nothing: %v", err)
	}
	var failure *CallError
	if err := d.Start(); !errors.As(err, &failure) || failure.Kind != "not-found" {
		t.Errorf("start: %v", err)
	}
}

func TestMachineThatIsOff(t *testing.T) {
	useCommand(t)
	d := machine(t, "")
	if _, err := d.GetIP(); !errors.Is(err, drivers.ErrHostIsNotRunning) {
		t.Errorf("ip: %v", err)
	}
	if url, err := d.GetURL(); url != "" || err != nil {
		t.Errorf("url %q, %v", url, err)
	}
	if port, err := d.GetSSHPort(); port != 22 || err != nil {
		t.Errorf("port %d, %v", port, err)
	}
}

func TestHostAddress(t *testing.T) {
	useCommand(t)
	d := machine(t, `,"Network":"user"`)
	ip, err := d.HostIP()
	if err != nil || ip.String() != "10.0.2.2" {
		t.Errorf("user network: %v, %v", ip, err)
	}
	bind, err := d.BindIP()
	if err != nil || bind != "127.0.0.1" {
		t.Errorf("bind: %q, %v", bind, err)
	}
	unknown := machine(t, `,"Network":"shared:there-is-none"`)
	if _, err := unknown.HostIP(); err == nil || !strings.Contains(err.Error(), "tshyve network up there-is-none") {
		t.Errorf("no such network: %v", err)
	}
}

func TestBadSettingsAreExplained(t *testing.T) {
	useCommand(t)
	d := machine(t, `,"CPU":0,"Network":"nowhere"`)
	err := d.PreCreateCheck()
	var failure *CallError
	if !errors.As(err, &failure) || failure.Kind != "usage" {
		t.Fatalf("got %v", err)
	}
	for _, word := range []string{"--tshyve-cpus is 0", `--tshyve-network is "nowhere"`} {
		if !strings.Contains(failure.Message, word) {
			t.Errorf("%q is not in %q", word, failure.Message)
		}
	}
}

func TestUnknownCallNamesTheKnown(t *testing.T) {
	useCommand(t)
	d := machine(t, "")
	_, err := d.call(context.Background(), "dance", func(string) {})
	if err == nil || !strings.Contains(err.Error(), "pre-create-check") {
		t.Errorf("got %v", err)
	}
}

func TestMissingCommandIsNamed(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := machine(t, "").GetState()
	if !errors.Is(err, exec.ErrNotFound) || !strings.Contains(err.Error(), "on the PATH") {
		t.Errorf("got %v", err)
	}
}

func TestAnswers(t *testing.T) {
	var steps []string
	progress := func(line string) { steps = append(steps, line) }
	a, err := readAnswers(strings.NewReader("{\"line\":\"one\"}\n{\"line\":\"two\"}\n{\"result\":7,\"config\":{}}\n"), progress)
	if err != nil || string(a.Result) != "7" || strings.Join(steps, " ") != "one two" {
		t.Errorf("%v %v %v", a, err, steps)
	}
	if a, err := readAnswers(strings.NewReader("{\"line\":\"one\"}\n"), progress); a != nil || err != nil {
		t.Errorf("an early end: %v %v", a, err)
	}
	if _, err := readAnswers(strings.NewReader("Warning: hello\n"), progress); err == nil {
		t.Error("accepts what is no JSON")
	}
}

func TestEveryStateIsKnown(t *testing.T) {
	for s, name := range stateNames {
		if got, err := parseState(name); got != s || err != nil {
			t.Errorf("%s: %v %v", name, got, err)
		}
	}
	if _, err := parseState("dreaming"); err == nil {
		t.Error("accepts an unknown state")
	}
}

func TestEnvironmentOfTheCommand(t *testing.T) {
	got := environment([]string{"HOME=/h", "MACHINE_PLUGIN_TOKEN=42", "IS_MINIKUBE_CHILD_PROCESS=true"})
	if len(got) != 1 || got[0] != "HOME=/h" {
		t.Errorf("got %v", got)
	}
}
