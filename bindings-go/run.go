package everstep

import (
	"context"
	"time"

	"github.com/everstep/everstep/bindings-go/internal/frame"
	"github.com/everstep/everstep/bindings-go/internal/ops"
)

// handle is what a Run is without its type.
type handle struct {
	app      *App
	key      string
	id       string
	attached bool
}

// AnyRun is a Run of whatever result.
type AnyRun interface{ itself() *handle }

// Run is a handle of a run. Making one looks nothing up.
type Run[Out any] struct{ handle handle }

// itself is nil of a nil Run, which a method that came with an embedded handle could not say: it would panic on the way.
func (r *Run[Out]) itself() *handle {
	if r == nil {
		return nil
	}
	return &r.handle
}

// RunByID is the handle of the run with this id.
func RunByID[Out any](app *App, id string) (*Run[Out], error) {
	key, err := app.KeyOf(id)
	if err != nil {
		return nil, err
	}
	return &Run[Out]{handle{app: app, key: key, id: id}}, nil
}

// RunByKey is the handle of the run with this key.
func RunByKey[Out any](app *App, key string) *Run[Out] {
	return &Run[Out]{handle{app: app, key: key}}
}

// Key is the run's key, a uuid.
func (r *Run[Out]) Key() string {
	if r == nil {
		return ""
	}
	return r.handle.key
}

// ID is the id it was started with, "" where this handle does not know one.
func (r *Run[Out]) ID() string {
	if r == nil {
		return ""
	}
	return r.handle.id
}

// Attached is true when the run existed before this Start.
func (r *Run[Out]) Attached() bool { return r != nil && r.handle.attached }

func (h *handle) check() error {
	if h == nil || h.app == nil {
		return refuse(ErrConfigInvalid, "the run is nil: use what Start returned, or RunByID")
	}
	return nil
}

// Result waits for the run's end and returns its value. Inside a workflow this is a recorded wait.
//
// Errors: ErrRunFailed, around the run's own error; ErrRunCancelled; ErrRunBlocked; ErrResultTimeout, which says what the run waits for, when the time
// of WithTimeout or the context's deadline is over; the context's error when it is cancelled.
func (r *Run[Out]) Result(ctx context.Context, given ...WaitOption) (Out, error) {
	var none Out
	data, err := r.itself().result(ctx, 2, given)
	if err != nil {
		return none, err
	}
	return decode[Out]("the result of run", r.handle.key, data)
}

func (h *handle) result(ctx context.Context, skip int, given []WaitOption) ([]byte, error) {
	limit, err := waiting(given)
	if err == nil {
		err = h.check()
	}
	if err != nil {
		return nil, err
	}
	b, err := h.app.parent(ctx, "Result")
	if err != nil {
		return nil, err
	}
	if b != nil {
		return h.childResult(ctx, b, b.execution.app.location(skip), limit)
	}
	h.app.waits()
	if deadline, ok := ctx.Deadline(); ok && limit == nil {
		// A little earlier than the context, so that the engine's answer, which says what the run waits for, is there first.
		left := time.Until(deadline)
		early := max(0, milliseconds(left-min(left/10, 100*time.Millisecond)))
		limit = &early
	}
	r, err := h.app.ask(ctx, ops.AwaitResult, frame.New().Str(h.key).OptInt(limit))
	if err != nil {
		return nil, h.about(err)
	}
	state, value := r.Str(), r.Bytes()
	switch state {
	case "succeeded":
		return value, r.Err()
	case "cancelled":
		d := readDocument(value)
		if d.Message == "" {
			d.Message = "the run was cancelled"
		}
		return nil, &Error{Code: ErrRunCancelled, Message: d.Message, Run: h.key}
	}
	return nil, h.app.ofRun(readDocument(value), h.key)
}

// about names the run in an error of the engine. In a copy: the cause of a context is one error for all who see it.
func (h *handle) about(err error) error {
	ours, is := err.(*Error)
	if !is || ours.Run != "" {
		return err
	}
	named := *ours
	named.Run = h.key
	return &named
}

func (h *handle) childResult(ctx context.Context, b *branch, location string, limit *int64) ([]byte, error) {
	limit, _ = b.limited(ctx, limit)
	rest := frame.New().Str("result").Str(location).OptInt(limit).Null().Str(h.key)
	v, err := b.begin(b.shorter(ctx), ops.BeginWait, rest)
	if err != nil || !v.failed {
		return v.value, err
	}
	d := readDocument(v.value)
	if d.Code != nil && (Code(*d.Code) == ErrResultTimeout || Code(*d.Code) == ErrRunNotFound) {
		return nil, h.about(h.app.rebuild(d, false))
	}
	return nil, h.app.ofRun(d, h.key)
}

// Send sends the run a message; it is kept until it is received. Inside a workflow the send is recorded.
func (r *Run[Out]) Send(ctx context.Context, topic string, message any, given ...SendOption) error {
	return r.itself().send(ctx, topic, message, 2, given)
}

