// Package ffi is the border: the functions of core/docs/protocol.md over handles and bytes, by hand over uniffi's scaffolding.
package ffi

import (
	"fmt"
	"sort"
	"strings"
)

// What this side was written against. bindings-go/tests/symbols.rs compares every line with the library.
const (
	// Abi is the version of the package and of the protocol.
	Abi = "0.1.0/1"

	contractVersion = 30

	checksumAbi      = 4065
	checksumOpen     = 44349
	checksumAttach   = 65472
	checksumWakeFd   = 14687
	checksumCall     = 3705
	checksumSubmit   = 46764
	checksumTryDrain = 33398
	checksumCancel   = 36614
	checksumClose    = 13418
)

// Error is an answer [code, message] of the engine, or of this side about the library.
type Error struct {
	Code    string
	Message string
}

func (e *Error) Error() string { return e.Code + ": " + e.Message }

// identity is what a library says about itself.
type identity struct {
	abi      string
	contract uint32
	checks   map[string]uint16
}

func wanted() identity {
	return identity{Abi, contractVersion, map[string]uint16{
		"abi": checksumAbi, "open": checksumOpen, "attach": checksumAttach, "wake_fd": checksumWakeFd, "call": checksumCall,
		"submit": checksumSubmit, "try_drain": checksumTryDrain, "cancel": checksumCancel, "close": checksumClose,
	}}
}

// verify says how the library that was linked differs from the one this package was written for. It comes before the first call with an
// argument: with another layout that call would be undefined.
func verify(found identity) error {
	want := wanted()
	if found.contract != want.contract {
		return differs(fmt.Sprintf("its contract version is %d, this package's %d", found.contract, want.contract))
	}
	var wrong []string
	for name, checksum := range want.checks {
		if found.checks[name] != checksum {
			wrong = append(wrong, name)
		}
	}
	if len(wrong) > 0 {
		sort.Strings(wrong)
		return differs("the functions " + strings.Join(wrong, ", ") + " have other checksums")
	}
	if found.abi != want.abi {
		return differs(fmt.Sprintf("it is version %q, this package is %q", found.abi, want.abi))
	}
	return nil
}

func differs(how string) error {
	return &Error{"config_invalid", "The native library that was linked is not the one of this package: " + how +
		". Require the same version of bindings-go and of its lib module (go mod tidy), and rebuild."}
}
