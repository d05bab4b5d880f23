//go:build tools

// Package tools holds the pins of the unmodified docker-machine client. Its releases predate Go modules, so the
// versions of what it needs are chosen here: the published ones nearest to its own lock file.
package tools

import _ "github.com/docker/machine/commands"
