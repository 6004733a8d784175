// Package everstep is the shape of the real one, for the analyzer's test: its types, nothing that runs.
package everstep

import (
	"context"
	"log/slog"
	"time"
)

type Context interface{ context.Context }

type Step[In, Out any] struct{}

func (s *Step[In, Out]) Do(ctx context.Context, in In) (out Out, err error) { return out, err }

func Sleep(ctx context.Context, d time.Duration) error { return ctx.Err() }

func RunKey(ctx context.Context) string { return "" }

func WithID(id string) string { return id }

func Do[Out any](ctx context.Context, name string, f func(context.Context) (Out, error)) (Out, error) {
	return f(ctx)
}

func All[R any](ctx context.Context, branches ...func(Context) (R, error)) ([]R, error) {
	return nil, nil
}

func Logger(ctx context.Context) *slog.Logger { return slog.Default() }

func RunID(ctx context.Context) string { return "" }
