package everstep_test

import (
	"context"
	"errors"
	"math"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	everstep "github.com/everstep/everstep/bindings-go"
)

var errFlaky = errors.New("flaky")

func identity(_ everstep.Context, n int) (int, error) { return n, nil }

func addOne(_ context.Context, n int) (int, error) { return n + 1, nil }

func TestAPolicyThatMeansNothingIsRefused(t *testing.T) {
	app := open(t, file(t))
	for name, retry := range map[string]everstep.Retry{
		"a factor that shrinks": {Factor: 0.5}, "no factor": {Factor: math.NaN()}, "a factor without end": {Factor: math.Inf(1)}, "negative attempts": {MaxAttempts: -1}, "negative wait": {Initial: -time.Second},
		"negative bound": {MaxInterval: -1},
	} {
		option := everstep.WithRetry(retry)
		wants(t, second(everstep.Register(app, name, identity, option)), everstep.ErrConfigInvalid)
		wants(t, second(everstep.NewStep(name, addOne, option).Do(context.Background(), 1)), everstep.ErrConfigInvalid)
	}
	// It was taken for none.
	negative := everstep.WithTimeout(-5 * time.Second)
	wants(t, second(everstep.NewStep("timeout", addOne, negative).Do(context.Background(), 1)), everstep.ErrConfigInvalid)
	wants(t, second(plusOne.Do(context.Background(), 1, negative)), everstep.ErrConfigInvalid)
	must(t, second(plusOne.Do(context.Background(), 1, everstep.WithTimeout(0))))
}

