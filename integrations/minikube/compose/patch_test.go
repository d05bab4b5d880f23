package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const before = "package p\n\nvar list = []string{\n\tA,\n\tB,\n}\n"

func TestDiffIsWhatApplyDoes(t *testing.T) {
	edits := []edit{
		{anchor: "\tA,", count: 1, lines: []string{"\tA1,", "\tA2,"}},
		{anchor: "\tB,", before: true, count: 1, lines: []string{"\tB0,"}},
		{anchor: "package p", count: 1, lines: []string{"// ours"}},
	}
	hunks, err := plan("p.go", before, edits)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("p.go", before)
	write("p.patch", diff("p.go", false, hunks)+diff("new/q.go", true, []hunk{{0, []string{"package q", ""}}}))
	git := exec.Command("git", "apply", "--unidiff-zero", "p.patch")
	git.Dir = dir
	git.Env = append(os.Environ(), "GIT_CEILING_DIRECTORIES="+filepath.Dir(dir))
	if out, err := git.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for name, want := range map[string]string{"p.go": apply(before, hunks), "new/q.go": "package q\n\n"} {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || string(got) != want {
			t.Errorf("%s: %v\n%s\nnot\n%s", name, err, got, want)
		}
	}
}

func TestAnotherReleaseIsRefused(t *testing.T) {
	for _, e := range []edit{{anchor: "\tC,", count: 1}, {anchor: ",", count: 1}} {
		if _, err := plan("p.go", before, []edit{e}); err == nil || !strings.Contains(err.Error(), "p.go") {
			t.Errorf("%+v: got %v", e, err)
		}
	}
}
