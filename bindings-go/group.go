package everstep

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"

	"github.com/everstep/everstep/bindings-go/internal/frame"
	"github.com/everstep/everstep/bindings-go/internal/goroutine"
	"github.com/everstep/everstep/bindings-go/internal/ops"
)

// openAtOnce bounds the goroutines of a map that names no limit.
const openAtOnce = 1000

// group is one opened all, map, any or race.
type group struct {
	kind  string
	outer *branch
	seq   int64
	names []string
	// winner is the branch that was recorded before this execution; -1: none.
	winner int
}

// settled is how a branch ended. gone: its goroutine left, because the execution has ended or another branch was first.
type settled[R any] struct {
	index int
	value R
	err   error
	gone  bool
}

// All runs the branches at once, waits for every one, and returns their values in order. When some failed, it returns the error of the first of
// them in that order: nothing goes on behind the workflow's back.
func All[R any](ctx context.Context, branches ...func(ctx Context) (R, error)) ([]R, error) {
	return every(ctx, "all", branches, nil, 0, 1)
}

// Any returns the value of the first branch to succeed. The others get their cancel signal and are not waited for; what they did outside is
// done: compensate, or let them only read. When all fail, it returns the first branch's error.
func Any[R any](ctx context.Context, branches ...func(ctx Context) (R, error)) (R, error) {
	return first(ctx, "any", branches, 1)
}

// Race returns what the first branch to settle returned, value or error. The others get their cancel signal and are not waited for.
func Race[R any](ctx context.Context, branches ...func(ctx Context) (R, error)) (R, error) {
	return first(ctx, "race", branches, 1)
}

// Map runs one step of this name for each item, and returns their results in order. WithKey names the branches, so that items may come in another
// order on replay; WithLimit bounds how many run at a time.
func Map[T, R any](ctx context.Context, name string, items []T, function func(ctx context.Context, item T) (R, error), given ...MapOption) ([]R, error) {
	o := options{}
	if err := collect(given, func(option MapOption, o *options) { option.applyMap(o) }, &o); err != nil {
		return nil, err
	}
	step := NewStep(name, function)
	if step.definition.err != nil {
		return nil, step.definition.err
	}
	step.definition.options = options{policy: o.policy}
	b, err := inWorkflow(ctx, "Map")
	if err != nil {
		return nil, err
	}
	// Its steps stand where the map does.
	location := b.execution.app.location(1)
	return mapped(ctx, items, &o, 2, func(ctx Context, item T) (R, error) { return doStep(ctx, step, item, location, nil) })
}

// MapBranches runs a function for each item, each in a branch of its own, in which it may call steps, sleep, and so on. WithKey and WithLimit are as in
// Map; retries and a timeout belong to the steps in it.
func MapBranches[T, R any](ctx context.Context, items []T, function func(ctx Context, item T) (R, error), given ...MapOption) ([]R, error) {
	o := options{}
	if err := collect(given, func(option MapOption, o *options) { option.applyMap(o) }, &o); err != nil {
		return nil, err
	}
	if function == nil {
		return nil, refuse(ErrConfigInvalid, "MapBranches: the function is nil")
	}
	if o.policy.given() || o.timeout != nil {
		return nil, refuse(ErrConfigInvalid, "MapBranches: a branch is no attempt, so it has no retries and no timeout; give them to the steps in it, or use Map")
	}
	return mapped(ctx, items, &o, 2, function)
}

func mapped[T, R any](ctx context.Context, items []T, o *options, skip int, function func(ctx Context, item T) (R, error)) ([]R, error) {
	branches := make([]func(Context) (R, error), len(items))
	var keys []string
	keyOf, named := o.keyOf.(func(T) string)
	if o.keyOf != nil && !named {
		return nil, refuse(ErrConfigInvalid, "WithKey takes a function of the map's items")
	}
	for i, item := range items {
		branches[i] = func(ctx Context) (R, error) { return function(ctx, item) }
		if named {
			keys = append(keys, keyOf(item))
		}
	}
	return every(ctx, "map", branches, keys, o.limit, skip)
}

func openGroup[R any](ctx context.Context, kind string, branches []func(Context) (R, error), keys []string, skip int) (*group, error) {
	outer, err := inWorkflow(ctx, kind)
	if err != nil {
		return nil, err
	}
	for i, branch := range branches {
		if branch == nil {
			return nil, refuse(ErrConfigInvalid, "%s: branch %d is nil", kind, i)
		}
	}
	g := &group{kind: kind, outer: outer, winner: -1, names: make([]string, len(branches))}
	known := map[string]bool{}
	for i := range branches {
		g.names[i] = strconv.Itoa(i)
		if keys != nil {
			g.names[i] = "k:" + quoted(keys[i])
		}
		if known[g.names[i]] {
			return nil, refuse(ErrConfigInvalid, "%s: two items have the key %q", kind, keys[i])
		}
		known[g.names[i]] = true
	}
	x := outer.execution
	arguments := frame.New().Str(outer.path).Int(outer.flags).Str(kind).Str(x.app.location(skip + 1))
	r, err := x.call(ops.BeginGroup, arguments)
	if err != nil {
		return nil, err
	}
	v, err := x.readVerdict(r.Rest())
	if err != nil {
		return nil, err
	}
	g.seq = v.seq
	if v.kind == ops.VerdictRecorded && len(v.value) > 0 && kind != "all" && kind != "map" {
		g.winner, err = g.index(v.value)
	}
	return g, err
}

