package everstep

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/everstep/everstep/bindings-go/internal/frame"
	"github.com/everstep/everstep/bindings-go/internal/ops"
)

// Transaction is a step whose rows and checkpoint commit together or not at all.
type Transaction[In, Out any] struct {
	app        *App
	definition stepDefinition
	attempt    func(b *branch, ctx context.Context, v verdict, in In) transactionEnd
	plain      func(ctx context.Context, in In) (Out, error)
}

// transactionEnd is what is asked of the engine after one attempt.
type transactionEnd struct {
	op        uint32
	arguments *frame.Writer
	sent      []byte
}

// TransactionSource opens transactions on connections of the program's own. The packages everpgx and eversql have one each; a driver they do not
// cover can have its own.
type TransactionSource[T any] interface {
	Begin(ctx context.Context) (OpenTransaction[T], error)
	// State is the SQLSTATE of a driver's error, "" where the error has none; lost says that it is one of a connection that went. Of an error of the
	// step's function, which may be of anything, that is believed only where Rollback fails too.
	State(err error) (state string, lost bool)
}

// OpenTransaction is one transaction that was begun.
type OpenTransaction[T any] interface {
	// Given is what the step's function gets.
	Given() T
	// Guard runs the engine's last statement, with numbered placeholders ($1) and parameters that are texts or nil, and returns its one row's one column.
	// Its error is sql.ErrTxDone (errors.Is) where the transaction has ended already.
	Guard(ctx context.Context, sql string, parameters []any) (string, error)
	Commit(ctx context.Context) error
	// Rollback also gives the connection back, and its error says that the connection is gone. After Commit it does nothing.
	Rollback(ctx context.Context) error
}

// NewTransaction declares a transaction on the engine's own connection, on both stores. On SQLite it holds the writer, for 5 s at most; the function
// makes no calls of the engine inside.
func NewTransaction[In, Out any](app *App, name string, function func(ctx context.Context, tx *Tx, in In) (Out, error), options ...StepOption) (*Transaction[In, Out], error) {
	t, err := newTransaction[In, Out](app, name, function == nil, options)
	if err != nil {
		return nil, err
	}
	t.plain = func(context.Context, In) (Out, error) {
		var none Out
		return none, refuse(ErrOutsideRun, "transaction %q uses the engine's own connection, which exists inside a workflow", name)
	}
	t.attempt = func(b *branch, ctx context.Context, v verdict, in In) transactionEnd {
		x := b.execution
		var number int64
		return x.transacted(b, ctx, &t.definition, v, func(ctx context.Context) ([]byte, uint32, *frame.Writer, error) {
			r, err := x.request(ctx, ops.TxOpen, frame.New().Int(int64(x.id)).Str(b.path).Int(v.seq))
			if err != nil {
				return nil, 0, nil, err
			}
			number = r.Int()
			done := false
			defer func() {
				if !done {
					x.client.submitQuietly(ops.TxRollback, frame.New().Int(number))
				}
			}()
			out, err := function(ctx, &Tx{x, number}, in)
			if err != nil {
				return nil, 0, nil, err
			}
			output, err := encodeOutput(name, out)
			if err != nil {
				return nil, 0, nil, err
			}
			done = true
			return output, ops.TxCommit, frame.New().Int(number).Int(int64(x.id)).Str(b.path).Int(v.seq).Int(v.attempt).Bytes(output), nil
		}, func(error) bool { return false })
	}
	return t, nil
}

