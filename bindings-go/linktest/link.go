// Package linktest is a program that has Everstep, a SQLite of its own and another library in Rust: all of them define symbols of the same names, and
// none may see another's.
package linktest

// #cgo LDFLAGS: ${SRCDIR}/libother.a -lm -ldl -lpthread -lgcc_s
// #include <stddef.h>
// #include <stdint.h>
// size_t other_length(const uint8_t *data, size_t length);
import "C"

import "unsafe"

// OtherLength asks the other library.
func OtherLength(data []byte) int {
	return int(C.other_length((*C.uint8_t)(unsafe.SliceData(data)), C.size_t(len(data))))
}
