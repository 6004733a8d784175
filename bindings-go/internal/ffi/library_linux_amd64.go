//go:build cgo && linux && amd64

package ffi

// The archive of this platform, in a module of its own: nobody downloads the others.
import _ "github.com/everstep/everstep/bindings-go/lib/linux-amd64"
