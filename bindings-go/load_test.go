package everstep_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	everstep "github.com/everstep/everstep/bindings-go"
)

// shaky is a step that fails, panics or takes a while, differently each time it runs.
func shaky(ctx everstep.Context, name string, runs *atomic.Int32) (int, error) {
	return everstep.Do(ctx, name, func(ctx context.Context) (int, error) {
		runs.Add(1)
		switch rand.IntN(12) {
		case 0:
			return 0, errDeclined
		case 1:
			panicHere()
		case 2:
			select {
			case <-ctx.Done():
				return 0, ctx.Err()
			case <-time.After(time.Duration(rand.IntN(10)) * time.Millisecond):
			}
		}
		return 1, nil
	}, everstep.WithRetry(everstep.Retry{MaxAttempts: 100, Initial: time.Millisecond, MaxInterval: 2 * time.Millisecond}))
}

// everything uses most of what a workflow can do, three times over, and returns twelve.
func everything(app *everstep.App, runs *atomic.Int32) func(everstep.Context, int) (int, error) {
	return func(ctx everstep.Context, _ int) (int, error) {
		total := 0
		for round := range 3 {
			first, err := shaky(ctx, "first", runs)
			if err != nil {
				return 0, err
			}
			both, err := everstep.All(ctx, func(ctx everstep.Context) (int, error) { return shaky(ctx, "left", runs) },
				func(ctx everstep.Context) (int, error) {
					if err := everstep.Sleep(ctx, time.Duration(rand.IntN(5))*time.Millisecond); err != nil {
						return 0, err
					}
					return shaky(ctx, "right", runs)
				})
			if err != nil {
				return 0, err
			}
			winner, err := everstep.Race(ctx, func(ctx everstep.Context) (int, error) { return shaky(ctx, "one", runs) },
				func(ctx everstep.Context) (int, error) { return shaky(ctx, "other", runs) })
			if err != nil {
				return 0, err
			}
			if err := everstep.RunByKey[int](app, everstep.RunKey(ctx)).Send(ctx, "round", round); err != nil {
				return 0, err
			}
			got, ok, err := everstep.Receive[int](ctx, "round", everstep.WithTimeout(patience))
			if err != nil || !ok || got != round {
				return 0, fmt.Errorf("message %d, %t in round %d: %w", got, ok, round, err)
			}
			total += first + both[0] + both[1] + winner
		}
		return total, nil
	}
}

// Engine after engine on one database: each is closed in the middle, every second one replays before every step, and some runs are cancelled.
func TestRunsSurviveEnginesThatAreClosedInTheMiddle(t *testing.T) {
	const engines = 6
	ctx := context.Background()
	many := 100
	if testing.Short() {
		many = 40 // Under the race detector.
	}
	url := file(t)
	before := runtime.NumGoroutine()
	var runs atomic.Int32
	for number := range engines {
		options := []everstep.EngineOption{everstep.WithSlots(64)}
		if number%2 == 1 {
			options = append(options, everstep.WithReplayAlways())
		}
		app := open(t, url, options...)
		w := register(t, app, "everything", everything(app, &runs))
		launch(t, app)
		last := number == engines-1
		var all sync.WaitGroup
		for i := range many {
			run, err := w.Start(ctx, i, everstep.WithID(fmt.Sprint("run-", i)))
			must(t, err)
			cancelled := i%10 == 3
			if cancelled && number == 1 {
				must(t, second(run.Cancel(ctx)))
			}
			if !last {
				continue
			}
			all.Add(1)
			go func() {
				defer all.Done()
				out, err := run.Result(ctx, everstep.WithTimeout(3*patience))
				// What had finished before the cancel came stays finished.
				if cancelled && errors.Is(err, everstep.ErrRunCancelled) {
					return
				}
				if out != 12 || err != nil {
					t.Errorf("run %d: %d, %v", i, out, err)
				}
			}()
		}
		all.Wait()
		if !last {
			already := runs.Load()
			until(t, "some steps have run, or all runs are over", func() bool {
				page, err := app.Runs(ctx, everstep.Filter{States: []everstep.State{everstep.StateReady, everstep.StateRunning, everstep.StateWaiting}, Limit: 1})
				return runs.Load() > already+int32(many) || err == nil && len(page.Runs) == 0
			})
		}
		bounded, cancel := context.WithTimeout(ctx, time.Duration(rand.IntN(50))*time.Millisecond)
		must(t, app.Close(bounded))
		cancel()
	}
	until(t, "as few goroutines as before", func() bool { return runtime.NumGoroutine() <= before })
}