// NewTransactionOn declares a transaction on connections of the program's own, in the engine's database.
func NewTransactionOn[T, In, Out any](
	app *App, name string, source TransactionSource[T], function func(ctx context.Context, tx T, in In) (Out, error), options ...StepOption,
) (*Transaction[In, Out], error) {
	t, err := newTransaction[In, Out](app, name, function == nil, options)
	if err != nil {
		return nil, err
	}
	if isNil(source) {
		return nil, refuse(ErrConfigInvalid, "transaction %q has no source of connections", name)
	}
	t.plain = func(ctx context.Context, in In) (out Out, err error) {
		tx, err := source.Begin(ctx)
		if err != nil {
			return out, err
		}
		defer rollback(app, tx)
		if out, err = function(ctx, tx.Given(), in); err != nil {
			return out, err
		}
		return out, tx.Commit(ctx)
	}
	t.attempt = func(b *branch, ctx context.Context, v verdict, in In) transactionEnd {
		x := b.execution
		// own: the error is the function's. ended: its time was over. broken: the connection could not even roll back.
		var own, ended, broken bool
		return x.transacted(b, ctx, &t.definition, v, func(ctx context.Context) ([]byte, uint32, *frame.Writer, error) {
			defer func() { ended = ctx.Err() != nil }()
			tx, err := source.Begin(ctx)
			if err != nil {
				return nil, 0, nil, err
			}
			defer func() { broken = !rollback(app, tx) }()
			own = true
			out, err := function(ctx, tx.Given(), in)
			if err != nil {
				return nil, 0, nil, err
			}
			own = false
			output, err := encodeOutput(name, out)
			if err != nil {
				return nil, 0, nil, err
			}
			word, err := guardAndCommit(x, b, ctx, v, source, tx, output)
			if errors.Is(err, sql.ErrTxDone) && ctx.Err() == nil {
				// Its rows may stand, and a second attempt would add them again.
				err = NonRetryable(refuse(ErrTransactionFailed, "transaction %q was committed or rolled back by its function; "+
					"leave that to Everstep, which commits its record with it", name))
			}
			if err != nil {
				return nil, 0, nil, err
			}
			return output, ops.TxDone, b.transactionHead(v).Str(word).Bytes(output), nil
		}, func(err error) bool {
			state, lost := source.State(err)
			if own && lost {
				// It reads like a connection's that went, as does that of an HTTP call, the end of a file, or a statement whose time was over.
				lost = broken && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled)
			}
			return conflict(state) || (state == "" && lost && !ended) || gone(state)
		})
	}
	return t, nil
}

func newTransaction[In, Out any](app *App, name string, noFunction bool, options []StepOption) (*Transaction[In, Out], error) {
	if app == nil {
		return nil, refuse(ErrConfigInvalid, "the app is nil: use what Open returned")
	}
	t := &Transaction[In, Out]{app: app, definition: define(name, noFunction, options)}
	if t.definition.err != nil {
		return nil, t.definition.err
	}
	if err := t.definition.committed(); err != nil {
		return nil, err
	}
	if err := checkTypes[In, Out]("transaction", name); err != nil {
		return nil, err
	}
	return t, app.transaction(name, app.location(2))
}

// committed refuses what a transaction has no use for: its record commits with its rows, so no crash leaves an attempt that may have had effects.
func (d *stepDefinition) committed() error {
	if d.options.policy.atMostOnce {
		return refuse(ErrConfigInvalid, "transaction %q: AtMostOnce is for steps; a transaction takes effect exactly once, leave it out", d.name)
	}
	return nil
}

// Name is the step's name.
func (t *Transaction[In, Out]) Name() string { return t.definition.name }

// Do runs the transaction: in a workflow it is recorded with its rows; elsewhere it is the plain function in a transaction of its own.
func (t *Transaction[In, Out]) Do(ctx context.Context, in In, given ...StepOption) (Out, error) {
	var none Out
	if t == nil {
		return none, refuse(ErrConfigInvalid, "the transaction is nil")
	}
	d := t.definition
	if err := collect(given, func(option StepOption, o *options) { option.applyStep(o) }, &d.options); err != nil {
		return none, err
	}
	if err := d.committed(); err != nil {
		return none, err
	}
	b, plain, err := recording(ctx, &d)
	if err != nil {
		return none, err
	}
	if plain {
		return t.plain(ctx, in)
	}
	if b.execution.app != t.app {
		return none, otherEngine(label("transaction", d.name))
	}
	arguments, err := encodeInput("argument of transaction", d.name, in)
	if err != nil {
		return none, err
	}
	rest := frame.New().Int(ops.KindTransaction).Str(d.name).Str(t.app.location(1)).OptBytes(arguments).Maybe(d.options.key)
	v, err := b.begin(context.Background(), ops.BeginStep, d.options.policy.write(rest))
	v.order = 0 // As in a step: see there.
	var sent []byte
	for err == nil && v.kind == ops.VerdictRun {
		b.execution.replaying.Store(false)
		end := t.attempt(b, ctx, v, in)
		sent = end.sent
		of := v
		v, err = b.execution.finish(end.op, end.arguments)
		if v.attempt == of.attempt {
			v.order = of.order // Again after a conflict, it is the same attempt: its time went on, and may have been over in between.
		}
	}
	b.execution.over(place{b.path, v.seq})
	if err != nil {
		return none, err
	}
	data, err := b.execution.outcome(v, sent)
	if err != nil {
		return none, err
	}
	return decode[Out]("the result of transaction", d.name, data)
}

