package everstep

import (
	"bytes"
	"context"
	"errors"

	"github.com/everstep/everstep/bindings-go/internal/frame"
	"github.com/everstep/everstep/bindings-go/internal/ops"
)

// verdict is what a call of a workflow is answered: what to do next.
type verdict struct {
	kind   int64
	failed bool
	// value is nil where what was sent stands.
	value   []byte
	seq     int64
	attempt int64
	// key is text, in the frame.
	key []byte
	// The order of the answer that brought it; 0: it did not come through the queue.
	order uint64
}

// readVerdict reads all but the verdicts after which the calling code does not go on; those end it here.
func (x *execution) readVerdict(data []byte) (verdict, error) {
	r := frame.Read(data)
	v := verdict{kind: r.Int()}
	switch v.kind {
	case ops.VerdictRecorded:
		v.failed = r.Bool()
		switch value := r.Value().(type) {
		case []byte:
			v.value = value
		case string:
			v.value = []byte(value)
		}
		v.seq = r.Int()
	case ops.VerdictRun:
		v.seq, v.attempt, v.key = r.Int(), r.Int(), r.Text()
	case ops.VerdictPending:
		r.Bool()
		v.seq = r.Int()
	case ops.VerdictStopped:
		x.verdictStopped(r.Str())
	case ops.VerdictCancelled:
		x.mu.Lock()
		x.cancelled = true
		x.mu.Unlock()
		return v, cancelError(r.Str(), r.Str())
	default:
		return v, refuse(ErrNewerEngineNeeded, "a verdict this package does not know: %d", v.kind)
	}
	if err := r.Err(); err != nil {
		return v, refuse(ErrFrameInvalid, "a verdict is malformed")
	}
	return v, nil
}

// begin asks for a place in the run and waits until the verdict is more than pending. rest is what follows the head every begin_* has.
//
// The end of short ends that wait. It is a context that can end only where nothing is lost with an answer nobody takes: a sleep, an event, a result.
// Anything else takes effect in the engine whether or not somebody still waits here: a message would be gone, a marked attempt be run by nobody.
func (b *branch) begin(short context.Context, op uint32, rest *frame.Writer) (verdict, error) {
	v, unused, err := b.beginStep(short, op, rest)
	b.execution.client.settle(unused)
	return v, err
}

// beginStep is begin that keeps its ticket where the verdict is to run: finish takes it.
func (b *branch) beginStep(short context.Context, op uint32, rest *frame.Writer) (v verdict, unused ticket, err error) {
	x := b.execution
	t := x.client.expect()
	arguments := frame.New().Int(int64(x.id)).Str(b.path).Int(int64(t.token)).Int(b.flags).Append(rest)
	rest.Free()
	data, err := x.client.call(op, arguments)
	if err != nil {
		x.client.settle(t)
		return v, ticket{}, x.refused(err)
	}
	switch verdictKind(data) {
	case ops.VerdictPending:
	case ops.VerdictRun:
		unused = t
	default:
		// A verdict that ends this goroutine must not leave its waiter behind.
		x.client.settle(t)
	}
	v, err = x.readVerdict(data)
	if err != nil || v.kind != ops.VerdictPending {
		return v, unused, err
	}
	x.replaying.Store(false)
	v, err = x.await(short, t)
	return v, ticket{}, err
}

func verdictKind(data []byte) int64 {
	r := frame.Read(data)
	return r.Int()
}

// await waits for the verdict a ticket brings, and uses it up.
func (x *execution) await(short context.Context, t ticket) (verdict, error) {
	done := short.Done()
	for {
		select {
		case got := <-t.waiter:
			answers.Put(t.waiter)
			if got.gone {
				x.stop("closed")
				x.leave()
			}
			if got.failed {
				_, err := got.read()
				return verdict{}, x.refused(err)
			}
			v, err := x.readVerdict(got.frame)
			// It lies in a batch of up to a thousand answers, and a step may run for hours.
			v.order, v.key = got.order, bytes.Clone(v.key)
			return v, err
		case <-done:
			if _, bounded := short.Deadline(); bounded && errors.Is(short.Err(), context.DeadlineExceeded) {
				done = nil // The engine knows of it (see limited) and its answer is recorded.
				continue
			}
			x.client.abandon(t.token)
			return verdict{}, context.Cause(short)
		case <-x.ended:
			x.client.abandon(t.token)
		}
		x.leave()
	}
}

// call asks about this execution in memory.
func (x *execution) call(op uint32, arguments *frame.Writer) (frame.Reader, error) {
	all := frame.New().Int(int64(x.id)).Append(arguments)
	arguments.Free()
	data, err := x.client.call(op, all)
	if err != nil {
		return frame.Reader{}, x.refused(err)
	}
	return frame.Read(data), nil
}

// finish hands over what this execution has done and waits for the verdict. No context shortens that wait: the outcome is on its way into the
// database, and a workflow that saw an error there would see a value on replay.
func (x *execution) finish(op uint32, arguments *frame.Writer) (verdict, error) {
	return x.finishStep(x.client.expect(), op, arguments)
}

// finishStep is finish with a ticket at hand.
func (x *execution) finishStep(t ticket, op uint32, arguments *frame.Writer) (verdict, error) {
	if !x.client.submit(t.token, op, arguments) {
		x.client.settle(t)
		x.stop("closed")
		x.leave()
	}
	return x.await(context.Background(), t)
}

// request is a question from inside this execution that brings no verdict.
func (x *execution) request(ctx context.Context, op uint32, arguments *frame.Writer) (frame.Reader, error) {
	r, err := x.client.request(ctx, op, arguments)
	if err != nil && ctx != nil && ctx.Err() != nil && !x.hasStopped() {
		// The context's own end, whose cause may read like a stop: another branch was first. The execution goes on.
		return r, err
	}
	if err != nil {
		return r, x.refused(err)
	}
	return r, nil
}

// refused ends the calling goroutine where the refusal is the end of the execution.
func (x *execution) refused(err error) error {
	switch {
	case errors.Is(err, ErrStopped):
		x.stop("stopped")
		x.leave()
	case errors.Is(err, ErrClosed):
		x.stop("closed")
		x.leave()
	}
	return err
}

// recorded is the value of a call that runs nothing here: a wait, a message, a durable value. For short see begin.
func (b *branch) recorded(short context.Context, op uint32, rest *frame.Writer) ([]byte, error) {
	// Not through begin: a waiting run keeps this stack, and one frame more is what takes it from 4 kB to 8.
	v, unused, err := b.beginStep(short, op, rest)
	b.execution.client.settle(unused)
	if err != nil {
		return nil, err
	}
	if v.failed {
		return nil, b.execution.app.rebuild(readDocument(v.value), true)
	}
	return v.value, nil
}
