// Package rpcdriver has the shape and registered gob name of libmachine's flag values.
package rpcdriver

import "encoding/gob"

type RPCFlags struct{ Values map[string]interface{} }

func init() { gob.Register(&RPCFlags{}) }
