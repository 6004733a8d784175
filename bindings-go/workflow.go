package everstep

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/everstep/everstep/bindings-go/internal/frame"
	"github.com/everstep/everstep/bindings-go/internal/ops"
	"github.com/everstep/everstep/bindings-go/internal/payload"
)

// Workflow is what can be started: a registered workflow, a step as a job, or a workflow of another program known by name.
type Workflow[In, Out any] struct {
	app  *App
	name string
	// workflow or step; "" of a Reference, which may name either, or what cannot be started.
	kind string
}

// Register makes a function known by name. Its wire input is one value: In. Code outside steps runs again whenever a run resumes: keep it free of
// effects. A type that would lose something on the way is ErrPayloadInvalid.
func Register[In, Out any](app *App, name string, function func(ctx Context, in In) (Out, error), given ...RegisterOption) (*Workflow[In, Out], error) {
	if function == nil {
		return nil, refuse(ErrConfigInvalid, "workflow %q has no function", name)
	}
	return register[In, Out](app, app.location(1), "workflow", name, given, options{}, func(ctx Context, _ *stepContext, in In) (Out, error) { return function(ctx, in) })
}

// RegisterStep makes a declared step a job that can be started by itself: one row, one commit.
func RegisterStep[In, Out any](app *App, step *Step[In, Out], given ...RegisterOption) (*Workflow[In, Out], error) {
	if step == nil {
		return nil, refuse(ErrConfigInvalid, "the step is nil")
	}
	if step.definition.err != nil {
		return nil, step.definition.err
	}
	return register[In, Out](app, app.location(1), "step", step.definition.name, given, step.definition.options, func(_ Context, ctx *stepContext, in In) (Out, error) {
		return step.function(ctx, in)
	})
}

func register[In, Out any](app *App, where, kind, name string, given []RegisterOption, o options, run func(Context, *stepContext, In) (Out, error)) (*Workflow[In, Out], error) {
	if err := collect(given, func(option RegisterOption, o *options) { option.applyRegister(o) }, &o); err != nil {
		return nil, err
	}
	if err := o.ofRegistration(); err != nil {
		return nil, err
	}
	if err := checkTypes[In, Out](kind, name); err != nil {
		return nil, err
	}
	f := &registered{kind: kind, name: name, version: o.version, options: o.registration(), where: where}
	if o.policy.retry != nil {
		f.retryIf = o.policy.retry.If
	}
	f.run = func(ctx Context, step *stepContext, input []byte) ([]byte, error) {
		in, err := decode[In]("the input of", name, input)
		if err != nil {
			return nil, err
		}
		out, err := run(ctx, step, in)
		if err != nil {
			return nil, err
		}
		data, err := payload.Encode(out)
		if err != nil {
			return nil, badOutput{refuse(ErrPayloadInvalid, "the result of %q: %v", name, err)}
		}
		return data, nil
	}
	if err := app.register(f); err != nil {
		return nil, err
	}
	return &Workflow[In, Out]{app, name, kind}, nil
}

// ofRegistration refuses what only a start can say: it would be forgotten.
func (o *options) ofRegistration() error {
	if o.id != nil || o.idOf != nil || o.queue != nil || o.priority != nil || o.cost != nil || o.delay != nil || o.startAt != nil || o.expires != nil ||
		o.dedup != nil || o.attributes != "" || o.fairnessKey != nil || o.createdBy != nil || o.traceParent != "" || o.reusePurged || o.unchecked ||
		o.parentClose != "" {
		return refuse(ErrConfigInvalid, "an option of a start was given to a registration: pass it to Start")
	}
	return nil
}

