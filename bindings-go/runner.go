package everstep

import (
	"context"
	"errors"
	"log/slog"

	"github.com/everstep/everstep/bindings-go/internal/frame"
	"github.com/everstep/everstep/bindings-go/internal/goroutine"
	"github.com/everstep/everstep/bindings-go/internal/ops"
)

// play is the goroutine of one execution. It ends in one of four ways: the function returned, it panicked, the execution was stopped (the goroutine
// leaves, running its deferred calls), or the function ended its goroutine by itself.
func (x *execution) play(f *registered) {
	defer x.client.runs.Done()
	defer x.client.forget(x)
	own := &x.lane
	own.owner.Store(goroutine.Current())
	b := &branch{Context: x.ctx, execution: x, lane: own}
	returned := false
	defer func() {
		own.owner.Store(0)
		x.cancel(x.app.returned)
		if !x.hasLeft() && !returned && !x.hasStopped() {
			err := errors.New("the function called runtime.Goexit, which ends its goroutine without a result")
			x.finished(f, nil, NonRetryable(err), false)
		}
	}()
	var step *stepContext
	if f.kind == "step" {
		step = newStepContext(x.ctx, x, jobPlace, f.name, x.attempt, []byte(x.idempotencyKey))
		x.begins(&step.step)
	}
	// It lies in the batch of events it came with, which would stay in memory for as long as the run waits.
	input := x.input
	x.input = nil
	output, err := guarded(func() ([]byte, error) { return f.run(b, step, input) }, func() {})
	returned = true
	if x.hasStopped() {
		x.warnAfterStop(err)
		return
	}
	timedOut := step != nil && step.step.signalled() == "timeout"
	if timedOut {
		err = refuse(ErrStepTimeout, "step %q took too long", f.name)
	}
	x.finished(f, output, err, !timedOut && x.endedByCancel(err, step))
}

// endedByCancel: the error is the cancel this run was asked for, and not one of a child's or of a context of the program's own.
// An Is or As of the program's that panics here is no cancel; failureOf says what it is.
func (x *execution) endedByCancel(err error, step *stepContext) (ended bool) {
	defer func() {
		if recover() != nil {
			ended = false
		}
	}()
	if err == nil || !x.isCancelled() {
		return false
	}
	var ours *Error
	if errors.As(err, &ours) && ours.cancel {
		return true
	}
	return step != nil && errors.Is(err, context.Canceled)
}

func (x *execution) finished(f *registered, output []byte, err error, cancelled bool) {
	w := frame.New().Int(int64(x.id))
	if err == nil {
		w.Bool(false).Bytes(output)
	} else {
		var retry *Retry
		if f.retryIf != nil {
			retry = &Retry{If: f.retryIf}
		}
		data, kind, message, retryable := x.app.failureOf(err, retry)
		w.Bool(true).Bytes(data).Str(kind).Str(message).Bool(retryable && !cancelled).Bool(cancelled)
	}
	x.client.submitQuietly(ops.FinishRun, w)
}

// warnAfterStop: a value or an error of a stopped execution counts for nothing; say so once.
func (x *execution) warnAfterStop(err error) {
	if x.warned.Swap(true) {
		return
	}
	what := "the value it returned"
	if err != nil {
		what = "the error it returned"
	}
	x.app.logger().Warn(what+" after this execution had ended is ignored; return at once when the context is done",
		slog.String("workflow", x.name), slog.String("run", x.run), slog.String("why", x.stoppedWhy))
}
