package everstep

import (
	"context"
	"errors"
	"reflect"
	"runtime/debug"

	"github.com/everstep/everstep/bindings-go/internal/frame"
	"github.com/everstep/everstep/bindings-go/internal/ops"
	"github.com/everstep/everstep/bindings-go/internal/payload"
)

// None is the input or output of a function that has none: null on the wire.
type None = struct{}

// Step is a declared step: its outcome is recorded before the workflow goes on, and a recorded step never runs again. It is a value, made once; it
// belongs to no engine.
type Step[In, Out any] struct {
	definition stepDefinition
	function   func(ctx context.Context, in In) (Out, error)
}

// stepDefinition is what of a step has no type parameters.
type stepDefinition struct {
	name    string
	options options
	// Why it cannot be used: said at the first call, and at registration.
	err error
}

// NewStep declares a step. What it takes and returns is recorded (see the package's README, "Values"); a type that would lose something is
// ErrPayloadInvalid at the first call. The function's context ends when the run is asked to cancel, the step's time is over, or another
// worker has taken the run over.
func NewStep[In, Out any](name string, function func(ctx context.Context, in In) (Out, error), options ...StepOption) *Step[In, Out] {
	s := &Step[In, Out]{function: function}
	s.definition = define(name, function == nil, options)
	if s.definition.err == nil {
		s.definition.err = checkTypes[In, Out]("step", name)
	}
	return s
}

func define(name string, noFunction bool, given []StepOption) stepDefinition {
	d := stepDefinition{name: name}
	d.err = collect(given, func(option StepOption, o *options) { option.applyStep(o) }, &d.options)
	switch {
	case noFunction:
		d.err = refuse(ErrConfigInvalid, "step %q has no function", name)
	case name == "":
		d.err = refuse(ErrIDInvalid, "a step needs a name")
	}
	return d
}

func checkTypes[In, Out any](kind, name string) error {
	if err := payload.Check(reflect.TypeFor[In]()); err != nil {
		return refuse(ErrPayloadInvalid, "the input of %s %q: %v", kind, name, err)
	}
	if err := payload.Check(reflect.TypeFor[Out]()); err != nil {
		return refuse(ErrPayloadInvalid, "the output of %s %q: %v", kind, name, err)
	}
	return nil
}

// Name is the step's name.
func (s *Step[In, Out]) Name() string { return s.definition.name }

// Do runs the step: in a workflow it is recorded; elsewhere, and inside another step, it is the plain function.
//
// It returns what the function returned, decoded from its recorded bytes: the same on the first run and on replay. An error of the function comes
// back as an *Error that errors.Is and errors.As see through (see DeclareError). WithStepKey as an option tells calls without arguments apart.
func (s *Step[In, Out]) Do(ctx context.Context, in In, options ...StepOption) (Out, error) {
	return doStep(ctx, s, in, "", options)
}

// doStep is a step at a location, or at its caller's caller's.
func doStep[In, Out any](ctx context.Context, s *Step[In, Out], in In, location string, given []StepOption) (Out, error) {
	var none Out
	if s == nil {
		return none, refuse(ErrConfigInvalid, "the step is nil")
	}
	d := &s.definition
	if len(given) > 0 {
		own := s.definition
		if err := collect(given, func(option StepOption, o *options) { option.applyStep(o) }, &own.options); err != nil {
			return none, err
		}
		d = &own
	}
	if d.err != nil {
		return none, d.err
	}
	b, plain, err := recording(ctx, d)
	if err != nil {
		return none, err
	}
	if plain {
		return s.function(ctx, in)
	}
	arguments, err := encodeInput("argument of step", d.name, in)
	if err != nil {
		return none, err
	}
	if location == "" {
		location = b.execution.app.location(2)
	}
	run := &invoked[In, Out]{step: s, in: in}
	data, err := b.step(ctx, d, location, arguments, run)
	if err != nil {
		return none, err
	}
	if same(data, run.sent) && asItIs(&run.out) {
		return run.out, nil
	}
	return decode[Out]("the result of step", d.name, data)
}

// same: not equal bytes, but the very ones.
func same(a, b []byte) bool { return len(a) > 0 && len(a) == len(b) && &a[0] == &b[0] }

// asItIs: immutable, and read back it is what was written, so there is no need to read it.
func asItIs(value any) bool {
	switch value.(type) {
	case *string, *bool, *int, *int64:
		return true
	}
	return false
}