func TestWhatAStartCannotCarryIsRefused(t *testing.T) {
	ctx := context.Background()
	app := open(t, file(t))
	w := register(t, app, "started", identity)
	launch(t, app)
	for name, option := range map[string]everstep.StartOption{
		"a function":         everstep.WithRetry(everstep.Retry{If: func(error) bool { return false }}),
		"a negative timeout": everstep.WithTimeout(-1),
		"a job's timeout":    everstep.WithTimeout(time.Second),
		"a negative TTL":     everstep.WithDedup(everstep.Dedup{Key: "key", TTL: -5 * time.Second}),
	} {
		if err := second(w.Start(ctx, 1, option)); !errors.Is(err, everstep.ErrConfigInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAStartSaysHowItsJobIsTried(t *testing.T) {
	ctx := context.Background()
	app := open(t, file(t))
	slow := everstep.NewStep("slow", func(ctx context.Context, _ everstep.None) (int, error) {
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(patience):
			return 1, nil
		}
	})
	job, err := everstep.RegisterStep(app, slow)
	must(t, err)
	launch(t, app)
	run, err := job.Start(ctx, everstep.None{}, everstep.WithTimeout(20*time.Millisecond))
	must(t, err)
	wants(t, second(run.Result(ctx, everstep.WithTimeout(patience))), everstep.ErrStepTimeout)
}

func TestARegistrationsPolicyHoldsForItsStarts(t *testing.T) {
	ctx := context.Background()
	app := open(t, file(t))
	attempts := 0
	w := register(t, app, "tried", func(ctx everstep.Context, _ everstep.None) (int, error) {
		if attempts = everstep.RunAttempt(ctx); attempts < 3 {
			return 0, errFlaky
		}
		return attempts, nil
	}, everstep.WithRetry(everstep.Retry{MaxAttempts: 3, Initial: time.Millisecond}))
	launch(t, app)
	run, err := w.Start(ctx, everstep.None{})
	must(t, err)
	if out, err := run.Result(ctx, everstep.WithTimeout(patience)); out != 3 || err != nil {
		t.Errorf("%d, %v", out, err)
	}
}

func TestAStartsPolicyIsLaidOverTheRegistrations(t *testing.T) {
	ctx := context.Background()
	app := open(t, file(t))
	attempts := atomic.Int64{}
	step := everstep.NewStep("slow", func(ctx context.Context, _ everstep.None) (int, error) {
		attempts.Add(1)
		<-ctx.Done()
		return 0, ctx.Err()
	}, everstep.WithTimeout(20*time.Millisecond), everstep.WithRetry(everstep.Retry{MaxAttempts: 4, Initial: time.Millisecond}))
	job, err := everstep.RegisterStep(app, step)
	must(t, err)
	launch(t, app)
	run, err := job.Start(ctx, everstep.None{}, everstep.WithMaxAttempts(2))
	must(t, err)
	// Its timeout and its waits are the registration's still.
	wants(t, second(run.Result(ctx, everstep.WithTimeout(patience))), everstep.ErrStepTimeout)
	if attempts.Load() != 2 {
		t.Errorf("%d attempts", attempts.Load())
	}
}

func TestACallsPolicyIsLaidOverTheDeclaredOne(t *testing.T) {
	var calls atomic.Int64
	step := everstep.NewStep("charge", func(_ context.Context, declined bool) (int, error) {
		calls.Add(1)
		if declined {
			return 0, errDeclined
		}
		return 0, errFlaky
	}, everstep.WithRetry(everstep.Retry{
		MaxAttempts: 3, Initial: time.Millisecond, MaxInterval: 2 * time.Millisecond, If: func(err error) bool { return !errors.Is(err, errDeclined) },
	}))
	more := everstep.WithRetry(everstep.Retry{MaxAttempts: 9})
	tried := func(ctx everstep.Context, declined bool, options ...everstep.StepOption) int64 {
		before := calls.Load()
		wants(t, second(step.Do(ctx, declined, options...)), everstep.ErrStepFailed)
		return calls.Load() - before
	}
	_, err := play(t, func(ctx everstep.Context, _ everstep.None) (int, error) {
		begun := time.Now()
		// It took nine attempts at what is final, a second and more apart.
		if got := tried(ctx, true, more); got != 1 {
			t.Errorf("what is final was tried %d times", got)
		}
		if got := tried(ctx, false, more); got != 9 {
			t.Errorf("the call's attempts were %d", got)
		}
		if took := time.Since(begun); took > 10*time.Second {
			t.Errorf("its waits were not the declared ones: %v", took)
		}
		if got := tried(ctx, false); got != 3 {
			t.Errorf("the declared attempts have become %d", got)
		}
		return 0, nil
	})
	must(t, err)
}

func TestATransactionIsNoJobAndNotAtMostOnce(t *testing.T) {
	ctx := context.Background()
	app := open(t, file(t))
	rows := func(context.Context, *everstep.Tx, int) (int, error) { return 0, nil }
	wants(t, second(everstep.NewTransaction(app, "once", rows, everstep.AtMostOnce())), everstep.ErrConfigInvalid)
	tx, err := everstep.NewTransaction(app, "rows", rows)
	must(t, err)
	wants(t, second(tx.Do(ctx, 1, everstep.AtMostOnce())), everstep.ErrConfigInvalid)
	launch(t, app)
	// Nobody is told of a transaction: the run would wait for ever.
	reference := everstep.Reference[int, int](app, "rows")
	err = second(reference.Start(ctx, 1))
	wants(t, err, everstep.ErrConfigInvalid)
	if err == nil || !strings.Contains(err.Error(), "options_test.go:") {
		t.Errorf("%v does not say where it is", err)
	}
	wants(t, second(reference.StartMany(ctx, []int{1})), everstep.ErrConfigInvalid)
}

func TestANameThatLooksMistypedCanBeStarted(t *testing.T) {
	ctx := context.Background()
	app := open(t, file(t))
	register(t, app, "checkout", identity)
	launch(t, app)
	mistyped := everstep.Reference[int, int](app, "chekcout")
	wants(t, second(mistyped.Start(ctx, 1)), everstep.ErrUnknownWorkflow)
	must(t, second(mistyped.Start(ctx, 1, everstep.Unchecked())))
	wants(t, second(everstep.Register(app, "other", identity, everstep.Unchecked())), everstep.ErrConfigInvalid)
}

func TestTheRefusedItemOfManyIsNamed(t *testing.T) {
	app := open(t, file(t))
	w := register(t, app, "many", identity)
	launch(t, app)
	_, err := w.StartMany(context.Background(), []int{1, 2}, everstep.WithIDs(func(n int) string { return strings.Repeat("x", n*200) }))
	wants(t, err, everstep.ErrIDInvalid)
	if err == nil || !strings.Contains(err.Error(), "item 1: ") {
		t.Errorf("%v does not name the item", err)
	}
}

func TestLimitsOutsideTheirRangeAreRefused(t *testing.T) {
	ctx := context.Background()
	app := open(t, file(t))
	launch(t, app)
	for _, limit := range []int{-1, 1001} {
		wants(t, second(app.Runs(ctx, everstep.Filter{Limit: limit})), everstep.ErrConfigInvalid)
	}
	must(t, second(app.Runs(ctx, everstep.Filter{Limit: 1000})))
	_, err := play(t, func(ctx everstep.Context, _ everstep.None) (int, error) {
		for _, limit := range []int{0, -1} {
			wants(t, second(everstep.Map(ctx, "m", []int{1}, addOne, everstep.WithLimit(limit))), everstep.ErrConfigInvalid)
		}
		return 0, nil
	})
	must(t, err)
}

type lateError struct{}

func (lateError) Error() string { return "late" }

func TestDeclarationsAreCheckedWhereTheyAreMade(t *testing.T) {
	app := open(t, file(t))
	for _, code := range []string{"", "a\nb", "\xff", strings.Repeat("x", 256)} {
		wants(t, app.DeclareError(code, errFlaky), everstep.ErrIDInvalid)
	}
	must(t, app.DeclareError("flaky", errFlaky))
	register(t, app, "taken", identity)
	for name, err := range map[string]error{
		"error":    app.DeclareError("flaky", errors.New("other")),
		"workflow": second(everstep.Register(app, "taken", identity)),
	} {
		wants(t, err, everstep.ErrAlreadyRegistered)
		if err == nil || name == "workflow" && strings.Count(err.Error(), "_test.go:") != 2 {
			t.Errorf("%s: %v does not name both places", name, err)
		}
	}
	end(t, app)
	wants(t, app.DeclareError("late", errors.New("late")), everstep.ErrClosed)
	wants(t, everstep.DeclareErrorType[lateError](app, "late"), everstep.ErrClosed)
	wants(t, app.DeclareQueue(everstep.Queue{Name: "late"}), everstep.ErrClosed)
	wants(t, second(everstep.Register(app, "late", identity)), everstep.ErrClosed)
	rows := func(context.Context, *everstep.Tx, int) (int, error) { return 0, nil }
	wants(t, second(everstep.NewTransaction(app, "late", rows)), everstep.ErrClosed)
}
