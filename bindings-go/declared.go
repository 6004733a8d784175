package everstep

import (
	"fmt"
	"reflect"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/everstep/everstep/bindings-go/internal/payload"
)

// declaration is an error of the program's own that is recognised again after it was recorded.
type declaration struct {
	code string
	// One of the two: a value that errors.Is compares with, or a type that is rebuilt from its fields.
	sentinel error
	rebuild  func(details any) (error, error)
	find     func(err error) (any, bool)
	kind     reflect.Type
	// where it was declared, for messages.
	where string
}

// recognised is what a declared error is recorded as.
type recognised struct {
	code   string
	fields any
	// kind is the type it was rebuilt from, "" for a value.
	kind string
}

type declarations struct {
	mu     sync.RWMutex
	byCode map[string]*declaration
	list   []*declaration
}

func (d *declaration) String() string {
	if d.sentinel != nil {
		return fmt.Sprintf("the error %q declared at %s", printable(d.sentinel.Error(), 100), d.where)
	}
	return fmt.Sprintf("the type %v declared at %s", d.kind, d.where)
}

// declare checks what any declaration needs. A code is a name in rows, like a step's.
func (a *App) declare(one *declaration) error {
	if len(one.code) == 0 || len(one.code) > 255 || !utf8.ValidString(one.code) || strings.ContainsFunc(one.code, unicode.IsControl) {
		return refuse(ErrIDInvalid, "an error's code must be 1 to 255 bytes of UTF-8 without control characters, not %.300q", one.code)
	}
	a.mu.Lock()
	closing := a.closing
	a.mu.Unlock()
	if closing {
		return errClosed()
	}
	return a.declared.add(one)
}

func (d *declarations) add(one *declaration) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if Code(one.code).known() {
		return refuse(ErrAlreadyRegistered, "the error code %q is the engine's; give this error another", one.code)
	}
	if known := d.byCode[one.code]; known != nil {
		return refuse(ErrAlreadyRegistered, "the error code %q is taken by %s; this is %s: give it another", one.code, known, one)
	}
	if d.byCode == nil {
		d.byCode = map[string]*declaration{}
	}
	d.byCode[one.code] = one
	d.list = append(d.list, one)
	return nil
}

// of is what an error, or anything it wraps, was declared as: the outermost, for that is what the program calls it.
func (d *declarations) of(err error) *recognised {
	for _, node := range unwrapped(err) {
		if found := d.itself(node); found != nil {
			return found
		}
	}
	return nil
}

// itself is what this error alone was declared as, whatever it wraps.
func (d *declarations) itself(err error) *recognised {
	if ours, ok := err.(*Error); ok {
		if ours.Code.known() {
			return nil
		}
		// Declared by this program or by another: a code of nobody's would not have come here.
		return &recognised{code: string(ours.Code), fields: ours.Details, kind: ours.Type}
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	for _, one := range d.list {
		if one.sentinel != nil {
			if is(err, one.sentinel) {
				return &recognised{code: one.code}
			}
		} else if fields, ok := one.find(err); ok {
			return &recognised{one.code, fields, strings.TrimPrefix(one.kind.String(), "*")}
		}
	}
	return nil
}

// is asks what errors.Is asks of each error on its way.
func is(err, target error) bool {
	if reflect.TypeOf(target).Comparable() && err == target {
		return true
	}
	own, ok := err.(interface{ Is(error) bool })
	return ok && own.Is(target)
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
	return a.declare(&declaration{code: code, sentinel: sentinel, where: a.location(1)})
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
	return app.declare(&declaration{
		code:  code,
		kind:  kind,
		where: app.location(1),
		find: func(err error) (any, bool) {
			found, ok := err.(E)
			if own, can := err.(interface{ As(any) bool }); !ok && can {
				ok = own.As(&found)
			}
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
