package everstep

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/everstep/everstep/bindings-go/internal/frame"
	"github.com/everstep/everstep/bindings-go/internal/ops"
	"github.com/everstep/everstep/bindings-go/internal/payload"
)

// State is a run's state.
type State string

// The states; the last three never change except by Retry, Resume or Rewind.
const (
	StateReady      State = "ready"
	StateRunning    State = "running"
	StateWaiting    State = "waiting"
	StateCancelling State = "cancelling"
	StateBlocked    State = "blocked"
	StateSucceeded  State = "succeeded"
	StateFailed     State = "failed"
	StateCancelled  State = "cancelled"
)

// RunInfo is a run as the database has it now. Texts are "" and times zero where there is none; times are UTC, of the database's clock.
type RunInfo struct {
	// Key is the run's uuid; ID is what WithID gave.
	Key, ID, Workflow string
	State             State
	// Version is what WithVersion said, which pins it to nothing; Queue and Label are what it was started with.
	Version, Queue, Label string
	// Epoch grows with every claim, wake, takeover and control call. Of two runs that are ready in a queue the lower Priority goes first.
	Epoch, Priority int
	// Crashes counts takeovers from workers that died without anything being recorded since the one before; at 5 the run is blocked. Attempt is of the
	// whole run, from 1.
	Crashes, Attempt int
	// Owner is the worker that has it, with its host and its process there.
	Owner, OwnerHost string
	OwnerPid         int
	// Parent is the key of the run that started this one as a child, Root of the first of them all, ForkedFrom of the run this is a copy of.
	Parent, Root string
	ForkedFrom   string
	// Attributes are those of WithAttributes: string, bool, int64 or float64.
	Attributes  map[string]any
	FairnessKey string
	Cost        int
	CreatedBy   string
	// FinishedAt is zero until the run has ended.
	CreatedAt, FinishedAt time.Time
	// StartAt is set by a delay, DeadlineAt and ExpiresAt by WithDeadline and WithExpiry.
	StartAt, DeadlineAt time.Time
	ExpiresAt           time.Time
	// ErrorType and ErrorMessage are of the error a failed run ended with.
	ErrorType, ErrorMessage string
	// CancelBy and CancelWhy are of a cancel that was asked for.
	CancelBy, CancelWhy string
	// BlockedWhy says what is wrong with a blocked run, and what to do.
	BlockedWhy string
	// WaitsFor is what it waits for, in words.
	WaitsFor []string
	// StepsRecorded counts every recorded call, waits and messages too.
	StepsRecorded int
	// TraceParent and TraceState are the W3C trace context of WithTrace.
	TraceParent, TraceState string
}

// record is a positional record of the border, by field position.
type record []any

func (r record) at(i int) any {
	if i < len(r) {
		return r[i]
	}
	return nil
}

func (r record) text(i int) string {
	text, _ := r.at(i).(string)
	return text
}

func (r record) number(i int) int {
	n, _ := r.at(i).(int64)
	return int(n)
}

func (r record) flag(i int) bool {
	b, _ := r.at(i).(bool)
	return b
}

func (r record) when(i int) time.Time {
	if us, ok := r.at(i).(int64); ok {
		return time.UnixMicro(us).UTC()
	}
	return time.Time{}
}

