package everstep

import (
	"context"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/everstep/everstep/bindings-go/internal/frame"
	"github.com/everstep/everstep/bindings-go/internal/goroutine"
)

// place is where a step runs.
type place struct {
	branch string
	seq    int64
}

// jobPlace is that of a step that runs by itself, as a job: it has no place in another run.
var jobPlace = place{"", -1}

// runningStep is a step's function while it runs: what a signal reaches.
type runningStep struct {
	at      place
	name    string
	attempt int64
	// Text, in the verdict it came in: few steps ask.
	idempotencyKey []byte
	context        *stepContext
	// Clean-up: a cancel of the run lets it end.
	shielded bool
	// after is the order of the answer this attempt began with: a timeout from before is another attempt's. 0 for the first one at its place. A
	// transaction that is tried again after a conflict is still the attempt it was.
	after uint64
	// "", cancel, timeout, branch or stop: the first that came.
	signal atomic.Pointer[string]
}

func (s *runningStep) raise(signal string, cause error) {
	if s.signal.CompareAndSwap(nil, &signal) {
		s.context.cancel(cause)
	}
}

func (s *runningStep) timedOut() {
	s.raise("timeout", refuse(ErrStepTimeout, "step %q took too long", s.name))
}

func (s *runningStep) signalled() string {
	if signal := s.signal.Load(); signal != nil {
		return *signal
	}
	return ""
}

// execution is one execution of one run in this process; id is what the engine calls it.
type execution struct {
	app            *App
	client         *client
	id             uint64
	run            string
	name           string
	kind           string
	attempt        int64
	runID          string
	input          []byte
	idempotencyKey string
	// As JSON: few ask.
	attributes, traceParent string

	// The goroutine of the workflow's or job's function.
	lane lane
	// Done when this execution has ended, however it did.
	ctx    context.Context
	cancel context.CancelCauseFunc
	// ended is closed by the first stop; stoppedWhy says which. Nothing done after that is recorded.
	ended      chan struct{}
	stoppedWhy string
	warned     atomic.Bool
	replaying  atomic.Bool

	mu sync.Mutex
	// Few at a time, mostly one, which has its place here.
	running   []*runningStep
	only      [1]*runningStep
	branches  map[*branchRun]struct{}
	cancelled bool
	// cancelCause is the cancel that was signalled, early the order of the timeouts that were, while nothing ran at their place: an attempt is known
	// here a moment after the engine has begun to count its time, and must hear of what came in between.
	cancelCause error
	early       map[place]uint64
	// Goroutines on their way out.
	left map[uintptr]struct{}
}

// branchRun is a branch of a group while it runs.
type branchRun struct {
	path   string
	lane   *lane
	cancel context.CancelCauseFunc
}

func newExecution(c *client, id uint64, data []byte) (*execution, error) {
	r := frame.Read(data)
	x := &execution{app: c.app, client: c, id: id, ended: make(chan struct{})}
	x.run, x.name, x.kind, x.attempt = r.Str(), r.Str(), r.Str(), r.Int()
	x.replaying.Store(r.Bool())
	x.runID, x.input = r.Str(), r.Bytes()
	x.attributes, x.traceParent = r.Str(), r.Str()
	x.idempotencyKey = r.Str()
	x.ctx, x.cancel = context.WithCancelCause(context.Background())
	return x, r.Err()
}

func (x *execution) hasStopped() bool {
	select {
	case <-x.ended:
		return true
	default:
		return false
	}
}

// stop ends this execution: what it does from here on counts for nothing.
func (x *execution) stop(why string) {
	x.mu.Lock()
	if x.hasStopped() {
		x.mu.Unlock()
		return
	}
	x.stoppedWhy = why
	close(x.ended)
	running := x.stepsWhere(func(place) bool { return true })
	x.mu.Unlock()
	cause := refuse(ErrStopped, "this execution has ended (%s)", why)
	for _, step := range running {
		step.raise("stop", cause)
	}
	x.cancel(cause)
}

// stepsWhere needs the lock.
func (x *execution) stepsWhere(wanted func(place) bool) []*runningStep {
	var out []*runningStep
	for _, step := range x.running {
		if wanted(step.at) {
			out = append(out, step)
		}
	}
	return out
}

