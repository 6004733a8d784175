package everstep_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	everstep "github.com/everstep/everstep/bindings-go"
)

type order struct {
	ID         int
	Item, Card string
}

type cardDeclined struct{ Reason string }

func (c *cardDeclined) Error() string { return c.Reason }

// reserve is a transaction: its rows and its record commit together or not at all.
func reserve(ctx context.Context, tx *everstep.Tx, o order) (int, error) {
	if _, err := tx.Execute(ctx, "create table if not exists stock (item text, reserved bigint)"); err != nil {
		return 0, err
	}
	rows, err := tx.Execute(ctx, "insert into stock values ($1, $2)", o.Item, 1)
	if err != nil {
		return 0, err
	}
	return rows.Affected, nil
}

var charge = everstep.NewStep("charge", func(ctx context.Context, o order) (string, error) {
	// The outside world may see this twice after a crash: the key tells it.
	key, err := everstep.IdempotencyKey(ctx)
	if err != nil {
		return "", err
	}
	if o.Card == "stolen" {
		return "", everstep.NonRetryable(&cardDeclined{"reported stolen"})
	}
	return fmt.Sprintf("payment %d, key of %d characters", o.ID, len(key)), nil
}, everstep.WithRetry(everstep.Retry{MaxAttempts: 5, Initial: 100 * time.Millisecond}))

// A checkout: steps, a transaction, a caught error, a durable sleep. The same program whether or not it was killed half way.
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
	if err := everstep.DeclareErrorType[*cardDeclined](app, "card_declined"); err != nil {
		fmt.Println(err)
		return
	}
	reserve, err := everstep.NewTransaction(app, "reserve", reserve)
	if err != nil {
		fmt.Println(err)
		return
	}
	checkout, err := everstep.Register(app, "checkout", func(ctx everstep.Context, o order) (string, error) {
		if _, err := reserve.Do(ctx, o); err != nil {
			return "", err
		}
		payment, err := charge.Do(ctx, o)
		if declined := (*cardDeclined)(nil); errors.As(err, &declined) { // the same type on the first run and on replay
			return "refused: " + declined.Reason, nil
		}
		if err != nil {
			return "", err
		}
		return payment, everstep.Sleep(ctx, 10*time.Millisecond)
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := app.Launch(ctx); err != nil {
		fmt.Println(err)
		return
	}
	run, err := checkout.Start(ctx, order{1, "lamp", "valid"}, everstep.WithID("order-1"))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(run.Result(ctx, everstep.WithTimeout(30*time.Second)))
	other, err := checkout.Start(ctx, order{2, "lamp", "stolen"}, everstep.WithID("order-2"))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(other.Result(ctx))
	steps, err := run.Steps(ctx)
	for _, step := range steps {
		fmt.Println(step.Kind, step.Name)
	}
	fmt.Println(err)
	// Output:
	// payment 1, key of 36 characters <nil>
	// refused: reported stolen <nil>
	// transaction reserve
	// step charge
	// sleep sleep
	// <nil>
}