func (b *branch) transactionHead(v verdict) *frame.Writer {
	return frame.New().Int(int64(b.execution.id)).Str(b.path).Int(v.seq).Int(v.attempt)
}

// transacted runs one attempt. again: nothing is stored and the closure may run again (a conflict, or a connection that went before COMMIT).
func (x *execution) transacted(
	b *branch, ctx context.Context, d *stepDefinition, v verdict,
	run func(context.Context) ([]byte, uint32, *frame.Writer, error), again func(error) bool,
) transactionEnd {
	inner := newStepContext(ctx, x, place{b.path, v.seq}, d.name, v.attempt, v.key)
	inner.step.shielded, inner.step.after = b.flags&ops.FlagShielded != 0, v.order
	step := &inner.step
	x.begins(step)
	b.lane.step = step
	var end transactionEnd
	_, err := guarded(func() ([]byte, error) {
		output, op, arguments, err := run(inner)
		end = transactionEnd{op, arguments, output}
		return output, err
	}, func() {
		b.lane.step = nil
		x.ends(step)
		inner.cancel(nil)
	})
	if err == nil {
		return end
	}
	if step.signalled() != "" && errors.Is(err, sql.ErrTxDone) {
		err = context.Canceled // database/sql has rolled back when the signal came, and tells whoever did not pass the context only this.
	}
	if step.signalled() == "" && repeatable(err, again) {
		return transactionEnd{op: ops.TxDone, arguments: b.transactionHead(v).Str("conflict")}
	}
	sent, arguments := x.attempted(b.transactionHead(v), d, step, nil, err)
	return transactionEnd{ops.FinishStep, arguments, sent}
}

// repeatable asks methods of the program's errors; one that panics makes its error final, as failureOf has it.
func repeatable(err error, again func(error) bool) (yes bool) {
	defer func() {
		if recover() != nil {
			yes = false
		}
	}()
	var final nonRetryable
	return !errors.As(err, &final) && (errors.Is(err, ErrUnavailable) || again(err))
}

// guardAndCommit runs the engine's statement last, and commits where it says so. It returns the word tx_done takes.
func guardAndCommit[T any](x *execution, b *branch, ctx context.Context, v verdict, source TransactionSource[T], tx OpenTransaction[T], output []byte) (string, error) {
	r, err := x.call(ops.TxGuard, frame.New().Str(b.path).Int(v.seq).Int(v.attempt).Bytes(output).Str("dollar"))
	if err != nil {
		return "", err
	}
	sql := r.Str()
	parameters := make([]any, 0, 16)
	for range r.List() {
		parameters = append(parameters, r.Value())
	}
	if err := r.Err(); err != nil {
		return "", refuse(ErrFrameInvalid, "tx_guard: %v", err)
	}
	word, err := tx.Guard(ctx, sql, parameters)
	if err != nil {
		if state, _ := source.State(err); state == "42P01" || state == "3F000" {
			return "other_database", nil // The engine's tables are not there.
		}
		return "", err
	}
	if word != "ok" {
		return word, nil
	}
	// A signal must not tear the COMMIT apart: from here on the outcome is the database's.
	err = tx.Commit(context.WithoutCancel(ctx))
	if err == nil {
		return "committed", nil
	}
	if state, _ := source.State(err); conflict(state) || state != "" && !gone(state) && state[:2] != "XX" {
		return "", err // The server answered, and the answer is no.
	}
	x.app.logger().Warn("the answer to a COMMIT was lost; the engine asks the database which it was", "step", b.path, "error", err)
	return "unknown", nil
}

func conflict(state string) bool { return state == "40001" || state == "40P01" }

// gone: classes of a connection that went, or of a server that has none to give.
func gone(state string) bool {
	return len(state) == 5 && (state[:2] == "08" || state[:2] == "53" || state[:3] == "57P")
}

// rollbackWithin bounds a rollback on a connection whose other end says nothing any more: the step, its run and Close would wait with it.
const rollbackWithin = 10 * time.Second

// rollback is false where the connection is gone.
func rollback[T any](app *App, tx OpenTransaction[T]) bool {
	// The context may have ended; the connection must be given back all the same.
	bounded, cancel := context.WithTimeout(context.Background(), rollbackWithin)
	defer cancel()
	if err := tx.Rollback(bounded); err != nil {
		app.logger().Debug("after a transaction", "error", err)
		return false
	}
	return true
}
