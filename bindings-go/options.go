package everstep

import (
	"encoding/json"
	"math"
	"reflect"
	"time"
	"unicode/utf8"

	"github.com/everstep/everstep/bindings-go/internal/frame"
)

// Retry is a retry policy. What is zero is what was declared, of a call of a declared step or of a start; else the engine's default: 5 attempts, 1 s
// doubling to a minute, full jitter.
type Retry struct {
	// MaxAttempts counts the first one, too.
	MaxAttempts int
	// Initial is the interval after the first failure, Factor what each further one is multiplied by, MaxInterval where that ends.
	Initial     time.Duration
	Factor      float64
	MaxInterval time.Duration
	// NoJitter waits the full interval each time.
	NoJitter bool
	// If is asked for every error; false is final. NonRetryable errors are final in any case. It is code, which does not travel with a run: a start
	// that has one is refused.
	If func(error) bool
}

// refused says what no policy could mean.
func (r *Retry) refused() *Error {
	switch {
	case r.MaxAttempts < 0:
		return refuse(ErrConfigInvalid, "Retry.MaxAttempts is %d; give 1 or more, or 0 for the default", r.MaxAttempts)
	case r.Initial < 0:
		return refuse(ErrConfigInvalid, "Retry.Initial is %v; a wait is not negative", r.Initial)
	case r.MaxInterval < 0:
		return refuse(ErrConfigInvalid, "Retry.MaxInterval is %v; a wait is not negative", r.MaxInterval)
	case r.Factor != 0 && !(r.Factor >= 1) || math.IsInf(r.Factor, 1):
		return refuse(ErrConfigInvalid, "Retry.Factor is %v; give a finite number of 1 or more, or 0 for the default", r.Factor)
	}
	return nil
}

// over is this policy laid over what was said before, which stays as it is: a declared step shares its own with all its calls.
func (r Retry) over(declared *Retry) *Retry {
	if declared == nil {
		return &r
	}
	out := *declared
	if r.MaxAttempts != 0 {
		out.MaxAttempts = r.MaxAttempts
	}
	if r.Initial != 0 {
		out.Initial = r.Initial
	}
	if r.Factor != 0 {
		out.Factor = r.Factor
	}
	if r.MaxInterval != 0 {
		out.MaxInterval = r.MaxInterval
	}
	out.NoJitter = out.NoJitter || r.NoJitter
	if r.If != nil {
		out.If = r.If
	}
	return &out
}

// policy is a RETRY record. Without one there is one attempt.
type policy struct {
	retry      *Retry
	timeout    time.Duration
	atMostOnce bool
}

func (p *policy) given() bool { return p.retry != nil || p.timeout > 0 || p.atMostOnce }

func (p *policy) write(w *frame.Writer) *frame.Writer {
	if !p.given() {
		return w.Null()
	}
	w.List(7)
	if r := p.retry; r != nil {
		optional(w, int64(r.MaxAttempts))
		optional(w, milliseconds(r.Initial))
		if r.Factor == 0 {
			w.Null()
		} else {
			w.Float(r.Factor)
		}
		optional(w, milliseconds(r.MaxInterval))
		if r.NoJitter {
			w.Bool(false)
		} else {
			w.Null()
		}
	} else {
		w.Null().Null().Null().Null().Null()
	}
	optional(w, milliseconds(p.timeout))
	// What is not said is left to the registration: false would take its word away.
	if p.atMostOnce {
		return w.Bool(true)
	}
	return w.Null()
}

// settings are the policy as `register` takes it, JSON.
func (p *policy) settings() map[string]any {
	out := map[string]any{}
	set := func(key string, value any, given bool) {
		if given {
			out[key] = value
		}
	}
	if r := p.retry; r != nil {
		set("max_attempts", r.MaxAttempts, r.MaxAttempts != 0)
		set("initial_ms", milliseconds(r.Initial), r.Initial != 0)
		set("factor", r.Factor, r.Factor != 0)
		set("max_ms", milliseconds(r.MaxInterval), r.MaxInterval != 0)
		set("jitter", false, r.NoJitter)
	}
	set("timeout_ms", milliseconds(p.timeout), p.timeout > 0)
	set("at_most_once", true, p.atMostOnce)
	return out
}