// registration is what the engine is told beyond the name: the defaults of runs started here.
func (o *options) registration() string {
	out := map[string]any{}
	if retry := o.policy.settings(); len(retry) > 0 {
		out["retry"] = retry
	}
	if o.deadline != nil {
		out["deadline_ms"] = *o.deadline
	}
	if o.onFinish != nil {
		out["on_finish"] = *o.onFinish
	}
	if o.label != nil {
		out["label"] = *o.label
	}
	if len(out) == 0 {
		return ""
	}
	text, err := json.Marshal(out)
	if err != nil {
		return err.Error() // Numbers and texts: not reached; the engine would refuse it by name.
	}
	return string(text)
}

// Finished is what a workflow named by WithOnFinish is started with.
type Finished struct {
	// Run is the key of the run that has ended, Workflow its name.
	Run      string `json:"run"`
	Workflow string `json:"workflow"`
	// State is succeeded, failed or cancelled.
	State State `json:"state"`
	// Value is what the run returned; of one that did not succeed, its error: an object of type, code, message and so on.
	Value any `json:"value"`
}

// Reference is a workflow known by name: of another process, another program, another language.
func Reference[In, Out any](app *App, name string) *Workflow[In, Out] {
	return &Workflow[In, Out]{app: app, name: name}
}

// Name is the name it is started by.
func (w *Workflow[In, Out]) Name() string { return w.name }

func (w *Workflow[In, Out]) options(given []StartOption) (options, error) {
	if w == nil || w.app == nil {
		return options{}, refuse(ErrConfigInvalid, "the workflow is nil: use what Register returned")
	}
	if w.kind == "" {
		if err := w.app.startable(w.name); err != nil {
			return options{}, err
		}
	}
	// What is not given is the registration's, which the engine knows.
	o := options{}
	err := collect(given, func(option StartOption, o *options) { option.applyStart(o) }, &o)
	if err == nil && o.timeout != nil && w.kind == "workflow" {
		err = refuse(ErrConfigInvalid, "WithTimeout bounds an attempt of a job, and %q is a workflow: give it WithDeadline", w.name)
	}
	return o, err
}

// Start starts a run, or attaches to the run of this id. Inside a workflow the start is recorded and the run is a child.
//
// Errors: ErrConfigInvalid and ErrPayloadInvalid name what was given; ErrIDInvalid an id, key or name; ErrPayloadTooLarge the input; ErrIDConflict: the id
// or dedup key is another workflow's; ErrRunDeduplicated: the dedup key is taken, and its policy is to reject; ErrRunPurged: retention has removed the run
// of this id (see ReusePurged); ErrUnknownQueue and ErrUnknownWorkflow name the nearest name (see Unchecked); ErrUnavailable and ErrClosed: it may have
// started all the same, so repeat it with the same id.
func (w *Workflow[In, Out]) Start(ctx context.Context, in In, given ...StartOption) (*Run[Out], error) {
	o, err := w.options(given)
	if err != nil {
		return nil, err
	}
	input, err := encodeInput("the input of", w.name, in)
	if err != nil {
		return nil, err
	}
	b, err := w.app.parent(ctx, "Start")
	if err != nil {
		return nil, err
	}
	if b != nil {
		rest := frame.New().Str(w.app.location(1)).Str(w.name).OptBytes(input)
		o.write(rest)
		value, err := b.recorded(context.Background(), ops.BeginChild, rest.OptStr(o.parentClose))
		if err != nil {
			return nil, err
		}
		key, err := decode[string]("the key of a child", "", value)
		return &Run[Out]{handle{app: w.app, key: key, id: o.named()}}, err
	}
	arguments := frame.New().Str(w.name).OptBytes(input)
	o.write(arguments)
	r, err := w.app.ask(ctx, ops.Start, arguments)
	if err != nil {
		return nil, err
	}
	return &Run[Out]{handle{app: w.app, key: r.Str(), id: o.named(), attached: r.Bool()}}, r.Err()
}

