module github.com/tshyve/tshyve/test/conformance/gobpeer

go 1.19
