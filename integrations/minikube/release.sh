# shellcheck shell=bash disable=SC2034 # for build.sh and seed/seed.sh
# What upstream's build gives to the linker for the release that go.mod pins (its Makefile has the figures).
# The ISO version names the image that a start without --iso-url would fetch.
iso_version=v1.38.0
storage_provisioner_version=v5
