package everstep_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	everstep "github.com/everstep/everstep/bindings-go"
)

var errDeclined = errors.New("card declined")

type limitError struct {
	Limit int `json:"limit"`
}

func (e *limitError) Error() string { return fmt.Sprintf("over %d", e.Limit) }

func TestEveryKindOfCallInOneWorkflow(t *testing.T) {
	out, err := play(t, func(ctx everstep.Context, _ everstep.None) ([]any, error) {
		one, err := plusOne.Do(ctx, 0)
		if err != nil {
			return nil, err
		}
		text, err := everstep.Do(ctx, "inline", func(context.Context) (string, error) { return "inline", nil })
		if err != nil {
			return nil, err
		}
		if err := everstep.Sleep(ctx, time.Millisecond); err != nil {
			return nil, err
		}
		doubled, err := everstep.Map(ctx, "double", []int{1, 2, 3}, func(_ context.Context, n int) (int, error) { return 2 * n, nil },
			everstep.WithKey(func(n int) string { return fmt.Sprint("key/", n) }), everstep.WithLimit(2))
		if err != nil {
			return nil, err
		}
		all, err := everstep.All(ctx, func(ctx everstep.Context) (int, error) { return plusOne.Do(ctx, 10) },
			func(ctx everstep.Context) (int, error) { return 5, everstep.Sleep(ctx, time.Millisecond) })
		if err != nil {
			return nil, err
		}
		fastest, err := everstep.Race(ctx, func(ctx everstep.Context) (string, error) { return "slow", everstep.Sleep(ctx, time.Hour) },
			func(ctx everstep.Context) (string, error) {
				return everstep.Do(ctx, "fast", func(context.Context) (string, error) { return "fast", nil })
			})
		if err != nil {
			return nil, err
		}
		succeeded, err := everstep.Any(ctx, func(everstep.Context) (string, error) { return "", errDeclined },
			func(everstep.Context) (string, error) { return "second", nil })
		if err != nil {
			return nil, err
		}
		id, err := everstep.NewUUID(ctx)
		if err != nil {
			return nil, err
		}
		_, silent, err := everstep.Receive[string](ctx, "nothing", everstep.WithTimeout(time.Millisecond))
		return []any{one, text, doubled, all, fastest, succeeded, len(id.String()), silent}, err
	})
	want := []any{int64(1), "inline", []any{int64(2), int64(4), int64(6)}, []any{int64(11), int64(5)}, "fast", "second", int64(36), false}
	if err != nil || !reflect.DeepEqual(out, want) {
		t.Errorf("%v, %v", out, err)
	}
}

func TestADeclaredErrorIsFoundOnTheFirstRunAndByTheCaller(t *testing.T) {
	app := open(t, file(t))
	must(t, app.DeclareError("card_declined", errDeclined))
	must(t, everstep.DeclareErrorType[*limitError](app, "limit"))
	fails := everstep.NewStep("fails", func(_ context.Context, typed bool) (int, error) {
		if typed {
			return 0, fmt.Errorf("charging: %w", &limitError{7})
		}
		return 0, fmt.Errorf("charging: %w", errDeclined)
	})
	w := register(t, app, "declines", func(ctx everstep.Context, typed bool) (int, error) {
		_, err := fails.Do(ctx, typed)
		var limit *limitError
		if typed != errors.As(err, &limit) || typed == errors.Is(err, errDeclined) || !errors.Is(err, everstep.ErrStepFailed) {
			return 0, fmt.Errorf("not recognised: %w", err)
		}
		if typed && limit.Limit != 7 {
			return 0, fmt.Errorf("rebuilt with %d", limit.Limit)
		}
		return 0, err
	})
	launch(t, app)
	for _, typed := range []bool{false, true} {
		run, err := w.Start(context.Background(), typed)
		must(t, err)
		_, err = run.Result(context.Background(), everstep.WithTimeout(patience))
		wants(t, err, everstep.ErrRunFailed)
		var limit *limitError
		if typed != errors.As(err, &limit) || typed == errors.Is(err, errDeclined) || !strings.Contains(err.Error(), "charging") {
			t.Errorf("typed %v: %v", typed, err)
		}
	}
}

