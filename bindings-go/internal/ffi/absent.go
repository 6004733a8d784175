//go:build !cgo || !linux || !amd64

package ffi

import (
	"os"
	"runtime"
)

// Load says why there is no engine in this program. The module compiles all the same, so that tools, editors and builds that never open an engine
// do not need a C compiler.
func Load() error {
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		return &Error{"config_invalid", "Everstep has no native library for " + runtime.GOOS + "/" + runtime.GOARCH + "; it is built for linux/amd64."}
	}
	return &Error{"config_invalid", "This program was built with cgo off, and the engine is a native library. " +
		"Build it with CGO_ENABLED=1 and a C compiler (apt-get install gcc libc6-dev)."}
}

func Open([]byte) (uint64, error)                        { return 0, Load() }
func Attach(uint64) (uint32, error)                      { return 0, Load() }
func Wake(uint64, uint32) (*os.File, error)              { return nil, Load() }
func Call(uint64, uint32, []byte) ([]byte, error)        { return nil, Load() }
func Submit(uint64, uint32, uint64, uint32, []byte) bool { return false }
func TryDrain(uint64, uint32, uint32) ([]byte, error)    { return nil, Load() }
func Cancel(uint64, uint32, uint64)                      {}
func Close(uint64, uint64)                               {}
