//go:build tools

// Package tools pins the unmodified docker-machine client that the conformance tests drive.
package tools

import _ "github.com/docker/machine/commands"
