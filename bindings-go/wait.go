package everstep

import (
	"context"
	"time"

	"github.com/everstep/everstep/bindings-go/internal/frame"
	"github.com/everstep/everstep/bindings-go/internal/ops"
	"github.com/everstep/everstep/bindings-go/internal/payload"
)

// wait is begin_wait: of a sleep, a message, an event or a result. For short see begin.
func (b *branch) wait(short context.Context, kind, location string, due, at *int64, run, key string) ([]byte, error) {
	rest := frame.New().Str(kind).Str(location).OptInt(due).OptInt(at).OptStr(run).OptStr(key)
	return b.recorded(short, ops.BeginWait, rest)
}

// limited is a wait's limit with the deadline of a context the program derived. cut: it is the deadline's. So the engine ends that wait and records
// it: one that was left here would go on there, take the next message, and on replay be another wait than it was.
func (b *branch) limited(ctx context.Context, limit *int64) (due *int64, cut bool) {
	deadline, bounded := ctx.Deadline()
	if ctx == context.Context(b) || !bounded {
		return limit, false
	}
	left := max(0, milliseconds(time.Until(deadline)))
	if limit != nil && *limit <= left {
		return limit, false
	}
	return &left, true
}

// shorter is the context whose cancel ends a wait: one the program derived.
func (b *branch) shorter(ctx context.Context) context.Context {
	if ctx == context.Context(b) {
		return context.Background()
	}
	return ctx
}

// Sleep is a durable wait: it holds no slot, and goes on where it was after a restart. A derived context's deadline that comes first ends it with
// context.DeadlineExceeded.
//
// A defer that looks at a named error result takes the path without an error when the run is stopped while it sleeps: the goroutine ends, and
// its deferred functions run with what the results were before. Put clean-up that must happen once into a step.
func Sleep(ctx context.Context, duration time.Duration) error {
	b, err := inWorkflow(ctx, "Sleep")
	if err != nil {
		return err
	}
	whole := max(0, milliseconds(duration))
	due, cut := b.limited(ctx, &whole)
	_, err = b.wait(b.shorter(ctx), "sleep", b.execution.app.location(1), due, nil, "", "")
	if err == nil && cut {
		err = context.DeadlineExceeded
	}
	return err
}

// SleepUntil sleeps until a time of the database's clock.
func SleepUntil(ctx context.Context, when time.Time) error {
	b, err := inWorkflow(ctx, "SleepUntil")
	if err != nil {
		return err
	}
	us := microseconds(when)
	at := &us
	due, cut := b.limited(ctx, nil)
	if deadline, _ := ctx.Deadline(); cut && when.After(deadline) {
		at = nil
	} else {
		due, cut = nil, false
	}
	_, err = b.wait(b.shorter(ctx), "sleep", b.execution.app.location(1), due, at, "", "")
	if err == nil && cut {
		err = context.DeadlineExceeded
	}
	return err
}

func value[T any](ctx context.Context, verb, which string) (T, error) {
	var none T
	b, err := inWorkflow(ctx, verb)
	if err != nil {
		return none, err
	}
	data, err := b.recorded(context.Background(), ops.BeginValue, frame.New().Str(which).Str(b.execution.app.location(2)))
	if err != nil {
		return none, err
	}
	return decode[T](verb, "", data)
}

// Now is the database's time, recorded: the same on every replay.
func Now(ctx context.Context) (time.Time, error) {
	us, err := value[int64](ctx, "Now", "now")
	return time.UnixMicro(us).UTC(), err
}

// NewUUID is a random uuid, recorded.
func NewUUID(ctx context.Context) (UUID, error) { return value[UUID](ctx, "NewUUID", "uuid") }

// Random is a number in [0, 1), recorded.
func Random(ctx context.Context) (float64, error) { return value[float64](ctx, "Random", "random") }

// Patch is true for runs that reach this point after the change of this name, and false for those recorded before it.
func Patch(ctx context.Context, name string) (bool, error) {
	b, err := inWorkflow(ctx, "Patch")
	if err != nil {
		return false, err
	}
	r, err := b.execution.call(ops.Patch, frame.New().Str(b.path).Int(b.flags).Str(name).Str(b.execution.app.location(1)))
	return r.Bool(), err
}

// Shielded is a context for clean-up: its calls go on although the run was asked to cancel. It falls back to ctx itself outside a workflow, where
// nothing is cancelled that way.
func Shielded(ctx context.Context) context.Context {
	b, _ := where(ctx)
	if b == nil {
		return ctx
	}
	shielded := b.child(ops.FlagShielded)
	if ctx != context.Context(b) {
		// Derived by the program: its values stay, its end does not.
		shielded.Context = context.WithoutCancel(ctx)
	}
	return shielded
}

func waiting(given []WaitOption) (*int64, error) {
	if len(given) == 0 {
		return nil, nil
	}
	o := options{}
	err := collect(given, func(option WaitOption, o *options) { option.applyWait(o) }, &o)
	if o.timeout == nil {
		return nil, err
	}
	limit := max(0, milliseconds(*o.timeout))
	return &limit, err
}

// Receive is the next message of this topic to this run, exactly once. It returns false when the time of WithTimeout is over. The deadline of a
// context the program derived is recorded like that time, and ends it with context.DeadlineExceeded where no WithTimeout is given. A cancel of such a
// context does not end it: the engine could not tell a message that comes next from one that was received.
func Receive[T any](ctx context.Context, topic string, given ...WaitOption) (T, bool, error) {
	var none T
	limit, err := waiting(given)
	if err != nil {
		return none, false, err
	}
	b, err := inWorkflow(ctx, "Receive")
	if err != nil {
		return none, false, err
	}
	due, cut := b.limited(ctx, limit)
	data, err := b.wait(context.Background(), "receive", b.execution.app.location(1), due, nil, "", topic)
	if err == nil && data == nil && cut && limit == nil {
		err = context.DeadlineExceeded
	}
	if err != nil || data == nil {
		return none, false, err
	}
	out, err := decode[T]("the message on topic", topic, data)
	return out, err == nil, err
}

// SetEvent publishes a value of this run; others wait for it with GetEvent.
func SetEvent(ctx context.Context, key string, content any) error {
	data, err := encode("event", key, content)
	if err != nil {
		return err
	}
	b, err := inWorkflow(ctx, "SetEvent")
	if err != nil {
		return err
	}
	_, err = b.recorded(context.Background(), ops.BeginEvent, frame.New().Str(b.execution.app.location(1)).Str(key).Bytes(data))
	return err
}

// The types of the payload that Go itself has no type for.
type (
	// UUID is a uuid; github.com/google/uuid's type is written and read alike.
	UUID = payload.UUID
	// Decimal is a decimal number as text, which keeps its scale: "12.50".
	Decimal = payload.Decimal
	// Date is a day of the calendar.
	Date = payload.Date
	// LocalTime is a date and a time of day without an offset.
	LocalTime = payload.LocalTime
	// Object is a JSON object that keeps the order of its keys.
	Object = payload.Object
	// Member is one key of an Object with its value.
	Member = payload.Member
	// Set is a set of anything; map[T]struct{} is written and read alike.
	Set = payload.Set
	// Entries is a map in order, with keys of any type.
	Entries = payload.Entries
	// Entry is one key of Entries with its value.
	Entry = payload.Entry
)

// ParseUUID reads lower-case text with hyphens.
func ParseUUID(text string) (UUID, error) {
	u, err := payload.ParseUUID(text)
	if err != nil {
		return u, refuse(ErrPayloadInvalid, "%v", err)
	}
	return u, nil
}
