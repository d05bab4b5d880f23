module github.com/tshyve/tshyve/test/conformance/docker-machine

go 1.19

require github.com/docker/machine v0.16.2 // indirect