func TestAnErrorIsTheSameOnReplay(t *testing.T) {
	var seen [2]atomic.Value
	var runs atomic.Int32
	fails := everstep.NewStep("fails", func(context.Context, int) (int, error) { return 0, errors.New("plain") })
	_, err := play(t, func(ctx everstep.Context, _ everstep.None) (int, error) {
		_, err := fails.Do(ctx, 1)
		seen[min(1, runs.Add(1)-1)].Store(fmt.Sprintf("%T %v", err, err))
		return 0, everstep.Sleep(ctx, time.Second)
	}, everstep.WithReplayAlways())
	must(t, err)
	if runs.Load() < 2 || seen[0].Load() != seen[1].Load() {
		t.Errorf("%d executions saw %v and %v", runs.Load(), seen[0].Load(), seen[1].Load())
	}
}

func TestRetriesStopWhereTheyAreTold(t *testing.T) {
	for name, c := range map[string]struct {
		options []everstep.StepOption
		err     error
		calls   int32
	}{
		"none by default": {nil, errDeclined, 1},
		"three":           {[]everstep.StepOption{everstep.WithRetry(everstep.Retry{MaxAttempts: 3, Initial: time.Millisecond})}, errDeclined, 3},
		"marked final":    {[]everstep.StepOption{everstep.WithRetry(everstep.Retry{Initial: time.Millisecond})}, everstep.NonRetryable(errDeclined), 1},
		"asked": {[]everstep.StepOption{everstep.WithRetry(everstep.Retry{Initial: time.Millisecond, If: func(err error) bool { return false }})},
			errDeclined, 1},
		"a result that cannot be recorded": {[]everstep.StepOption{everstep.WithRetry(everstep.Retry{Initial: time.Millisecond})}, nil, 1},
	} {
		t.Run(name, func(t *testing.T) {
			var calls atomic.Int32
			_, err := play(t, func(ctx everstep.Context, _ everstep.None) (int, error) {
				_, err := everstep.Do(ctx, "tries", func(context.Context) (any, error) {
					calls.Add(1)
					if c.err == nil {
						return make(chan int), nil
					}
					return nil, c.err
				}, c.options...)
				return 0, err
			})
			wants(t, err, everstep.ErrRunFailed)
			if c.err == nil {
				wants(t, err, everstep.ErrPayloadInvalid)
			}
			if calls.Load() != c.calls {
				t.Errorf("%d calls", calls.Load())
			}
		})
	}
}

func TestACancelReachesARunningStepAndCleanUpGoesOn(t *testing.T) {
	app := open(t, file(t))
	inside, cleaned := make(chan struct{}), make(chan string, 1)
	w := register(t, app, "cancelled", func(ctx everstep.Context, _ everstep.None) (int, error) {
		_, err := everstep.Do(ctx, "long", func(ctx context.Context) (int, error) {
			close(inside)
			<-ctx.Done()
			return 0, ctx.Err()
		})
		if !errors.Is(err, everstep.ErrRunCancelled) || !errors.Is(err, context.Canceled) {
			return 0, fmt.Errorf("not a cancel: %w", err)
		}
		text, cleanErr := everstep.Do(everstep.Shielded(ctx), "clean", func(context.Context) (string, error) { return "cleaned", nil })
		if cleanErr == nil {
			cleaned <- text
		}
		return 0, err
	})
	launch(t, app)
	run, err := w.Start(context.Background(), everstep.None{})
	must(t, err)
	<-inside
	outcome, err := run.Cancel(context.Background(), everstep.By("test"), everstep.Why("no longer wanted"))
	if err != nil || outcome != everstep.Requested {
		t.Errorf("%v, %v", outcome, err)
	}
	_, err = run.Result(context.Background(), everstep.WithTimeout(patience))
	wants(t, err, everstep.ErrRunCancelled)
	select {
	case <-cleaned:
	default:
		t.Error("the clean-up was not run")
	}
}

func TestAStepPastItsTimeIsStepTimeout(t *testing.T) {
	_, err := play(t, func(ctx everstep.Context, _ everstep.None) (int, error) {
		return everstep.Do(ctx, "slow", func(ctx context.Context) (int, error) {
			<-ctx.Done()
			return 0, ctx.Err()
		}, everstep.WithTimeout(10*time.Millisecond), everstep.WithMaxAttempts(1))
	})
	wants(t, err, everstep.ErrStepTimeout)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("not a deadline: %v", err)
	}
}

