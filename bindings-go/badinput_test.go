package everstep_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	everstep "github.com/everstep/everstep/bindings-go"
)

type hidden struct {
	Shown int
	lost  string
}

func TestTypesThatWouldLoseSomethingAreRefusedAtRegistration(t *testing.T) {
	app := open(t, file(t))
	_ = hidden{lost: ""}.lost
	refused := func(err error, says string) {
		t.Helper()
		wants(t, err, everstep.ErrPayloadInvalid)
		if err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("%v does not say %q", err, says)
		}
	}
	_, err := everstep.Register(app, "hidden", func(everstep.Context, hidden) (int, error) { return 0, nil })
	refused(err, "lost")
	_, err = everstep.Register(app, "channel", func(everstep.Context, int) (chan int, error) { return nil, nil })
	refused(err, "chan")
	_, err = everstep.Register(app, "function", func(everstep.Context, struct{ F func() }) (int, error) { return 0, nil })
	refused(err, "func")
	_, err = everstep.Register(app, "interface", func(everstep.Context, []error) (int, error) { return 0, nil })
	refused(err, "error")
	_, err = everstep.NewStep("step", func(context.Context, hidden) (int, error) { return 0, nil }).Do(context.Background(), hidden{})
	refused(err, "lost")
	refused(everstep.DeclareErrorType[*hiddenError](app, "hidden"), "secret")
}

type hiddenError struct{ secret string }

func (h *hiddenError) Error() string { return h.secret }

