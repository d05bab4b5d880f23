// Package tshyve is minikube's driver for tshyve machines. It keeps no state of its own: each call runs the tshyve
// command, which finds the machine's truth in its folder and its supervisor.
package tshyve

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"

	"k8s.io/minikube/pkg/libmachine/drivers"
	"k8s.io/minikube/pkg/libmachine/mcnflag"
	"k8s.io/minikube/pkg/libmachine/state"
	"k8s.io/minikube/pkg/minikube/out"
)

// Name is what users give to --driver and what the machine's config.json says.
const Name = "tshyve"

// Driver is one machine. Its JSON form is tshyve's machine config, of which only a few keys matter here; the others are
// kept as they are, so that an older minikube does not lose what a newer tshyve has written.
type Driver struct {
	mutex  sync.Mutex
	config json.RawMessage
	known  knownConfig
}

type knownConfig struct {
	MachineName string
	StorePath   string
	SSHUser     string
	SSHKeyPath  string
}

var _ drivers.Driver = (*Driver)(nil)

// MarshalJSON gives the machine's config.
func (d *Driver) MarshalJSON() ([]byte, error) {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	if d.config == nil {
		return []byte("{}"), nil
	}
	return d.config, nil
}

// UnmarshalJSON takes over a machine's config.
func (d *Driver) UnmarshalJSON(text []byte) error {
	var known knownConfig
	if err := json.Unmarshal(text, &known); err != nil {
		return fmt.Errorf("tshyve machine config: %w", err)
	}
	d.mutex.Lock()
	defer d.mutex.Unlock()
	d.config = append(json.RawMessage(nil), text...)
	d.known = known
	return nil
}

func (d *Driver) now() (knownConfig, json.RawMessage) {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	return d.known, d.config
}

// changes are the running creates, starts and the like of this process by machine folder. After a timeout minikube
// leaves a create running, removes the machine and creates it anew: the remove then ends what is left.
var changes sync.Map

// change runs an operation that takes time, telling its progress, and keeps the config that comes back.
func (d *Driver) change(name string) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	known, _ := d.now()
	folder := d.file("")
	if name == "remove" || name == "kill" {
		if former, ok := changes.Load(folder); ok {
			former.(*running).end()
		}
	}
	mine := &running{cancel: cancel, done: make(chan struct{})}
	changes.Store(folder, mine)
	defer changes.CompareAndDelete(folder, mine)
	defer close(mine.done)
	a, err := d.call(ctx, name, func(line string) {
		out.Infof("{{.step}}", out.V{"step": line})
	})
	if err != nil {
		return err
	}
	if name == "remove" {
		return nil
	}
	if err := d.UnmarshalJSON(a.Config); err != nil {
		return err
	}
	if name == "create" || name == "start" {
		return linkKey(known, d.GetSSHKeyPath())
	}
	return nil
}

type running struct {
	cancel context.CancelFunc
	done   chan struct{}
}

func (r *running) end() {
	r.cancel()
	<-r.done
}

func (d *Driver) call(ctx context.Context, name string, progress func(string)) (*answer, error) {
	known, config := d.now()
	return call(ctx, name, request{StorePath: known.StorePath, MachineName: known.MachineName, Config: config}, progress)
}

func (d *Driver) ask(name string, result any) error {
	a, err := d.call(context.Background(), name, func(string) {})
	if err != nil {
		return err
	}
	return json.Unmarshal(a.Result, result)
}

func (d *Driver) file(name string) string {
	known, _ := d.now()
	return filepath.Join(known.StorePath, "machines", known.MachineName, name)
}

