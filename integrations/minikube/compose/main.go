// Command compose adds the tshyve driver to a copy of minikube's source, and writes that as a patch.
//
//	compose MINIKUBE_SOURCE OUR_MODULE PATCH_FILE
//
// Nothing of minikube's own text gets into the patch: it only adds lines, and has none of context.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "Usage: compose MINIKUBE_SOURCE OUR_MODULE PATCH_FILE")
		os.Exit(2)
	}
	if err := compose(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "compose:", err)
		os.Exit(1)
	}
}

func compose(source, module, patchFile string) error {
	var patch strings.Builder
	for _, name := range editedFiles() {
		path := filepath.Join(source, name)
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		hunks, err := plan(name, string(text), editsOf(name))
		if err != nil {
			return err
		}
		patch.WriteString(diff(name, false, hunks))
		if err := os.WriteFile(path, []byte(apply(string(text), hunks)), 0o644); err != nil {
			return err
		}
	}
	for _, c := range copies {
		files, err := filepath.Glob(filepath.Join(module, c.from, "*.go"))
		if err != nil {
			return err
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			text, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			ported := strings.ReplaceAll(string(text), ourDriverImport, theirDriverImport)
			name := c.to + "/" + filepath.Base(file)
			lines := strings.Split(strings.TrimSuffix(ported, "\n"), "\n")
			patch.WriteString(diff(name, true, []hunk{{0, lines}}))
			path := filepath.Join(source, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				return err
			}
			if err := os.WriteFile(path, []byte(ported), 0o644); err != nil {
				return err
			}
		}
	}
	return os.WriteFile(patchFile, []byte(patch.String()), 0o644)
}

func editedFiles() []string {
	var names []string
	for _, e := range edits {
		if !slices.Contains(names, e.file) {
			names = append(names, e.file)
		}
	}
	return names
}

func editsOf(name string) []edit {
	var own []edit
	for _, e := range edits {
		if e.file == name {
			own = append(own, e)
		}
	}
	return own
}
