package everstep_test

import (
	"context"
	"errors"
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

var fetch = everstep.NewStep("fetch", func(_ context.Context, page string) (int, error) {
	if page == "missing" {
		return 0, everstep.NonRetryable(errors.New(page))
	}
	return len(page), nil
})

// of is a branch that fetches one page.
func of(page string) func(everstep.Context) (int, error) {
	return func(ctx everstep.Context) (int, error) { return fetch.Do(ctx, page) }
}

func crawl(ctx everstep.Context, pages []string) ([][]int, error) {
	// A branch an item, two at a time; by key, so that the items may come in another order on replay.
	sizes, err := everstep.MapBranches(ctx, pages, func(ctx everstep.Context, page string) (int, error) { return fetch.Do(ctx, page) },
		everstep.WithKey(func(page string) string { return page }), everstep.WithLimit(2))
	if err != nil {
		return nil, err
	}
	both, err := everstep.All(ctx, of("a"), of("bb"))
	if err != nil {
		return nil, err
	}
	// The first that succeeds, and the first that ends at all; the winner is recorded.
	first, err := everstep.Any(ctx, of("missing"), of("there"))
	if err != nil {
		return nil, err
	}
	winner, err := everstep.Race(ctx, of("here"), func(ctx everstep.Context) (int, error) { return 0, everstep.Sleep(ctx, time.Hour) })
	return [][]int{sizes, both, {first, winner}}, err
}

// Branches run at once, each in a goroutine the engine opens: Map, All, Any and Race.
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
	crawl, err := everstep.Register(app, "crawl", crawl)
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := app.Launch(ctx); err != nil {
		fmt.Println(err)
		return
	}
	run, err := crawl.Start(ctx, []string{"one", "three", "seventeen"})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(run.Result(ctx))
	// Output: [[3 5 9] [1 2] [5 4]] <nil>
}