// linkKey puts the key where "minikube ssh-key" says that it is, whatever its type.
func linkKey(known knownConfig, key string) error {
	for suffix, name := range map[string]string{"": "id_rsa", ".pub": "id_rsa.pub"} {
		link := filepath.Join(known.StorePath, "machines", known.MachineName, name)
		if err := os.Symlink(key+suffix, link); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}

// DriverName is what the registry knows this driver by.
func (d *Driver) DriverName() string { return Name }

// GetCreateFlags has none: the config comes from the registry.
func (d *Driver) GetCreateFlags() []mcnflag.Flag { return nil }

// SetConfigFromFlags is docker-machine's way to configure a driver, which minikube does not go.
func (d *Driver) SetConfigFromFlags(drivers.DriverOptions) error {
	return errors.New("the tshyve driver takes its config from minikube, not from flags")
}

// GetMachineName returns the name of the machine.
func (d *Driver) GetMachineName() string {
	known, _ := d.now()
	return known.MachineName
}

// PreCreateCheck explains what the host lacks before anything is made.
func (d *Driver) PreCreateCheck() error { return d.change("pre-create-check") }

// Create makes and boots the machine.
func (d *Driver) Create() error { return d.change("create") }

// Start boots the machine, or resumes it.
func (d *Driver) Start() error { return d.change("start") }

// Stop presses the power button; the machine is ended by force when that does not help.
func (d *Driver) Stop() error { return d.change("stop") }

// Restart stops and starts the machine.
func (d *Driver) Restart() error { return d.change("restart") }

// Kill ends the machine at once.
func (d *Driver) Kill() error { return d.change("kill") }

// Remove deletes the machine; fine when there is none.
func (d *Driver) Remove() error { return d.change("remove") }

// GetState looks at the machine; None means that it is missing.
func (d *Driver) GetState() (state.State, error) {
	var text string
	if err := d.ask("state", &text); err != nil {
		return state.Error, err
	}
	return parseState(text)
}

func parseState(text string) (state.State, error) {
	for s, name := range stateNames {
		if name == text {
			return s, nil
		}
	}
	return state.Error, fmt.Errorf("tshyve answers with a state %q that this driver does not know", text)
}

var stateNames = map[state.State]string{
	state.None: "none", state.Running: "running", state.Paused: "paused", state.Saved: "saved", state.Stopped: "stopped",
	state.Stopping: "stopping", state.Starting: "starting", state.Error: "error", state.Timeout: "timeout",
}

// GetIP returns the address at which the host reaches the machine now.
func (d *Driver) GetIP() (string, error) {
	var ip string
	err := d.ask("ip", &ip)
	return ip, err
}

// GetURL returns the Docker url of the running machine, "" when it is off.
func (d *Driver) GetURL() (string, error) {
	var url string
	err := d.ask("url", &url)
	if errors.Is(err, drivers.ErrHostIsNotRunning) {
		return "", nil
	}
	return url, err
}

// GetSSHHostname returns where the machine's sshd is reached.
func (d *Driver) GetSSHHostname() (string, error) { return d.GetIP() }

// GetSSHPort returns the port of the machine's sshd; on a user-mode network it may be another than 22.
func (d *Driver) GetSSHPort() (int, error) {
	var port int
	err := d.ask("ssh-port", &port)
	return port, err
}

// GetSSHKeyPath returns the private key's file.
func (d *Driver) GetSSHKeyPath() string {
	known, _ := d.now()
	if known.SSHKeyPath != "" {
		return known.SSHKeyPath
	}
	return d.file("id_ed25519")
}

// GetSSHUsername returns the user to log in as.
func (d *Driver) GetSSHUsername() string {
	known, _ := d.now()
	if known.SSHUser == "" {
		return "docker"
	}
	return known.SSHUser
}

type hostAddress struct {
	Guest string `json:"guest"`
	Bind  string `json:"bind"`
}

// HostIP is the host as the guest sees it: host.minikube.internal, and where mounts come from.
func (d *Driver) HostIP() (net.IP, error) {
	var host hostAddress
	if err := d.ask("host", &host); err != nil {
		return nil, err
	}
	ip := net.ParseIP(host.Guest)
	if ip == nil {
		return nil, fmt.Errorf("tshyve answers with the host address %q, which is none", host.Guest)
	}
	return ip, nil
}

// BindIP is where a server on the host listens to be reached at HostIP.
func (d *Driver) BindIP() (string, error) {
	var host hostAddress
	err := d.ask("host", &host)
	return host.Bind, err
}
