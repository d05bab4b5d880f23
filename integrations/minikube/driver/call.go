package tshyve

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"k8s.io/minikube/pkg/libmachine/drivers"
)

// Command is the program that does the work, looked up on the PATH.
const Command = "tshyve"

type request struct {
	StorePath   string          `json:"storePath"`
	MachineName string          `json:"machineName"`
	Config      json.RawMessage `json:"config"`
}

// answer is one line that the command writes: progress, the result or an error.
type answer struct {
	Line   string          `json:"line"`
	Result json.RawMessage `json:"result"`
	Config json.RawMessage `json:"config"`
	Error  *CallError      `json:"error"`
}

// CallError is a failure as tshyve explains it.
type CallError struct {
	// Kind is stable; Message names cause and fix.
	Kind    string `json:"kind"`
	Message string `json:"message"`
}

func (e *CallError) Error() string { return e.Message }

// Is lets libmachine recognise a machine that is off.
func (e *CallError) Is(target error) bool {
	return target == drivers.ErrHostIsNotRunning && e.Kind == "not-running"
}

// call runs "tshyve driver NAME". The command takes the end of its input for the end of its client, so that it cleans up
// when minikube is killed or ctx is cancelled; a Ctrl-C on the terminal reaches both.
func call(ctx context.Context, name string, r request, progress func(string)) (*answer, error) {
	cmd := exec.Command(Command, "driver", name)
	cmd.Env = environment(os.Environ())
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot run %q (is it on the PATH?): %w", Command, err)
	}
	stop := context.AfterFunc(ctx, func() { stdin.Close() })
	defer stop()
	if err := json.NewEncoder(stdin).Encode(r); err != nil {
		// The command has ended already; what it said follows.
		stdin.Close()
	}
	final, readErr := readAnswers(stdout, progress)
	stdin.Close()
	_, _ = io.Copy(io.Discard, stdout)
	waitErr := cmd.Wait()
	switch {
	case readErr != nil:
		return nil, fmt.Errorf("%s driver %s: %w", Command, name, readErr)
	case final == nil:
		return nil, fmt.Errorf("%s driver %s ended without an answer (%v): %s", Command, name, waitErr, strings.TrimSpace(stderr.String()))
	case final.Error != nil:
		return nil, final.Error
	}
	return final, nil
}

// readAnswers reads up to the result or error. Returns nil when the stream ends before.
func readAnswers(r io.Reader, progress func(string)) (*answer, error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var a answer
		if err := json.Unmarshal(lines.Bytes(), &a); err != nil {
			return nil, fmt.Errorf("unexpected output %.80q", lines.Text())
		}
		if a.Error != nil || a.Config != nil {
			return &a, nil
		}
		progress(a.Line)
	}
	return nil, lines.Err()
}

// environment leaves out what makes a program take itself for a plugin or for a child of minikube.
func environment(env []string) []string {
	var kept []string
	for _, entry := range env {
		if !strings.HasPrefix(entry, "MACHINE_PLUGIN_") && !strings.HasPrefix(entry, "IS_MINIKUBE_CHILD_PROCESS=") {
			kept = append(kept, entry)
		}
	}
	return kept
}