func optional(w *frame.Writer, value int64) *frame.Writer {
	if value == 0 {
		return w.Null()
	}
	return w.Int(value)
}

// options are all there are; each kind of call uses those that its option type lets through.
type options struct {
	policy policy
	strict bool
	keyOf  any
	limit  int

	// Pointers, so that an empty text is refused and not taken for none: one out of a variable that is unset, say.
	key, id, queue, label, fairnessKey, createdBy, onFinish *string
	idempotencyKey, by                                      *string
	dedup                                                   *Dedup
	version, attributes, traceParent, traceState            string
	parentClose                                             string
	priority, cost                                          *int64
	delay, expires, deadline                                *int64
	startAt                                                 *int64
	reusePurged, unchecked                                  bool
	idOf                                                    any

	timeout *time.Duration
	why     string
	// newEffects is of a rewind.
	newEffects bool
	err        error
}

// StepOption is an option of NewStep, Do and the transactions.
type StepOption interface{ applyStep(*options) }

// RegisterOption is an option of Register and RegisterStep.
type RegisterOption interface{ applyRegister(*options) }

// StartOption is an option of Start and StartMany.
type StartOption interface{ applyStart(*options) }

// MapOption is an option of Map and MapBranches.
type MapOption interface{ applyMap(*options) }

// WaitOption is an option of the calls that wait: Result, Receive, GetEvent.
type WaitOption interface{ applyWait(*options) }

// SendOption is an option of Send.
type SendOption interface{ applySend(*options) }

// ControlOption is an option of Cancel, Resume and Retry.
type ControlOption interface{ applyControl(*options) }

// RewindOption is an option of Rewind.
type RewindOption interface{ applyRewind(*options) }

type (
	// PolicyOption says how often and how long something is tried.
	PolicyOption func(*options)
	// StepOnly is an option of steps alone.
	StepOnly func(*options)
	// RunOption is an option of starts, and, for some, of registrations.
	RunOption func(*options)
	// BranchOption is an option of maps.
	BranchOption func(*options)
	// TimeoutOption bounds a step, a job or a wait.
	TimeoutOption func(*options)
	// MessageOption is an option of messages.
	MessageOption func(*options)
	// ByOption says who asks, and why.
	ByOption func(*options)
	// RewindOnly is an option of rewinds alone.
	RewindOnly func(*options)
)

func (f PolicyOption) applyStep(o *options)     { f(o) }
func (f PolicyOption) applyRegister(o *options) { f(o) }
func (f PolicyOption) applyMap(o *options)      { f(o) }
func (f StepOnly) applyStep(o *options)         { f(o) }
func (f RunOption) applyRegister(o *options)    { f(o) }
func (f RunOption) applyStart(o *options)       { f(o) }
func (f BranchOption) applyMap(o *options)      { f(o) }
func (f TimeoutOption) applyStep(o *options)    { f.applyPolicy(o) }
func (f TimeoutOption) applyStart(o *options)   { f.applyPolicy(o) }
func (f TimeoutOption) applyMap(o *options)     { f.applyPolicy(o) }
func (f TimeoutOption) applyWait(o *options)    { f(o) }
func (f MessageOption) applySend(o *options)    { f(o) }
func (f ByOption) applyControl(o *options)      { f(o) }
func (f ByOption) applyRewind(o *options)       { f(o) }
func (f RewindOnly) applyRewind(o *options)     { f(o) }

func (f PolicyOption) applyStart(o *options) {
	if f(o); o.err == nil && o.policy.retry != nil && o.policy.retry.If != nil {
		o.err = refuse(ErrConfigInvalid, "Retry.If of a start would be lost: a function does not travel with the run; give it to Register or NewStep")
	}
}

// applyPolicy is for what is tried again: a negative wait is over at once, but no attempt can be.
func (f TimeoutOption) applyPolicy(o *options) {
	if f(o); o.policy.timeout < 0 {
		o.err = refuse(ErrConfigInvalid, "WithTimeout is %v; give an attempt a time, or 0 for no limit", o.policy.timeout)
	}
}

// WithRetry sets a retry policy, of a step, of a workflow, of one call or of one start. It is laid over what was said before, field by field: that of a
// call over the declared step's, that of a start over the registration's.
func WithRetry(retry Retry) PolicyOption {
	return func(o *options) {
		if refused := retry.refused(); refused != nil {
			o.err = refused
		}
		o.policy.retry = retry.over(o.policy.retry)
	}
}

