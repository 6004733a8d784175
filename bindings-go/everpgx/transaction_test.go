package everpgx_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	_ "github.com/jackc/pgx/v5/stdlib"

	everstep "github.com/everstep/everstep/bindings-go"
	"github.com/everstep/everstep/bindings-go/everpgx"
	"github.com/everstep/everstep/bindings-go/eversql"
)

const patience = 20 * time.Second

var errDeclined = errors.New("declined")

type input struct {
	Account int `json:"account"`
	Amount  int `json:"amount"`
}

// execute is what the two kinds of transactions have in common here.
type execute func(ctx context.Context, sql string, arguments ...any) (int64, error)

type body func(ctx context.Context, run execute, in input) (int, error)

// declare makes a transaction on one of the two drivers.
type declare func(t *testing.T, app *everstep.App, url string, serializable bool, f body) *everstep.Transaction[input, int]

func onPgx(t *testing.T, app *everstep.App, url string, serializable bool, f body) *everstep.Transaction[input, int] {
	pool, err := pgxpool.New(context.Background(), url)
	must(t, err)
	t.Cleanup(pool.Close)
	with := pgx.TxOptions{}
	if serializable {
		with.IsoLevel = pgx.Serializable
	}
	transaction, err := everpgx.NewTransactionWith(app, "move", pool, with, func(ctx context.Context, tx pgx.Tx, in input) (int, error) {
		return f(ctx, func(ctx context.Context, sql string, arguments ...any) (int64, error) {
			tag, err := tx.Exec(ctx, sql, arguments...)
			return tag.RowsAffected(), err
		}, in)
	})
	must(t, err)
	return transaction
}

func onDatabaseSQL(t *testing.T, app *everstep.App, url string, serializable bool, f body) *everstep.Transaction[input, int] {
	db, err := sql.Open("pgx", url)
	must(t, err)
	t.Cleanup(func() { must(t, db.Close()) })
	with := &sql.TxOptions{}
	if serializable {
		with.Isolation = sql.LevelSerializable
	}
	transaction, err := eversql.NewTransactionWith(app, "move", db, with, func(ctx context.Context, tx *sql.Tx, in input) (int, error) {
		return f(ctx, func(ctx context.Context, statement string, arguments ...any) (int64, error) {
			result, err := tx.ExecContext(ctx, statement, arguments...)
			if err != nil {
				return 0, err
			}
			return result.RowsAffected()
		}, in)
	})
	must(t, err)
	return transaction
}

func each(t *testing.T, test func(t *testing.T, on declare)) {
	for name, on := range map[string]declare{"pgx": onPgx, "database/sql": onDatabaseSQL} {
		t.Run(name, func(t *testing.T) { test(t, on) })
	}
}

func open(t *testing.T, url string) *everstep.App {
	t.Helper()
	app, err := everstep.Open(context.Background(), everstep.WithDatabase(url), everstep.WithEnvironment("test"), everstep.WithAutoMigrate(true))
	must(t, err)
	t.Cleanup(func() {
		bounded, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		must(t, app.Close(bounded))
	})
	return app
}

// accounts makes the program's own table, with two accounts.
func accounts(t *testing.T, url string) func(query string) int {
	t.Helper()
	ctx := context.Background()
	connection, err := pgx.Connect(ctx, url)
	must(t, err)
	t.Cleanup(func() { must(t, connection.Close(ctx)) })
	_, err = connection.Exec(ctx, "create table account (id integer primary key, balance integer not null); insert into account values (1, 0), (2, 0)")
	must(t, err)
	return func(query string) int {
		var n int
		must(t, connection.QueryRow(ctx, query).Scan(&n))
		return n
	}
}

func result[Out any](t *testing.T, run *everstep.Run[Out], err error) (Out, error) {
	t.Helper()
	must(t, err)
	return run.Result(context.Background(), everstep.WithTimeout(patience))
}

func add(ctx context.Context, run execute, in input) (int, error) {
	changed, err := run(ctx, "update account set balance = balance + $1 where id = $2", in.Amount, in.Account)
	if err == nil && changed != 1 {
		err = fmt.Errorf("%d accounts", changed)
	}
	return in.Amount, err
}

func TestRowsAndRecordCommitTogether(t *testing.T) {
	each(t, func(t *testing.T, on declare) {
		url := database(t)
		number := accounts(t, url)
		app := open(t, url)
		move := on(t, app, url, false, func(ctx context.Context, run execute, in input) (int, error) {
			n, err := add(ctx, run, in)
			if err == nil && in.Account == 2 {
				err = errDeclined
			}
			return n, err
		})
		w, err := everstep.Register(app, "moves", func(ctx everstep.Context, _ everstep.None) ([]int, error) {
			first, err := move.Do(ctx, input{1, 5})
			if err != nil {
				return nil, err
			}
			if _, err := move.Do(ctx, input{2, 5}); !errors.Is(err, everstep.ErrStepFailed) {
				return nil, fmt.Errorf("not a failed step: %w", err)
			}
			return []int{first}, nil
		})
		must(t, err)
		must(t, app.Launch(context.Background()))
		run, err := w.Start(context.Background(), everstep.None{})
		out, err := result(t, run, err)
		if err != nil || len(out) != 1 || out[0] != 5 {
			t.Errorf("%v, %v", out, err)
		}
		if one, two := number("select balance from account where id = 1"), number("select balance from account where id = 2"); one != 5 || two != 0 {
			t.Errorf("balances %d and %d", one, two)
		}
		steps, err := run.Steps(context.Background())
		if err != nil || len(steps) != 2 || steps[0].Kind != "transaction" {
			t.Errorf("%+v, %v", steps, err)
		}
		// Outside a workflow it is the plain function in a transaction of its own.
		if _, err := move.Do(context.Background(), input{1, 1}); err != nil || number("select balance from account where id = 1") != 6 {
			t.Errorf("outside: %v", err)
		}
	})
}