func (h *handle) send(ctx context.Context, topic string, message any, skip int, given []SendOption) error {
	o := options{}
	err := collect(given, func(option SendOption, o *options) { option.applySend(o) }, &o)
	if err == nil {
		err = h.check()
	}
	if err != nil {
		return err
	}
	data, err := encode("the message on topic", topic, message)
	if err != nil {
		return err
	}
	b, err := h.app.parent(ctx, "Send")
	if err != nil {
		return err
	}
	if b != nil {
		rest := frame.New().Str(h.app.location(skip)).Str(h.key).Str(topic).Bytes(data).Maybe(o.idempotencyKey)
		_, err = b.recorded(context.Background(), ops.BeginSend, rest)
		return h.about(err)
	}
	_, err = h.app.ask(ctx, ops.Send, frame.New().Str(h.key).Str(topic).Bytes(data).Maybe(o.idempotencyKey))
	return h.about(err)
}

// GetEvent waits for a value a run publishes. It returns false when the time of WithTimeout is over, or the run has ended without it. Inside a workflow the wait is recorded.
func GetEvent[T any](ctx context.Context, run AnyRun, key string, given ...WaitOption) (T, bool, error) {
	var none T
	if isNil(run) {
		return none, false, refuse(ErrConfigInvalid, "the run is nil: use what Start returned, or RunByID")
	}
	data, err := run.itself().event(ctx, key, 2, given)
	if err != nil || data == nil {
		return none, false, err
	}
	out, err := decode[T]("event", key, data)
	return out, err == nil, err
}

func (h *handle) event(ctx context.Context, key string, skip int, given []WaitOption) ([]byte, error) {
	limit, err := waiting(given)
	if err == nil {
		err = h.check()
	}
	if err != nil {
		return nil, err
	}
	b, err := h.app.parent(ctx, "GetEvent")
	if err != nil {
		return nil, err
	}
	if b != nil {
		due, cut := b.limited(ctx, limit)
		data, err := b.wait(b.shorter(ctx), "event", b.execution.app.location(skip), due, nil, h.key, key)
		if err == nil && data == nil && cut && limit == nil {
			err = context.DeadlineExceeded
		}
		return data, h.about(err)
	}
	h.app.waits()
	r, err := h.app.ask(ctx, ops.GetEvent, frame.New().Str(h.key).Str(key).OptInt(limit))
	if err != nil {
		return nil, h.about(err)
	}
	data := r.Bytes()
	return data, r.Err()
}

// Outcome is what a control call did.
type Outcome string

const (
	// Cancelled: the run had not started; it has ended.
	Cancelled Outcome = "cancelled"
	// Requested: the run sees the cancel at its next call, or in the wait it stands in.
	Requested Outcome = "requested"
	// AlreadyFinished: the run had ended before.
	AlreadyFinished Outcome = "already_finished"
	// Resumed: the run goes on.
	Resumed Outcome = "resumed"
	// NotPossible: the run is in no state for it.
	NotPossible Outcome = "not_possible"
)

func (h *handle) control(ctx context.Context, op uint32, given []ControlOption, arguments func(w *frame.Writer, o *options)) (Outcome, error) {
	o := options{}
	if err := collect(given, func(option ControlOption, o *options) { option.applyControl(o) }, &o); err != nil {
		return "", err
	}
	return h.controlled(ctx, op, &o, arguments)
}

func (h *handle) controlled(ctx context.Context, op uint32, o *options, arguments func(w *frame.Writer, o *options)) (Outcome, error) {
	if err := h.check(); err != nil {
		return "", err
	}
	w := frame.New().Str(h.key)
	arguments(w, o)
	r, err := h.app.ask(ctx, op, w)
	return Outcome(r.Str()), h.about(err)
}

// Cancel asks the run to cancel: its steps get the signal, the workflow sees ErrRunCancelled at its next call.
func (r *Run[Out]) Cancel(ctx context.Context, given ...ControlOption) (Outcome, error) {
	return r.itself().control(ctx, ops.CancelRun, given, func(w *frame.Writer, o *options) { w.Maybe(o.by).OptStr(o.why) })
}

// Resume lets a blocked or cancelled run go on.
func (r *Run[Out]) Resume(ctx context.Context, given ...ControlOption) (Outcome, error) {
	return r.itself().control(ctx, ops.ResumeRun, given, func(w *frame.Writer, o *options) { w.Maybe(o.by) })
}

// Retry lets a failed run go on at the step that failed.
func (r *Run[Out]) Retry(ctx context.Context, given ...ControlOption) (Outcome, error) {
	return r.itself().control(ctx, ops.RetryRun, given, func(w *frame.Writer, o *options) { w.Maybe(o.by) })
}

// Rewind forgets the step at this position (see Steps) and everything completed since; the run goes on from there.
func (r *Run[Out]) Rewind(ctx context.Context, branch string, seq int, given ...RewindOption) (Outcome, error) {
	o := options{}
	if err := collect(given, func(option RewindOption, o *options) { option.applyRewind(o) }, &o); err != nil {
		return "", err
	}
	return r.itself().controlled(ctx, ops.RewindRun, &o, func(w *frame.Writer, o *options) { w.Str(branch).Int(int64(seq)).Maybe(o.by).Bool(o.newEffects) })
}