func runInfo(r record) RunInfo {
	out := RunInfo{
		Key: r.text(ops.RunFieldRun), ID: r.text(ops.RunFieldID), Workflow: r.text(ops.RunFieldWorkflow), State: State(r.text(ops.RunFieldState)),
		Version: r.text(ops.RunFieldVersion), Queue: r.text(ops.RunFieldQueue), Label: r.text(ops.RunFieldLabel), Epoch: r.number(ops.RunFieldEpoch),
		Priority: r.number(ops.RunFieldPriority), Crashes: r.number(ops.RunFieldCrashes), Attempt: r.number(ops.RunFieldAttempt),
		Owner: r.text(ops.RunFieldOwner), OwnerHost: r.text(ops.RunFieldOwnerHost), OwnerPid: r.number(ops.RunFieldOwnerPid),
		Parent: r.text(ops.RunFieldParent), Root: r.text(ops.RunFieldRoot), ForkedFrom: r.text(ops.RunFieldForkedFrom),
		FairnessKey: r.text(ops.RunFieldFairnessKey), Cost: r.number(ops.RunFieldCost), CreatedBy: r.text(ops.RunFieldCreatedBy),
		CreatedAt: r.when(ops.RunFieldCreatedAtUs), FinishedAt: r.when(ops.RunFieldFinishedAtUs), StartAt: r.when(ops.RunFieldStartAtUs),
		DeadlineAt: r.when(ops.RunFieldDeadlineAtUs), ExpiresAt: r.when(ops.RunFieldExpiresAtUs), ErrorType: r.text(ops.RunFieldErrorType),
		ErrorMessage: r.text(ops.RunFieldErrorMessage), CancelBy: r.text(ops.RunFieldCancelBy), CancelWhy: r.text(ops.RunFieldCancelWhy),
		BlockedWhy: r.text(ops.RunFieldBlockedWhy), StepsRecorded: r.number(ops.RunFieldStepsRecorded),
		TraceParent: r.text(ops.RunFieldTraceParent), TraceState: r.text(ops.RunFieldTraceState),
	}
	out.Attributes = attributesOf(r.text(ops.RunFieldAttributes))
	waits, _ := r.at(ops.RunFieldWaitsFor).([]any)
	for _, item := range waits {
		parts, ok := item.([]any)
		if !ok {
			parts = []any{item}
		}
		var words []string
		for _, part := range parts {
			if part != nil {
				words = append(words, fmt.Sprint(part))
			}
		}
		out.WaitsFor = append(out.WaitsFor, strings.Join(words, " "))
	}
	return out
}

// attributesOf reads them as a value of the program's is read, an id of 64 bits as one. What is no object is shown as it stands.
func attributesOf(text string) map[string]any {
	if text == "" {
		return nil
	}
	value, err := payload.ParseForeign([]byte(text))
	if found, ok := value.(map[string]any); ok && err == nil {
		return found
	}
	return map[string]any{"": text}
}

// StepInfo is one recorded call of a run.
type StepInfo struct {
	// Branch, Seq and Segment are its position: the path of the branch ("" is the workflow's own), which call of that branch, and which part of a run
	// that was rewound or continued.
	Branch       string
	Seq, Segment int
	// Kind is step, sleep, receive and so on; Name is a step's, or the topic's or key's.
	Kind, Name string
	// Location is where the program calls it: folder/file.go:line.
	Location string
	Failed   bool
	// Attempt is the one that was recorded, from 1. Done is the order in which the run's calls completed, from 0.
	Attempt, Done int
	Took          time.Duration
	RecordedAt    time.Time
	// WrittenBy is the worker that recorded it, with its host and its process there.
	WrittenBy string
	Host      string
	Pid       int
	// Output is the recorded payload, encoded; nil where there is none.
	Output []byte
	// Epoch is that of the execution it was recorded in.
	Epoch int
}

func stepInfo(r record) StepInfo {
	output, _ := r.at(ops.StepFieldOutput).([]byte)
	return StepInfo{
		Branch: r.text(ops.StepFieldBranch), Seq: r.number(ops.StepFieldSeq), Segment: r.number(ops.StepFieldSegment), Kind: r.text(ops.StepFieldKind),
		Name: r.text(ops.StepFieldName), Location: r.text(ops.StepFieldLocation), Failed: r.flag(ops.StepFieldFailed),
		Attempt: r.number(ops.StepFieldAttempt), Done: r.number(ops.StepFieldDone), Took: time.Duration(r.number(ops.StepFieldTookUs)) * time.Microsecond,
		RecordedAt: r.when(ops.StepFieldRecordedAtUs), WrittenBy: r.text(ops.StepFieldWrittenBy), Host: r.text(ops.StepFieldHost),
		Pid: r.number(ops.StepFieldPid), Output: output, Epoch: r.number(ops.StepFieldEpoch),
	}
}

