//go:build cgo && linux && amd64

package ffi

// #include "everstep.h"
// #cgo noescape es_call
// #cgo nocallback es_call
// #cgo noescape es_submit
// #cgo nocallback es_submit
// #cgo noescape es_try_drain
// #cgo nocallback es_try_drain
import "C"

import (
	"encoding/binary"
	"os"
	"sync"
	"unsafe"
)

// A crossing's return values, and room for an answer of the usual size.
type crossing struct {
	status C.RustCallStatus
	rest   C.RustBuffer
	room   [2048]byte
}

// Crossings are taken and given back: on the stack they would escape to the heap with each call.
var crossings = sync.Pool{New: func() any { return new(crossing) }}

func (c *crossing) out() *C.uint8_t { return (*C.uint8_t)(unsafe.Pointer(&c.room[0])) }

// take copies an answer of length n out: Go keeps no pointer into Rust's memory, and Rust none into Go's.
func (c *crossing) take(n C.int64_t) []byte {
	if n == 0 {
		return nil
	}
	out := make([]byte, int(n))
	if c.rest.data == nil {
		copy(out, c.room[:n])
		return out
	}
	// The bytes behind the length, which es_take has read.
	copy(out, unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(c.rest.data), 4)), int(n)))
	C.es_free(c.rest)
	c.rest = C.RustBuffer{}
	return out
}

// failure reads what a call left in its status: 1 is an error of ours (a variant and two strings), 2 a panic that was caught (one string).
func (c *crossing) failure() error {
	if c.status.code == 0 {
		return nil
	}
	var data []byte
	if c.status.error.data != nil {
		data = C.GoBytes(unsafe.Pointer(c.status.error.data), C.int(c.status.error.len))
		C.es_free(c.status.error)
	}
	code := c.status.code
	c.status = C.RustCallStatus{}
	if code == 1 && len(data) >= 4 {
		name, rest, first := text(data[4:])
		message, _, second := text(rest)
		if first && second {
			return &Error{name, message}
		}
	}
	return &Error{"internal", "A bug in the engine. Please report it: " + string(data)}
}

func text(data []byte) (string, []byte, bool) {
	if len(data) < 4 {
		return "", nil, false
	}
	n := binary.BigEndian.Uint32(data)
	if uint64(len(data)-4) < uint64(n) {
		return "", nil, false
	}
	return string(data[4 : 4+n]), data[4+n:], true
}

// pointer is for the call it is an argument of, only.
func pointer(data []byte) (*C.uint8_t, C.int32_t) {
	if len(data) == 0 {
		return nil, 0
	}
	return (*C.uint8_t)(unsafe.Pointer(unsafe.SliceData(data))), C.int32_t(len(data))
}

var loaded = sync.OnceValue(func() error {
	found := identity{contract: uint32(C.ffi_everstep_go_uniffi_contract_version()), checks: map[string]uint16{
		"abi":       uint16(C.uniffi_everstep_go_checksum_func_abi()),
		"open":      uint16(C.uniffi_everstep_go_checksum_func_open()),
		"attach":    uint16(C.uniffi_everstep_go_checksum_func_attach()),
		"wake_fd":   uint16(C.uniffi_everstep_go_checksum_func_wake_fd()),
		"call":      uint16(C.uniffi_everstep_go_checksum_func_call()),
		"submit":    uint16(C.uniffi_everstep_go_checksum_func_submit()),
		"try_drain": uint16(C.uniffi_everstep_go_checksum_func_try_drain()),
		"cancel":    uint16(C.uniffi_everstep_go_checksum_func_cancel()),
		"close":     uint16(C.uniffi_everstep_go_checksum_func_close()),
	}}
	// abi takes nothing and is asked only where the layout is known.
	if found.contract == contractVersion && found.checks["abi"] == checksumAbi {
		c := new(crossing)
		found.abi = string(c.take(C.es_abi(c.out(), C.int64_t(len(c.room)), &c.rest, &c.status)))
	}
	return verify(found)
})

// Load compares the library that was linked with this package, once a process.
func Load() error { return loaded() }

