package everstep_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	everstep "github.com/everstep/everstep/bindings-go"
)

// A wait that a derived context cut short went on in the engine: a Receive took the next message to a place nobody read.
func TestAReceiveThatADeadlineEndsTakesNoMessage(t *testing.T) {
	ctx := context.Background()
	app := open(t, file(t), everstep.WithReplayAlways())
	w := register(t, app, "waits", func(ctx everstep.Context, _ everstep.None) (int, error) {
		self := everstep.RunByKey[int](app, everstep.RunKey(ctx))
		for _, wait := range []func(ctx context.Context) error{
			func(ctx context.Context) error { _, _, err := everstep.Receive[int](ctx, "topic"); return err },
			func(ctx context.Context) error { _, _, err := everstep.GetEvent[int](ctx, self, "key"); return err },
			func(ctx context.Context) error { return second(self.Result(ctx)) },
			func(ctx context.Context) error { return everstep.SleepUntil(ctx, time.Now().Add(time.Hour)) },
			func(ctx context.Context) error { return everstep.Sleep(ctx, time.Hour) },
		} {
			bounded, stop := context.WithTimeout(ctx, 50*time.Millisecond)
			err := wait(bounded)
			stop()
			if !errors.Is(err, context.DeadlineExceeded) {
				return 0, fmt.Errorf("it was not cut short: %w", err)
			}
		}
		bounded, stop := context.WithTimeout(ctx, 50*time.Millisecond)
		// Said twice, and the answer must not depend on which of them is over first here and which on replay.
		_, got, err := everstep.Receive[int](bounded, "topic", everstep.WithTimeout(time.Hour))
		stop()
		if got || err != nil {
			return 0, fmt.Errorf("nothing was sent: %t, %w", got, err)
		}
		if err := self.Send(ctx, "topic", 42); err != nil {
			return 0, err
		}
		out, _, err := everstep.Receive[int](ctx, "topic", everstep.WithTimeout(patience/2))
		return out, err
	})
	launch(t, app)
	run, err := w.Start(ctx, everstep.None{})
	must(t, err)
	if out, err := run.Result(ctx, everstep.WithTimeout(patience)); out != 42 || err != nil {
		t.Errorf("%d, %v", out, err)
	}
}

// over is a context that ends just after a call has looked at it.
type over struct {
	context.Context
	looked bool
}

func (o *over) Err() error {
	if !o.looked {
		o.looked = true
		return nil
	}
	return context.Canceled
}

func (o *over) Done() <-chan struct{} {
	done := make(chan struct{})
	close(done)
	return done
}

// The mark of an at-most-once step commits whether or not its caller still waits: left there, the step was neither run nor ever ended.
func TestWhatTakesEffectInTheEngineIsNotLeftThere(t *testing.T) {
	app := open(t, file(t))
	register(t, app, "child", func(_ everstep.Context, n int) (int, error) { return n, nil })
	w := register(t, app, "parent", func(ctx everstep.Context, _ everstep.None) (int, error) {
		// The context of the step is over as well; this one does not look.
		marked, err := everstep.Do(&over{Context: ctx}, "once", func(context.Context) (int, error) { return 40, nil }, everstep.AtMostOnce())
		if err != nil {
			return 0, err
		}
		child, err := everstep.Reference[int, int](app, "child").Start(&over{Context: ctx}, 2)
		if err != nil {
			return 0, err
		}
		out, err := child.Result(ctx)
		return marked + out, err
	})
	launch(t, app)
	run, err := w.Start(context.Background(), everstep.None{})
	must(t, err)
	if out, err := run.Result(context.Background(), everstep.WithTimeout(patience)); out != 42 || err != nil {
		t.Errorf("%d, %v", out, err)
	}
}