// WithMaxAttempts is WithRetry with this alone.
func WithMaxAttempts(count int) PolicyOption {
	return func(o *options) {
		if count < 1 {
			o.err = refuse(ErrConfigInvalid, "WithMaxAttempts is at least 1")
		}
		o.policy.retry = Retry{MaxAttempts: count}.over(o.policy.retry)
	}
}

// WithTimeout bounds one attempt of a step, or of the job a start names: its context ends, and what it returns then is ErrStepTimeout. Default, and 0:
// none. On a wait: how long.
func WithTimeout(limit time.Duration) TimeoutOption {
	return func(o *options) { o.policy.timeout, o.timeout = limit, &limit }
}

// AtMostOnce records the attempt before the step runs; after a crash the workflow gets ErrStepInterrupted and decides. A transaction refuses it: its
// rows and its record commit together, which is more.
func AtMostOnce() StepOnly { return func(o *options) { o.policy.atMostOnce = true } }

// Strict makes a call of this step outside a workflow an error; without it, it is the plain function there.
func Strict() StepOnly { return func(o *options) { o.strict = true } }

// WithStepKey tells same-named calls of one branch apart that have no arguments.
func WithStepKey(key string) StepOnly { return func(o *options) { o.key = &key } }

// WithKey names the branches of a map, so that its items may come in another order on replay. Keys differ.
func WithKey[T any](key func(item T) string) BranchOption {
	return func(o *options) {
		if key == nil {
			o.err = refuse(ErrConfigInvalid, "WithKey: the function is nil")
		}
		o.keyOf = key
	}
}

// WithLimit bounds how many branches of a map run at a time; default 1000.
func WithLimit(count int) BranchOption {
	return func(o *options) {
		if count < 1 {
			o.err = refuse(ErrConfigInvalid, "WithLimit is %d; give 1 or more, or leave it out for 1000", count)
		}
		o.limit = count
	}
}

// WithID gives the run an id: 1 to 255 bytes. Starting an id that exists attaches to its run.
func WithID(id string) RunOption { return func(o *options) { o.id = &id } }

// WithIDs gives each run of StartMany an id made of its input, so that a repeat attaches.
func WithIDs[T any](id func(input T) string) RunOption {
	return func(o *options) {
		if id == nil {
			o.err = refuse(ErrConfigInvalid, "WithIDs: the function is nil")
		}
		o.idOf = id
	}
}

// OnQueue puts the run on a queue.
func OnQueue(name string) RunOption { return func(o *options) { o.queue = &name } }

// WithLabel sends the run to workers of this label; at registration: this worker's.
func WithLabel(label string) RunOption { return func(o *options) { o.label = &label } }

// WithVersion is a version that is stored with the run and shown (RunInfo.Version); it pins the run to nothing. At registration: that of runs started
// here. See WithBuild for the build of the program.
func WithVersion(version string) RunOption { return func(o *options) { o.version = version } }

// WithPriority orders what waits in a queue: the lowest number goes first. Default 0, from -100000 to 100000.
func WithPriority(priority int) RunOption {
	return func(o *options) { n := int64(priority); o.priority = &n }
}

// WithDelay starts the run later.
func WithDelay(delay time.Duration) RunOption {
	return func(o *options) { n := milliseconds(delay); o.delay = &n }
}

// WithStartAt starts the run at a time.
func WithStartAt(at time.Time) RunOption {
	return func(o *options) { n := microseconds(at); o.startAt = &n }
}

// WithExpiry gives the run up when it has not started in time.
func WithExpiry(limit time.Duration) RunOption {
	return func(o *options) { n := milliseconds(limit); o.expires = &n }
}

// WithDeadline cancels the run when it takes longer.
func WithDeadline(limit time.Duration) RunOption {
	return func(o *options) { n := milliseconds(limit); o.deadline = &n }
}

