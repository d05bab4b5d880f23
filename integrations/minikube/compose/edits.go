package main

// An edit adds lines to one of minikube's files, after each line that ends with the anchor (before it, where said).
type edit struct {
	file   string
	anchor string
	before bool
	// count is how often the anchor must occur: another number means that the release is not the one we know.
	count int
	lines []string
}

// edits are all places of minikube that know a driver by its name and matter to ours. Lines are only added, never
// changed, so that the patch holds nothing but our own text.
var edits = []edit{
	{
		file: "pkg/minikube/driver/driver.go", anchor: `Krunkit = "krunkit"`, count: 1,
		lines: []string{"\t// Tshyve driver", "\tTshyve = \"tshyve\""},
	},
	{
		file: "pkg/minikube/driver/driver.go", anchor: "// IsVM checks if the driver is a VM", before: true, count: 1,
		lines: []string{
			"// IsTshyve checks if the driver is tshyve",
			"func IsTshyve(name string) bool {",
			"\treturn name == Tshyve",
			"}",
			"",
		},
	},
	{
		file: "pkg/minikube/driver/driver.go", anchor: "func SupportsNetworkFlag(name string) bool {", count: 1,
		lines: []string{"\tif IsTshyve(name) {", "\t\treturn true", "\t}"},
	},
	// The gate: no other name gets past "minikube start".
	{file: "pkg/minikube/driver/driver_linux.go", anchor: "\tQEMU2,", count: 1, lines: []string{"\tTshyve,"}},
	{file: "pkg/minikube/driver/driver_darwin.go", anchor: "\tQEMU2,", count: 2, lines: []string{"\t\t\tTshyve,"}},
	{
		file: "pkg/minikube/registry/drvs/init.go", anchor: `registry/drvs/ssh"`, count: 1,
		lines: []string{"\t_ \"k8s.io/minikube/pkg/minikube/registry/drvs/tshyve\""},
	},
	// The driver knows its networks; a guess from the machine's own address would be wrong on most of them.
	{
		file: "pkg/minikube/cluster/ip.go", anchor: "\tswitch hostInfo.DriverName {", before: true, count: 1,
		lines: []string{
			"\tif d, ok := hostInfo.Driver.(interface{ HostIP() (net.IP, error) }); ok {",
			"\t\treturn d.HostIP()",
			"\t}",
		},
	},
	// On a user-mode network the guest reaches the host's loopback interface at an address that the host does not have.
	{
		file: "cmd/minikube/cmd/mount.go", anchor: "bindIP := ip.String() // the ip to listen on the user's host machine", count: 1,
		lines: []string{
			"\t\tif d, ok := co.CP.Host.Driver.(interface{ BindIP() (string, error) }); ok && mountIP == \"\" {",
			"\t\t\tif bindIP, err = d.BindIP(); err != nil {",
			"\t\t\t\texit.Error(reason.IfHostIP, \"Error getting the host IP address to listen on\", err)",
			"\t\t\t}",
			"\t\t}",
		},
	},
	// A Linux host that lacks 9p in its kernel may serve it all the same: it is the guest that mounts. Only added lines can
	// take a check away by standing around it.
	{
		file: "cmd/minikube/cmd/mount.go", anchor: `if runtime.GOOS == "linux" && !detect.IsNinePSupported() {`, before: true, count: 1,
		lines: []string{"\t\tif !driver.IsTshyve(co.Config.Driver) {"},
	},
	{
		file: "cmd/minikube/cmd/mount.go", anchor: "// An escape valve to allow future hackers to try NFS, VirtFS, or other FS types.", before: true, count: 1,
		lines: []string{"\t\t}"},
	},
	// A machine that was deleted behind minikube's back is made anew.
	{
		file: "pkg/minikube/machine/fix.go", anchor: "\tcase driver.KVM2:", before: true, count: 1,
		lines: []string{"\tcase driver.Tshyve:", "\t\treturn machineExistsState(s, err)"},
	},
	// Machines of different names do not disturb each other; tshyve locks each by itself.
	{
		file: "pkg/minikube/machine/start.go", anchor: "spec := lock.PathMutexSpec(lockPath)", before: true, count: 1,
		lines: []string{
			"\tif driver.IsTshyve(drv) {",
			"\t\tlockPath = filepath.Join(localpath.MiniPath(), \"machines\", drv, name)",
			"\t}",
		},
	},
	{
		file: "cmd/minikube/cmd/start_flags.go", anchor: "if cmd.Flags().Changed(extraDisks) {", before: true, count: 1,
		lines: []string{"\tsupportedDrivers = append(supportedDrivers, driver.Tshyve)"},
	},
}

// copies are our packages and where they go in minikube's tree.
var copies = []struct{ from, to string }{
	{"driver", "pkg/drivers/tshyve"},
	{"registry", "pkg/minikube/registry/drvs/tshyve"},
}

const (
	ourDriverImport   = "github.com/tshyve/tshyve/integrations/minikube/driver"
	theirDriverImport = "k8s.io/minikube/pkg/drivers/tshyve"
)
