package everstep

import (
	"context"

	"github.com/everstep/everstep/bindings-go/internal/frame"
	"github.com/everstep/everstep/bindings-go/internal/ops"
)

// Queue is a queue as the fleet sees it; a limit of 0 is none.
type Queue struct {
	Name   string
	Paused bool
	// Limit bounds the runs at once of the whole fleet, WorkerLimit of one process, KeyLimit of one fairness key (WithFairnessKey).
	Limit, WorkerLimit, KeyLimit int
	// Hold: a released run keeps its slot, so that a limit of 1 is a mutex.
	Hold bool
}

func (q *Queue) write(w *frame.Writer) *frame.Writer {
	w.List(6).Str(q.Name).Bool(q.Paused)
	for _, limit := range []int{q.Limit, q.WorkerLimit, q.KeyLimit} {
		optional(w, int64(limit))
	}
	return w.Bool(q.Hold)
}

func queueOf(r record) Queue {
	return Queue{
		Name: r.text(ops.QueueFieldName), Paused: r.flag(ops.QueueFieldPaused), Limit: r.number(ops.QueueFieldLimit),
		WorkerLimit: r.number(ops.QueueFieldWorkerLimit), KeyLimit: r.number(ops.QueueFieldKeyLimit), Hold: r.flag(ops.QueueFieldHold),
	}
}

// DeclareQueue declares a queue, made at Launch. What an operator has changed since is left alone.
func (a *App) DeclareQueue(queue Queue) error {
	if a == nil {
		return refuse(ErrConfigInvalid, "the app is nil: use what Open returned")
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closing {
		return errClosed()
	}
	if a.launched {
		return refuse(ErrRegisteredLate, "queue %q was declared after Launch; PutQueue changes queues at run time", queue.Name)
	}
	a.queues = append(a.queues, queue.write(frame.New()))
	return nil
}

// PutQueue makes or changes a queue now, as an operator: effective in the whole fleet within two seconds.
func (a *App) PutQueue(ctx context.Context, queue Queue) (Queue, error) {
	r, err := a.ask(ctx, ops.PutQueue, queue.write(frame.New()).Bool(true))
	if err != nil {
		return Queue{}, err
	}
	fields, _ := r.Value().([]any)
	return queueOf(fields), r.Err()
}

// Queues are all queues.
func (a *App) Queues(ctx context.Context) ([]Queue, error) {
	r, err := a.ask(ctx, ops.ListQueues, frame.New())
	if err != nil {
		return nil, err
	}
	var out []Queue
	for range r.List() {
		fields, _ := r.Value().([]any)
		out = append(out, queueOf(fields))
	}
	return out, r.Err()
}

// PauseQueue: nothing more is claimed from it; what runs goes on. ErrUnknownQueue names the nearest queue.
func (a *App) PauseQueue(ctx context.Context, name string) error { return a.setPaused(ctx, name, true) }

// ResumeQueue ends a pause. ErrUnknownQueue names the nearest queue.
func (a *App) ResumeQueue(ctx context.Context, name string) error {
	return a.setPaused(ctx, name, false)
}

// setPaused is one operation: what is read and written back undoes a change of the limits that comes in between.
func (a *App) setPaused(ctx context.Context, name string, paused bool) error {
	_, err := a.ask(ctx, ops.PauseQueue, frame.New().Str(name).Bool(paused))
	return err
}
