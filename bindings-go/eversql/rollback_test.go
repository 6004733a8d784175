package eversql

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"testing"
)

// silent is a connection whose other end says nothing to a rollback until it is told to.
type silent struct{ answer chan struct{} }

func (s silent) Connect(context.Context) (driver.Conn, error) { return s, nil }
func (s silent) Driver() driver.Driver                        { return nil }
func (s silent) Prepare(string) (driver.Stmt, error)          { return nil, errors.New("never prepared") }
func (s silent) Close() error                                 { return nil }
func (s silent) Begin() (driver.Tx, error)                    { return s, nil }
func (s silent) Commit() error                                { return nil }
func (s silent) Rollback() error {
	<-s.answer
	return nil
}

// database/sql takes no context there, so a run and Close waited for as long as TCP did.
func TestARollbackNobodyAnswersIsGivenUp(t *testing.T) {
	connection := silent{make(chan struct{})}
	db := sql.OpenDB(connection)
	tx, err := (&source{db, nil}).Begin(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := tx.Rollback(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	close(connection.answer)
	if err := db.Close(); err != nil {
		t.Error(err)
	}
}