func TestASerializationFailureRunsTheFunctionAgain(t *testing.T) {
	each(t, func(t *testing.T, on declare) {
		url := database(t)
		number := accounts(t, url)
		app := open(t, url)
		var calls atomic.Int32
		var both sync.WaitGroup
		both.Add(2)
		move := on(t, app, url, true, func(ctx context.Context, run execute, in input) (int, error) {
			first := calls.Add(1) <= 2
			if _, err := run(ctx, "select count(*) from account where balance >= 0"); err != nil {
				return 0, err
			}
			if first {
				// Both have read before either writes: one of them must fail.
				both.Done()
				both.Wait()
			}
			return add(ctx, run, in)
		})
		w, err := everstep.Register(app, "moves", func(ctx everstep.Context, in input) (int, error) { return move.Do(ctx, in) })
		must(t, err)
		must(t, app.Launch(context.Background()))
		runs, err := w.StartMany(context.Background(), []input{{1, 1}, {1, 1}})
		must(t, err)
		for _, run := range runs {
			if _, err := result(t, run, nil); err != nil {
				t.Error(err)
			}
		}
		if calls.Load() < 3 || number("select balance from account where id = 1") != 2 {
			t.Errorf("%d calls, balance %d", calls.Load(), number("select balance from account where id = 1"))
		}
	})
}

func TestAnotherDatabaseIsRefused(t *testing.T) {
	each(t, func(t *testing.T, on declare) {
		url, other := database(t), database(t)
		accounts(t, url)
		number := accounts(t, other)
		app := open(t, url)
		move := on(t, app, other, false, add)
		w, err := everstep.Register(app, "moves", func(ctx everstep.Context, _ everstep.None) (int, error) { return move.Do(ctx, input{1, 5}) })
		must(t, err)
		must(t, app.Launch(context.Background()))
		run, err := w.Start(context.Background(), everstep.None{})
		if _, err = result(t, run, err); !errors.Is(err, everstep.ErrOtherDatabase) {
			t.Errorf("%v", err)
		}
		if number("select balance from account where id = 1") != 0 {
			t.Error("the row was committed")
		}
	})
}

func TestAConnectionThatIsCutRunsTheFunctionAgain(t *testing.T) {
	each(t, func(t *testing.T, on declare) {
		url := database(t)
		number := accounts(t, url)
		app := open(t, url)
		var calls atomic.Int32
		move := on(t, app, url, false, func(ctx context.Context, run execute, in input) (int, error) {
			n, err := add(ctx, run, in)
			if err == nil && calls.Add(1) == 1 {
				_, err = run(ctx, "select pg_terminate_backend(pg_backend_pid())")
			}
			return n, err
		})
		w, err := everstep.Register(app, "moves", func(ctx everstep.Context, _ everstep.None) (int, error) { return move.Do(ctx, input{1, 5}) })
		must(t, err)
		must(t, app.Launch(context.Background()))
		run, err := w.Start(context.Background(), everstep.None{})
		if _, err := result(t, run, err); err != nil {
			t.Error(err)
		}
		if calls.Load() != 2 || number("select balance from account where id = 1") != 5 {
			t.Errorf("%d calls, balance %d", calls.Load(), number("select balance from account where id = 1"))
		}
	})
}

// sqliteDriver is a driver whose type says what it is; nothing is ever opened with it.
type sqliteDriver struct{}

func (sqliteDriver) Open(string) (driver.Conn, error) { return nil, errors.New("never opened") }

type sqliteConnector struct{}

func (sqliteConnector) Connect(context.Context) (driver.Conn, error) {
	return nil, errors.New("never opened")
}
func (sqliteConnector) Driver() driver.Driver { return sqliteDriver{} }

func TestSourcesAreCheckedWhenTheyAreDeclared(t *testing.T) {
	app := open(t, database(t))
	f := func(context.Context, *sql.Tx, int) (int, error) { return 0, nil }
	if _, err := eversql.NewTransaction(app, "sqlite", sql.OpenDB(sqliteConnector{}), f); !errors.Is(err, everstep.ErrOtherDatabase) {
		t.Errorf("a SQLite driver: %v", err)
	}
	if _, err := eversql.NewTransaction(app, "none", nil, f); !errors.Is(err, everstep.ErrConfigInvalid) {
		t.Errorf("no pool: %v", err)
	}
	if _, err := everpgx.NewTransaction(app, "none", nil, func(context.Context, pgx.Tx, int) (int, error) { return 0, nil }); !errors.Is(err, everstep.ErrConfigInvalid) {
		t.Errorf("no pool: %v", err)
	}
	var typedNil *pgxpool.Pool
	if _, err := everpgx.NewTransaction(app, "nil", typedNil, func(context.Context, pgx.Tx, int) (int, error) { return 0, nil }); !errors.Is(err, everstep.ErrConfigInvalid) {
		t.Errorf("a typed nil: %v", err)
	}
	var connection *pgx.Conn
	if _, err := everpgx.NewTransaction(app, "nil", connection, func(context.Context, pgx.Tx, int) (int, error) { return 0, nil }); !errors.Is(err, everstep.ErrConfigInvalid) {
		t.Errorf("another typed nil: %v", err)
	}
}
