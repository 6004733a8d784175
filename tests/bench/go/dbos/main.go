// DBOS Go under measurement, used as its documentation recommends: registered queues, default settings.
package main

import (
	"context"
	"io"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dbos-inc/dbos-transact-golang/dbos"
	"github.com/everstep/everstep/tests/bench/go/child"
)

var (
	load, options = child.Arguments()
	stepMs        child.Samples
	startMs       child.Samples
	recorded      atomic.Int64
	allRecorded   = make(chan struct{})
	quiet         = slog.New(slog.NewTextHandler(io.Discard, nil))
)

func work(context.Context) (string, error) { return child.Output, nil }

func steps(ctx dbos.Context, count int) error {
	for range count {
		if _, err := dbos.RunAsStep(ctx, work); err != nil {
			return err
		}
	}
	return nil
}

func ten(ctx dbos.Context, n int) (int, error) { return n, steps(ctx, 10) }

func sequential(ctx dbos.Context, count int) (int, error) {
	for range count {
		began := time.Now()
		if _, err := dbos.RunAsStep(ctx, work); err != nil {
			return 0, err
		}
		stepMs.Add(float64(time.Since(began).Nanoseconds()) / 1e6)
	}
	return count, nil
}

func nothing(_ dbos.Context, n int) (int, error) { return n, nil }

func stamp(_ dbos.Context, sent int64) (int, error) {
	startMs.Add(float64(child.Nanoseconds()-sent) / 1e6)
	return 0, nil
}

func tenThenHold(ctx dbos.Context, n int) (int, error) {
	if err := steps(ctx, 10); err != nil {
		return 0, err
	}
	if recorded.Add(1) == int64(options.Hold) {
		close(allRecorded)
	}
	if options.Hold > 0 {
		select {}
	}
	return n, nil
}

func open() dbos.Context {
	ctx, err := dbos.NewContext(context.Background(), dbos.Config{AppName: "bench", DatabaseURL: options.URL, ApplicationVersion: "bench", Logger: quiet})
	child.Must(err)
	dbos.RegisterWorkflow(ctx, ten)
	dbos.RegisterWorkflow(ctx, sequential)
	dbos.RegisterWorkflow(ctx, nothing)
	dbos.RegisterWorkflow(ctx, stamp, dbos.WithWorkflowName("stamp"))
	dbos.RegisterWorkflow(ctx, tenThenHold)
	return ctx
}

func result[R any](handle dbos.WorkflowHandle[R], err error) {
	child.Must(err)
	_, err = handle.GetResult()
	child.Must(err)
}

// startAndAwait starts so many at once and awaits all.
func startAndAwait(count int, start func(i int) (dbos.WorkflowHandle[int], error)) float64 {
	handles := make([]dbos.WorkflowHandle[int], count)
	var all sync.WaitGroup
	for i := range count {
		all.Add(1)
		go func() {
			defer all.Done()
			handle, err := start(i)
			child.Must(err)
			handles[i] = handle
		}()
	}
	all.Wait()
	memory := child.ResidentMB()
	for _, handle := range handles {
		all.Add(1)
		go func() {
			defer all.Done()
			result(handle, nil)
		}()
	}
	all.Wait()
	return memory
}

func run(ctx dbos.Context) any {
	ready := func() {
		child.Say("ready", true)
		child.WaitForGo()
	}
	start := func(i int) (dbos.WorkflowHandle[int], error) { return dbos.RunWorkflow(ctx, ten, i) }
	switch load {
	case "steps":
		base := child.ResidentMB()
		startAndAwait(options.Runs/10, start)
		ready()
		began := time.Now()
		memory := startAndAwait(options.Runs, start)
		seconds := time.Since(began).Seconds()
		return map[string]any{"runs": options.Runs, "seconds": seconds, "steps_per_s": float64(options.Runs) * 10 / seconds, "rss_mb": memory - base}
	case "sequential":
		result(dbos.RunWorkflow(ctx, sequential, 20))
		stepMs.Clear()
		ready()
		result(dbos.RunWorkflow(ctx, sequential, options.Steps))
		return map[string]any{"step_p50_ms": stepMs.Percentile(0.5), "step_p99_ms": stepMs.Percentile(0.99)}
	case "queue":
		queue, err := dbos.RegisterQueue(ctx, "bench")
		child.Must(err)
		enqueue := func(i int) (dbos.WorkflowHandle[int], error) {
			return dbos.RunWorkflow(ctx, nothing, i, dbos.WithQueue(queue))
		}
		result(enqueue(-1))
		ready()
		began := time.Now()
		startAndAwait(options.Tasks, enqueue)
		return map[string]any{"queue_tasks_per_s": float64(options.Tasks) / time.Since(began).Seconds()}
	case "starts":
		_, err := dbos.RegisterQueue(ctx, "bench")
		child.Must(err)
		ready()
		return map[string]any{"start_p50_ms": startMs.Percentile(0.5), "start_p99_ms": startMs.Percentile(0.99), "n": startMs.Count()}
	case "idle":
		ready()
	case "hold":
		for i := range options.Hold {
			_, err := dbos.RunWorkflow(ctx, tenThenHold, i)
			child.Must(err)
		}
		<-allRecorded
		ready()
	}
	return map[string]any{}
}

func enqueue() any {
	client, err := dbos.NewClient(context.Background(), dbos.ClientConfig{DatabaseURL: options.URL, AppName: "bench", Logger: quiet})
	child.Must(err)
	child.Say("ready", true)
	child.WaitForGo()
	for i := range options.Tasks {
		// Spread over the poll interval of whoever polls.
		time.Sleep(time.Duration(options.PauseS * (0.5 + math.Mod(float64(i)*0.618, 1)) * float64(time.Second)))
		_, err := dbos.Enqueue[int](client, "bench", "stamp", child.Nanoseconds(), dbos.WithEnqueueApplicationVersion("bench"))
		child.Must(err)
	}
	time.Sleep(time.Duration(options.SettleS * float64(time.Second)))
	return map[string]any{}
}

func main() {
	switch load {
	case "enqueue":
		child.Say("result", enqueue())
	case "recover":
		ctx := open()
		child.Say("ready", true)
		child.WaitForGo()
		child.Say("launched", float64(time.Now().UnixNano())/1e9)
		child.Must(dbos.Launch(ctx))
		child.WaitForGo()
		child.Say("result", map[string]any{})
	default:
		ctx := open()
		if load == "idle" {
			for i := range options.Queues {
				_, err := dbos.RegisterQueue(ctx, "bench-"+string(rune('a'+i/26))+string(rune('a'+i%26)))
				child.Must(err)
			}
		}
		child.Must(dbos.Launch(ctx))
		child.Say("result", run(ctx))
	}
	for child.WaitForGo() {
	}
}
