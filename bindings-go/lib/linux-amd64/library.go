//go:build cgo && linux && amd64

// Package library is the engine as a static library for Linux on x86-64 with glibc. It has nothing to call: importing it links the archive beside
// this file, whose only visible symbols are the engine's own.
package library

// #cgo LDFLAGS: ${SRCDIR}/libeverstep_go.a -lm -ldl -lpthread -lgcc_s
import "C"
