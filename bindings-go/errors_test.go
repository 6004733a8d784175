package everstep_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	everstep "github.com/everstep/everstep/bindings-go"
)

var errOutOfStock = errors.New("out of stock")

// exceeded is declared by its type, and wraps what it is due to.
type exceeded struct {
	Limit int   `json:"limit"`
	Cause error `json:"-"`
}

func (l *exceeded) Error() string { return fmt.Sprint("over the limit of ", l.Limit) }
func (l *exceeded) Unwrap() error { return l.Cause }

// asRecorded are a step's error as its workflow sees it, and the run's error as a caller of Result does: both have crossed the database.
func asRecorded(t *testing.T, fails func() error) (inWorkflow, inCaller error) {
	t.Helper()
	ctx := context.Background()
	app := open(t, file(t), everstep.WithReplayAlways())
	must(t, app.DeclareError("card_declined", errDeclined))
	must(t, app.DeclareError("out_of_stock", errOutOfStock))
	must(t, everstep.DeclareErrorType[*exceeded](app, "limit"))
	seen := make(chan error, 100)
	w := register(t, app, "fails", func(ctx everstep.Context, _ everstep.None) (int, error) {
		_, err := everstep.Do(ctx, "fails", func(context.Context) (int, error) { return 0, fails() })
		if _, other := plusOne.Do(ctx, 1); other != nil {
			return 0, other
		}
		seen <- err
		return 0, fmt.Errorf("the order: %w", err)
	})
	launch(t, app)
	run, err := w.Start(ctx, everstep.None{})
	must(t, err)
	_, err = run.Result(ctx, everstep.WithTimeout(patience))
	wants(t, err, everstep.ErrRunFailed)
	return <-seen, err
}

func TestWhatErrorsIsFindsInATreeItFindsAfterTheDatabase(t *testing.T) {
	for name, c := range map[string]struct {
		fails func() error
		is    []error
		limit int
	}{
		"joined":              {func() error { return errors.Join(errDeclined, errOutOfStock) }, []error{errDeclined, errOutOfStock}, 0},
		"joined, other order": {func() error { return errors.Join(errOutOfStock, errors.New("x"), errDeclined) }, []error{errDeclined, errOutOfStock}, 0},
		"two %w":              {func() error { return fmt.Errorf("%w and %w", errOutOfStock, &exceeded{Limit: 3}) }, []error{errOutOfStock}, 3},
		"nested": {func() error {
			return fmt.Errorf("a: %w", errors.Join(errors.New("b"), fmt.Errorf("c: %w", errDeclined), &exceeded{Limit: 4}))
		}, []error{errDeclined}, 4},
		"declared around declared": {func() error { return &exceeded{5, fmt.Errorf("because: %w", errDeclined)} }, []error{errDeclined}, 5},
		"not to be retried":        {func() error { return errors.Join(errDeclined, everstep.NonRetryable(errOutOfStock)) }, []error{errDeclined, errOutOfStock}, 0},
		"panicked":                 {func() error { panic(errors.Join(errOutOfStock, errDeclined)) }, []error{errDeclined, errOutOfStock}, 0},
		"very many": {func() error {
			all := []error{}
			for i := range 2000 {
				all = append(all, fmt.Errorf("item %d", i))
				if i == 400 {
					all = append(all, errDeclined, errOutOfStock)
				}
			}
			return errors.Join(all...)
		}, []error{errDeclined, errOutOfStock}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			inWorkflow, inCaller := asRecorded(t, c.fails)
			for _, err := range []error{inWorkflow, inCaller} {
				for _, target := range c.is {
					if !errors.Is(err, target) {
						t.Errorf("%v is no longer %v", err, target)
					}
				}
				var limit *exceeded
				if errors.As(err, &limit) != (c.limit > 0) || limit != nil && limit.Limit != c.limit {
					t.Errorf("%v is %+v", err, limit)
				}
			}
		})
	}
}

func TestAnErrorIsRecordedAsTheOutermostItWasDeclaredAs(t *testing.T) {
	// The sentinel was declared first; the type is what the program returned.
	err, _ := asRecorded(t, func() error { return &exceeded{7, errDeclined} })
	var ours *everstep.Error
	if !errors.As(err, &ours) || ours.Code != "limit" || !strings.HasSuffix(ours.Type, "exceeded") {
		t.Errorf("%+v", err)
	}
	err, _ = asRecorded(t, func() error { return errors.Join(errOutOfStock, errDeclined) })
	if !errors.As(err, &ours) || ours.Code != "out_of_stock" {
		t.Errorf("%+v", err)
	}
}