// StartMany starts one run an input, in one round trip. WithIDs names them, so that a repeat attaches. The first refusal is returned, with the index of
// its input; the other runs stand.
func (w *Workflow[In, Out]) StartMany(ctx context.Context, inputs []In, given ...StartOption) ([]*Run[Out], error) {
	o, err := w.options(given)
	if err != nil {
		return nil, err
	}
	b, err := w.app.parent(ctx, "StartMany")
	if err != nil {
		return nil, err
	}
	if b != nil {
		return nil, refuse(ErrOutsideRun, "StartMany inside a workflow is not recorded, and every replay would start the runs again: call Start for each, or do it in a step")
	}
	idOf, named := o.idOf.(func(In) string)
	if o.idOf != nil && !named {
		return nil, refuse(ErrConfigInvalid, "WithIDs takes a function of the workflow's input")
	}
	arguments := frame.New().Str(w.name).List(len(inputs))
	ids := make([]string, len(inputs))
	for i, in := range inputs {
		input, err := encodeInput("an input of", w.name, in)
		if err != nil {
			return nil, err
		}
		one := o
		if named {
			id := idOf(in)
			one.id = &id
		}
		ids[i] = one.named()
		one.write(arguments.List(2).OptBytes(input))
	}
	r, err := w.app.ask(ctx, ops.StartMany, arguments)
	if err != nil {
		return nil, err
	}
	count := r.List()
	out := make([]*Run[Out], 0, len(inputs))
	var refused error
	for i := range min(count, len(inputs)) {
		fields, _ := r.Value().([]any)
		key, attached, code, message := four(fields)
		if code != "" && refused == nil {
			refused = ofCode(code, fmt.Sprintf("item %d: %s", i, message))
		}
		out = append(out, &Run[Out]{handle{app: w.app, key: key, id: ids[i], attached: attached}})
	}
	if refused != nil {
		return nil, refused
	}
	return out, r.Err()
}

func four(fields []any) (key string, attached bool, code, message string) {
	at := func(i int) any {
		if i < len(fields) {
			return fields[i]
		}
		return nil
	}
	key, _ = at(0).(string)
	attached, _ = at(1).(bool)
	code, _ = at(2).(string)
	message, _ = at(3).(string)
	return key, attached, code, message
}

// parent is the branch a start is recorded in; nil outside a workflow, and inside a step. In a workflow of another engine it would be recorded
// nowhere, and happen again with every replay.
func (a *App) parent(ctx context.Context, verb string) (*branch, error) {
	if ctx == nil {
		return nil, refuse(ErrConfigInvalid, "%s: the context is nil", verb)
	}
	b, _ := where(ctx)
	if b == nil {
		return nil, nil
	}
	if b.execution.app != a {
		return nil, otherEngine(verb)
	}
	return b, b.enter(ctx, verb, "")
}

func otherEngine(what string) error {
	return refuse(ErrOutsideRun, "%s is of another engine than this workflow, which could not record it: call it inside a step", what)
}

func (o *options) named() string {
	if o.id == nil {
		return ""
	}
	return *o.id
}

// write is the RUN_OPTIONS record.
func (o *options) write(w *frame.Writer) {
	w.List(23)
	w.Maybe(o.id).Maybe(o.queue).Maybe(o.label).OptInt(o.priority).OptInt(o.delay).OptInt(o.startAt).OptInt(o.expires).OptInt(o.deadline)
	w.OptStr(o.version).OptStr(o.attributes).Maybe(o.fairnessKey).OptInt(o.cost).Maybe(o.createdBy)
	if d := o.dedup; d != nil {
		scope := d.Scope
		if d.TTL > 0 {
			scope = "ttl"
		}
		w.Str(d.Key).OptStr(scope).OptStr(d.Policy)
		optional(w, milliseconds(d.TTL))
	} else {
		w.Null().Null().Null().Null()
	}
	o.policy.write(w)
	w.Maybe(o.onFinish).OptStr(o.traceParent).OptStr(o.traceState)
	for _, said := range []bool{o.reusePurged, o.unchecked} {
		if said {
			w.Bool(true)
		} else {
			w.Null()
		}
	}
}
