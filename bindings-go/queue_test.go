package everstep_test

import (
	"context"
	"sync"
	"testing"
	"time"

	everstep "github.com/everstep/everstep/bindings-go"
)

// counted counts what runs at once.
type counted struct {
	mu        sync.Mutex
	now, most map[string]int
}

func (c *counted) begin(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now == nil {
		c.now, c.most = map[string]int{}, map[string]int{}
	}
	c.now[key]++
	c.most[key] = max(c.most[key], c.now[key])
}

func (c *counted) end(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now[key]--
}

// of is how many of this key run now, and how many ran at most.
func (c *counted) of(key string) (now, most int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now[key], c.most[key]
}

func all[Out any](t *testing.T, runs []*everstep.Run[Out]) {
	t.Helper()
	for _, run := range runs {
		must(t, second(run.Result(context.Background(), everstep.WithTimeout(patience))))
	}
}

func TestALimitOfAKeyHoldsAndNoKeyWaitsForAnother(t *testing.T) {
	ctx := context.Background()
	app := open(t, file(t))
	must(t, app.DeclareQueue(everstep.Queue{Name: "q", KeyLimit: 1}))
	var at counted
	gate := make(chan struct{})
	w := register(t, app, "keyed", func(ctx everstep.Context, key string) (int, error) {
		return everstep.Do(ctx, "work", func(context.Context) (int, error) {
			at.begin(key)
			defer at.end(key)
			if key == "held" {
				<-gate
			}
			time.Sleep(5 * time.Millisecond)
			return 0, nil
		})
	})
	launch(t, app)
	start := func(key string) []*everstep.Run[int] {
		runs, err := w.StartMany(ctx, []string{key, key, key}, everstep.OnQueue("q"), everstep.WithFairnessKey(key))
		must(t, err)
		return runs
	}
	held := start("held")
	until(t, "a run of the key that is held has begun", func() bool { now, _ := at.of("held"); return now == 1 })
	all(t, start("free"))
	close(gate)
	all(t, held)
	for _, key := range []string{"held", "free"} {
		if _, most := at.of(key); most != 1 {
			t.Errorf("%d runs of the key %q at once", most, key)
		}
	}
}

func TestALimitOfAWorkerHolds(t *testing.T) {
	app := open(t, file(t))
	must(t, app.DeclareQueue(everstep.Queue{Name: "q", WorkerLimit: 2}))
	var at counted
	gate := make(chan struct{})
	w := register(t, app, "limited", func(ctx everstep.Context, _ int) (int, error) {
		return everstep.Do(ctx, "work", func(context.Context) (int, error) {
			at.begin("")
			defer at.end("")
			<-gate
			time.Sleep(10 * time.Millisecond)
			return 0, nil
		})
	})
	launch(t, app)
	runs, err := w.StartMany(context.Background(), make([]int, 8), everstep.OnQueue("q"))
	must(t, err)
	until(t, "two have begun", func() bool { now, _ := at.of(""); return now == 2 })
	close(gate)
	all(t, runs)
	if _, most := at.of(""); most != 2 {
		t.Errorf("%d at once", most)
	}
}

func TestAKeyIsTakenWhileItsRunIsQueued(t *testing.T) {
	ctx := context.Background()
	app := open(t, file(t))
	must(t, app.DeclareQueue(everstep.Queue{Name: "q", Paused: true}))
	begun, gate := make(chan struct{}), make(chan struct{})
	w := register(t, app, "queued", func(ctx everstep.Context, n int) (int, error) {
		return everstep.Do(ctx, "work", func(context.Context) (int, error) {
			if n == 2 {
				close(begun)
				<-gate
			}
			return n, nil
		})
	})
	launch(t, app)
	start := func(n int, policy string) (*everstep.Run[int], error) {
		return w.Start(ctx, n, everstep.OnQueue("q"), everstep.WithDedup(everstep.Dedup{Key: "k", Scope: "queued", Policy: policy}))
	}
	first, err := start(1, "replace")
	must(t, err)
	next, err := start(2, "replace")
	must(t, err)
	wants(t, second(first.Result(ctx, everstep.WithTimeout(patience))), everstep.ErrRunCancelled)
	wants(t, second(start(3, "reject")), everstep.ErrRunDeduplicated)
	same, err := start(3, "attach")
	must(t, err)
	if !same.Attached() || same.Key() != next.Key() {
		t.Errorf("attached %v to %s, and %s has the key", same.Attached(), same.Key(), next.Key())
	}
	must(t, app.ResumeQueue(ctx, "q"))
	<-begun
	// A worker has it: the key is free.
	later, err := start(3, "reject")
	must(t, err)
	close(gate)
	all(t, []*everstep.Run[int]{next, later})
}

func TestAKeyIsTakenForItsTime(t *testing.T) {
	ctx := context.Background()
	app := open(t, file(t))
	w := register(t, app, "for a time", identity)
	launch(t, app)
	taken := func(key, policy string, ttl time.Duration) (*everstep.Run[int], error) {
		return w.Start(ctx, 1, everstep.WithDedup(everstep.Dedup{Key: key, TTL: ttl, Policy: policy}))
	}
	first, err := taken("long", "", time.Hour)
	must(t, err)
	must(t, second(first.Result(ctx, everstep.WithTimeout(patience))))
	// It has ended, and its time has not.
	same, err := taken("long", "attach", time.Hour)
	must(t, err)
	if !same.Attached() || same.Key() != first.Key() {
		t.Errorf("attached %v to %s, not to %s", same.Attached(), same.Key(), first.Key())
	}
	for _, policy := range []string{"reject", "replace"} {
		wants(t, second(taken("long", policy, time.Hour)), everstep.ErrRunDeduplicated)
	}
	short, err := taken("short", "reject", time.Millisecond)
	must(t, err)
	until(t, "the time of the key is over", func() bool {
		again, err := taken("short", "reject", time.Millisecond)
		return err == nil && again.Key() != short.Key()
	})
}
