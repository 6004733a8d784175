package everstep

import (
	"context"
	"errors"
)

// Serve is the whole life of a worker: it launches, works until the context ends, and then closes as Close does, with 25 s for the runs at hand. With
// signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM) that is a worker which an orchestrator can stop at any time. Add context.AfterFunc(ctx, stop):
// until its stop is called NotifyContext swallows every further signal, and a second Ctrl-C would not cut those 25 s short. An engine that is launched
// already is not launched again. It returns what Launch or Close returned, also after a Close from elsewhere; the end of the context is no error.
func (a *App) Serve(ctx context.Context) error {
	err := a.Launch(ctx)
	if errors.Is(err, ErrAlreadyLaunched) {
		err = nil
	}
	if err == nil {
		select {
		case <-ctx.Done():
		case <-a.over:
		}
	}
	if ctx == nil || a == nil {
		return err
	}
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		err = nil // It was stopped while it connected.
	}
	return errors.Join(err, a.Close(context.WithoutCancel(ctx)))
}
