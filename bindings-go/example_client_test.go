package everstep_test

import (
	"context"
	"fmt"

	everstep "github.com/everstep/everstep/bindings-go"
)

// A client starts, inspects and awaits; it needs no code of the workflows, which may be in another language.
func Example_client() {
	ctx := context.Background()
	database, remove := exampleDatabase()
	defer remove()
	worker, err := everstep.Open(ctx, database)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer worker.Close(ctx)
	_, err = everstep.Register(worker, "greet", func(_ everstep.Context, name string) (string, error) { return "hello " + name, nil })
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := worker.Launch(ctx); err != nil {
		fmt.Println(err)
		return
	}

	client, err := everstep.Open(ctx, database, everstep.WithRole(everstep.Client))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close(ctx)
	greet := everstep.Reference[string, string](client, "greet")
	run, err := greet.Start(ctx, "Ada", everstep.WithID("greeting-1"))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(run.Result(ctx))
	info, err := run.Status(ctx)
	fmt.Println(info.State, err)
	// Output:
	// hello Ada <nil>
	// succeeded <nil>
}
