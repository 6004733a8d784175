package everpgx_test

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	everstep "github.com/everstep/everstep/bindings-go"
	"github.com/everstep/everstep/bindings-go/everpgx"
	"github.com/everstep/everstep/bindings-go/eversql"
)

const addOne = "update account set balance = balance + 1 where id = 1"

// Its rows may be committed: a retry would add them again, and "sql: transaction has already been committed" tells nobody whose mistake it is.
func TestAFunctionThatEndsItsTransactionFailsOnceAndSaysSo(t *testing.T) {
	ctx := context.Background()
	url := database(t)
	number := accounts(t, url)
	app := open(t, url)
	pool, err := pgxpool.New(ctx, url)
	must(t, err)
	t.Cleanup(pool.Close)
	db, err := sql.Open("pgx", url)
	must(t, err)
	t.Cleanup(func() { must(t, db.Close()) })
	again := everstep.WithRetry(everstep.Retry{MaxAttempts: 5, Initial: time.Millisecond})
	onPgx, err := everpgx.NewTransaction(app, "pgx", pool, func(ctx context.Context, tx pgx.Tx, commits bool) (int, error) {
		if _, err := tx.Exec(ctx, addOne); err != nil {
			return 0, err
		}
		if commits {
			return 0, tx.Commit(ctx)
		}
		return 0, tx.Rollback(ctx)
	}, again)
	must(t, err)
	onSQL, err := eversql.NewTransaction(app, "sql", db, func(ctx context.Context, tx *sql.Tx, commits bool) (int, error) {
		if _, err := tx.ExecContext(ctx, addOne); err != nil {
			return 0, err
		}
		if commits {
			return 0, tx.Commit()
		}
		return 0, tx.Rollback()
	}, again)
	must(t, err)
	w, err := everstep.Register(app, "moves", func(ctx everstep.Context, commits bool) (int, error) {
		for _, transaction := range []*everstep.Transaction[bool, int]{onPgx, onSQL} {
			_, err := transaction.Do(ctx, commits)
			if !errors.Is(err, everstep.ErrTransactionFailed) || !strings.Contains(err.Error(), "by its function") {
				t.Errorf("%s: %v", transaction.Name(), err)
			}
		}
		return 0, nil
	})
	must(t, err)
	must(t, app.Launch(ctx))
	for _, commits := range []bool{true, false} {
		run, err := w.Start(ctx, commits)
		_, err = result(t, run, err)
		must(t, err)
	}
	// pgx's transaction is an interface, so its end can be kept from the function; a *sql.Tx commits, but only once.
	if balance := number("select balance from account where id = 1"); balance != 1 {
		t.Errorf("%d rows were committed", balance)
	}
}

func TestACancelReachesATransactionThatDoesNotPassItsContext(t *testing.T) {
	ctx := context.Background()
	url := database(t)
	number := accounts(t, url)
	app := open(t, url)
	db, err := sql.Open("pgx", url)
	must(t, err)
	t.Cleanup(func() { must(t, db.Close()) })
	begun := make(chan struct{})
	move, err := eversql.NewTransaction(app, "move", db, func(ctx context.Context, tx *sql.Tx, _ everstep.None) (int, error) {
		if _, err := tx.Exec(addOne); err != nil {
			return 0, err
		}
		close(begun)
		<-ctx.Done()
		for {
			if _, err := tx.Exec(addOne); err != nil {
				return 0, err
			}
		}
	})
	must(t, err)
	w, err := everstep.Register(app, "moves", func(ctx everstep.Context, _ everstep.None) (int, error) { return move.Do(ctx, everstep.None{}) })
	must(t, err)
	must(t, app.Launch(ctx))
	run, err := w.Start(ctx, everstep.None{})
	must(t, err)
	<-begun
	if _, err := run.Cancel(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := result(t, run, nil); !errors.Is(err, everstep.ErrRunCancelled) {
		t.Errorf("got %v", err)
	}
	if balance := number("select balance from account where id = 1"); balance != 0 {
		t.Errorf("balance %d", balance)
	}
}
