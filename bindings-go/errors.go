package everstep

import (
	"context"
	"errors"
	"fmt"

	"github.com/everstep/everstep/bindings-go/internal/ffi"
)

// Code is a stable error code: of the engine (the Err constants), or declared by the program (DeclareError). It is an error itself, so that
// errors.Is(err, everstep.ErrRunBlocked) reads as usual. Being constants, codes cannot be reassigned.
type Code string

func (c Code) Error() string { return string(c) }

// Error is every error the engine makes, and what a workflow sees of a failed step or child. Its code is stable, its text is not.
//
// errors.Is finds its Code, and ErrStepFailed for everything a step failed with; errors.Is and errors.As find the declared error it was made from.
// A timeout is also a context.DeadlineExceeded, a cancel also a context.Canceled.
type Error struct {
	Code    Code
	Message string
	// Type of the original error in the language that returned it.
	Type string
	// Details are the fields of a declared error, decoded.
	Details any
	// Stack of a panic, innermost call last; "" for a returned error, which has none in Go.
	Stack string
	// Run is the key of the run this is about, if any.
	Run string

	// The declared error this was rebuilt as, and the error that caused it.
	declared, cause error
	// step: it came out of a step. cancel: it is the cancel of the run that sees it.
	step, cancel bool
}

func (e *Error) Error() string {
	if e.Message == "" {
		return string(e.Code)
	}
	return fmt.Sprintf("[%s] %s", e.Code, e.Message)
}

// Unwrap is the declared error this was rebuilt as, and what caused it: errors.Is and errors.As find either.
func (e *Error) Unwrap() error {
	switch {
	case e.declared == nil:
		return e.cause
	case e.cause == nil:
		return e.declared
	}
	return &withCause{e.declared, e.cause}
}

// withCause is a declared error beside the error that caused it.
type withCause struct{ declared, cause error }

func (w *withCause) Error() string   { return w.declared.Error() }
func (w *withCause) Unwrap() []error { return []error{w.declared, w.cause} }

// Is matches a Code, another Error of the same code, and what the context package calls the same thing.
func (e *Error) Is(target error) bool {
	switch target := target.(type) {
	case Code:
		return target == e.Code || target == ErrStepFailed && e.step
	case *Error:
		return target.Code == e.Code && target.Message == e.Message
	}
	switch target {
	case context.Canceled:
		return e.Code == ErrRunCancelled
	case context.DeadlineExceeded:
		return e.Code == ErrResultTimeout || e.Code == ErrStepTimeout || e.Code == ErrDeadline
	}
	return false
}

// refuse makes an error of ours.
func refuse(code Code, format string, arguments ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, arguments...)}
}

// fromBorder makes an Error of what the border returned.
func fromBorder(err error) error {
	var native *ffi.Error
	if errors.As(err, &native) {
		return ofCode(native.Code, native.Message)
	}
	return err
}

func ofCode(code, message string) *Error {
	if c := Code(code); c.known() {
		return &Error{Code: c, Message: message}
	}
	return &Error{Code: ErrInternal, Message: code + ": " + message}
}

// nonRetryable marks an error a retry policy stops at.
type nonRetryable struct{ error }

func (n nonRetryable) Unwrap() error { return n.error }

// NonRetryable marks err as final: no retry policy tries again after it. The mark itself is not recorded as a cause.
func NonRetryable(err error) error {
	if err == nil {
		return nil
	}
	return nonRetryable{err}
}

// panicked is what a panic becomes: an error with the stack it happened on.
type panicked struct {
	value any
	stack string
}

func (p *panicked) Error() string { return fmt.Sprintf("panic: %v", p.value) }

func (p *panicked) text() *string {
	text := tail(printable(p.stack, len(p.stack)), maxStack)
	return &text
}

func (p *panicked) Unwrap() error {
	err, _ := p.value.(error)
	return err
}
