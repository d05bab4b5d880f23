// Command gobpeer is the Go side of the property test of our gob codec; see README.md.
package main

import (
	"bufio"
	"encoding/gob"
	"flag"
	"fmt"
	"math"
	"math/rand"
	"os"
	"reflect"

	"github.com/tshyve/tshyve/test/conformance/gobpeer/mcnflag"
	"github.com/tshyve/tshyve/test/conformance/gobpeer/rpcdriver"
)

type Request struct {
	ServiceMethod string
	Seq           uint64
}
type Response struct {
	ServiceMethod string
	Seq           uint64
	Error         string
}
type Inner struct {
	Name  string
	Count int
	Tags  []string
}
type Nested struct {
	Small    int8
	Medium   uint16
	Inners   []Inner
	ByName   map[string]Inner
	Three    [3]int
	ByNumber map[int]string
	Single   float32
	Pointer  *Inner
	Anything interface{}
	Table    [][]string
	Flag     bool
	Raw      []byte
	Z        complex128
}

// kinds are the types that take part, by name; each maker returns a pointer to a random value.
var kinds = []struct {
	name string
	make func(r *rand.Rand) interface{}
	zero func() interface{}
}{
	{"empty", func(*rand.Rand) interface{} { return &struct{}{} }, func() interface{} { return &struct{}{} }},
	{"int", func(r *rand.Rand) interface{} { v := integer(r); return &v }, func() interface{} { return new(int64) }},
	{"uint", func(r *rand.Rand) interface{} { v := unsigned(r); return &v }, func() interface{} { return new(uint64) }},
	{"bool", func(r *rand.Rand) interface{} { v := r.Intn(2) == 0; return &v }, func() interface{} { return new(bool) }},
	{"string", func(r *rand.Rand) interface{} { v := str(r); return &v }, func() interface{} { return new(string) }},
	{"float", func(r *rand.Rand) interface{} { v := float(r); return &v }, func() interface{} { return new(float64) }},
	{"complex", func(r *rand.Rand) interface{} { v := complex(float(r), float(r)); return &v }, func() interface{} { return new(complex128) }},
	{"bytes", func(r *rand.Rand) interface{} { v := []byte(str(r)); return &v }, func() interface{} { return new([]byte) }},
	{"strings", func(r *rand.Rand) interface{} { v := strs(r); return &v }, func() interface{} { return new([]string) }},
	{"request", func(r *rand.Rand) interface{} { return &Request{str(r), unsigned(r)} }, func() interface{} { return new(Request) }},
	{"response", func(r *rand.Rand) interface{} { return &Response{str(r), unsigned(r), str(r)} }, func() interface{} { return new(Response) }},
	{"flags", func(r *rand.Rand) interface{} { v := flags(r); return &v }, func() interface{} { return new([]mcnflag.Flag) }},
	{"values", func(r *rand.Rand) interface{} { var v interface{} = &rpcdriver.RPCFlags{Values: values(r)}; return &v }, func() interface{} { return new(interface{}) }},
	{"nested", func(r *rand.Rand) interface{} { return nested(r) }, func() interface{} { return new(Nested) }},
}