// Do runs a function without arguments as a step of this name.
func Do[Out any](ctx context.Context, name string, function func(ctx context.Context) (Out, error), options ...StepOption) (Out, error) {
	step := &Step[None, Out]{definition: define(name, function == nil, options)}
	if step.definition.err == nil {
		step.definition.err = checkTypes[None, Out]("step", name)
	}
	step.function = func(ctx context.Context, _ None) (Out, error) { return function(ctx) }
	return doStep(ctx, step, None{}, "", nil)
}

// encodeInput is nil for None: a function without parameters takes nothing, and has no digest.
func encodeInput(what, name string, in any) ([]byte, error) {
	if _, none := in.(None); none {
		return nil, nil
	}
	return encode(what, name, in)
}

// badOutput is a result that cannot be recorded: final, for it will not be better the next time.
type badOutput struct{ error }

func encodeOutput(name string, out any) ([]byte, error) {
	data, err := encode("the result of step", name, out)
	if err != nil {
		return nil, badOutput{err}
	}
	return data, nil
}

// recording is where a step is recorded; plain: it is the plain function here.
func recording(ctx context.Context, d *stepDefinition) (b *branch, plain bool, err error) {
	if ctx == nil {
		return nil, false, refuse(ErrConfigInvalid, "step %q: the context is nil", d.name)
	}
	b, step := where(ctx)
	if b == nil {
		if step == nil && d.options.strict {
			return nil, false, refuse(ErrOutsideRun, "step %q was called outside a workflow, and it is strict", d.name)
		}
		return nil, true, ctx.Err()
	}
	return b, false, b.enter(ctx, "step", d.name)
}

// invocation is a step's function with what it was given, and what it made of it.
type invocation interface {
	attempt(ctx context.Context) ([]byte, error)
}

// invoked keeps what an invocation returned beside its bytes, in one piece of memory.
type invoked[In, Out any] struct {
	step *Step[In, Out]
	in   In
	out  Out
	sent []byte
}

func (i *invoked[In, Out]) attempt(ctx context.Context) ([]byte, error) {
	out, err := i.step.function(ctx, i.in)
	if err != nil {
		return nil, err
	}
	i.out = out
	i.sent, err = encodeOutput(i.step.definition.name, out)
	return i.sent, err
}

// step is one step of a workflow, with its attempts.
func (b *branch) step(ctx context.Context, d *stepDefinition, location string, arguments []byte, run invocation) ([]byte, error) {
	rest := frame.New().Int(ops.KindStep).Str(d.name).Str(location).OptBytes(arguments).Maybe(d.options.key)
	x := b.execution
	v, t, err := b.beginStep(context.Background(), ops.BeginStep, d.options.policy.write(rest))
	// Also where the function ends its goroutine.
	defer func() { x.client.settle(t) }()
	// Whatever came before the verdict of its first attempt here is that attempt's.
	v.order = 0
	var sent []byte
	for err == nil && v.kind == ops.VerdictRun {
		x.replaying.Store(false)
		var arguments *frame.Writer
		sent, arguments = b.attempt(ctx, d, v, run)
		if t.waiter == nil {
			t = x.client.expect()
		}
		used := t
		t = ticket{}
		v, err = x.finishStep(used, ops.FinishStep, arguments)
	}
	if d.options.policy.timeout > 0 {
		x.over(place{b.path, v.seq})
	}
	if err != nil {
		return nil, err
	}
	return x.outcome(v, sent)
}

// outcome is what a recorded verdict means; sent stands where it names no value.
func (x *execution) outcome(v verdict, sent []byte) ([]byte, error) {
	value := v.value
	if value == nil {
		value = sent
	}
	if v.failed {
		return nil, x.app.rebuild(readDocument(value), true)
	}
	return value, nil
}

// attempt runs the function once. It returns what it would record, and finish_step's arguments.
func (b *branch) attempt(ctx context.Context, d *stepDefinition, v verdict, run invocation) ([]byte, *frame.Writer) {
	x := b.execution
	inner := newStepContext(ctx, x, place{b.path, v.seq}, d.name, v.attempt, v.key)
	inner.step.shielded, inner.step.after = b.flags&ops.FlagShielded != 0, v.order
	step := &inner.step
	x.begins(step)
	b.lane.step = step
	output, err := guarded(func() ([]byte, error) { return run.attempt(inner) }, func() {
		// Also where the function ends its goroutine: the deferred calls of the workflow run next.
		b.lane.step = nil
		x.ends(step)
		inner.cancel(nil)
	})
	w := frame.New().Int(int64(x.id)).Str(b.path).Int(v.seq).Int(v.attempt)
	return x.attempted(w, d, step, output, err)
}

