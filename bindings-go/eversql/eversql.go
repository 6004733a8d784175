// Package eversql runs transactional steps on a database/sql pool: your rows and the step's record commit together. sqlc's queries, GORM
// (gorm.Config.ConnPool) and Bun (bun.Tx around the *sql.Tx) all work on what the function gets. The pool must be on the engine's own PostgreSQL
// database, with a driver that takes $1 placeholders and whose errors have an SQLState method (pgx's stdlib and lib/pq do).
//
// It imports no driver, so it is part of the main module.
package eversql

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	everstep "github.com/everstep/everstep/bindings-go"
)

// NewTransaction declares a transaction whose function gets a *sql.Tx. Committing is not its business.
//
// A SQLite driver is refused with ErrOtherDatabase: two SQLite libraries in one process lose each other's locks, so nothing but the engine opens its
// file. Use everstep.NewTransaction there.
func NewTransaction[In, Out any](
	app *everstep.App, name string, db *sql.DB, function func(ctx context.Context, tx *sql.Tx, in In) (Out, error), options ...everstep.StepOption,
) (*everstep.Transaction[In, Out], error) {
	return NewTransactionWith(app, name, db, nil, function, options...)
}

// NewTransactionWith is NewTransaction with options of the transaction: read committed to serializable. A serialization failure runs the function
// again.
func NewTransactionWith[In, Out any](
	app *everstep.App, name string, db *sql.DB, with *sql.TxOptions, function func(ctx context.Context, tx *sql.Tx, in In) (Out, error),
	options ...everstep.StepOption,
) (*everstep.Transaction[In, Out], error) {
	if db == nil {
		return nil, &everstep.Error{Code: everstep.ErrConfigInvalid, Message: fmt.Sprintf("transaction %q has no pool", name)}
	}
	if kind := fmt.Sprintf("%T", db.Driver()); strings.Contains(strings.ToLower(kind), "sqlite") {
		return nil, &everstep.Error{Code: everstep.ErrOtherDatabase, Message: fmt.Sprintf(
			"transaction %q is on a SQLite driver (%s); only the engine opens its file: use everstep.NewTransaction", name, kind)}
	}
	return everstep.NewTransactionOn(app, name, &source{db, with}, function, options...)
}

type source struct {
	db      *sql.DB
	options *sql.TxOptions
}

func (s *source) Begin(ctx context.Context) (everstep.OpenTransaction[*sql.Tx], error) {
	tx, err := s.db.BeginTx(ctx, s.options)
	if err != nil {
		return nil, err
	}
	return &open{tx}, nil
}

func (s *source) State(err error) (string, bool) {
	var stated interface{ SQLState() string }
	if errors.As(err, &stated) {
		return stated.SQLState(), false
	}
	var network net.Error
	return "", errors.Is(err, driver.ErrBadConn) || errors.Is(err, sql.ErrConnDone) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.As(err, &network)
}

type open struct{ tx *sql.Tx }

func (o *open) Given() *sql.Tx { return o.tx }

func (o *open) Guard(ctx context.Context, statement string, parameters []any) (string, error) {
	var word string
	err := o.tx.QueryRowContext(ctx, statement, parameters...).Scan(&word)
	return word, err
}

func (o *open) Commit(context.Context) error { return o.tx.Commit() }

// Rollback has a goroutine of its own, for database/sql takes no context here. One that outlasts ctx is left to the driver.
func (o *open) Rollback(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- o.tx.Rollback() }()
	select {
	case err := <-done:
		if errors.Is(err, sql.ErrTxDone) {
			return nil
		}
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
