// Everstep's Go package under measurement, through its public surface only.
package main

import (
	"context"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	everstep "github.com/everstep/everstep/bindings-go"
	"github.com/everstep/everstep/tests/bench/go/child"
)

const queue = "bench"

// The default number of parked runs.
const parked = 1000

var (
	load, options = child.Arguments()
	ctx           = context.Background()
	stepMs        child.Samples
	startMs       child.Samples
	counted       atomic.Int64
	reached       = make(chan struct{})

	app        *everstep.App
	ten        *everstep.Workflow[int, int]
	sequential *everstep.Workflow[int, int]
	nothing    *everstep.Workflow[int, int]
	stamp      *everstep.Workflow[int64, int]
	holding    *everstep.Workflow[int, int]
	sleeper    *everstep.Workflow[int, int]
)

func countTo(wanted int) {
	if counted.Add(1) == int64(wanted) {
		close(reached)
	}
}

func register[In, Out any](name string, function func(everstep.Context, In) (Out, error)) *everstep.Workflow[In, Out] {
	workflow, err := everstep.Register(app, name, function)
	child.Must(err)
	return workflow
}

func declare() {
	settings := []everstep.EngineOption{everstep.WithDatabase(options.URL), everstep.WithAutoMigrate(true)}
	switch load {
	case "enqueue", "fill":
		settings = append(settings, everstep.WithRole(everstep.Client))
	case "steps", "queue", "hold", "recover", "sleepers", "threads":
		// Where 1,000 runs are to be in flight; else the default.
		settings = append(settings, everstep.WithSlots(1000))
	}
	if load == "threads" {
		settings = append(settings, everstep.WithSetting("max_parked", options.Runs))
	}
	var err error
	app, err = everstep.Open(ctx, settings...)
	child.Must(err)
	if load != "enqueue" {
		child.Must(app.DeclareQueue(everstep.Queue{Name: queue}))
	}
	if load == "idle" || load == "busy" {
		for i := range options.Queues {
			child.Must(app.DeclareQueue(everstep.Queue{Name: fmt.Sprintf("bench-%d", i)}))
		}
	}
	work := everstep.NewStep("work", func(context.Context, int) (string, error) { return child.Output, nil })
	steps := func(ctx everstep.Context, count int) error {
		for i := range count {
			if _, err := work.Do(ctx, i); err != nil {
				return err
			}
		}
		return nil
	}
	ten = register("ten", func(ctx everstep.Context, n int) (int, error) { return n, steps(ctx, 10) })
	sequential = register("sequential", func(ctx everstep.Context, count int) (int, error) {
		for i := range count {
			began := time.Now()
			if _, err := work.Do(ctx, i); err != nil {
				return 0, err
			}
			stepMs.Add(float64(time.Since(began).Nanoseconds()) / 1e6)
		}
		return count, nil
	})
	nothing = register("nothing", func(_ everstep.Context, n int) (int, error) { return n, nil })
	stamp = register("stamp", func(_ everstep.Context, sent int64) (int, error) {
		startMs.Add(float64(child.Nanoseconds()-sent) / 1e6)
		return 0, nil
	})
	holding = register("ten_then_hold", func(ctx everstep.Context, n int) (int, error) {
		if err := steps(ctx, 10); err != nil {
			return 0, err
		}
		if options.Hold > 0 {
			countTo(options.Hold)
			<-ctx.Done()
		}
		return n, nil
	})
	sleeper = register("sleeper", func(ctx everstep.Context, n int) (int, error) {
		countTo(options.Runs)
		return n, everstep.Sleep(ctx, time.Hour)
	})
}

func result[Out any](run *everstep.Run[Out], err error) {
	child.Must(err)
	_, err = run.Result(ctx)
	child.Must(err)
}

// inFlight keeps so many complete ten-step runs going, and says how many there were.
func inFlight(count int, until time.Time) int {
	var ended atomic.Int64
	var all sync.WaitGroup
	for range count {
		all.Add(1)
		go func() {
			defer all.Done()
			for time.Now().Before(until) {
				result(ten.Start(ctx, int(ended.Load())))
				ended.Add(1)
			}
		}()
	}
	all.Wait()
	return int(ended.Load())
}

func steps() any {
	base := child.ResidentMB()
	inFlight(max(1, options.InFlight/10), time.Now().Add(500*time.Millisecond))
	child.Say("ready", true)
	child.WaitForGo()
	var highest atomic.Uint64
	over := make(chan struct{})
	go func() {
		for {
			select {
			case <-over:
				return
			case <-time.After(500 * time.Millisecond):
				highest.Store(max(highest.Load(), uint64(child.ResidentMB()*1024)))
			}
		}
	}()
	began := time.Now()
	runs := inFlight(options.InFlight, began.Add(time.Duration(options.Seconds*float64(time.Second))))
	seconds := time.Since(began).Seconds()
	close(over)
	return map[string]any{
		"runs": runs, "seconds": seconds, "steps_per_s": float64(runs) * 10 / seconds, "rss_mb": math.Max(0, float64(highest.Load())/1024-base),
	}
}

