// Package everpgx runs transactional steps on a pgx v5 pool: your rows and the step's record commit together. The pool must be on the engine's own
// PostgreSQL database.
//
// It is a module of its own: requiring Everstep must neither bring pgx into a program that does not use it, nor raise the version of one that does.
package everpgx

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net"
	"reflect"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	everstep "github.com/everstep/everstep/bindings-go"
)

// Pool is what begins transactions: a *pgxpool.Pool, or anything else with its method.
type Pool interface {
	BeginTx(ctx context.Context, options pgx.TxOptions) (pgx.Tx, error)
}

// NewTransaction declares a transaction whose function gets a pgx.Tx. Committing is not its business.
func NewTransaction[In, Out any](
	app *everstep.App, name string, pool Pool, function func(ctx context.Context, tx pgx.Tx, in In) (Out, error), options ...everstep.StepOption,
) (*everstep.Transaction[In, Out], error) {
	return NewTransactionWith(app, name, pool, pgx.TxOptions{}, function, options...)
}

// NewTransactionWith is NewTransaction with options of the transaction: read committed to serializable. A serialization failure runs the function
// again.
func NewTransactionWith[In, Out any](
	app *everstep.App, name string, pool Pool, with pgx.TxOptions, function func(ctx context.Context, tx pgx.Tx, in In) (Out, error),
	options ...everstep.StepOption,
) (*everstep.Transaction[In, Out], error) {
	// A nil pointer in the interface is none either.
	if v := reflect.ValueOf(pool); pool == nil || v.Kind() == reflect.Pointer && v.IsNil() {
		return nil, &everstep.Error{Code: everstep.ErrConfigInvalid, Message: fmt.Sprintf("transaction %q has no pool", name)}
	}
	return everstep.NewTransactionOn(app, name, &source{pool, with}, function, options...)
}

type source struct {
	pool    Pool
	options pgx.TxOptions
}

func (s *source) Begin(ctx context.Context) (everstep.OpenTransaction[pgx.Tx], error) {
	tx, err := s.pool.BeginTx(ctx, s.options)
	if err != nil {
		return nil, err
	}
	return &open{tx}, nil
}

func (s *source) State(err error) (string, bool) {
	var refused *pgconn.PgError
	if errors.As(err, &refused) {
		return refused.Code, false
	}
	var network net.Error
	var connect *pgconn.ConnectError
	return "", errors.As(err, &connect) || errors.As(err, &network) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, net.ErrClosed) || pgconn.SafeToRetry(err) && !busy(err)
}

// busy: rows were left open on the connection. pgx calls that safe to retry, which a mistake of the program's is not; it has no type to tell it by.
func busy(err error) bool {
	var locked interface{ SafeToRetry() bool }
	if !errors.As(err, &locked) {
		return false
	}
	text, _ := locked.(error)
	return text != nil && text.Error() == "conn busy"
}

type open struct{ tx pgx.Tx }

func (o *open) Given() pgx.Tx { return given{o.tx} }

// given is what the function gets: a transaction whose end is not its own. Committed early, its rows would stand without the step's record.
type given struct{ pgx.Tx }

func (given) Commit(context.Context) error   { return refused("committed") }
func (given) Rollback(context.Context) error { return refused("rolled back") }

func refused(how string) error {
	return everstep.NonRetryable(&everstep.Error{Code: everstep.ErrTransactionFailed, Message: "this transaction was to be " + how +
		" by its function; leave that to Everstep, which commits its record with it. To roll back, return an error"})
}

func (o *open) Guard(ctx context.Context, statement string, parameters []any) (string, error) {
	var word string
	err := o.tx.QueryRow(ctx, statement, parameters...).Scan(&word)
	if errors.Is(err, pgx.ErrTxClosed) {
		err = errors.Join(sql.ErrTxDone, err)
	}
	if busy(err) {
		err = everstep.NonRetryable(&everstep.Error{Code: everstep.ErrTransactionFailed,
			Message: "this transaction's function returned with rows still open; close them, or read them to their end"})
	}
	return word, err
}

func (o *open) Commit(ctx context.Context) error { return o.tx.Commit(ctx) }

func (o *open) Rollback(ctx context.Context) error {
	if err := o.tx.Rollback(ctx); err != nil && !errors.Is(err, pgx.ErrTxClosed) {
		return err
	}
	return nil
}
