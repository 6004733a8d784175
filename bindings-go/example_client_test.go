package everstep_test

import (
	"context"
	"fmt"
	"time"

	everstep "github.com/everstep/everstep/bindings-go"
)

// otherProcess stands for one that has the code, in whatever language: a queue, and a step as a job, one row and one commit.
func otherProcess(ctx context.Context, database everstep.EngineOption) (*everstep.App, error) {
	app, err := everstep.Open(ctx, database)
	if err != nil {
		return nil, err
	}
	if err := app.DeclareQueue(everstep.Queue{Name: "mail", Limit: 2}); err != nil {
		return nil, err
	}
	deliver := everstep.NewStep("deliver", func(_ context.Context, address string) (string, error) { return "delivered to " + address, nil })
	if _, err := everstep.RegisterStep(app, deliver); err != nil {
		return nil, err
	}
	return app, app.Launch(ctx)
}

// A client starts, inspects and awaits; it needs no code of the workflows.
func Example_client() {
	ctx := context.Background()
	database, remove := exampleDatabase()
	defer remove()
	worker, err := otherProcess(ctx, database)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer worker.Close(ctx)

	client, err := everstep.Open(ctx, database, everstep.WithRole(everstep.Client))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close(ctx)
	deliver := everstep.Reference[string, string](client, "deliver")
	runs, err := deliver.StartMany(ctx, []string{"ann", "bob", "cy"}, everstep.OnQueue("mail"), everstep.WithAttributes(map[string]any{"campaign": "may"}),
		everstep.WithIDs(func(who string) string { return "mail-" + who }))
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, run := range runs {
		fmt.Println(run.Result(ctx, everstep.WithTimeout(30*time.Second)))
	}
	page, err := client.Runs(ctx, everstep.Filter{Queue: "mail", Attribute: "campaign", AttributeValue: "may"})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, info := range page.Runs {
		fmt.Println(info.ID, info.State)
	}
	// Unordered output:
	// delivered to ann <nil>
	// delivered to bob <nil>
	// delivered to cy <nil>
	// mail-ann succeeded
	// mail-bob succeeded
	// mail-cy succeeded
}
