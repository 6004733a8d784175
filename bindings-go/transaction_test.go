package everstep_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	everstep "github.com/everstep/everstep/bindings-go"
)

// lent is a source whose transactions say how long a rollback may take.
type lent struct{ rolledBack chan time.Duration }

func (l lent) Begin(context.Context) (everstep.OpenTransaction[int], error) { return l, nil }
func (l lent) State(error) (string, bool)                                   { return "", false }
func (l lent) Given() int                                                   { return 0 }
func (l lent) Guard(context.Context, string, []any) (string, error)         { return "ok", nil }
func (l lent) Commit(context.Context) error                                 { return nil }
func (l lent) Rollback(ctx context.Context) error {
	deadline, _ := ctx.Deadline()
	l.rolledBack <- time.Until(deadline)
	return nil
}

func TestARollbackIsBounded(t *testing.T) {
	source := lent{make(chan time.Duration, 1)}
	failing, err := everstep.NewTransactionOn(open(t, file(t)), "fails", source, func(context.Context, int, int) (int, error) { return 0, errDeclined })
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if _, err := failing.Do(ctx, 1); !errors.Is(err, errDeclined) {
		t.Errorf("got %v", err)
	}
	if left := <-source.rolledBack; left <= 0 || left > 10*time.Second {
		t.Errorf("it may take %v", left)
	}
}

var errConflict = errors.New("another transaction was first")

// conflicting is a source whose database says of every error that it was a conflict.
type conflicting struct{ lent }

func (c conflicting) Begin(context.Context) (everstep.OpenTransaction[int], error) { return c, nil }
func (c conflicting) State(err error) (string, bool) {
	if errors.Is(err, errConflict) {
		return "40001", false
	}
	return "", false
}
func (c conflicting) Rollback(context.Context) error { return nil }

// The engine says once that the time of an attempt is over. Between two tries after a conflict nothing ran that could hear it, and the next try, which waited
// for a lock, had no limit any more.
func TestATimeThatIsOverBetweenTwoTriesEndsTheNext(t *testing.T) {
	var begun atomic.Pointer[time.Time]
	app := open(t, file(t))
	move, err := everstep.NewTransactionOn(app, "moves", conflicting{}, func(ctx context.Context, _ int, _ everstep.None) (int, error) {
		now := time.Now()
		if begun.CompareAndSwap(nil, &now); time.Since(*begun.Load()) < 500*time.Millisecond {
			return 0, errConflict
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(patience / 4):
			return 0, errors.New("nothing bounds it")
		}
	}, everstep.WithTimeout(100*time.Millisecond))
	must(t, err)
	w := register(t, app, "moves", func(ctx everstep.Context, _ everstep.None) (int, error) { return move.Do(ctx, everstep.None{}) })
	launch(t, app)
	run, err := w.Start(context.Background(), everstep.None{})
	must(t, err)
	wants(t, second(run.Result(context.Background(), everstep.WithTimeout(patience))), everstep.ErrStepTimeout)
}
