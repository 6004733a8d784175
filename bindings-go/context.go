package everstep

import (
	"context"
	"maps"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/everstep/everstep/bindings-go/internal/goroutine"
)

// Context is what a workflow function gets. It belongs to one branch of one run and to the goroutine that branch runs on: calls from a goroutine the
// engine did not open are ErrForeignThread. It is done when this execution of the run has ended here; a cancel of the run is not that, it comes as
// an error of the next call.
//
// Contexts derived from it (context.WithValue, WithTimeout) work wherever it does. A deadline is recorded as the end of the waits it cuts short; a call
// that has begun to change something (a step, a start, a send) comes to its end all the same. A timeout of Go's inside a workflow is a clock, though, and
// reads another time on replay: prefer WithTimeout on a step or a wait, or Race with a Sleep.
type Context interface {
	context.Context
	workflow() *branch
}

type scopeKey struct{}

// lane is the goroutine a branch runs on, shared by its context and those of its clean-up.
type lane struct {
	// 0 once the branch's function has returned: the runtime uses its record of a goroutine again.
	owner atomic.Uintptr
	// The step that runs on it now. Only the lane's own goroutine touches it.
	step *runningStep
}

// branch is a Context: one position counter of one execution.
type branch struct {
	context.Context
	execution *execution
	path      string
	flags     int64
	lane      *lane
}

func (b *branch) workflow() *branch { return b }

func (b *branch) Value(key any) any {
	if key == (scopeKey{}) {
		return b
	}
	return b.Context.Value(key)
}

// where finds what a context belongs to: a branch, a step, or nothing.
func where(ctx context.Context) (*branch, *stepContext) {
	switch c := ctx.(type) {
	case *branch:
		return c, nil
	case *stepContext:
		return nil, c
	case nil:
		return nil, nil
	}
	switch c := ctx.Value(scopeKey{}).(type) {
	case *branch:
		return c, nil
	case *stepContext:
		return nil, c
	}
	return nil, nil
}

// inWorkflow is where a call that belongs inside a workflow is made from, once it is known to be allowed.
func inWorkflow(ctx context.Context, verb string) (*branch, error) {
	if ctx == nil {
		return nil, refuse(ErrConfigInvalid, "%s: the context is nil", verb)
	}
	b, step := where(ctx)
	switch {
	case step != nil:
		return nil, refuse(ErrOutsideRun, "%s belongs inside a workflow, not inside its step %q", verb, step.step.name)
	case b == nil:
		return nil, refuse(ErrOutsideRun, "%s belongs inside a workflow", verb)
	}
	return b, b.enter(ctx, verb, "")
}

// enter checks who calls. It does not return where the execution has ended.
func (b *branch) enter(ctx context.Context, verb, name string) error {
	if owner := b.lane.owner.Load(); owner != goroutine.Current() {
		verb = label(verb, name)
		if owner == 0 {
			return refuse(ErrForeignThread, "%s: this context's function has returned; a context is good for its own run, and only until then", verb)
		}
		return refuse(ErrForeignThread, "%s from a goroutine the engine did not open, or with another run's context; use All, Any, Race or Map, "+
			"and the context their functions get", verb)
	}
	if step := b.lane.step; step != nil {
		return refuse(ErrOutsideRun, "%s belongs inside a workflow, not inside its step %q: use the context the step gets", label(verb, name), step.name)
	}
	if b.execution.hasStopped() {
		b.execution.leave()
	}
	if ctx != context.Context(b) {
		// Of a context the program derived. Without this the call would take its place in the run and then leave it.
		return ctx.Err()
	}
	return nil
}

// child is a context of the same goroutine with other flags.
func (b *branch) child(flags int64) *branch {
	return &branch{b.Context, b.execution, b.path, b.flags | flags, b.lane}
}

// locations are the texts of the places that were called from. They are few and soon known, and then only read: each addition copies them.
type locations struct {
	mu    sync.Mutex
	known atomic.Pointer[map[uintptr]string]
}

func (l *locations) of(pc uintptr) (string, bool) {
	known := l.known.Load()
	if known == nil {
		return "", false
	}
	text, ok := (*known)[pc]
	return text, ok
}

func (l *locations) add(pc uintptr, text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	grown := map[uintptr]string{pc: text}
	if known := l.known.Load(); known != nil {
		maps.Copy(grown, *known)
	}
	l.known.Store(&grown)
}

// location is file:line of whoever called the exported function that is `skip` frames up: for messages only, so the file and its folder will do.
func (a *App) location(skip int) string {
	var pcs [1]uintptr
	if a == nil {
		return ""
	}
	if runtime.Callers(skip+2, pcs[:]) == 0 {
		return ""
	}
	if known, ok := a.locations.of(pcs[0]); ok {
		return known
	}
	return a.locate(pcs[0])
}

func (a *App) locate(pc uintptr) string {
	frame, _ := runtime.CallersFrames([]uintptr{pc}).Next()
	text := filepath.Base(filepath.Dir(frame.File)) + "/" + filepath.Base(frame.File) + ":" + strconv.Itoa(frame.Line)
	a.locations.add(pc, text)
	return text
}
