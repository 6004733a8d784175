package everstep_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	everstep "github.com/everstep/everstep/bindings-go"
)

var withdraw = everstep.NewStep("withdraw", func(_ context.Context, title string) (everstep.None, error) {
	fmt.Println("withdrawn:", title)
	return everstep.None{}, nil
})

// patient waits for what never comes. A cancel ends the wait; its clean-up goes on all the same.
func patient(ctx everstep.Context, title string) (everstep.None, error) {
	if err := everstep.SetEvent(ctx, "waiting", true); err != nil {
		return everstep.None{}, err
	}
	_, _, err := everstep.Receive[string](ctx, "never")
	if errors.Is(err, everstep.ErrRunCancelled) {
		if _, failed := withdraw.Do(everstep.Shielded(ctx), title); failed != nil {
			return everstep.None{}, failed
		}
	}
	return everstep.None{}, err
}

// Runs that talk: a child, messages with a timeout, events, and a cancel with its clean-up.
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
	count, err := everstep.Register(app, "count", func(_ everstep.Context, words []string) (int, error) { return len(words), nil })
	if err != nil {
		fmt.Println(err)
		return
	}
	review, err := everstep.Register(app, "review", func(ctx everstep.Context, title string) (string, error) {
		child, err := count.Start(ctx, strings.Fields(title)) // a child run
		if err != nil {
			return "", err
		}
		words, err := child.Result(ctx)
		if err != nil {
			return "", err
		}
		if err := everstep.SetEvent(ctx, "stage", fmt.Sprint(words, " words wait for a reviewer")); err != nil {
			return "", err
		}
		verdict, answered, err := everstep.Receive[string](ctx, "verdict", everstep.WithTimeout(30*time.Second))
		if !answered {
			verdict = "nobody answered"
		}
		return fmt.Sprintf("%q: %s", title, verdict), err
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	patient, err := everstep.Register(app, "patient", patient)
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := app.Launch(ctx); err != nil {
		fmt.Println(err)
		return
	}

	run, err := review.Start(ctx, "On durable things", everstep.WithID("review-1"))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(everstep.GetEvent[string](ctx, run, "stage", everstep.WithTimeout(30*time.Second)))
	if err := run.Send(ctx, "verdict", "accepted", everstep.WithIdempotencyKey("mail-77")); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(run.Result(ctx))

	waiting, err := patient.Start(ctx, "On waiting")
	if err != nil {
		fmt.Println(err)
		return
	}
	if _, _, err := everstep.GetEvent[bool](ctx, waiting, "waiting", everstep.WithTimeout(30*time.Second)); err != nil {
		fmt.Println(err)
		return
	}
	if _, err := waiting.Cancel(ctx, everstep.By("editor"), everstep.Why("out of season")); err != nil {
		fmt.Println(err)
		return
	}
	_, err = waiting.Result(ctx)
	fmt.Println(errors.Is(err, everstep.ErrRunCancelled), err)
	// Output:
	// 3 words wait for a reviewer true <nil>
	// "On durable things": accepted <nil>
	// withdrawn: On waiting
	// true [run_cancelled] cancelled by editor: out of season
}
