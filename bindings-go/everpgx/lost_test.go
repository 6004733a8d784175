package everpgx_test

import (
	"context"
	"errors"
	"io"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	everstep "github.com/everstep/everstep/bindings-go"
	"github.com/everstep/everstep/bindings-go/everpgx"
)

// tries runs a transaction once and counts the calls of its function.
func tries(t *testing.T, on declare, f func(ctx context.Context, run execute, call int32) error) (calls int32, err error) {
	t.Helper()
	database := database(t)
	accounts(t, database)
	app := open(t, database)
	var count atomic.Int32
	move := on(t, app, database, false, func(ctx context.Context, run execute, in input) (int, error) {
		return 0, f(ctx, run, count.Add(1))
	})
	w, err := everstep.Register(app, "moves", func(ctx everstep.Context, _ everstep.None) (int, error) { return move.Do(ctx, input{1, 5}) })
	must(t, err)
	must(t, app.Launch(context.Background()))
	run, err := w.Start(context.Background(), everstep.None{})
	_, err = result(t, run, err)
	return count.Load(), err
}

// What a function's HTTP call, file or JSON says reads like a lost connection: it was tried 61 times, and then the step failed with another error.
func TestAnErrorOfTheFunctionsOwnIsNoLostConnection(t *testing.T) {
	for name, err := range map[string]error{
		"the end of a file": io.EOF,
		"an HTTP call":      &url.Error{Op: "Get", URL: "http://localhost", Err: errors.New("connection refused")},
		"no conflict":       everstep.NonRetryable(&pgconn.PgError{Code: "40001", Message: "said to be final"}),
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, on declare) {
				calls, got := tries(t, on, func(context.Context, execute, int32) error { return err })
				var failed *everstep.Error
				if calls != 1 || !errors.As(got, &failed) || !errors.Is(got, everstep.ErrRunFailed) || failed.Unwrap().(*everstep.Error).Message != err.Error() {
					t.Errorf("%d calls, %v", calls, got)
				}
			})
		})
	}
}

// A statement that its own deadline cut short takes pgx's connection with it, which looks as if it had been lost.
func TestAStatementPastItsOwnDeadlineIsTriedOnce(t *testing.T) {
	each(t, func(t *testing.T, on declare) {
		calls, err := tries(t, on, func(ctx context.Context, run execute, _ int32) error {
			bounded, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
			defer cancel()
			_, err := run(bounded, "select pg_sleep(60)")
			return err
		})
		if calls != 1 || !errors.Is(err, everstep.ErrRunFailed) {
			t.Errorf("%d calls, %v", calls, err)
		}
	})
}

func TestAConnectionThatIsFoundCutRunsTheFunctionAgain(t *testing.T) {
	each(t, func(t *testing.T, on declare) {
		calls, err := tries(t, on, func(ctx context.Context, run execute, call int32) error {
			if call > 1 {
				return nil
			}
			_, first := run(ctx, "select pg_terminate_backend(pg_backend_pid())")
			if first == nil {
				t.Error("it was not cut")
			}
			// Without the server's word for it.
			_, err := run(ctx, "select 1")
			return err
		})
		if calls != 2 || err != nil {
			t.Errorf("%d calls, %v", calls, err)
		}
	})
}

func TestRowsThatAreLeftOpenFailOnceAndAreNamed(t *testing.T) {
	ctx := context.Background()
	database := database(t)
	accounts(t, database)
	app := open(t, database)
	pool, err := pgxpool.New(ctx, database)
	must(t, err)
	t.Cleanup(pool.Close)
	var calls atomic.Int32
	leaves, err := everpgx.NewTransaction(app, "leaves", pool, func(ctx context.Context, tx pgx.Tx, again bool) (int, error) {
		calls.Add(1)
		rows, err := tx.Query(ctx, "select generate_series(1, 100000)")
		if err != nil || !rows.Next() {
			return 0, err
		}
		if again {
			_, err = tx.Exec(ctx, addOne)
		}
		return 1, err
	})
	must(t, err)
	w, err := everstep.Register(app, "moves", func(ctx everstep.Context, again bool) (int, error) { return leaves.Do(ctx, again) })
	must(t, err)
	must(t, app.Launch(ctx))
	for number, again := range []bool{false, true} {
		run, err := w.Start(ctx, again)
		_, err = result(t, run, err)
		if says := map[bool]string{false: "rows still open", true: "conn busy"}[again]; err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%t: %v", again, err)
		}
		if int(calls.Load()) != number+1 {
			t.Errorf("%t: %d calls", again, calls.Load())
		}
	}
}
