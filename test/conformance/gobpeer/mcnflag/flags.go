// Package mcnflag has the shapes and, by its name, the registered gob names of libmachine's create flags.
package mcnflag

import "encoding/gob"

type Flag interface{ String() string }

type StringFlag struct{ Name, Usage, EnvVar, Value string }
type StringSliceFlag struct {
	Name, Usage, EnvVar string
	Value               []string
}
type IntFlag struct {
	Name, Usage, EnvVar string
	Value               int
}
type BoolFlag struct{ Name, Usage, EnvVar string }

func (f *StringFlag) String() string      { return f.Name }
func (f *StringSliceFlag) String() string { return f.Name }
func (f *IntFlag) String() string         { return f.Name }
func (f *BoolFlag) String() string        { return f.Name }

func init() {
	gob.Register(&StringFlag{})
	gob.Register(&StringSliceFlag{})
	gob.Register(&IntFlag{})
	gob.Register(&BoolFlag{})
}