func TestNilsAreErrorsAndNeverPanic(t *testing.T) {
	ctx := context.Background()
	app := open(t, file(t))
	var noContext context.Context
	var noApp *everstep.App
	var noStep *everstep.Step[int, int]
	var noRun *everstep.Run[int]
	var noWorkflow *everstep.Workflow[int, int]
	var noTransaction *everstep.Transaction[int, int]
	var noOption everstep.PolicyOption
	for name, err := range map[string]error{
		"open":              second(everstep.Open(noContext)),
		"option of open":    second(everstep.Open(ctx, nil)),
		"app":               second(everstep.Register(noApp, "x", func(everstep.Context, int) (int, error) { return 0, nil })),
		"function":          second(everstep.Register[int, int](app, "x", nil)),
		"option":            second(everstep.Register(app, "x", func(everstep.Context, int) (int, error) { return 0, nil }, noOption)),
		"step":              second(noStep.Do(ctx, 1)),
		"step's function":   second(everstep.NewStep[int, int]("x", nil).Do(ctx, 1)),
		"step's context":    second(plusOne.Do(noContext, 1)),
		"inline function":   second(everstep.Do[int](ctx, "x", nil)),
		"run":               second(noRun.Result(ctx)),
		"run's status":      second(noRun.Status(ctx)),
		"run's steps":       second(noRun.Steps(ctx)),
		"run's message":     noRun.Send(ctx, "topic", 1),
		"cancelled run":     second(noRun.Cancel(ctx)),
		"resumed run":       second(noRun.Resume(ctx)),
		"retried run":       second(noRun.Retry(ctx)),
		"rewound run":       second(noRun.Rewind(ctx, "", 0)),
		"workflow":          second(noWorkflow.Start(ctx, 1)),
		"transaction":       second(noTransaction.Do(ctx, 1)),
		"own transaction":   second(everstep.NewTransaction[int, int](app, "x", nil)),
		"other transaction": second(everstep.NewTransactionOn[int, int, int](app, "x", nil, func(context.Context, int, int) (int, error) { return 0, nil })),
		"sleep":             everstep.Sleep(noContext, 1),
		"launch":            app.Launch(noContext),
		"close":             app.Close(noContext),
		"no app's launch":   noApp.Launch(ctx),
		"no app's key":      second(noApp.KeyOf("x")),
		"declared error":    app.DeclareError("x", nil),
		"no app's queue":    noApp.DeclareQueue(everstep.Queue{Name: "q"}),
	} {
		if !errors.Is(err, everstep.ErrConfigInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if noRun.Key() != "" || noRun.ID() != "" || noRun.Attached() {
		t.Error("no run has a name")
	}
	w := register(t, app, "nil key", func(ctx everstep.Context, n int) ([]int, error) {
		return everstep.MapBranches(ctx, []int{n}, func(_ everstep.Context, n int) (int, error) { return n, nil }, everstep.WithKey[int](nil))
	})
	wants(t, second(w.StartMany(ctx, []int{1}, everstep.WithIDs[int](nil))), everstep.ErrConfigInvalid)
	launch(t, app)
	run, err := w.Start(ctx, 1)
	must(t, err)
	wants(t, second(run.Result(ctx, everstep.WithTimeout(patience))), everstep.ErrConfigInvalid)
	_, _, err = everstep.GetEvent[int](ctx, noRun, "key")
	wants(t, err, everstep.ErrConfigInvalid)
}

func second[T any](_ T, err error) error { return err }

func TestRegistrationsAreCheckedByName(t *testing.T) {
	app := open(t, file(t))
	f := func(everstep.Context, int) (int, error) { return 0, nil }
	register(t, app, "taken", f)
	wants(t, second(everstep.Register(app, "taken", f)), everstep.ErrAlreadyRegistered)
	wants(t, second(everstep.Register(app, "", f)), everstep.ErrIDInvalid)
	wants(t, second(everstep.Register(app, "a\nb", f)), everstep.ErrIDInvalid)
	must(t, app.DeclareError("declared", errDeclined))
	wants(t, app.DeclareError("declared", errors.New("other")), everstep.ErrAlreadyRegistered)
	wants(t, app.DeclareError("run_failed", errors.New("other")), everstep.ErrAlreadyRegistered)
	wants(t, second(everstep.Register(app, "options", f, everstep.OnQueue("q"))), everstep.ErrConfigInvalid)
	launch(t, app)
	wants(t, second(everstep.Register(app, "late", f)), everstep.ErrRegisteredLate)
	wants(t, app.DeclareQueue(everstep.Queue{Name: "late"}), everstep.ErrRegisteredLate)
	wants(t, app.Launch(context.Background()), everstep.ErrAlreadyLaunched)
}

func TestStartsAreChecked(t *testing.T) {
	ctx := context.Background()
	app := open(t, file(t))
	w := register(t, app, "started", func(_ everstep.Context, in any) (any, error) { return in, nil })
	launch(t, app)
	wants(t, second(w.Start(ctx, make(chan int))), everstep.ErrPayloadInvalid)
	wants(t, second(w.Start(ctx, "\xff")), everstep.ErrPayloadInvalid)
	wants(t, second(w.Start(ctx, 1, everstep.WithID(""))), everstep.ErrIDInvalid)
	wants(t, second(w.Start(ctx, 1, everstep.WithID("\xff"))), everstep.ErrIDInvalid)
	wants(t, second(everstep.RunByID[int](app, "\xff")), everstep.ErrIDInvalid)
	wants(t, second(w.Start(ctx, 1, everstep.WithID(strings.Repeat("x", 256)))), everstep.ErrIDInvalid)
	wants(t, second(w.Start(ctx, 1, everstep.OnQueue("nowhere"))), everstep.ErrUnknownQueue)
	wants(t, second(w.Start(ctx, strings.Repeat("x", 17<<20))), everstep.ErrPayloadTooLarge)
	wants(t, second(w.Start(ctx, 1, everstep.WithMaxAttempts(0))), everstep.ErrConfigInvalid)
	wants(t, second(w.Start(ctx, 1, everstep.WithAttributes(map[string]any{"f": func() {}}))), everstep.ErrConfigInvalid)
	wants(t, second(w.StartMany(ctx, []any{1}, everstep.WithIDs(func(int) string { return "x" }))), everstep.ErrConfigInvalid)
	run, err := everstep.RunByID[int](app, "nobody")
	must(t, err)
	wants(t, second(run.Status(ctx)), everstep.ErrRunNotFound)
	wants(t, second(run.Cancel(ctx)), everstep.ErrRunNotFound)
	wants(t, run.Send(ctx, "topic", 1), everstep.ErrRunNotFound)
	wants(t, second(everstep.RunByKey[int](app, "no key").Result(ctx)), everstep.ErrRunNotFound)
}

// One out of a variable that is unset: taken for none, the run was on no queue and past its limits, and the message came twice.
func TestAnEmptyTextIsNotLeftOut(t *testing.T) {
	ctx := context.Background()
	app := open(t, file(t))
	w := register(t, app, "started", identity)
	launch(t, app)
	for name, option := range map[string]everstep.StartOption{
		"queue": everstep.OnQueue(""), "label": everstep.WithLabel(""), "on finish": everstep.WithOnFinish(""),
		"fairness key": everstep.WithFairnessKey(""), "created by": everstep.WithCreatedBy(""),
	} {
		if err := second(w.Start(ctx, 1, option)); !errors.Is(err, everstep.ErrIDInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	run, err := w.Start(ctx, 1)
	must(t, err)
	wants(t, run.Send(ctx, "topic", 1, everstep.WithIdempotencyKey("")), everstep.ErrIDInvalid)
	for _, err := range []error{
		second(run.Cancel(ctx, everstep.By(""))), second(run.Resume(ctx, everstep.By(""))), second(run.Retry(ctx, everstep.By(""))),
		second(run.Rewind(ctx, "", 0, everstep.By(""))),
	} {
		wants(t, err, everstep.ErrIDInvalid)
	}
	// What only a start can say is refused there, however empty.
	for _, option := range []everstep.RegisterOption{everstep.OnQueue(""), everstep.WithFairnessKey(""), everstep.WithCreatedBy("")} {
		wants(t, second(everstep.Register(app, "other", identity, option)), everstep.ErrConfigInvalid)
	}
}

func TestNoFormOfAnAppShowsItsDatabase(t *testing.T) {
	app := open(t, "postgres://somebody:s3cret@127.0.0.1:1/nothing")
	holder := struct {
		App   *everstep.App
		Other any
	}{app, app}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		for _, value := range []any{app, holder, &holder} {
			shown := fmt.Sprintf(verb, value)
			if strings.Contains(shown, "s3cret") || strings.Contains(shown, "733363726574") || strings.Contains(shown, "115 51 99 114 101 116") {
				t.Errorf("%s shows the password: %s", verb, shown)
			}
		}
	}
	if shown := fmt.Sprint(app); shown != "everstep.App(worker)" {
		t.Error(shown)
	}
	// What dumps all fields of whatever it finds: testify's and the like.
	var dump func(v reflect.Value, depth int) string
	dump = func(v reflect.Value, depth int) string {
		switch {
		case depth > 8:
		case v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface:
			if !v.IsNil() {
				return dump(v.Elem(), depth+1)
			}
		case v.Kind() == reflect.Struct:
			text := ""
			for i := range v.NumField() {
				text += dump(v.Field(i), depth+1)
			}
			return text
		case v.Kind() == reflect.String:
			return v.String()
		case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Uint8:
			return string(v.Bytes())
		}
		return ""
	}
	if strings.Contains(dump(reflect.ValueOf(app), 0), "s3cret") {
		t.Error("a dump of the fields shows the password")
	}
}

// It would wait for the very run that calls it, for 25 s, and then cut it off.
func TestCloseInsideARunIsRefusedAtOnce(t *testing.T) {
	app := open(t, file(t))
	refused := func(ctx context.Context) {
		wants(t, app.Close(ctx), everstep.ErrConfigInvalid)
		wants(t, app.Close(context.Background()), everstep.ErrConfigInvalid)
	}
	w := register(t, app, "closes", func(ctx everstep.Context, n int) (int, error) {
		refused(ctx)
		if _, err := everstep.All(ctx, func(ctx everstep.Context) (int, error) {
			refused(ctx)
			return 0, nil
		}); err != nil {
			return 0, err
		}
		return everstep.Do(ctx, "step", func(ctx context.Context) (int, error) {
			refused(ctx)
			return n, nil
		})
	})
	job, err := everstep.RegisterStep(app, everstep.NewStep("job", func(ctx context.Context, n int) (int, error) {
		refused(ctx)
		return n, nil
	}))
	must(t, err)
	launch(t, app)
	for _, startable := range []*everstep.Workflow[int, int]{w, job} {
		run, err := startable.Start(context.Background(), 42)
		must(t, err)
		if out, err := run.Result(context.Background(), everstep.WithTimeout(patience)); out != 42 || err != nil {
			t.Errorf("%d, %v", out, err)
		}
	}
	must(t, app.Close(context.Background()))
}

func TestACancelledContextIsHonouredByEveryCall(t *testing.T) {
	app := open(t, file(t))
	w := register(t, app, "started", func(_ everstep.Context, n int) (int, error) { return n, nil })
	launch(t, app)
	run, err := w.Start(context.Background(), 1, everstep.WithDelay(time.Hour))
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, _, eventErr := everstep.GetEvent[int](ctx, run, "key")
	for name, err := range map[string]error{
		"open": second(everstep.Open(ctx)), "start": second(w.Start(ctx, 1)), "start many": second(w.StartMany(ctx, []int{1})), "result": second(run.Result(ctx)),
		"status": second(run.Status(ctx)), "steps": second(run.Steps(ctx)), "cancel": second(run.Cancel(ctx)), "resume": second(run.Resume(ctx)),
		"retry": second(run.Retry(ctx)), "rewind": second(run.Rewind(ctx, "", 0)), "send": run.Send(ctx, "topic", 1), "event": eventErr,
		"runs": second(app.Runs(ctx, everstep.Filter{Limit: 1})), "queues": second(app.Queues(ctx)), "put queue": second(app.PutQueue(ctx, everstep.Queue{Name: "q"})),
		"adopt": app.Adopt(ctx), "migrate": second(app.Migrate(ctx)), "step": second(plusOne.Do(ctx, 1)),
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
	}
	waiting, stop := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer stop()
	_, _, err = everstep.GetEvent[int](waiting, run, "key")
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a wait: %v", err)
	}
}

func TestAContextDerivedInAWorkflowEndsItsCalls(t *testing.T) {
	_, err := play(t, func(ctx everstep.Context, _ everstep.None) (int, error) {
		bounded, cancel := context.WithCancel(ctx)
		cancel()
		if _, err := plusOne.Do(bounded, 1); !errors.Is(err, context.Canceled) {
			return 0, errors.New("a step was not refused")
		}
		if err := everstep.Sleep(bounded, time.Hour); !errors.Is(err, context.Canceled) {
			return 0, errors.New("a sleep was not refused")
		}
		timed, stop := context.WithTimeout(ctx, 10*time.Millisecond)
		defer stop()
		if err := everstep.Sleep(timed, time.Hour); !errors.Is(err, context.DeadlineExceeded) {
			return 0, errors.New("a sleep was not cut short")
		}
		return plusOne.Do(context.WithValue(ctx, hidden{}, 1), 1)
	})
	must(t, err)
}

func TestManyStartsBelongInAStep(t *testing.T) {
	app := open(t, file(t))
	one := register(t, app, "one", func(_ everstep.Context, n int) (int, error) { return n, nil })
	many := register(t, app, "many", func(ctx everstep.Context, _ everstep.None) (int, error) {
		if _, err := one.StartMany(ctx, []int{1, 2}); !errors.Is(err, everstep.ErrOutsideRun) {
			return 0, fmt.Errorf("in a workflow: %w", err)
		}
		return everstep.Do(ctx, "step", func(ctx context.Context) (int, error) {
			runs, err := one.StartMany(ctx, []int{1, 2})
			return len(runs), err
		})
	})
	launch(t, app)
	run, err := many.Start(context.Background(), everstep.None{})
	must(t, err)
	started, err := run.Result(context.Background(), everstep.WithTimeout(patience))
	must(t, err)
	if started != 2 {
		t.Errorf("%d runs were started", started)
	}
}

func TestCallsBelongWhereTheyBelong(t *testing.T) {
	ctx := context.Background()
	wants(t, everstep.Sleep(ctx, 1), everstep.ErrOutsideRun)
	wants(t, second(everstep.Now(ctx)), everstep.ErrOutsideRun)
	wants(t, second(everstep.All(ctx, func(everstep.Context) (int, error) { return 0, nil })), everstep.ErrOutsideRun)
	wants(t, everstep.SetEvent(ctx, "key", 1), everstep.ErrOutsideRun)
	wants(t, second(everstep.Patch(ctx, "name")), everstep.ErrOutsideRun)
	wants(t, second(everstep.IdempotencyKey(ctx)), everstep.ErrOutsideStep)
	strict := everstep.NewStep("strict", func(_ context.Context, n int) (int, error) { return n, nil }, everstep.Strict())
	wants(t, second(strict.Do(ctx, 1)), everstep.ErrOutsideRun)
	if out, err := plusOne.Do(ctx, 1); out != 2 || err != nil {
		t.Errorf("the plain function: %d, %v", out, err)
	}
	_, err := play(t, func(outer everstep.Context, _ everstep.None) (int, error) {
		return everstep.Do(outer, "step", func(ctx context.Context) (int, error) {
			wants(t, everstep.Sleep(ctx, 1), everstep.ErrOutsideRun)
			wants(t, everstep.Sleep(outer, 1), everstep.ErrOutsideRun)
			wants(t, second(plusOne.Do(outer, 1)), everstep.ErrOutsideRun)
			key, err := everstep.IdempotencyKey(ctx)
			if len(key) != 36 || err != nil || everstep.Attempt(ctx) != 1 || everstep.RunKey(ctx) == "" {
				t.Errorf("%q, %v", key, err)
			}
			// A step in a step is the plain function.
			return plusOne.Do(ctx, 1)
		})
	})
	must(t, err)
	_, err = play(t, func(ctx everstep.Context, _ everstep.None) (int, error) {
		wants(t, second(everstep.Any[int](ctx)), everstep.ErrConfigInvalid)
		wants(t, second(everstep.All[int](ctx, nil)), everstep.ErrConfigInvalid)
		same := everstep.WithKey(func(int) string { return "same" })
		wants(t, second(everstep.Map(ctx, "m", []int{1, 2}, func(_ context.Context, n int) (int, error) { return n, nil }, same)), everstep.ErrConfigInvalid)
		other := everstep.WithKey(func(string) string { return "" })
		wants(t, second(everstep.Map(ctx, "m", []int{1, 2}, func(_ context.Context, n int) (int, error) { return n, nil }, other)), everstep.ErrConfigInvalid)
		for _, ofAnAttempt := range []everstep.MapOption{everstep.WithMaxAttempts(3), everstep.WithTimeout(time.Second)} {
			branch := func(_ everstep.Context, n int) (int, error) { return n, nil }
			wants(t, second(everstep.MapBranches(ctx, []int{1}, branch, ofAnAttempt)), everstep.ErrConfigInvalid)
		}
		return 0, nil
	})
	must(t, err)
}

func TestAStepFromAnotherGoroutineIsRefused(t *testing.T) {
	ctx := context.Background()
	app := open(t, file(t))
	leaked := make(chan everstep.Context, 2)
	w := register(t, app, "foreign", func(ctx everstep.Context, _ everstep.None) (int, error) {
		refused := make(chan error)
		go func() { refused <- second(plusOne.Do(ctx, 1)) }()
		wants(t, <-refused, everstep.ErrForeignThread)
		go func() { refused <- everstep.Sleep(context.WithValue(ctx, hidden{}, 1), 1) }()
		wants(t, <-refused, everstep.ErrForeignThread)
		_, err := everstep.All(ctx, func(everstep.Context) (int, error) {
			// The context of the branch's parent: its calls would count there.
			wants(t, second(plusOne.Do(ctx, 1)), everstep.ErrForeignThread)
			return 0, nil
		})
		leaked <- ctx
		return 0, err
	})
	user := register(t, app, "user", func(ctx everstep.Context, _ everstep.None) (int, error) {
		other := <-leaked
		wants(t, everstep.Sleep(other, 1), everstep.ErrForeignThread)
		return plusOne.Do(ctx, 1)
	})
	launch(t, app)
	run, err := w.Start(ctx, everstep.None{})
	must(t, err)
	must(t, second(run.Result(ctx, everstep.WithTimeout(patience))))
	next, err := user.Start(ctx, everstep.None{})
	must(t, err)
	must(t, second(next.Result(ctx, everstep.WithTimeout(patience))))
}

func TestAClosedEngineSaysSo(t *testing.T) {
	ctx := context.Background()
	app := open(t, file(t))
	begun := make(chan struct{})
	w := register(t, app, "started", func(ctx everstep.Context, n int) (int, error) {
		close(begun)
		return n, everstep.Sleep(ctx, time.Hour)
	})
	launch(t, app)
	run, err := w.Start(ctx, 1)
	must(t, err)
	<-begun
	waited := make(chan error)
	go func() { waited <- second(run.Result(ctx)) }()
	end(t, app)
	wants(t, <-waited, everstep.ErrClosed)
	wants(t, second(w.Start(ctx, 1)), everstep.ErrClosed)
	wants(t, app.Launch(ctx), everstep.ErrClosed)
	must(t, app.Close(ctx))
}

func TestOpenAndLaunchSayWhatIsWrongWithoutSecrets(t *testing.T) {
	ctx := context.Background()
	wants(t, second(everstep.Open(ctx, everstep.WithSetting("no_such", 1))), everstep.ErrConfigInvalid)
	wants(t, second(everstep.Open(ctx, everstep.WithSetting("slots", make(chan int)))), everstep.ErrConfigInvalid)
	wants(t, second(everstep.Open(ctx, everstep.WithDatabase("mysql://x"))), everstep.ErrConfigInvalid)
	app := open(t, "postgres://somebody:s3cret@127.0.0.1:1/nothing", everstep.WithOutageBudget(100*time.Millisecond))
	bounded, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for range 2 { // A launch that failed may be tried again.
		err := app.Launch(bounded)
		wants(t, err, everstep.ErrDatabaseUnreachable)
		if err != nil && strings.Contains(err.Error(), "s3cret") {
			t.Errorf("shows the password: %v", err)
		}
	}
}

func TestTwoEnginesLiveInOneProcess(t *testing.T) {
	ctx := context.Background()
	for range 2 {
		app := open(t, file(t))
		w := register(t, app, "same", func(ctx everstep.Context, n int) (int, error) { return plusOne.Do(ctx, n) })
		launch(t, app)
		run, err := w.Start(ctx, 1, everstep.WithID("same"))
		must(t, err)
		if out, err := run.Result(ctx, everstep.WithTimeout(patience)); out != 2 || err != nil || run.Attached() {
			t.Errorf("%d, %v", out, err)
		}
	}
}

func TestWhatIsOfAnotherEngineBelongsInAStep(t *testing.T) {
	ctx := context.Background()
	other := open(t, file(t))
	there := register(t, other, "there", func(_ everstep.Context, n int) (int, error) { return n + 1, nil })
	rows, err := everstep.NewTransaction(other, "rows", func(context.Context, *everstep.Tx, int) (int, error) { return 0, nil })
	must(t, err)
	launch(t, other)
	known, err := there.Start(ctx, 1)
	must(t, err)
	// It replays before every step: what is not recorded would happen again each time.
	out, err := play(t, func(ctx everstep.Context, _ everstep.None) (int, error) {
		_, _, event := everstep.GetEvent[int](ctx, known, "key")
		for _, err := range []error{second(there.Start(ctx, 1)), second(rows.Do(ctx, 1)), second(known.Result(ctx)), known.Send(ctx, "topic", 1), event} {
			wants(t, err, everstep.ErrOutsideRun)
		}
		return everstep.Do(ctx, "ask there", func(ctx context.Context) (int, error) {
			run, err := there.Start(ctx, 41)
			if err != nil {
				return 0, err
			}
			return run.Result(ctx, everstep.WithTimeout(patience))
		})
	}, everstep.WithReplayAlways())
	if out != 42 || err != nil {
		t.Errorf("%d, %v", out, err)
	}
	page, err := other.Runs(ctx, everstep.Filter{Workflow: "there"})
	if err != nil || len(page.Runs) != 2 {
		t.Errorf("%d runs, %v", len(page.Runs), err)
	}
}

func TestASecondCloseWaitsForTheFirst(t *testing.T) {
	app := open(t, file(t))
	begun, finish := make(chan struct{}), make(chan struct{})
	w := register(t, app, "slow", func(ctx everstep.Context, n int) (int, error) {
		return everstep.Do(ctx, "slow", func(context.Context) (int, error) {
			close(begun)
			<-finish
			return n, nil
		})
	})
	launch(t, app)
	must(t, second(w.Start(context.Background(), 1)))
	<-begun
	first := make(chan error, 1)
	go func() { first <- app.Close(context.Background()) }()
	closing(t, app)
	impatient, cancel := context.WithCancel(context.Background())
	cancel()
	must(t, app.Close(impatient))
	again := make(chan error, 1)
	go func() { again <- app.Close(context.Background()) }()
	select {
	case <-again:
		t.Error("the second close did not wait for the run that the first lets finish")
	case <-time.After(20 * time.Millisecond):
	}
	close(finish)
	must(t, <-first)
	must(t, <-again)
}

func TestATimeThatNeverComesIsNotPast(t *testing.T) {
	// What the zero of Unix time and the largest count of seconds make: a common way to say never.
	never := time.Unix(1<<62, 0)
	_, err := play(t, func(ctx everstep.Context, _ everstep.None) (int, error) {
		bounded, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
		defer cancel()
		return 0, everstep.SleepUntil(bounded, never)
	})
	if err == nil || !strings.Contains(err.Error(), context.DeadlineExceeded.Error()) {
		t.Errorf("the sleep was over: %v", err)
	}
}

func TestTimesOutsideTheCalendarMeanAlwaysOrNever(t *testing.T) {
	app := open(t, file(t))
	w := register(t, app, "sleeps", func(ctx everstep.Context, until time.Time) (string, error) {
		return everstep.Race(ctx,
			func(ctx everstep.Context) (string, error) {
				return "over", everstep.SleepUntil(ctx, until.AddDate(-400_000, 0, 0))
			},
			func(ctx everstep.Context) (string, error) {
				return "never", everstep.SleepUntil(ctx, until.AddDate(400_000, 0, 0))
			},
			func(ctx everstep.Context) (string, error) { return "late", everstep.Sleep(ctx, patience) })
	})
	launch(t, app)
	ctx := context.Background()
	run, err := w.Start(ctx, time.Now(), everstep.WithStartAt(time.Date(-300_000, 1, 1, 0, 0, 0, 0, time.UTC)))
	must(t, err)
	if out, err := run.Result(ctx, everstep.WithTimeout(patience)); out != "over" || err != nil {
		t.Errorf("%q, %v", out, err)
	}
	info, err := run.Status(ctx)
	if err != nil || !info.StartAt.Equal(time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC)) {
		t.Errorf("starts at %v, %v", info.StartAt, err)
	}
}

func TestAttributesComeBackAsTheyWere(t *testing.T) {
	app := open(t, file(t))
	w := register(t, app, "started", func(_ everstep.Context, n int) (int, error) { return n, nil })
	launch(t, app)
	ctx := context.Background()
	given := map[string]any{"id": int64(1<<60 + 1), "one": int64(1), "half": 0.5, "text": "ü", "yes": true}
	run, err := w.Start(ctx, 1, everstep.WithAttributes(given))
	must(t, err)
	info, err := run.Status(ctx)
	if err != nil || !reflect.DeepEqual(info.Attributes, given) {
		t.Errorf("%#v, %v", info.Attributes, err)
	}
	// encoding/json writes another text in its place, by which nobody looks for the run.
	broken := "\xff"
	for _, attributes := range []map[string]any{{broken: 1}, {"a": broken}, {"a": &broken}} {
		wants(t, second(w.Start(ctx, 1, everstep.WithAttributes(attributes))), everstep.ErrPayloadInvalid)
	}
	wants(t, second(app.Runs(ctx, everstep.Filter{Attribute: "a", AttributeValue: broken})), everstep.ErrPayloadInvalid)
	page, err := app.Runs(ctx, everstep.Filter{Attribute: "id", AttributeValue: int64(1<<60 + 1)})
	if err != nil || len(page.Runs) != 1 || !reflect.DeepEqual(page.Runs[0].Attributes, given) {
		t.Errorf("%+v, %v", page, err)
	}
}