// Status is the run as the database has it now.
func (r *Run[Out]) Status(ctx context.Context) (RunInfo, error) { return r.itself().status(ctx) }

func (h *handle) status(ctx context.Context) (RunInfo, error) {
	if err := h.check(); err != nil {
		return RunInfo{}, err
	}
	r, err := h.app.ask(ctx, ops.GetRun, frame.New().Str(h.key))
	if err != nil {
		return RunInfo{}, h.about(err)
	}
	fields, found := r.Value().([]any)
	if !found {
		name := h.id
		if name == "" {
			name = h.key
		}
		return RunInfo{}, &Error{Code: ErrRunNotFound, Message: "there is no run " + name, Run: h.key}
	}
	return runInfo(fields), r.Err()
}

// Steps are every recorded call of the run, in order of position.
func (r *Run[Out]) Steps(ctx context.Context) ([]StepInfo, error) { return r.itself().steps(ctx) }

func (h *handle) steps(ctx context.Context) ([]StepInfo, error) {
	if err := h.check(); err != nil {
		return nil, err
	}
	var out []StepInfo
	after := ""
	for {
		r, err := h.app.ask(ctx, ops.ListSteps, frame.New().Str(h.key).OptStr(after).Null())
		if err != nil {
			return nil, h.about(err)
		}
		for range r.List() {
			fields, _ := r.Value().([]any)
			out = append(out, stepInfo(fields))
		}
		if after = r.Str(); after == "" || r.Err() != nil {
			return out, r.Err()
		}
	}
}

// Filter narrows Runs down; what is zero does not.
type Filter struct {
	// States are alternatives.
	States          []State
	Workflow, Queue string
	// Parent is the key of a run whose children are wanted.
	Parent string
	// Attribute is the name of an attribute, and AttributeValue what it equals.
	Attribute      string
	AttributeValue any
	// CreatedFrom is inclusive, CreatedBefore is not.
	CreatedFrom, CreatedBefore time.Time
	// After is the Next of the page before.
	After string
	// Limit is the size of a page, 1 to 1000; 0 is 100.
	Limit int
}

// Page is one page of runs; Next is the After of the next one, "" at the end.
type Page struct {
	Runs []RunInfo
	Next string
}

// mostRuns is what the engine gives at once: it would cut a greater page short without a word.
const mostRuns = 1000

// Runs lists runs, newest first, one page.
func (a *App) Runs(ctx context.Context, filter Filter) (Page, error) {
	if filter.Limit < 0 || filter.Limit > mostRuns {
		return Page{}, refuse(ErrConfigInvalid, "Filter.Limit is %d; a page has 1 to %d runs, and After gives the next", filter.Limit, mostRuns)
	}
	w := frame.New().List(10)
	if len(filter.States) == 0 {
		w.Null()
	} else {
		w.List(len(filter.States))
		for _, state := range filter.States {
			w.Str(string(state))
		}
	}
	w.OptStr(filter.Workflow).OptStr(filter.Queue).OptStr(filter.Parent).OptStr(filter.Attribute)
	if filter.Attribute == "" {
		w.Null()
	} else {
		if err := attributeText(filter.Attribute, filter.AttributeValue); err != nil {
			return Page{}, err
		}
		value, err := json.Marshal(filter.AttributeValue)
		if err != nil {
			return Page{}, refuse(ErrConfigInvalid, "the attribute's value has no form in JSON: %v", err)
		}
		w.Str(string(value))
	}
	for _, when := range []time.Time{filter.CreatedFrom, filter.CreatedBefore} {
		if when.IsZero() {
			w.Null()
		} else {
			w.Int(microseconds(when))
		}
	}
	optional(w.OptStr(filter.After), int64(filter.Limit))
	r, err := a.ask(ctx, ops.ListRuns, w)
	if err != nil {
		return Page{}, err
	}
	out := Page{}
	for range r.List() {
		fields, _ := r.Value().([]any)
		out.Runs = append(out.Runs, runInfo(fields))
	}
	out.Next = r.Str()
	return out, r.Err()
}