// WithAttributes are texts, numbers and booleans to find the run by.
func WithAttributes(attributes map[string]any) RunOption {
	return func(o *options) {
		if len(attributes) == 0 {
			return
		}
		for name, value := range attributes {
			if err := attributeText(name, value); err != nil {
				o.err = err
				return
			}
		}
		text, err := json.Marshal(attributes)
		if err != nil {
			o.err = refuse(ErrConfigInvalid, "an attribute has no form in JSON: %v", err)
		}
		o.attributes = string(text)
	}
}

// attributeText refuses what encoding/json would write as another text, by which the run is not found.
func attributeText(name string, value any) error {
	if !utf8.ValidString(name) {
		return refuse(ErrPayloadInvalid, "the attribute's name %.300q is not UTF-8", name)
	}
	v := reflect.ValueOf(value)
	for v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	if v.Kind() == reflect.String && !utf8.ValidString(v.String()) {
		return refuse(ErrPayloadInvalid, "the value of attribute %.300q is not UTF-8", name)
	}
	return nil
}

// WithFairnessKey is what a queue's KeyLimit counts by: at most that many runs of one key at a time. Without a KeyLimit it changes nothing.
func WithFairnessKey(key string) RunOption { return func(o *options) { o.fairnessKey = &key } }

// WithCost is stored with the run and shown (RunInfo.Cost); default 1. No limit counts by it yet.
func WithCost(cost int) RunOption { return func(o *options) { n := int64(cost); o.cost = &n } }

// WithCreatedBy says who started it.
func WithCreatedBy(who string) RunOption { return func(o *options) { o.createdBy = &who } }

// Dedup is at most one run per key in a scope.
type Dedup struct {
	// Key is 1 to 255 bytes.
	Key string
	// Scope is how long the key is taken: "until_done" (the default) or "queued" (until it starts); TTL instead: that long from the start.
	Scope string
	TTL   time.Duration
	// Policy is what becomes of a start whose key is taken: "attach" (the default) to the run that has it, "reject" with ErrRunDeduplicated, or
	// "replace" a run that has not started (of one that has: ErrRunDeduplicated).
	Policy string
}

// WithDedup allows at most one run per key.
func WithDedup(dedup Dedup) RunOption {
	return func(o *options) {
		if dedup.TTL < 0 {
			o.err = refuse(ErrConfigInvalid, "Dedup.TTL is %v; give how long the key is taken, or 0 for Scope", dedup.TTL)
		}
		o.dedup = &dedup
	}
}

// WithOnFinish names a workflow that is started with the outcome, a Finished, in the commit that ends the run: of a start, or, at a registration, of
// every run of it.
func WithOnFinish(workflow string) RunOption { return func(o *options) { o.onFinish = &workflow } }

// WithTrace carries a W3C trace context.
func WithTrace(parent, state string) RunOption {
	return func(o *options) { o.traceParent, o.traceState = parent, state }
}

// ReusePurged starts anew under an id whose run retention has removed.
func ReusePurged() RunOption { return func(o *options) { o.reusePurged = true } }

// Unchecked starts a workflow although its name is known to nobody yet and nearly one that is (ErrUnknownWorkflow): where the program that has it is
// deployed later.
func Unchecked() RunOption { return func(o *options) { o.unchecked = true } }

// AbandonOnClose lets a child go on when its parent ends; otherwise a child that is still open then is cancelled, however the parent ended.
func AbandonOnClose() RunOption { return func(o *options) { o.parentClose = "abandon" } }

// WithIdempotencyKey makes a message that is sent twice arrive once.
func WithIdempotencyKey(key string) MessageOption {
	return func(o *options) { o.idempotencyKey = &key }
}

// By says who asks for a control call.
func By(who string) ByOption { return func(o *options) { o.by = &who } }

// NewEffects gives what the run does after a rewind new idempotency keys, and makes messages sent and children started again new ones. Without it the keys
// stay as they were, so the other side takes a repeated call for the one it knows.
func NewEffects() RewindOnly { return func(o *options) { o.newEffects = true } }

// Why says why a cancel is asked for; the run sees it.
func Why(reason string) ByOption { return func(o *options) { o.why = reason } }

// collect applies options of one kind. A nil option is an error, not a crash.
func collect[O any](given []O, apply func(O, *options), into *options) error {
	for _, option := range given {
		if isNil(option) {
			return refuse(ErrConfigInvalid, "an option is nil")
		}
		apply(option, into)
	}
	return into.err
}