// Open builds an engine from its configuration, JSON.
func Open(config []byte) (uint64, error) {
	c := crossings.Get().(*crossing)
	defer crossings.Put(c)
	data, n := pointer(config)
	handle := C.es_open(data, n, &c.status)
	return uint64(handle), c.failure()
}

// Attach makes a completion queue.
func Attach(handle uint64) (uint32, error) {
	c := crossings.Get().(*crossing)
	defer crossings.Put(c)
	client := C.uniffi_everstep_go_fn_func_attach(C.uint64_t(handle), &c.status)
	return uint32(client), c.failure()
}

// Wake is a file that is readable when the queue went from empty to not empty. It is non-blocking, so reading it waits in the netpoller and
// holds no thread.
func Wake(handle uint64, client uint32) (*os.File, error) {
	c := crossings.Get().(*crossing)
	defer crossings.Put(c)
	fd := C.es_wake(C.uint64_t(handle), C.uint32_t(client), &c.status)
	if err := c.failure(); err != nil {
		return nil, err
	}
	if fd < 0 {
		return nil, &Error{"closed", "The engine is closed."}
	}
	return os.NewFile(uintptr(fd), "everstep"), nil
}

// Call asks what is answered from memory.
func Call(handle uint64, op uint32, frame []byte) ([]byte, error) {
	c := crossings.Get().(*crossing)
	defer crossings.Put(c)
	data, n := pointer(frame)
	length := C.es_call(C.uint64_t(handle), C.uint32_t(op), data, n, c.out(), C.int64_t(len(c.room)), &c.rest, &c.status)
	if err := c.failure(); err != nil {
		return nil, err
	}
	answer := c.take(length)
	if len(answer) == 0 {
		return nil, &Error{"internal", "A bug in the engine. Please report it: an empty answer"}
	}
	if answer[0] == 0 {
		return answer[1:], nil
	}
	return nil, refusal(answer[1:])
}

// refusal reads the frame [code, message].
func refusal(frame []byte) error {
	code, rest := frameText(frame)
	message, _ := frameText(rest)
	return &Error{code, message}
}

func frameText(frame []byte) (string, []byte) {
	if len(frame) < 5 || frame[0] != 5 {
		return "internal", nil
	}
	n := binary.LittleEndian.Uint32(frame[1:])
	if uint64(len(frame)-5) < uint64(n) {
		return "internal", nil
	}
	return string(frame[5 : 5+n]), frame[5+n:]
}

// Submit hands over a request; its answer is an event with this token. False: the engine is closed.
func Submit(handle uint64, client uint32, token uint64, op uint32, frame []byte) bool {
	c := crossings.Get().(*crossing)
	defer crossings.Put(c)
	data, n := pointer(frame)
	taken := C.es_submit(C.uint64_t(handle), C.uint32_t(client), C.uint64_t(token), C.uint32_t(op), data, n, &c.status)
	return c.failure() == nil && taken != 0
}

// TryDrain takes up to max events out of the queue, packed.
func TryDrain(handle uint64, client uint32, max uint32) ([]byte, error) {
	c := crossings.Get().(*crossing)
	defer crossings.Put(c)
	length := C.es_try_drain(C.uint64_t(handle), C.uint32_t(client), C.uint32_t(max), c.out(), C.int64_t(len(c.room)), &c.rest, &c.status)
	if err := c.failure(); err != nil {
		return nil, err
	}
	return c.take(length), nil
}

// Cancel forgets a token: its event is dropped.
func Cancel(handle uint64, client uint32, token uint64) {
	c := crossings.Get().(*crossing)
	defer crossings.Put(c)
	C.uniffi_everstep_go_fn_func_cancel(C.uint64_t(handle), C.uint32_t(client), C.uint64_t(token), &c.status)
	if c.failure() != nil {
		return // There is no such queue any more, so there is nothing to forget.
	}
}

// Close ends the engine; it blocks for the deadline at most, and a little longer for what is on its way to the database.
func Close(handle uint64, deadlineMs uint64) {
	c := crossings.Get().(*crossing)
	defer crossings.Put(c)
	C.uniffi_everstep_go_fn_func_close(C.uint64_t(handle), C.uint64_t(deadlineMs), &c.status)
	if c.failure() != nil {
		return // A panic while ending: the handle is dead either way.
	}
}
