package everstep

import (
	"errors"
	"reflect"
	"runtime"
	"strings"
	"sync"
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

// declaration is an error of the program's own that is recognised again after it was recorded.
type declaration struct {
	code string
	// One of the two: a value that errors.Is compares with, or a type that is rebuilt from its fields.
	sentinel error
	rebuild  func(details any) (error, error)
	find     func(err error) (any, bool)
	kind     reflect.Type
}

type declarations struct {
	mu     sync.RWMutex
	byCode map[string]*declaration
	list   []*declaration
}

func (d *declarations) add(one *declaration) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, taken := d.byCode[one.code]; taken || Code(one.code).known() {
		return refuse(ErrAlreadyRegistered, "the error code %q is taken", one.code)
	}
	if one.code == "" {
		return refuse(ErrIDInvalid, "an error code is not empty")
	}
	if d.byCode == nil {
		d.byCode = map[string]*declaration{}
	}
	d.byCode[one.code] = one
	d.list = append(d.list, one)
	return nil
}

// of is the declaration an error, or anything it wraps, falls under, with its fields.
func (d *declarations) of(err error) (*declaration, any) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	for _, one := range d.list {
		if one.sentinel != nil && errors.Is(err, one.sentinel) {
			return one, nil
		}
		if one.find != nil {
			if fields, ok := one.find(err); ok {
				return one, fields
			}
		}
	}
	return nil, nil
}

func (d *declarations) named(code string) *declaration {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.byCode[code]
}

// DeclareError declares an error value of the program by name. It is recorded by that name, and errors.Is finds it on the first run, on replay, and
// in a caller of Result, in this process or another.
func (a *App) DeclareError(code string, sentinel error) error {
	if a == nil || sentinel == nil {
		return refuse(ErrConfigInvalid, "DeclareError takes an app and an error")
	}
	return a.declared.add(&declaration{code: code, sentinel: sentinel})
}

// DeclareErrorType declares an error type of the program by name. It is recorded by its exported fields and rebuilt from them, so that errors.As
// finds it on the first run and on replay alike. E is what your functions return: CardDeclined or *CardDeclined.
func DeclareErrorType[E error](app *App, code string) error {
	kind := reflect.TypeFor[E]()
	if app == nil || kind.Kind() == reflect.Interface {
		return refuse(ErrConfigInvalid, "DeclareErrorType takes an app and a concrete type")
	}
	if err := payload.Check(kind); err != nil {
		return refuse(ErrPayloadInvalid, "error %q: %v", code, err)
	}
	return app.declared.add(&declaration{
		code: code,
		kind: kind,
		find: func(err error) (any, bool) {
			var found E
			ok := errors.As(err, &found)
			return found, ok
		},
		rebuild: func(details any) (error, error) {
			var out E
			// A pointer type is filled in, never left nil.
			if kind.Kind() == reflect.Pointer {
				reflect.ValueOf(&out).Elem().Set(reflect.New(kind.Elem()))
			}
			if details == nil {
				return out, nil
			}
			text, err := payload.Encode(details)
			if err == nil {
				err = payload.Decode(text, &out)
			}
			return out, err
		},
	})
}

// documentOf says what is recorded of an error.
func (a *App) documentOf(err error, retryable bool) *document {
	out := a.describe(err, 0)
	var final nonRetryable
	retryable = retryable && !errors.As(err, &final)
	out.Retryable = &retryable
	return out
}

func (a *App) describe(err error, depth int) *document {
	for {
		if marked, ok := err.(nonRetryable); ok {
			err = marked.error
			continue
		}
		break
	}
	out := &document{Type: typeName(err), Message: printable(err.Error(), maxMessage)}
	var stack *panicked
	if errors.As(err, &stack) {
		text := tail(printable(stack.stack, len(stack.stack)), maxStack)
		out.Stack = &text
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
	} else if known, fields := a.declared.of(err); known != nil {
		out.Code, out.Details = &known.code, fields
		if fields != nil {
			out.Type = strings.TrimPrefix(known.kind.String(), "*")
		}
	}
	if cause := errors.Unwrap(err); cause != nil && depth < maxCauses {
		out.Cause = a.describe(cause, depth+1)
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
		cause := a.rebuild(d.Cause, step)
		out.cause = cause
	}
	if d.Code == nil {
		return out
	}
	out.Code = Code(*d.Code)
	known := a.declared.named(*d.Code)
	switch {
	case known == nil:
	case known.sentinel != nil:
		out.cause = known.sentinel
	default:
		rebuilt, err := known.rebuild(d.Details)
		if err != nil {
			out.Message += " (the declared " + known.kind.String() + " could not be rebuilt: " + err.Error() + ")"
		} else {
			out.cause = rebuilt
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