// signal passes a cancel, a timeout or the end of a branch on to what runs, and keeps it for what is about to.
func (x *execution) signal(data []byte, order uint64) {
	r := frame.Read(data)
	switch kind := r.Str(); kind {
	case "cancel":
		cause := cancelError(r.Str(), r.Str())
		x.mu.Lock()
		x.cancelled, x.cancelCause = true, cause
		steps := x.stepsWhere(func(place) bool { return true })
		x.mu.Unlock()
		for _, step := range steps {
			if !step.shielded {
				step.raise(kind, cause)
			}
		}
	case "timeout":
		at := place{r.Str(), r.Int()}
		x.mu.Lock()
		steps := x.stepsWhere(func(running place) bool { return running == at || running == jobPlace })
		if len(steps) == 0 {
			if x.early == nil {
				x.early = map[place]uint64{}
			}
			x.early[at] = order
		}
		x.mu.Unlock()
		for _, step := range steps {
			step.timedOut()
		}
	case "branch":
		path := r.Str()
		cause := refuse(ErrStopped, "another branch was first")
		x.mu.Lock()
		steps := x.stepsWhere(func(at place) bool { return under(at.branch, path) })
		var cancels []context.CancelCauseFunc
		for b := range x.branches {
			if under(b.path, path) {
				cancels = append(cancels, b.cancel)
			}
		}
		x.mu.Unlock()
		for _, step := range steps {
			step.raise(kind, cause)
		}
		for _, cancel := range cancels {
			cancel(cause)
		}
	}
}

// under: the branch itself, or one below it.
func under(path, ancestor string) bool {
	rest, ok := strings.CutPrefix(path, ancestor)
	return ok && (rest == "" || rest[0] == '/')
}

func cancelError(by, why string) *Error {
	text := "the run was asked to cancel"
	if by != "" {
		text += " by " + by
	}
	if why != "" {
		text += ": " + why
	}
	return &Error{Code: ErrRunCancelled, Message: text, cancel: true}
}

// leave ends the calling goroutine, running its deferred functions: a stop in Go, which has no exception that could not be caught. Every
// engine call of those functions ends the same way.
func (x *execution) leave() {
	x.mu.Lock()
	if x.left == nil {
		x.left = map[uintptr]struct{}{}
	}
	x.left[goroutine.Current()] = struct{}{}
	x.mu.Unlock()
	runtime.Goexit()
}

// hasLeft tells a stop from a Goexit of the program's own, once, at the end of a goroutine.
func (x *execution) hasLeft() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	_, left := x.left[goroutine.Current()]
	delete(x.left, goroutine.Current())
	return left
}

// verdictStopped takes an execution down, or only the goroutine of a branch that lost.
func (x *execution) verdictStopped(why string) {
	if why != "branch_closed" && why != "superseded" {
		x.stop(why)
	}
	x.leave()
}

// isOn: the function of the run, or of one of its branches, is on this goroutine.
func (x *execution) isOn(current uintptr) bool {
	if x.lane.owner.Load() == current {
		return true
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for b := range x.branches {
		if b.lane.owner.Load() == current {
			return true
		}
	}
	return false
}

func (x *execution) isCancelled() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.cancelled
}

func (x *execution) begins(step *runningStep) {
	x.mu.Lock()
	if x.running == nil {
		x.running = x.only[:0]
	}
	x.running = append(x.running, step)
	stopped, cancel := x.hasStopped(), x.cancelCause
	order, early := x.early[step.at]
	if early {
		delete(x.early, step.at)
	}
	x.mu.Unlock()
	switch {
	case stopped:
		step.raise("stop", refuse(ErrStopped, "this execution has ended"))
	case cancel != nil && !step.shielded:
		step.raise("cancel", cancel)
	case early && order > step.after:
		step.timedOut()
	}
}

// over: the call at this place has its verdict. A timeout that came when its last attempt had returned is of no use to anybody.
func (x *execution) over(at place) {
	x.mu.Lock()
	delete(x.early, at)
	x.mu.Unlock()
}

func (x *execution) ends(step *runningStep) {
	x.mu.Lock()
	if i := slices.Index(x.running, step); i >= 0 {
		x.running = slices.Delete(x.running, i, i+1)
	}
	x.mu.Unlock()
}
