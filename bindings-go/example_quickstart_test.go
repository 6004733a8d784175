package everstep_test

import (
	"context"
	"errors"
	"fmt"

	everstep "github.com/everstep/everstep/bindings-go"
)

var errCardDeclined = errors.New("card declined")

// A transaction whose row and record commit together, a step, and an error that is caught by its value on the first run and on replay.
func Example_quickstart() {
	ctx := context.Background()
	database, remove := exampleDatabase()
	defer remove()
	app, err := everstep.Open(ctx, database)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer app.Close(ctx)
	if err := app.DeclareError("card_declined", errCardDeclined); err != nil {
		fmt.Println(err)
		return
	}

	reserve, err := everstep.NewTransaction(app, "reserve", func(ctx context.Context, tx *everstep.Tx, item string) (int, error) {
		if _, err := tx.Execute(ctx, "create table if not exists reserved (item text not null)"); err != nil {
			return 0, err
		}
		rows, err := tx.Execute(ctx, "insert into reserved values ($1)", item)
		if err != nil {
			return 0, err
		}
		return rows.Affected, nil
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	charge := everstep.NewStep("charge", func(_ context.Context, cents int) (string, error) {
		if cents > 1000 {
			return "", errCardDeclined
		}
		return "paid", nil
	})
	checkout, err := everstep.Register(app, "checkout", func(ctx everstep.Context, cents int) (string, error) {
		if _, err := reserve.Do(ctx, "pen"); err != nil {
			return "", err
		}
		payment, err := charge.Do(ctx, cents)
		if errors.Is(err, errCardDeclined) {
			return "refused", nil
		}
		return payment, err
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := app.Launch(ctx); err != nil {
		fmt.Println(err)
		return
	}
	for i, cents := range []int{500, 5000} {
		run, err := checkout.Start(ctx, cents, everstep.WithID(fmt.Sprint("order-", i)))
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(run.Result(ctx))
	}
	// Output:
	// paid <nil>
	// refused <nil>
}
