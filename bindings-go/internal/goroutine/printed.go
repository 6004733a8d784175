package goroutine

import "runtime"

// printed reads the number out of "goroutine 18 [running]:".
func printed() uintptr {
	var text [64]byte
	n := runtime.Stack(text[:], false)
	var number uintptr
	for _, c := range text[len("goroutine "):n] {
		if c < '0' || c > '9' {
			break
		}
		number = number*10 + uintptr(c-'0')
	}
	return number
}
