package everstep_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	everstep "github.com/everstep/everstep/bindings-go"
)

func TestAPanicInAStepIsAFailedStepWithItsStack(t *testing.T) {
	_, err := play(t, func(ctx everstep.Context, _ everstep.None) (int, error) {
		_, err := everstep.Do(ctx, "panics", func(context.Context) (int, error) { panicHere(); return 0, nil })
		var failed *everstep.Error
		if !errors.As(err, &failed) || failed.Type != "panic" || !strings.Contains(failed.Stack, "panicHere") {
			t.Errorf("%v", err)
		}
		return plusOne.Do(ctx, 1) // The workflow goes on.
	})
	must(t, err)
	_, err = play(t, func(everstep.Context, everstep.None) (int, error) { panicHere(); return 0, nil })
	var failed *everstep.Error
	if !errors.As(err, &failed) || failed.Code != everstep.ErrRunFailed || !strings.Contains(failed.Stack, "panicHere") {
		t.Errorf("%v", err)
	}
	_, err = play(t, func(ctx everstep.Context, _ everstep.None) ([]int, error) {
		return everstep.All(ctx, func(everstep.Context) (int, error) { panicHere(); return 0, nil })
	})
	wants(t, err, everstep.ErrRunFailed)
}

func panicHere() { panic("on purpose") }

type nilError struct{ text string }

func (e *nilError) Error() string { return e.text }

type panickingError struct{}

func (panickingError) Error() string { return "panics when it is compared" }
func (panickingError) Is(error) bool { panic("not comparable") }

func TestAnErrorWhoseMethodsPanicIsAFailureAndNoCrash(t *testing.T) {
	for name, fails := range map[string]func() error{
		"typed nil":          func() error { return (*nilError)(nil) },
		"panics in Is":       func() error { return panickingError{} },
		"typed nil panicked": func() error { panic((*nilError)(nil)) },
	} {
		for where, f := range map[string]func(ctx everstep.Context, _ everstep.None) (int, error){
			"step": func(ctx everstep.Context, _ everstep.None) (int, error) {
				return everstep.Do(ctx, "fails", func(context.Context) (int, error) { return 0, fails() })
			},
			"workflow": func(everstep.Context, everstep.None) (int, error) { return 0, fails() },
		} {
			t.Run(name+" in a "+where, func(t *testing.T) {
				app := open(t, file(t))
				must(t, app.DeclareError("declared", errDeclined))
				w := register(t, app, "played", f)
				launch(t, app)
				run, err := w.Start(context.Background(), everstep.None{})
				must(t, err)
				_, err = run.Result(context.Background(), everstep.WithTimeout(patience))
				wants(t, err, everstep.ErrRunFailed)
				if err != nil && !strings.Contains(err.Error(), "return nil itself") && !strings.Contains(err.Error(), "panicked") {
					t.Errorf("it does not say what is wrong: %v", err)
				}
			})
		}
	}
}

func TestGoexitOfTheProgramsOwnIsAFailure(t *testing.T) {
	for name, f := range map[string]func(everstep.Context, everstep.None) (int, error){
		"workflow": func(everstep.Context, everstep.None) (int, error) { runtime.Goexit(); return 0, nil },
		"step": func(ctx everstep.Context, _ everstep.None) (int, error) {
			return everstep.Do(ctx, "exits", func(context.Context) (int, error) { runtime.Goexit(); return 0, nil })
		},
		"branch": func(ctx everstep.Context, _ everstep.None) (int, error) {
			_, err := everstep.All(ctx, func(everstep.Context) (int, error) { runtime.Goexit(); return 0, nil })
			return 0, err
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := play(t, f)
			wants(t, err, everstep.ErrRunFailed)
			if err != nil && !strings.Contains(err.Error(), "Goexit") {
				t.Error(err)
			}
		})
	}
}

