// Command docker-machine-driver-idle is the smallest plugin that libmachine's own Go code makes: a driver that does
// nothing and answers from its config. Benchmarks run it beside ours.
package main

import (
	"github.com/docker/machine/libmachine/drivers"
	"github.com/docker/machine/libmachine/drivers/plugin"
	"github.com/docker/machine/libmachine/mcnflag"
	"github.com/docker/machine/libmachine/state"
)

// driver claims to be a running machine. URL is what GetURL answers; empty means that nobody asks its Docker.
type driver struct {
	*drivers.BaseDriver
	URL string
}

func (d *driver) DriverName() string                                     { return "idle" }
func (d *driver) GetCreateFlags() []mcnflag.Flag                         { return nil }
func (d *driver) SetConfigFromFlags(options drivers.DriverOptions) error { return nil }
func (d *driver) GetURL() (string, error)                                { return d.URL, nil }
func (d *driver) GetIP() (string, error)                                 { return d.IPAddress, nil }
func (d *driver) GetSSHHostname() (string, error)                        { return d.IPAddress, nil }
func (d *driver) GetState() (state.State, error)                         { return state.Running, nil }
func (d *driver) Create() error                                          { return nil }
func (d *driver) Start() error                                           { return nil }
func (d *driver) Stop() error                                            { return nil }
func (d *driver) Restart() error                                         { return nil }
func (d *driver) Kill() error                                            { return nil }
func (d *driver) Remove() error                                          { return nil }

func main() {
	plugin.RegisterDriver(&driver{BaseDriver: &drivers.BaseDriver{}})
}
