package everstep_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	everstep "github.com/everstep/everstep/bindings-go"
)

var errRefused = errors.New("refused")

// A child run, a message to it, an error that is caught by its value, and a cancel.
func Example_conversation() {
	ctx := context.Background()
	database, remove := exampleDatabase()
	defer remove()
	app, err := everstep.Open(ctx, database)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer app.Close(ctx)
	if err := app.DeclareError("refused", errRefused); err != nil {
		fmt.Println(err)
		return
	}

	charge := everstep.NewStep("charge", func(_ context.Context, amount int) (string, error) {
		if amount > 100 {
			return "", fmt.Errorf("%d is too much: %w", amount, errRefused)
		}
		return "charged", nil
	})
	approval, err := everstep.Register(app, "approval", func(ctx everstep.Context, _ everstep.None) (bool, error) {
		approved, _, err := everstep.Receive[bool](ctx, "answer")
		return approved, err
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	order, err := everstep.Register(app, "order", func(ctx everstep.Context, amount int) (string, error) {
		child, err := approval.Start(ctx, everstep.None{})
		if err != nil {
			return "", err
		}
		if err := child.Send(ctx, "answer", true); err != nil {
			return "", err
		}
		approved, err := child.Result(ctx)
		if err != nil {
			return "", err
		}
		_, err = charge.Do(ctx, amount)
		if errors.Is(err, errRefused) {
			return fmt.Sprintf("approved: %v, but refused", approved), nil
		}
		return "charged", err
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	wait, err := everstep.Register(app, "wait", func(ctx everstep.Context, _ everstep.None) (string, error) {
		return "over", everstep.Sleep(ctx, 24*time.Hour)
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := app.Launch(ctx); err != nil {
		fmt.Println(err)
		return
	}
	run, err := order.Start(ctx, 500)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(run.Result(ctx))

	long, err := wait.Start(ctx, everstep.None{})
	if err != nil {
		fmt.Println(err)
		return
	}
	if _, err := long.Cancel(ctx, everstep.By("example"), everstep.Why("it is late")); err != nil {
		fmt.Println(err)
		return
	}
	_, err = long.Result(ctx)
	fmt.Println(errors.Is(err, everstep.ErrRunCancelled))
	// Output:
	// approved: true, but refused <nil>
	// true
}