// `/` separates the levels of a branch's path.
func quoted(key string) string {
	return strings.ReplaceAll(strings.ReplaceAll(key, "%", "%25"), "/", "%2F")
}

// index of a recorded winner: a number, or a key as a text.
func (g *group) index(recorded []byte) (int, error) {
	var value any
	name := string(recorded)
	if json.Unmarshal(recorded, &value) == nil {
		if key, ok := value.(string); ok {
			name = "k:" + key
		}
	}
	for i := range g.names {
		if g.names[i] == name {
			return i, nil
		}
	}
	return 0, refuse(ErrMismatch, "the recorded winner %s of this %s is none of its branches: the program has changed", name, g.kind)
}

func (g *group) path(index int) string {
	return g.outer.path + "/" + strconv.FormatInt(g.seq, 10) + "/" + g.names[index]
}

// run starts the goroutine of a branch.
func run[R any](ctx context.Context, g *group, index int, function func(Context) (R, error), out chan<- settled[R]) {
	x := g.outer.execution
	inner, cancel := context.WithCancelCause(ctx)
	b := &branch{Context: inner, execution: x, path: g.path(index), flags: g.outer.flags, lane: &lane{}}
	open := &branchRun{b.path, b.lane, cancel}
	x.mu.Lock()
	if x.branches == nil {
		x.branches = map[*branchRun]struct{}{}
	}
	x.branches[open] = struct{}{}
	x.mu.Unlock()
	x.client.runs.Add(1)
	go func() {
		defer x.client.runs.Done()
		b.lane.owner.Store(goroutine.Current())
		result := settled[R]{index: index, gone: true}
		defer func() {
			b.lane.owner.Store(0)
			x.mu.Lock()
			delete(x.branches, open)
			x.mu.Unlock()
			cancel(nil)
			if left := x.hasLeft(); result.gone && !left && !x.hasStopped() {
				result.gone, result.err = false, refuse(ErrStepFailed, "a branch called runtime.Goexit, which ends its goroutine without a result")
			}
			out <- result
		}()
		_, err := guarded(func() ([]byte, error) {
			value, err := function(b)
			result.value = value
			return nil, err
		}, func() {})
		result.err, result.gone = err, false
	}()
}

// next is the next branch that settles. A stop ends the wait: a branch may be inside a long call of the user's.
func next[R any](g *group, out <-chan settled[R]) settled[R] {
	x := g.outer.execution
	select {
	case one := <-out:
		return one
	case <-x.ended:
	}
	x.leave()
	return settled[R]{}
}

func every[R any](ctx context.Context, kind string, branches []func(Context) (R, error), keys []string, limit, skip int) ([]R, error) {
	g, err := openGroup(ctx, kind, branches, keys, skip+1)
	if err != nil {
		return nil, err
	}
	if limit <= 0 {
		limit = openAtOnce
	}
	out := make(chan settled[R], len(branches))
	values := make([]R, len(branches))
	failures := make([]error, len(branches))
	started := 0
	for ; started < min(limit, len(branches)); started++ {
		run(ctx, g, started, branches[started], out)
	}
	for range branches {
		one := next(g, out)
		if one.gone {
			// Its branch is closed, so this one, around it, is.
			g.outer.execution.leave()
		}
		values[one.index], failures[one.index] = one.value, one.err
		if _, err := g.outer.execution.call(ops.LeaveBranch, frame.New().Str(g.path(one.index))); err != nil {
			return nil, err
		}
		if started < len(branches) {
			run(ctx, g, started, branches[started], out)
			started++
		}
	}
	for _, err := range failures {
		if err != nil {
			return nil, err
		}
	}
	return values, nil
}

func first[R any](ctx context.Context, kind string, branches []func(Context) (R, error), skip int) (R, error) {
	var none R
	if len(branches) == 0 {
		return none, refuse(ErrConfigInvalid, "%s of nothing has no winner", kind)
	}
	g, err := openGroup(ctx, kind, branches, nil, skip+1)
	if err != nil {
		return none, err
	}
	inner, cancel := context.WithCancelCause(ctx)
	// The losers' signal. Before the winner is recorded none may get it, for it might be one of them.
	defer cancel(refuse(ErrStopped, "another branch was first"))
	out := make(chan settled[R], len(branches))
	ended := make([]*settled[R], len(branches))
	if g.winner >= 0 {
		run(inner, g, g.winner, branches[g.winner], out)
		one := next(g, out)
		if one.gone {
			g.outer.execution.leave()
		}
		return one.value, one.err
	}
	for i := range branches {
		run(inner, g, i, branches[i], out)
	}
	chosen := -1
	for range branches {
		one := next(g, out)
		if one.gone {
			g.outer.execution.leave()
		}
		ended[one.index] = &one
		if kind == "any" && one.err != nil {
			continue
		}
		x := g.outer.execution
		v, err := x.finish(ops.FinishGroup, frame.New().Int(int64(x.id)).Str(g.outer.path).Int(g.seq).Str(g.names[one.index]))
		if err != nil {
			return none, err
		}
		chosen = one.index
		if len(v.value) > 0 {
			if chosen, err = g.index(v.value); err != nil {
				return none, err
			}
		}
		break
	}
	if chosen < 0 {
		chosen = 0
	}
	for ended[chosen] == nil {
		one := next(g, out)
		if one.gone && one.index == chosen {
			g.outer.execution.leave()
		}
		ended[one.index] = &one
	}
	return ended[chosen].value, ended[chosen].err
}
