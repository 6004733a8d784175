package everstep_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	everstep "github.com/everstep/everstep/bindings-go"
)

// logged is a logger, and how often a text is in what it wrote.
func logged() (option everstep.EngineOption, count func(text string) int) {
	var mu sync.Mutex
	var lines bytes.Buffer
	option = everstep.WithLogger(slog.New(slog.NewTextHandler(&guardedWriter{&mu, &lines}, nil)))
	return option, func(text string) int {
		mu.Lock()
		defer mu.Unlock()
		return strings.Count(lines.String(), text)
	}
}

func TestAReplayedLineIsDropped(t *testing.T) {
	logger, count := logged()
	var executions atomic.Int32
	_, err := play(t, func(ctx everstep.Context, _ everstep.None) (int, error) {
		executions.Add(1)
		log := everstep.Logger(ctx)
		log.Info("before")
		if _, err := plusOne.Do(ctx, 1); err != nil {
			return 0, err
		}
		log.Info("between")
		if err := everstep.Sleep(ctx, time.Millisecond); err != nil {
			return 0, err
		}
		log.Warn("warned")
		n, err := plusOne.Do(ctx, 2)
		log.Info("behind")
		return n, err
	}, everstep.WithReplayAlways(), logger)
	must(t, err)
	if executions.Load() < 2 {
		t.Errorf("%d executions: nothing was replayed", executions.Load())
	}
	for _, line := range []string{"msg=before", "msg=between", "msg=behind"} {
		if count(line) != 1 {
			t.Errorf("%s was written %d times in %d executions", line, count(line), executions.Load())
		}
	}
}

func TestAWaitOnAnEngineNobodyLaunchedIsSaidOnce(t *testing.T) {
	ctx := context.Background()
	const says = "waiting for a run on an engine that is not launched"
	logger, count := logged()
	app := open(t, file(t), logger)
	w := register(t, app, "started", identity)
	run, err := w.Start(ctx, 42)
	must(t, err)
	short := everstep.WithTimeout(time.Millisecond)
	for range 2 {
		wants(t, second(run.Result(ctx, short)), everstep.ErrResultTimeout)
		_, there, err := everstep.GetEvent[int](ctx, run, "key", short)
		if there || err != nil {
			t.Errorf("%v, %v", there, err)
		}
	}
	if count(says) != 1 {
		t.Errorf("it was said %d times", count(says))
	}
	// A client waits for what others execute.
	logger, count = logged()
	client := open(t, file(t), logger, everstep.WithRole(everstep.Client))
	run, err = everstep.Reference[int, int](client, "elsewhere").Start(ctx, 1)
	must(t, err)
	wants(t, second(run.Result(ctx, short)), everstep.ErrResultTimeout)
	if count(says) != 0 {
		t.Error("a client was told to launch")
	}
}
