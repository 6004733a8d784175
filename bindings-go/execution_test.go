package everstep

import (
	"context"
	"errors"
	"testing"

	"github.com/everstep/everstep/bindings-go/internal/frame"
	"github.com/everstep/everstep/bindings-go/internal/ops"
)

// idle is an execution of no engine, in which nothing runs.
func idle() *execution {
	x := &execution{ended: make(chan struct{})}
	x.ctx, x.cancel = context.WithCancelCause(context.Background())
	return x
}

// begun is an attempt at this place that begins now, by an answer of this order.
func begun(x *execution, at place, attempt int64, after uint64, shielded bool) *runningStep {
	step := &newStepContext(x.ctx, x, at, "step", attempt, nil).step
	step.after, step.shielded = after, shielded
	x.begins(step)
	return step
}

// The engine counts an attempt's time from when it sends the verdict; the attempt is known here when its goroutine gets to run.
func TestASignalReachesTheAttemptThatIsAboutToBegin(t *testing.T) {
	at := place{"", 3}
	timeout := func() []byte { return frame.New().Str("timeout").Str(at.branch).Int(at.seq).Data() }
	wants := func(what string, step *runningStep, signal string) {
		t.Helper()
		if got := step.signalled(); got != signal || (step.context.Err() != nil) != (signal != "") {
			t.Errorf("%s: %q, %v", what, got, step.context.Err())
		}
	}
	x := idle()
	x.signal(timeout(), 5)
	first := begun(x, at, 1, 0, false)
	wants("the timeout of the first", first, "timeout")
	x.ends(first)
	second := begun(x, at, 2, 9, false)
	wants("its timeout, once it was had", second, "")
	x.ends(second)
	x.signal(timeout(), 11)
	third := begun(x, at, 3, 12, false)
	wants("the timeout of the second, which had returned", third, "")
	x.ends(third)
	x.signal(timeout(), 20)
	fourth := begun(x, at, 4, 19, false)
	wants("the timeout of the fourth", fourth, "timeout")
	x.ends(fourth)
	x.signal(timeout(), 21)
	x.over(at)
	if len(x.early) != 0 {
		t.Errorf("kept: %v", x.early)
	}

	x = idle()
	x.signal(frame.New().Str("cancel").Str("me").Str("enough").Data(), 1)
	wants("clean-up", begun(x, at, 1, 0, true), "")
	cancelled := begun(x, at, 1, 0, false)
	wants("a step", cancelled, "cancel")
	if cause := context.Cause(cancelled.context); !errors.Is(cause, ErrRunCancelled) {
		t.Errorf("the cause is %v", cause)
	}
}

// The batch it came in holds up to a thousand other answers; a step may keep its key for hours.
func TestAStepKeepsItsKeyAndNotTheBatchItCameIn(t *testing.T) {
	batch := frame.New().Int(ops.VerdictRun).Int(3).Int(1).Str("a key").Data()
	waiter := make(chan answer, 1)
	waiter <- answer{frame: batch, order: 7}
	v, err := idle().await(context.Background(), ticket{1, waiter})
	clear(batch)
	if err != nil || string(v.key) != "a key" || v.seq != 3 || v.order != 7 {
		t.Errorf("%+v, %v", v, err)
	}
}