func integer(r *rand.Rand) int64 {
	edges := []int64{0, 1, -1, 63, 64, -64, -65, math.MaxInt64, math.MinInt64}
	if r.Intn(3) == 0 {
		return edges[r.Intn(len(edges))]
	}
	return int64(r.Uint64()) >> uint(r.Intn(64))
}
func unsigned(r *rand.Rand) uint64 {
	edges := []uint64{0, 1, 127, 128, 255, 256, math.MaxUint64}
	if r.Intn(3) == 0 {
		return edges[r.Intn(len(edges))]
	}
	return r.Uint64() >> uint(r.Intn(64))
}
func float(r *rand.Rand) float64 {
	edges := []float64{0, math.Copysign(0, -1), 1, -1.5, math.Inf(1), math.Inf(-1), math.MaxFloat64, math.SmallestNonzeroFloat64}
	if r.Intn(2) == 0 {
		return edges[r.Intn(len(edges))]
	}
	return r.NormFloat64()
}
func str(r *rand.Rand) string {
	bytes := make([]byte, r.Intn(r.Intn(40)+1))
	r.Read(bytes)
	if r.Intn(2) == 0 {
		for i := range bytes {
			bytes[i] = bytes[i]%94 + 33
		}
	}
	return string(bytes)
}
func strs(r *rand.Rand) []string {
	result := make([]string, r.Intn(5))
	for i := range result {
		result[i] = str(r)
	}
	return result
}
func inner(r *rand.Rand) Inner { return Inner{str(r), int(integer(r)), strs(r)} }
func flags(r *rand.Rand) []mcnflag.Flag {
	result := []mcnflag.Flag{}
	for i := r.Intn(5); i > 0; i-- {
		switch r.Intn(4) {
		case 0:
			result = append(result, &mcnflag.StringFlag{Name: str(r), Usage: str(r), EnvVar: str(r), Value: str(r)})
		case 1:
			result = append(result, &mcnflag.IntFlag{Name: str(r), Usage: str(r), EnvVar: str(r), Value: int(integer(r))})
		case 2:
			result = append(result, &mcnflag.BoolFlag{Name: str(r), Usage: str(r), EnvVar: str(r)})
		default:
			result = append(result, &mcnflag.StringSliceFlag{Name: str(r), Usage: str(r), EnvVar: str(r), Value: strs(r)})
		}
	}
	return result
}
func anything(r *rand.Rand) interface{} {
	switch r.Intn(5) {
	case 0:
		return str(r)
	case 1:
		return int(integer(r))
	case 2:
		return r.Intn(2) == 0
	case 3:
		return strs(r)
	}
	return nil
}
func values(r *rand.Rand) map[string]interface{} {
	result := map[string]interface{}{}
	for i := r.Intn(6); i > 0; i-- {
		result[str(r)] = anything(r)
	}
	return result
}
func nested(r *rand.Rand) *Nested {
	n := &Nested{Small: int8(integer(r)), Medium: uint16(unsigned(r)), Single: float32(r.NormFloat64()), Flag: r.Intn(2) == 0, Raw: []byte(str(r)), Z: complex(float(r), float(r)), Anything: anything(r)}
	for i := r.Intn(3); i > 0; i-- {
		n.Inners = append(n.Inners, inner(r))
		n.Table = append(n.Table, strs(r))
	}
	n.ByName, n.ByNumber = map[string]Inner{}, map[int]string{}
	for i := r.Intn(3); i > 0; i-- {
		n.ByName[str(r)] = inner(r)
		n.ByNumber[int(integer(r))] = str(r)
	}
	for i := range n.Three {
		n.Three[i] = int(integer(r)) * r.Intn(2)
	}
	if r.Intn(2) == 0 {
		i := inner(r)
		n.Pointer = &i
	}
	return n
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "gobpeer:", err)
		os.Exit(1)
	}
}

func describe(out *bufio.Writer, kind string, value interface{}) {
	fmt.Fprintf(out, "{\"kind\":%q,\"value\":%s}\n", kind, text(canonical(reflect.ValueOf(value).Elem())))
}

func generate(seed int64, count int, gobPath string) {
	file, err := os.Create(gobPath)
	check(err)
	stream := bufio.NewWriter(file)
	out := bufio.NewWriter(os.Stdout)
	encoder := gob.NewEncoder(stream)
	r := rand.New(rand.NewSource(seed))
	for i := 0; i < count; i++ {
		kind := kinds[r.Intn(len(kinds))]
		value := kind.make(r)
		check(encoder.Encode(value))
		describe(out, kind.name, value)
	}
	check(stream.Flush())
	check(file.Close())
	check(out.Flush())
}

// verify reads kind names, one a line, from standard input, and a value of each from the gob file.
func verify(gobPath string) {
	file, err := os.Open(gobPath)
	check(err)
	decoder := gob.NewDecoder(bufio.NewReader(file))
	out := bufio.NewWriter(os.Stdout)
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		for _, kind := range kinds {
			if kind.name != lines.Text() {
				continue
			}
			value := kind.zero()
			check(decoder.Decode(value))
			describe(out, kind.name, value)
		}
	}
	check(out.Flush())
}

func main() {
	seed := flag.Int64("seed", 1, "of the random values")
	count := flag.Int("count", 1000, "values to generate")
	path := flag.String("gob", "", "file of the gob stream")
	flag.Parse()
	switch flag.Arg(0) {
	case "generate":
		generate(*seed, *count, *path)
	case "verify":
		verify(*path)
	default:
		fmt.Fprintln(os.Stderr, "usage: gobpeer [-seed N] [-count N] -gob FILE generate|verify")
		os.Exit(2)
	}
}