func TestMessagesEventsAndChildren(t *testing.T) {
	app := open(t, file(t))
	child := register(t, app, "child", func(ctx everstep.Context, topic string) (string, error) {
		if err := everstep.SetEvent(ctx, "state", map[string]int{"n": 1}); err != nil {
			return "", err
		}
		message, _, err := everstep.Receive[string](ctx, topic)
		return message, err
	})
	parent := register(t, app, "parent", func(ctx everstep.Context, _ everstep.None) (string, error) {
		run, err := child.Start(ctx, "topic", everstep.WithID("the-child"))
		if err != nil {
			return "", err
		}
		state, _, err := everstep.GetEvent[map[string]int](ctx, run, "state")
		if err != nil {
			return "", err
		}
		if err := run.Send(ctx, "topic", fmt.Sprint("hello ", state["n"])); err != nil {
			return "", err
		}
		return run.Result(ctx)
	})
	launch(t, app)
	ctx := context.Background()
	run, err := parent.Start(ctx, everstep.None{}, everstep.WithID("the-parent"))
	must(t, err)
	out, err := run.Result(ctx, everstep.WithTimeout(patience))
	if err != nil || out != "hello 1" {
		t.Errorf("%q, %v", out, err)
	}
	of, err := everstep.RunByID[string](app, "the-child")
	must(t, err)
	info, err := of.Status(ctx)
	if err != nil || info.Parent != run.Key() || info.State != everstep.StateSucceeded {
		t.Errorf("%+v, %v", info, err)
	}
	again, err := parent.Start(ctx, everstep.None{}, everstep.WithID("the-parent"))
	if err != nil || !again.Attached() || again.Key() != run.Key() {
		t.Errorf("%v, %v", again, err)
	}
	page, err := app.Runs(ctx, everstep.Filter{Workflow: "child", Limit: 10})
	if err != nil || len(page.Runs) != 1 || page.Next != "" {
		t.Errorf("%+v, %v", page, err)
	}
	steps, err := run.Steps(ctx)
	if err != nil || len(steps) != 4 || !strings.Contains(steps[0].Location, "workflow_test.go:") {
		t.Errorf("%+v, %v", steps, err)
	}
}

func TestTransactionsOnTheEnginesConnectionCommitWithTheirRecord(t *testing.T) {
	app := open(t, file(t))
	setUp, err := everstep.NewTransaction(app, "set_up", func(ctx context.Context, tx *everstep.Tx, _ everstep.None) (int, error) {
		_, err := tx.Execute(ctx, "create table rows (n integer)")
		return 0, err
	})
	must(t, err)
	add, err := everstep.NewTransaction(app, "add", func(ctx context.Context, tx *everstep.Tx, n int) (int, error) {
		if _, err := tx.Execute(ctx, "insert into rows values ($1)", n); err != nil {
			return 0, err
		}
		if n == 2 {
			return 0, errDeclined
		}
		rows, err := tx.Execute(ctx, "select count(*) as many from rows")
		if err != nil {
			return 0, err
		}
		many, _ := rows.Scalar().(int64)
		return int(many), nil
	})
	must(t, err)
	w := register(t, app, "adds", func(ctx everstep.Context, _ everstep.None) ([]int, error) {
		var out []int
		if _, err := setUp.Do(ctx, everstep.None{}); err != nil {
			return nil, err
		}
		for _, n := range []int{1, 2, 3} {
			many, err := add.Do(ctx, n)
			if (err != nil) != (n == 2) {
				return nil, fmt.Errorf("adding %d: %w", n, err)
			}
			out = append(out, many)
		}
		return out, nil
	})
	launch(t, app)
	run, err := w.Start(context.Background(), everstep.None{})
	must(t, err)
	out, err := run.Result(context.Background(), everstep.WithTimeout(patience))
	if err != nil || !reflect.DeepEqual(out, []int{1, 0, 2}) {
		t.Errorf("%v, %v", out, err)
	}
	if _, err := add.Do(context.Background(), 1); !errors.Is(err, everstep.ErrOutsideRun) {
		t.Errorf("outside: %v", err)
	}
}

func TestAStepIsAJob(t *testing.T) {
	app := open(t, file(t))
	jobs, err := everstep.RegisterStep(app, plusOne)
	must(t, err)
	launch(t, app)
	runs, err := jobs.StartMany(context.Background(), []int{1, 2, 3}, everstep.WithIDs(func(n int) string { return fmt.Sprint("job-", n) }))
	must(t, err)
	for i, run := range runs {
		out, err := run.Result(context.Background(), everstep.WithTimeout(patience))
		if err != nil || out != i+2 || run.ID() != fmt.Sprint("job-", i+1) {
			t.Errorf("%v, %v", out, err)
		}
	}
}