func TestAStopEndsTheGoroutineAndItsDefersRecordNothing(t *testing.T) {
	app := open(t, file(t))
	deferred, late := make(chan struct{}), atomic.Bool{}
	began := make(chan struct{}, 2)
	w := register(t, app, "stopped", func(ctx everstep.Context, _ everstep.None) (out int, err error) {
		defer close(deferred)
		defer func() {
			// It ends here again: nothing after the call runs.
			_, _ = plusOne.Do(ctx, 1)
			late.Store(true)
		}()
		began <- struct{}{}
		return 0, everstep.Sleep(ctx, time.Hour)
	})
	launch(t, app)
	run, err := w.Start(context.Background(), everstep.None{})
	must(t, err)
	<-began
	until(t, "the sleep is recorded", func() bool {
		info, err := run.Status(context.Background())
		return err == nil && len(info.WaitsFor) > 0
	})
	end(t, app)
	select {
	case <-deferred:
	case <-time.After(patience):
		t.Fatal("the deferred functions did not run")
	}
	if late.Load() {
		t.Error("a call of a stopped execution returned")
	}
}

func TestNoGoroutineIsLeftBehind(t *testing.T) {
	before := runtime.NumGoroutine()
	for range 3 {
		app := open(t, file(t))
		w := register(t, app, "leaves", func(ctx everstep.Context, n int) (int, error) {
			_, err := everstep.Race(ctx, func(ctx everstep.Context) (int, error) { return 0, everstep.Sleep(ctx, time.Hour) },
				func(ctx everstep.Context) (int, error) { return plusOne.Do(ctx, n) })
			if err == nil && n%2 == 0 {
				err = everstep.Sleep(ctx, time.Hour)
			}
			return n, err
		})
		launch(t, app)
		runs, err := w.StartMany(context.Background(), []int{1, 2, 3, 4, 5, 6, 7, 8})
		must(t, err)
		for i := 0; i < len(runs); i += 2 {
			must(t, second(runs[i].Result(context.Background(), everstep.WithTimeout(patience))))
		}
		end(t, app)
	}
	until(t, "as few goroutines as before", func() bool { return runtime.NumGoroutine() <= before })
}

func TestAStepThatIgnoresItsStopDoesNotHoldCloseUp(t *testing.T) {
	app := open(t, file(t))
	inside, release := make(chan struct{}), make(chan struct{})
	w := register(t, app, "ignores", func(ctx everstep.Context, _ everstep.None) (int, error) {
		return everstep.Do(ctx, "deaf", func(context.Context) (int, error) {
			close(inside)
			<-release
			return 1, nil
		})
	})
	launch(t, app)
	must(t, second(w.Start(context.Background(), everstep.None{})))
	<-inside
	bounded, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	must(t, app.Close(bounded))
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("closing took %v", took)
	}
	close(release)
}

func TestASignalStormDisturbsNothing(t *testing.T) {
	app := open(t, file(t))
	w := register(t, app, "stormy", func(ctx everstep.Context, n int) (int, error) {
		for range 5 {
			var err error
			if n, err = plusOne.Do(ctx, n); err != nil {
				return 0, err
			}
		}
		return n, nil
	})
	launch(t, app)
	over := make(chan struct{})
	var storm sync.WaitGroup
	storm.Add(1)
	go func() {
		defer storm.Done()
		for {
			select {
			case <-over:
				return
			default:
				// The runtime's own preemption signal: every blocking call of the engine sees EINTR.
				if err := syscall.Kill(os.Getpid(), syscall.SIGURG); err != nil {
					t.Error(err)
					return
				}
				runtime.Gosched()
			}
		}
	}()
	inputs := make([]int, 100)
	runs, err := w.StartMany(context.Background(), inputs)
	must(t, err)
	for _, run := range runs {
		if out, err := run.Result(context.Background(), everstep.WithTimeout(patience)); out != 5 || err != nil {
			t.Errorf("%d, %v", out, err)
		}
	}
	close(over)
	storm.Wait()
}

// TestMain is also a process of its own in the test below: it runs one workflow on the file it is given.
func TestMain(m *testing.M) {
	url := os.Getenv("EVERSTEP_TEST_FILE")
	if url == "" {
		os.Exit(m.Run())
	}
	out, err := process(context.Background(), url)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println("OUT", out)
}

