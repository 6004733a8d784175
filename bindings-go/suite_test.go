package everstep_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	everstep "github.com/everstep/everstep/bindings-go"
)

const patience = 20 * time.Second

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func file(t testing.TB) string { return "sqlite:" + filepath.Join(t.TempDir(), "everstep.db") }

// open is an engine on a database of the test's own, closed at its end.
func open(t testing.TB, url string, options ...everstep.EngineOption) *everstep.App {
	t.Helper()
	quiet := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	given := append([]everstep.EngineOption{everstep.WithDatabase(url), everstep.WithLogger(quiet), everstep.WithEnvironment("test")}, options...)
	app, err := everstep.Open(context.Background(), given...)
	must(t, err)
	t.Cleanup(func() { end(t, app) })
	return app
}

func end(t testing.TB, app *everstep.App) {
	bounded, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := app.Close(bounded); err != nil {
		t.Errorf("close: %v", err)
	}
}

func launch(t testing.TB, app *everstep.App) {
	t.Helper()
	must(t, app.Launch(context.Background()))
}

func register[In, Out any](t testing.TB, app *everstep.App, name string, f func(everstep.Context, In) (Out, error), options ...everstep.RegisterOption) *everstep.Workflow[In, Out] {
	t.Helper()
	w, err := everstep.Register(app, name, f, options...)
	must(t, err)
	return w
}

// play runs a workflow once, on SQLite, and returns what its caller sees.
func play[Out any](t testing.TB, f func(everstep.Context, everstep.None) (Out, error), options ...everstep.EngineOption) (Out, error) {
	t.Helper()
	app := open(t, file(t), options...)
	w := register(t, app, "played", f)
	launch(t, app)
	run, err := w.Start(context.Background(), everstep.None{})
	must(t, err)
	return run.Result(context.Background(), everstep.WithTimeout(patience))
}

func wants(t testing.TB, err error, code everstep.Code) {
	t.Helper()
	if !errors.Is(err, code) {
		t.Errorf("wanted %s, got %v", code, err)
	}
}

// until waits for a condition.
func until(t testing.TB, what string, met func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !met(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// closing waits until a Close has begun, which is when nothing is declared any more.
func closing(t testing.TB, app *everstep.App) {
	t.Helper()
	until(t, "the close has begun", func() bool { return errors.Is(app.DeclareQueue(everstep.Queue{Name: "late"}), everstep.ErrClosed) })
}

var plusOne = everstep.NewStep("plus_one", func(_ context.Context, n int) (int, error) { return n + 1, nil })
