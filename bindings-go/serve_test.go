package everstep_test

import (
	"bytes"
	"context"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"testing"

	everstep "github.com/everstep/everstep/bindings-go"
)

func TestServeLetsARunFinishWhenItIsStopped(t *testing.T) {
	url := file(t)
	app := open(t, url, everstep.WithBuild("7f3a"))
	begun, finish := make(chan struct{}), make(chan struct{})
	w := register(t, app, "slow", func(ctx everstep.Context, n int) (int, error) {
		return everstep.Do(ctx, "slow", func(context.Context) (int, error) {
			close(begun)
			<-finish
			return n, nil
		})
	})
	// Launched before, for a launch whose context ends before its answer has come is one that failed: its runs go elsewhere.
	launch(t, app)
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- app.Serve(ctx) }()
	run, err := w.Start(context.Background(), 41)
	must(t, err)
	<-begun
	info, err := app.Info()
	must(t, err)
	if info["version"] != "7f3a" {
		t.Errorf("the build is %v", info["version"])
	}
	stop()
	close(finish)
	must(t, <-served)
	wants(t, second(w.Start(context.Background(), 1)), everstep.ErrClosed)
	wants(t, app.Serve(context.Background()), everstep.ErrClosed)
	// Asked of another engine: whether this one's own answer still comes before its end is a matter of microseconds.
	reader := open(t, url, everstep.WithRole(everstep.Client))
	launch(t, reader)
	if out, err := everstep.RunByKey[int](reader, run.Key()).Result(context.Background(), everstep.WithTimeout(patience)); out != 41 || err != nil {
		t.Errorf("%d, %v", out, err)
	}
}

func TestARunKnowsWhatItWasStartedWith(t *testing.T) {
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	var mu sync.Mutex
	var lines bytes.Buffer
	app := open(t, file(t), everstep.WithLogger(slog.New(slog.NewTextHandler(&guardedWriter{&mu, &lines}, nil))))
	seen := func(ctx context.Context) {
		if everstep.TraceParent(ctx) != parent || everstep.RunAttempt(ctx) != 1 {
			t.Errorf("%q, attempt %d", everstep.TraceParent(ctx), everstep.RunAttempt(ctx))
		}
		if got := everstep.Attributes(ctx); !reflect.DeepEqual(got, map[string]any{"tenant": "a", "size": int64(1 << 60)}) {
			t.Errorf("attributes %v", got)
		}
	}
	w := register(t, app, "told", func(ctx everstep.Context, n int) (int, error) {
		seen(ctx)
		everstep.Logger(ctx).Info("between steps")
		return everstep.Do(ctx, "step", func(ctx context.Context) (int, error) {
			seen(ctx)
			return n, nil
		})
	})
	launch(t, app)
	ctx := context.Background()
	if everstep.Attributes(ctx) != nil || everstep.TraceParent(ctx) != "" || everstep.RunAttempt(ctx) != 0 {
		t.Error("there is something outside a run")
	}
	run, err := w.Start(ctx, 1, everstep.WithTrace(parent, ""), everstep.WithAttributes(map[string]any{"tenant": "a", "size": 1 << 60}))
	must(t, err)
	must(t, second(run.Result(ctx, everstep.WithTimeout(patience))))
	mu.Lock()
	defer mu.Unlock()
	if !strings.Contains(lines.String(), "workflow=told attempt=1 replaying=false") {
		t.Errorf("a workflow's record does not carry its attempt: %s", lines.String())
	}
}

type guardedWriter struct {
	mu *sync.Mutex
	to *bytes.Buffer
}

func (w *guardedWriter) Write(data []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.to.Write(data)
}
