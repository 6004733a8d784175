package everstep_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	everstep "github.com/everstep/everstep/bindings-go"
)

// exampleDatabase is a file of its own for each example; yours is the one EVERSTEP_DATABASE_URL names.
func exampleDatabase() (everstep.EngineOption, func()) {
	directory, err := os.MkdirTemp("", "everstep-example-")
	if err != nil {
		panic(err)
	}
	return everstep.WithDatabase("sqlite:" + filepath.Join(directory, "everstep.db")), func() {
		if err := os.RemoveAll(directory); err != nil {
			panic(err)
		}
	}
}

// Branches run at once, each in a goroutine the engine opens; the winner of a race is recorded.
func Example_parallel() {
	ctx := context.Background()
	database, remove := exampleDatabase()
	defer remove()
	app, err := everstep.Open(ctx, database)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer app.Close(ctx)

	price := func(shop string, wait time.Duration) func(everstep.Context) (string, error) {
		return func(ctx everstep.Context) (string, error) {
			if err := everstep.Sleep(ctx, wait); err != nil {
				return "", err
			}
			return everstep.Do(ctx, "ask "+shop, func(context.Context) (string, error) { return shop, nil })
		}
	}
	buy, err := everstep.Register(app, "buy", func(ctx everstep.Context, items []string) ([]string, error) {
		labels, err := everstep.Map(ctx, "label", items, func(_ context.Context, item string) (string, error) { return "label of " + item, nil },
			everstep.WithKey(func(item string) string { return item }))
		if err != nil {
			return nil, err
		}
		fastest, err := everstep.Race(ctx, price("far", time.Hour), price("near", time.Millisecond))
		if err != nil {
			return nil, err
		}
		both, err := everstep.All(ctx, price("one", 0), price("two", 0))
		return append(append(labels, fastest), both...), err
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := app.Launch(ctx); err != nil {
		fmt.Println(err)
		return
	}
	run, err := buy.Start(ctx, []string{"pen", "ink"}, everstep.WithID("purchase-1"))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(run.Result(ctx))
	// Output: [label of pen label of ink near one two] <nil>
}