func TestQueuesAreRows(t *testing.T) {
	app := open(t, file(t))
	must(t, app.DeclareQueue(everstep.Queue{Name: "orders", Limit: 3}))
	w := register(t, app, "queued", func(_ everstep.Context, n int) (int, error) { return n, nil })
	launch(t, app)
	ctx := context.Background()
	must(t, app.PauseQueue(ctx, "orders"))
	queues, err := app.Queues(ctx)
	if err != nil || len(queues) != 1 || !queues[0].Paused || queues[0].Limit != 3 {
		t.Errorf("%+v, %v", queues, err)
	}
	run, err := w.Start(ctx, 4, everstep.OnQueue("orders"))
	must(t, err)
	bounded, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	_, err = run.Result(bounded)
	wants(t, err, everstep.ErrResultTimeout)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "orders") {
		t.Errorf("what it waits for: %v", err)
	}
	must(t, app.ResumeQueue(ctx, "orders"))
	out, err := run.Result(ctx, everstep.WithTimeout(patience))
	if err != nil || out != 4 {
		t.Errorf("%v, %v", out, err)
	}
	if err := app.PauseQueue(ctx, "ordres"); !errors.Is(err, everstep.ErrUnknownQueue) || !strings.Contains(err.Error(), "orders") {
		t.Errorf("a queue nobody made: %v", err)
	}
}

func TestEveryCallIsRecordedWithTheLineOfTheProgramThatMadeIt(t *testing.T) {
	app := open(t, file(t))
	w := register(t, app, "located", func(ctx everstep.Context, _ everstep.None) (int, error) {
		branch := func(ctx everstep.Context) (int, error) { return plusOne.Do(ctx, 1) }
		calls := []func() error{
			func() error { return second(plusOne.Do(ctx, 1)) },
			func() error {
				return second(everstep.Do(ctx, "inline", func(context.Context) (int, error) { return 1, nil }))
			},
			func() error { return everstep.Sleep(ctx, 0) },
			func() error { return second(everstep.Now(ctx)) },
			func() error { return second(everstep.Race(ctx, branch)) },
			func() error { return second(everstep.All(ctx, branch)) },
			func() error {
				return second(everstep.Map(ctx, "m", []int{1}, func(_ context.Context, n int) (int, error) { return n, nil }))
			},
			func() error {
				return second(everstep.MapBranches(ctx, []int{1}, func(ctx everstep.Context, n int) (int, error) { return plusOne.Do(ctx, n) }))
			},
			func() error { return everstep.SetEvent(ctx, "key", 1) },
			func() error { return second(everstep.Patch(ctx, "patch")) },
		}
		for _, call := range calls {
			if err := call(); err != nil {
				return 0, err
			}
		}
		return 0, nil
	})
	launch(t, app)
	run, err := w.Start(context.Background(), everstep.None{})
	must(t, err)
	must(t, second(run.Result(context.Background(), everstep.WithTimeout(patience))))
	steps, err := run.Steps(context.Background())
	must(t, err)
	for _, step := range steps {
		if !strings.HasPrefix(step.Location, "bindings-go/workflow_test.go:") {
			t.Errorf("%s %s stands at %q", step.Kind, step.Name, step.Location)
		}
	}
	if len(steps) < 11 {
		t.Errorf("%d calls", len(steps))
	}
}

func TestParametersGoAsWhatADatabaseReads(t *testing.T) {
	app := open(t, file(t))
	parameters := []any{
		sql.NullString{String: "given", Valid: true}, sql.NullInt64{}, &sql.NullString{String: "pointed at", Valid: true}, (*sql.NullString)(nil),
		everstep.UUID{1}, uint64(1 << 63), uint(1 << 63), uint64(5), []int{1}, sql.RawBytes{0, 255}, json.RawMessage(`{"a":1}`), json.Number("12"),
	}
	read, err := everstep.NewTransaction(app, "read", func(ctx context.Context, tx *everstep.Tx, _ everstep.None) ([]any, error) {
		var out []any
		for _, parameter := range parameters {
			rows, err := tx.Execute(ctx, "select $1", parameter)
			if err != nil {
				return nil, err
			}
			out = append(out, rows.Scalar())
		}
		return out, nil
	})
	must(t, err)
	w := register(t, app, "reads", func(ctx everstep.Context, _ everstep.None) ([]any, error) { return read.Do(ctx, everstep.None{}) })
	launch(t, app)
	run, err := w.Start(context.Background(), everstep.None{})
	must(t, err)
	got, err := run.Result(context.Background(), everstep.WithTimeout(patience))
	must(t, err)
	if want := []any{"given", nil, "pointed at", nil, "01000000-0000-0000-0000-000000000000", "9223372036854775808", "9223372036854775808",
		int64(5), "[1]", []byte{0, 255}, `{"a":1}`, "12"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v", got)
	}
}