func process(ctx context.Context, url string) (string, error) {
	app, err := everstep.Open(ctx, everstep.WithDatabase(url), everstep.WithEnvironment("test"))
	if err != nil {
		return "", err
	}
	w, err := everstep.Register(app, "exits", func(ctx everstep.Context, _ everstep.None) (string, error) {
		if _, err := plusOne.Do(ctx, 1); err != nil {
			return "", err
		}
		return everstep.Do(ctx, "exits", func(context.Context) (string, error) {
			switch os.Getenv("EVERSTEP_TEST_END") {
			case "exit":
				os.Exit(7)
			case "panic":
				go panicHere()
				select {}
			}
			return "finished", nil
		})
	})
	if err != nil {
		return "", err
	}
	if err := app.Launch(ctx); err != nil {
		return "", err
	}
	run, err := w.Start(ctx, everstep.None{}, everstep.WithID("exits"))
	if err != nil {
		return "", err
	}
	out, err := run.Result(ctx, everstep.WithTimeout(patience))
	return out, errors.Join(err, app.Close(ctx))
}

func TestAProcessThatEndsInAStepLosesNoRun(t *testing.T) {
	for how, shows := range map[string]string{"exit": "", "panic": "panicHere"} {
		t.Run(how, func(t *testing.T) {
			url := file(t)
			process := func(how string) (string, error) {
				command := exec.Command(os.Args[0])
				command.Env = append(os.Environ(), "EVERSTEP_TEST_FILE="+url, "EVERSTEP_TEST_END="+how, "GOTRACEBACK=all")
				var out bytes.Buffer
				command.Stdout, command.Stderr = &out, &out
				err := command.Run()
				return out.String(), err
			}
			out, err := process(how)
			if err == nil || !strings.Contains(out, shows) {
				t.Fatalf("the first process: %v\n%s", err, out)
			}
			out, err = process("")
			if err != nil || !strings.Contains(out, "OUT finished") {
				t.Fatalf("the second process: %v\n%s", err, out)
			}
		})
	}
}

func TestTenThousandWaitingRunsHoldNoThreads(t *testing.T) {
	many := 10_000
	if testing.Short() {
		many = 1000 // Under the race detector, where ten thousand take minutes.
	}
	app := open(t, file(t), everstep.WithSetting("max_parked", many), everstep.WithSlots(1000))
	var began atomic.Int32
	w := register(t, app, "sleeps", func(ctx everstep.Context, n int) (int, error) {
		began.Add(1)
		return n, everstep.Sleep(ctx, time.Hour)
	})
	launch(t, app)
	must(t, second(w.StartMany(context.Background(), make([]int, many))))
	until(t, "all wait", func() bool { return began.Load() == int32(many) })
	status, err := os.ReadFile("/proc/self/status")
	must(t, err)
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "Threads:"); ok {
			if count := strings.TrimSpace(rest); len(count) > 2 || len(count) == 2 && count >= "50" {
				t.Errorf("%s OS threads", count)
			}
		}
	}
}

// Its time is counted from when the engine hands the run over, which may be long before its goroutine gets to run.
func TestTheTimeOfAJobIsOverBeforeItsGoroutineRuns(t *testing.T) {
	ctx := context.Background()
	app := open(t, file(t))
	waits := everstep.NewStep("waits", func(ctx context.Context, _ everstep.None) (int, error) {
		<-ctx.Done()
		return 0, ctx.Err()
	}, everstep.WithTimeout(time.Millisecond))
	job, err := everstep.RegisterStep(app, waits)
	must(t, err)
	launch(t, app)
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	var spins atomic.Bool
	spins.Store(true)
	go func() {
		for spins.Load() {
		}
	}()
	defer spins.Store(false)
	for range 5 {
		run, err := job.Start(ctx, everstep.None{})
		must(t, err)
		wants(t, second(run.Result(ctx, everstep.WithTimeout(patience/4))), everstep.ErrStepTimeout)
	}
}