func oneByOne() any {
	result(sequential.Start(ctx, 20))
	stepMs.Clear()
	child.Say("ready", true)
	child.WaitForGo()
	result(sequential.Start(ctx, options.Steps))
	return map[string]any{"step_p50_ms": stepMs.Percentile(0.5), "step_p99_ms": stepMs.Percentile(0.99)}
}

func numbers(count int) []int {
	out := make([]int, count)
	for i := range out {
		out[i] = i
	}
	return out
}

func tasks() any {
	result(nothing.Start(ctx, -1, everstep.OnQueue(queue)))
	child.Say("ready", true)
	child.WaitForGo()
	began := time.Now()
	runs, err := nothing.StartMany(ctx, numbers(options.Tasks), everstep.OnQueue(queue))
	child.Must(err)
	var all sync.WaitGroup
	for _, run := range runs {
		all.Add(1)
		go func() {
			defer all.Done()
			result(run, nil)
		}()
	}
	all.Wait()
	return map[string]any{"queue_tasks_per_s": float64(options.Tasks) / time.Since(began).Seconds()}
}

func starts() any {
	child.Say("ready", true)
	child.WaitForGo()
	return map[string]any{"start_p50_ms": startMs.Percentile(0.5), "start_p99_ms": startMs.Percentile(0.99), "n": startMs.Count()}
}

func idle() any {
	child.Say("ready", true)
	child.WaitForGo()
	return map[string]any{}
}

// busy is work without end, in 50 runs at a time.
func busy() any {
	var over atomic.Bool
	var all sync.WaitGroup
	child.Say("ready", true)
	for range 50 {
		all.Add(1)
		go func() {
			defer all.Done()
			for !over.Load() {
				result(ten.Start(ctx, 0))
			}
		}()
	}
	child.WaitForGo()
	over.Store(true)
	all.Wait()
	return map[string]any{}
}

func hold() any {
	_, err := holding.StartMany(ctx, numbers(options.Hold))
	child.Must(err)
	<-reached
	child.Say("ready", true)
	child.WaitForGo()
	return map[string]any{}
}

func startSleepers() {
	for first := 0; first < options.Runs; first += 1000 {
		_, err := sleeper.StartMany(ctx, numbers(min(1000, options.Runs-first)))
		child.Must(err)
	}
	<-reached
}

// sleepers: memory once all runs sleep and all but the parked ones are released.
func sleepers() any {
	runs, err := nothing.StartMany(ctx, numbers(2000))
	child.Must(err)
	for _, run := range runs {
		result(run, nil)
	}
	before := child.ResidentMB()
	child.Say("ready", true)
	child.WaitForGo()
	startSleepers()
	for {
		info, err := app.Info()
		child.Must(err)
		if executing, _ := info["executing"].(float64); executing <= parked {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	return map[string]any{"rss_mb": child.ResidentMB() - before}
}

// threads: OS threads while all runs wait in this process.
func threads() any {
	child.Say("ready", true)
	child.WaitForGo()
	startSleepers()
	return map[string]any{"threads": child.Threads()}
}

// enqueue is the other process: a client.
func enqueue() any {
	child.Say("ready", true)
	child.WaitForGo()
	for i := range options.Tasks {
		// Spread over the poll interval of whoever polls.
		time.Sleep(time.Duration(options.PauseS * (0.5 + math.Mod(float64(i)*0.618, 1)) * float64(time.Second)))
		_, err := stamp.Start(ctx, child.Nanoseconds(), everstep.OnQueue(queue))
		child.Must(err)
	}
	time.Sleep(time.Duration(options.SettleS * float64(time.Second)))
	return map[string]any{}
}

// fill makes a backlog nobody works on: of a queue, of a workflow no worker knows, or of work for later.
func fill() any {
	target := everstep.Reference[int, int](app, "unserved")
	how := []everstep.StartOption{everstep.OnQueue(queue)}
	switch options.Variant {
	case "queue":
		_, err := app.PutQueue(ctx, everstep.Queue{Name: "other"})
		child.Must(err)
		how = []everstep.StartOption{everstep.OnQueue("other")}
	case "delayed":
		target = everstep.Reference[int, int](app, "stamp")
		how = append(how, everstep.WithDelay(24*time.Hour))
	}
	child.Say("ready", true)
	child.WaitForGo()
	for first := 0; first < options.Runs; first += 5000 {
		_, err := target.StartMany(ctx, numbers(min(5000, options.Runs-first)), how...)
		child.Must(err)
	}
	return map[string]any{}
}

func main() {
	declare()
	if load == "recover" {
		child.Say("ready", true)
		child.WaitForGo()
		child.Say("launched", float64(time.Now().UnixNano())/1e9)
		child.Must(app.Launch(ctx))
		child.WaitForGo()
		child.Must(app.Close(ctx))
		child.Say("result", map[string]any{})
	} else {
		child.Must(app.Launch(ctx))
		out := map[string]func() any{
			"steps": steps, "sequential": oneByOne, "queue": tasks, "starts": starts, "idle": idle, "busy": busy, "hold": hold, "sleepers": sleepers,
			"threads": threads, "enqueue": enqueue, "fill": fill,
		}[load]()
		bounded, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		child.Must(app.Close(bounded))
		child.Say("result", out)
	}
	for child.WaitForGo() {
	}
}
