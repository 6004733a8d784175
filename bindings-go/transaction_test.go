package everstep_test

import (
	"context"
	"errors"
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
