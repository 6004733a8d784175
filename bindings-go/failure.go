package everstep

import (
	"errors"
	"reflect"
	"runtime"
	"strings"
	"unicode/utf8"

	"github.com/everstep/everstep/bindings-go/internal/payload"
)

const (
	maxMessage = 8 * 1024
	maxStack   = 16 * 1024
	maxCauses  = 8
)

// document is an error as it is recorded (core/docs/payload.md, "Errors").
type document struct {
	Type      string    `json:"type"`
	Code      *string   `json:"code"`
	Message   string    `json:"message"`
	Stack     *string   `json:"stack"`
	Cause     *document `json:"cause"`
	Details   any       `json:"details"`
	Retryable *bool     `json:"retryable"`
}

// documentOf says what is recorded of an error.
func (a *App) documentOf(err error, retryable bool) *document {
	out := a.describe(err)
	var final nonRetryable
	retryable = retryable && !errors.As(err, &final)
	out.Retryable = &retryable
	return out
}

// describe is an error and, as its causes, what it wraps. A document holds a chain, so of a tree (errors.Join, several %w) it is the order errors.Is
// goes through it in: whatever errors.Is found before is found after.
func (a *App) describe(err error) *document {
	var first, last *document
	for _, node := range a.told(err) {
		one := a.describeOne(node)
		if last == nil {
			first = one
			var stack *panicked
			if one.Stack == nil && errors.As(err, &stack) {
				one.Stack = stack.text()
			}
		} else {
			last.Cause = one
		}
		last = one
	}
	return first
}

// told are the errors of a tree that have room in a document. Where there are more, what was declared counts more than what is only read.
func (a *App) told(err error) []error {
	nodes := unwrapped(err)
	if len(nodes) <= maxCauses+1 {
		return nodes
	}
	kept := nodes[:1:1]
	others := maxCauses
	for _, node := range nodes[1:] {
		if a.declared.itself(node) != nil {
			others--
		}
	}
	for _, node := range nodes[1:] {
		if a.declared.itself(node) == nil {
			if others <= 0 {
				continue
			}
			others--
		}
		if kept = append(kept, node); len(kept) > maxCauses {
			break
		}
	}
	return kept
}

// mostNodes bounds the walk through what a program joins without end.
const mostNodes = 1000

// unwrapped are an error and all it wraps, in the order errors.Is asks them. Marks of ours are no errors of their own.
func unwrapped(err error) []error {
	var out []error
	var walk func(err error)
	walk = func(err error) {
		if err == nil || len(out) >= mostNodes {
			return
		}
		switch e := err.(type) {
		case nonRetryable:
			walk(e.error)
			return
		case *Error:
			// Its code stands for what it was declared as.
			out = append(out, err)
			walk(e.cause)
			return
		}
		out = append(out, err)
		switch e := err.(type) {
		case interface{ Unwrap() error }:
			walk(e.Unwrap())
		case interface{ Unwrap() []error }:
			for _, one := range e.Unwrap() {
				walk(one)
			}
		}
	}
	walk(err)
	return out
}

func (a *App) describeOne(err error) *document {
	out := &document{Type: typeName(err), Message: printable(err.Error(), maxMessage)}
	if stack, ok := err.(*panicked); ok {
		out.Stack = stack.text()
	}
	if ours, ok := err.(*Error); ok {
		// An error that was recorded before, here or in a child: it is passed on as it was.
		out.Message = printable(ours.Message, maxMessage)
		code := string(ours.Code)
		out.Code, out.Details = &code, ours.Details
		if ours.Type != "" {
			out.Type = ours.Type
		}
		if ours.Stack != "" {
			out.Stack = &ours.Stack
		}
		if ours.Code == ErrStepFailed {
			out.Code = nil
		}
	} else if found := a.declared.of(err); found != nil {
		out.Code, out.Details = &found.code, found.fields
		if found.kind != "" {
			out.Type = found.kind
		}
	}
	return out
}

// undescribed stands for an error whose own methods panicked. It calls none of them, nor any of the panic's value.
func undescribed(err error, value any, stack string) *document {
	text := "this error cannot be recorded: one of its methods, or the retry policy's If, panicked"
	if isNil(err) {
		text = "a nil pointer was returned as an error, which makes it an error that is not nil; return nil itself"
	}
	switch cause := value.(type) {
	case runtime.Error:
		text += ": " + cause.Error()
	case string:
		text += ": " + cause
	}
	stack = tail(printable(stack, len(stack)), maxStack)
	final := false
	return &document{Type: typeName(err), Message: printable(text, 1000), Stack: &stack, Retryable: &final}
}

func typeName(err error) string {
	if _, ok := err.(*panicked); ok {
		return "panic"
	}
	return printable(strings.TrimPrefix(reflect.TypeOf(err).String(), "*"), 255)
}

// printable is UTF-8 of at most so many bytes.
func printable(text string, limit int) string {
	text = strings.ToValidUTF8(text, "\uFFFD")
	if len(text) <= limit {
		return text
	}
	for limit > 0 && !utf8.RuneStart(text[limit]) {
		limit--
	}
	return text[:limit]
}

func tail(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	return strings.ToValidUTF8(text[len(text)-limit:], "")
}

// encode is the document's text. Details that cannot be stored are left out, and said so: the failure itself must not be lost.
func (d *document) encode() []byte {
	text, err := payload.Encode(d)
	if err == nil {
		return text
	}
	plain := *d
	plain.Details, plain.Stack, plain.Cause = nil, nil, nil
	plain.Message = printable(d.Message+" ("+err.Error()+")", maxMessage)
	text, err = payload.Encode(&plain)
	if err != nil {
		return []byte(`{"type":"error","code":null,"message":"an error that cannot be written"}`)
	}
	return text
}

func readDocument(data []byte) *document {
	out := &document{}
	if len(data) == 0 || payload.Decode(data, out) != nil {
		// A document written by hand: what it says is all there is.
		return &document{Type: "Error", Message: string(data)}
	}
	return out
}

// rebuild is the error a caller sees. step: it is a step's outcome, else a run's.
func (a *App) rebuild(d *document, step bool) *Error {
	out := &Error{Code: ErrStepFailed, Message: d.Message, Type: d.Type, Details: d.Details, step: step}
	if !step {
		out.Code = ErrRunFailed
	}
	if d.Stack != nil {
		out.Stack = *d.Stack
	}
	if d.Cause != nil {
		out.cause = a.rebuild(d.Cause, step)
	}
	if d.Code == nil {
		return out
	}
	out.Code = Code(*d.Code)
	known := a.declared.named(*d.Code)
	switch {
	case known == nil:
	case known.sentinel != nil:
		out.declared = known.sentinel
	default:
		rebuilt, err := known.rebuild(d.Details)
		if err != nil {
			out.Message += " (the declared " + known.kind.String() + " could not be rebuilt: " + err.Error() + ")"
		} else {
			out.declared = rebuilt
		}
	}
	return out
}

// ofRun is the error a caller of Result sees: run_failed around the run's own error.
func (a *App) ofRun(d *document, run string) *Error {
	inner := a.rebuild(d, false)
	if inner.Code == ErrRunCancelled {
		inner.Run = run
		return inner
	}
	text := d.Type
	if d.Message != "" {
		text += ": " + d.Message
	}
	return &Error{Code: ErrRunFailed, Message: text, Type: d.Type, Details: d.Details, Stack: inner.Stack, Run: run, cause: inner}
}
