package everstep_test

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	everstep "github.com/everstep/everstep/bindings-go"
)

// A worker that an orchestrator can stop at any time: at SIGTERM it claims no more, lets the runs at hand finish, and hands over what is left after 25 s.
// A second signal ends it at once.
func Example_worker() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	database, remove := exampleDatabase()
	defer remove()
	app, err := everstep.Open(ctx, database, everstep.WithBuild("2026-11-27"))
	if err != nil {
		fmt.Println(err)
		return
	}
	stopped := everstep.NewStep("stopped", func(context.Context, everstep.None) (string, error) {
		return "finished", syscall.Kill(os.Getpid(), syscall.SIGTERM)
	})
	work, err := everstep.Register(app, "work", func(ctx everstep.Context, _ everstep.None) (string, error) {
		said, err := stopped.Do(ctx, everstep.None{})
		fmt.Println(said)
		return said, err
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	if _, err := work.Start(ctx, everstep.None{}); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(app.Serve(ctx))
	// Output:
	// finished
	// <nil>
}