// guarded turns a panic into an error with its stack.
func guarded(run func() ([]byte, error), after func()) (output []byte, err error) {
	defer after()
	defer func() {
		if value := recover(); value != nil {
			output, err = nil, &panicked{value, string(debug.Stack())}
		}
	}()
	return run()
}

// attempted adds how an attempt ended to what finish_step begins with.
func (x *execution) attempted(w *frame.Writer, d *stepDefinition, step *runningStep, output []byte, err error) ([]byte, *frame.Writer) {
	signal := step.signalled()
	switch {
	case signal == "timeout":
		err = refuse(ErrStepTimeout, "step %q took longer than %v", d.name, d.options.policy.timeout)
	case signal != "" && errors.Is(err, context.Canceled):
		// Cut short by a cancel or a stop: nothing is recorded.
		return nil, w.Bool(false).Bytes(nil).Bool(false).Null().Null().Bool(true)
	case err == nil:
		return output, w.Bool(false).Bytes(output)
	}
	data, kind, message, retryable := x.app.failureOf(err, d.options.policy.retry)
	return data, w.Bool(true).Bytes(data).Bool(retryable).Str(kind).Str(message).Bool(false)
}

// failureOf is an error as the engine takes it. Describing it calls methods of the program's (Error, Is, Unwrap, a retry's If), here outside any
// function of the program: a panic in one, of a nil pointer in an error first of all, must not take the process down.
func (a *App) failureOf(err error, retry *Retry) (data []byte, kind, message string, retryable bool) {
	defer func() {
		if value := recover(); value != nil {
			document := undescribed(err, value, string(debug.Stack()))
			data, kind, message, retryable = document.encode(), document.Type, document.Message, false
		}
	}()
	retryable = retry == nil || retry.If == nil || retry.If(err)
	var bad badOutput
	if errors.As(err, &bad) {
		err, retryable = bad.error, false
	}
	document := a.documentOf(err, retryable)
	return document.encode(), printable(document.Type, 255), printable(document.Message, 1000), *document.Retryable
}

// IdempotencyKey is the key to pass to an outside service: the same in every attempt of this step, whatever dies in between.
func IdempotencyKey(ctx context.Context) (string, error) {
	if ctx == nil {
		return "", refuse(ErrConfigInvalid, "IdempotencyKey: the context is nil")
	}
	if _, step := where(ctx); step != nil {
		return string(step.step.idempotencyKey), nil
	}
	return "", refuse(ErrOutsideStep, "an idempotency key exists only inside a step: outside there is nothing it could stay the same for")
}

// inside is the execution a context belongs to, in a step or between them; nil outside a run.
func inside(ctx context.Context) *execution {
	switch b, step := where(ctx); {
	case b != nil:
		return b.execution
	case step != nil:
		return step.execution
	}
	return nil
}

// RunAttempt is which attempt of the whole run this code belongs to, from 1; a workflow's retry policy raises it. 0 outside a run.
func RunAttempt(ctx context.Context) int {
	if x := inside(ctx); x != nil {
		return int(x.attempt)
	}
	return 0
}

// Attributes are those the run was started with: string, bool, int64 or float64. nil where there are none, and outside a run.
func Attributes(ctx context.Context) map[string]any {
	if x := inside(ctx); x != nil {
		return attributesOf(x.attributes)
	}
	return nil
}

// TraceParent is the W3C trace context the run was started with (WithTrace), "" where it has none, and outside a run.
func TraceParent(ctx context.Context) string {
	if x := inside(ctx); x != nil {
		return x.traceParent
	}
	return ""
}

// Attempt is which attempt of the running step this is, from 1; a plain call outside a run is the first.
func Attempt(ctx context.Context) int {
	if _, step := where(ctx); step != nil {
		return int(step.step.attempt)
	}
	return 1
}

// RunKey is the key of the run this code belongs to, "" outside one.
func RunKey(ctx context.Context) string {
	if x := inside(ctx); x != nil {
		return x.run
	}
	return ""
}

// RunID is the id the run was started with, "" where it has none.
func RunID(ctx context.Context) string {
	if x := inside(ctx); x != nil {
		return x.runID
	}
	return ""
}

// Replaying is true while recorded calls are handed back.
func Replaying(ctx context.Context) bool {
	b, _ := where(ctx)
	return b != nil && b.execution.replaying.Load()
}
