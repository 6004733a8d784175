package everstep

import (
	"context"
	"sync"
	"time"
)

// stepContext is what a step's function gets. It can be cancelled by itself, but most steps are short and never look: what a cancel needs, a place
// among its parent's children first of all, is made when somebody asks. That was a tenth of what a step cost here.
type stepContext struct {
	parent    context.Context
	execution *execution
	step      runningStep

	mu sync.Mutex
	// Made at the first question.
	context context.Context
	end     context.CancelCauseFunc
	// What ended it before anybody had asked; nil is a cause too.
	ended bool
	cause error
}

func newStepContext(parent context.Context, x *execution, at place, name string, attempt int64, idempotencyKey []byte) *stepContext {
	s := &stepContext{parent: parent, execution: x, step: runningStep{at: at, name: name, attempt: attempt, idempotencyKey: idempotencyKey}}
	s.step.context = s
	return s
}

func (s *stepContext) cancel(cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.context != nil {
		s.end(cause)
	} else if !s.ended {
		s.ended, s.cause = true, cause
	}
}

func (s *stepContext) inner() context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.context == nil {
		parent := s.parent
		if s.ended {
			// Whatever has happened to the run since, this came first.
			parent = context.WithoutCancel(parent)
		}
		s.context, s.end = context.WithCancelCause(parent)
		if s.ended {
			s.end(s.cause)
		}
	}
	return s.context
}

func (s *stepContext) Deadline() (time.Time, bool) { return s.parent.Deadline() }
func (s *stepContext) Done() <-chan struct{}       { return s.inner().Done() }
func (s *stepContext) Err() error                  { return s.inner().Err() }

// Value of an unknown key may be package context's own, which finds a cancel's cause by it.
func (s *stepContext) Value(key any) any {
	if key == (scopeKey{}) {
		return s
	}
	return s.inner().Value(key)
}
