// Package everstep is the shape of the real one, for the analyzer's test: its types, nothing that runs.
package everstep

import (
	"context"
	"time"
)

type Context interface{ context.Context }

type Step[In, Out any] struct{}

func (s *Step[In, Out]) Do(ctx context.Context, in In) (out Out, err error) { return out, err }

func Sleep(ctx context.Context, d time.Duration) error { return ctx.Err() }

func RunKey(ctx context.Context) string { return "" }

func WithID(id string) string { return id }
