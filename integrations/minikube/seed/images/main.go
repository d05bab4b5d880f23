// Images makes the container images that a start of Kubernetes by minikube needs, from programs that were built before,
// as archives in the layout of minikube's cache. It fetches nothing.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/minikube/pkg/minikube/constants"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "images: %v\n", err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	if len(arguments) == 0 {
		return errors.New("say what to do: version, list, unavailable or build")
	}
	list, err := required()
	if err != nil {
		return err
	}
	switch arguments[0] {
	case "version":
		fmt.Println(constants.DefaultKubernetesVersion)
		return nil
	case "list":
		fmt.Println(strings.Join(list, "\n"))
		return nil
	case "unavailable":
		for _, missing := range unavailable() {
			fmt.Printf("%s\t%s\n", missing.file, missing.purpose)
		}
		return nil
	case "build":
	default:
		return fmt.Errorf("unknown action %q", arguments[0])
	}
	flags := flag.NewFlagSet("build", flag.ContinueOnError)
	arch := flags.String("arch", "amd64", "architecture of the guest: amd64 or arm64")
	programs := flags.String("programs", "", "folder of the programs")
	root := flags.String("iptables-root", "", "archive of a root file system that has Debian's iptables")
	out := flags.String("out", "", "folder of the archives, as minikube's cache/images/ARCH")
	if err := flags.Parse(arguments[1:]); err != nil {
		return err
	}
	if *programs == "" || *root == "" || *out == "" {
		return errors.New("build needs --programs, --iptables-root and --out")
	}
	for _, name := range list {
		_, last, tag, _ := split(name)
		r, known := recipes[last]
		if !known {
			return fmt.Errorf("minikube wants the image %s, which this program cannot make; see the recipes in seed/images", name)
		}
		program := filepath.Join(*programs, r.program)
		if err := check(program, *arch, tag, r); err != nil {
			return err
		}
		added := ""
		if r.iptables {
			added = *root
		}
		file := filepath.Join(*out, strings.ReplaceAll(name, ":", "_"))
		size, err := write(file, name, *arch, program, added, r)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		fmt.Printf("  %-62s %4d MB\n", name, (size+999_999)/1_000_000)
	}
	return nil
}
