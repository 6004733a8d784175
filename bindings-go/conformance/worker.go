package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	everstep "github.com/everstep/everstep/bindings-go"
	"github.com/everstep/everstep/bindings-go/everpgx"
)

// here is (run, place, options) of the step being called.
type here struct {
	run, place string
	o          settings
}

type hereKey struct{}

// settings are the options of an instruction.
type settings struct {
	As       string  `json:"as"`
	Ms       float64 `json:"ms"`
	Jitter   float64 `json:"jitter_ms"`
	Hold     string  `json:"hold"`
	Busy     float64 `json:"busy"`
	Fail     any     `json:"fail"`
	Until    string  `json:"fail_until"`
	Crash    string  `json:"crash"`
	ShowKey  bool    `json:"show_key"`
	Limited  []any   `json:"limited"`
	Driver   bool    `json:"driver"`
	ID       string  `json:"id"`
	Policy   string  `json:"policy"`
	Wait     *bool   `json:"wait"`
	Optional bool    `json:"optional"`
}

type payment struct {
	Account int64 `json:"account"`
	Amount  int64 `json:"amount"`
}

type flaky struct {
	Attempt int64 `json:"attempt"`
}

func (f *flaky) Error() string { return fmt.Sprintf("flaky attempt %d", f.Attempt) }

var (
	logFile   *os.File
	steps     = map[string]*everstep.Step[any, any]{}
	jobs      = map[string]*everstep.Workflow[any, any]{}
	pay       *everstep.Transaction[payment, int64]
	payDriver *everstep.Transaction[payment, int64]
	said      sayings
)

// sample is one of each kind of value; sampleOf's is what every language has.
type sample struct {
	Int   int64            `json:"int"`
	Dec   everstep.Decimal `json:"dec"`
	Bytes []byte           `json:"bytes"`
	Time  time.Time        `json:"time"`
	Date  everstep.Date    `json:"date"`
	UUID  everstep.UUID    `json:"uuid"`
	None  *int             `json:"none"`
	Text  string           `json:"text"`
}

func sampleOf() sample {
	id, err := everstep.ParseUUID("0192f0c1-2345-7abc-8def-0123456789ab")
	check(err)
	return sample{
		1<<60 + 1, "12.50", []byte{0, 255}, time.Date(2026, 1, 2, 3, 4, 5, 250_000_000, time.UTC), everstep.Date{Year: 2026, Month: 1, Day: 2}, id, nil, "a\x00ü",
	}
}

var sampled = everstep.NewStep("sample", func(context.Context, everstep.None) (sample, error) { return sampleOf(), nil })

// note is a record of the event log: one write, on the clock that outlives a process.
func note(kind, run, place, detail string, attempt int) {
	var now syscall.Timespec
	_, _, failed := syscall.Syscall(syscall.SYS_CLOCK_GETTIME, 1, uintptr(unsafe.Pointer(&now)), 0)
	if failed != 0 {
		check(failed)
	}
	_, err := fmt.Fprintf(logFile, "%s %s %s %d %d %d %s\n", kind, run, place, attempt, os.Getpid(), now.Nano(), detail)
	check(err)
}

func open(gate string) bool {
	_, err := os.Stat(filepath.Join(config.Gates, gate))
	return err == nil
}

func passing(ctx context.Context, gate string) error {
	for !open(gate) {
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func declareSteps() {
	var err error
	logFile, err = os.OpenFile(config.Log, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	check(err)
	quick := everstep.Retry{Initial: time.Millisecond}
	attempts := func(n int) everstep.StepOption {
		retry := quick
		retry.MaxAttempts = n
		return everstep.WithRetry(retry)
	}
	for name, options := range map[string][]everstep.StepOption{
		"work": nil, "charge": nil, "ship": nil, "thrice": {attempts(3)}, "five": {attempts(5)}, "once": {everstep.AtMostOnce()},
		"backoff": {everstep.WithRetry(everstep.Retry{MaxAttempts: 3, Initial: 2500 * time.Millisecond, NoJitter: true})},
		"brief":   {everstep.WithTimeout(200 * time.Millisecond)},
	} {
		steps[name] = everstep.NewStep(name, effect, options...)
		jobs[name], err = everstep.RegisterStep(app, steps[name])
		check(err)
	}
	pay, err = everstep.NewTransaction(app, "pay", func(ctx context.Context, tx *everstep.Tx, in payment) (int64, error) {
		return move(ctx, in, func(sql string, values ...any) error { _, err := tx.Execute(ctx, sql, values...); return err })
	})
	check(err)
	if config.Store == "postgres" {
		pool, err := pgxpool.New(context.Background(), config.UserDatabase)
		check(err)
		payDriver, err = everpgx.NewTransaction(app, "pay_driver", pool, func(ctx context.Context, tx pgx.Tx, in payment) (int64, error) {
			return move(ctx, in, func(sql string, values ...any) error { _, err := tx.Exec(ctx, sql, values...); return err })
		}, everstep.WithRetry(everstep.Retry{MaxAttempts: 5, Initial: 10 * time.Millisecond}))
		check(err)
	}
}

func effect(ctx context.Context, value any) (any, error) {
	at, _ := ctx.Value(hereKey{}).(here)
	if at.run == "" {
		at = here{"job", "0", settingsOf(value)}
	}
	o, attempt, detail := at.o, everstep.Attempt(ctx), "-"
	if o.Limited != nil {
		detail = fmt.Sprintf("limit %v %v", o.Limited...)
	}
	note("begin", at.run, at.place, detail, attempt)
	if o.ShowKey {
		key, err := everstep.IdempotencyKey(ctx)
		check(err)
		note("value", at.run, at.place, key, attempt)
	}
	for end := time.Now().Add(time.Duration(o.Busy) * time.Millisecond); time.Now().Before(end); {
	}
	if wait := o.Ms + rand.Float64()*o.Jitter; wait > 0 {
		if err := pause(ctx, time.Duration(wait*float64(time.Millisecond))); err != nil {
			return nil, err
		}
	}
	if o.Crash == "always" || o.Crash != "" && !open("crashed-"+at.run) {
		check(os.WriteFile(filepath.Join(config.Gates, "crashed-"+at.run), nil, 0o644))
		check(syscall.Kill(os.Getpid(), syscall.SIGKILL))
		select {}
	}
	if o.Hold != "" {
		if err := passing(ctx, o.Hold); err != nil {
			return nil, err
		}
	}
	fail, _ := o.Fail.(float64)
	if attempt <= int(fail) || o.Until != "" && !open(o.Until) {
		return nil, &flaky{int64(attempt)}
	}
	note("end", at.run, at.place, "-", attempt)
	return value, nil
}

func move(ctx context.Context, in payment, execute func(sql string, values ...any) error) (int64, error) {
	at := ctx.Value(hereKey{}).(here)
	note("begin", at.run, at.place, "tx", everstep.Attempt(ctx))
	if err := execute("insert into moved (run, step, account, amount) values ($1, $2, $3, $4)", at.run, at.place, in.Account, in.Amount); err != nil {
		return 0, err
	}
	if err := execute("update accounts set balance = balance + $1 where id = $2", in.Amount, in.Account); err != nil {
		return 0, err
	}
	if at.o.Hold != "" {
		if err := passing(ctx, at.o.Hold); err != nil {
			return 0, err
		}
	}
	if at.o.Fail != nil && at.o.Fail != false {
		return 0, &flaky{int64(everstep.Attempt(ctx))}
	}
	note("end", at.run, at.place, "-", everstep.Attempt(ctx))
	return in.Amount, nil
}

// recorded calls a step and logs what the workflow saw of it.
func recorded[T any](ctx context.Context, at here, detail string, call func(context.Context) (T, error)) (any, error) {
	value, err := call(context.WithValue(ctx, hereKey{}, at))
	if err != nil {
		if !errors.Is(err, context.Canceled) {
			note("nack", at.run, at.place, "-", 0)
		}
		return nil, err
	}
	note("ack", at.run, at.place, detail, 0)
	return value, nil
}

func play(ctx context.Context, run string, program []any, place string) ([]any, error) {
	out := make([]any, 0, len(program))
	for i, instruction := range program {
		value, err := one(ctx, run, instruction.([]any), fmt.Sprint(place, i))
		if err != nil {
			return nil, err
		}
		out = append(out, value)
	}
	return out, nil
}

// settingsOf an object; of anything else there are none.
func settingsOf(value any) (o settings) {
	if members, ok := value.(everstep.Object); ok {
		options := map[string]any{}
		for _, member := range members {
			options[member.Key] = member.Value
		}
		value = options
	}
	options, _ := value.(map[string]any)
	text, err := json.Marshal(options)
	check(err)
	check(json.Unmarshal(text, &o))
	return o
}

func number(value any) int64 {
	n, _ := value.(int64)
	return n
}

func one(ctx context.Context, run string, instruction []any, place string) (any, error) {
	verb := instruction[0].(string)
	o := settings{}
	if verb != "build" && len(instruction) > 2 {
		o = settingsOf(instruction[len(instruction)-1])
	}
	at := here{run, place, o}
	programs := func(values []any) []func(everstep.Context) ([]any, error) {
		var out []func(everstep.Context) ([]any, error)
		for i, value := range values {
			out = append(out, func(ctx everstep.Context) ([]any, error) {
				return play(ctx, run, value.([]any), fmt.Sprintf("%s/%d.", place, i))
			})
		}
		return out
	}
	switch verb {
	case "step":
		name := o.As
		if name == "" {
			name = "work"
		}
		return recorded(ctx, at, "-", func(ctx context.Context) (any, error) { return steps[name].Do(ctx, instruction[1]) })
	case "sample":
		return recorded(ctx, at, "-", func(ctx context.Context) (bool, error) {
			got, err := sampled.Do(ctx, everstep.None{})
			return reflect.DeepEqual(got, sampleOf()), err
		})
	case "tx":
		transaction := pay
		if o.Driver {
			transaction = payDriver
		}
		in := payment{number(instruction[1]), number(instruction[2])}
		return recorded(ctx, at, "tx", func(ctx context.Context) (int64, error) { return transaction.Do(ctx, in) })
	case "sleep", "until":
		note("sleep", run, place, "-", 0)
		duration := ms(number(instruction[1]))
		var now time.Time
		var err error
		if verb == "sleep" {
			err = everstep.Sleep(ctx, duration)
		} else if now, err = everstep.Now(ctx); err == nil {
			err = everstep.SleepUntil(ctx, now.Add(duration))
		}
		if err == nil {
			note("woke", run, place, fmt.Sprint(instruction[1]), 0)
		}
		return instruction[1], err
	case "all":
		values, err := everstep.All(ctx, programs(instruction[1:])...)
		return values, err
	case "race":
		values, err := everstep.Race(ctx, programs(instruction[1:])...)
		return values, err
	case "any":
		values, err := everstep.Any(ctx, programs(instruction[1:])...)
		return values, err
	case "map":
		type item struct {
			index int
			value any
		}
		var items []item
		for i, value := range instruction[1].([]any) {
			items = append(items, item{i, value})
		}
		return everstep.MapBranches(ctx, items, func(ctx everstep.Context, it item) (any, error) {
			at := here{run, fmt.Sprintf("%s/%d", place, it.index), o}
			return recorded(ctx, at, "-", func(ctx context.Context) (any, error) { return steps["work"].Do(ctx, it.value) })
		})
	case "child":
		return child(ctx, run, instruction[1].([]any), place, o)
	case "send":
		return send(ctx, instruction, o)
	case "receive":
		value, found, err := everstep.Receive[any](ctx, instruction[1].(string), everstep.WithTimeout(ms(number(instruction[2]))))
		if err != nil {
			return nil, err
		}
		note("received", run, place, strings.ReplaceAll(fmt.Sprint(map[bool]any{true: value, false: "None"}[found]), "\n", " "), 0)
		if !found {
			value = "timeout"
		}
		return value, nil
	case "set":
		return true, everstep.SetEvent(ctx, instruction[1].(string), instruction[2])
	case "event":
		source, err := everstep.RunByID[any](app, instruction[1].(string))
		if err != nil {
			return nil, err
		}
		value, found, err := everstep.GetEvent[any](ctx, source, instruction[2].(string), everstep.WithTimeout(ms(number(instruction[3]))))
		if !found {
			value = "timeout"
		}
		return value, err
	case "value":
		value, err := durable(ctx, instruction[1].(string))
		if err == nil {
			note("value", run, place, value, 0)
		}
		return instruction[1], err
	case "patch":
		applies, err := everstep.Patch(ctx, instruction[1].(string))
		if err != nil {
			return nil, err
		}
		chosen := instruction[3]
		if applies {
			chosen = instruction[2]
		}
		return play(ctx, run, chosen.([]any), place+".")
	case "build":
		build := os.Getenv("EVERSTEP_SUITE_BUILD")
		if build == "" {
			build = "v1"
		}
		return play(ctx, run, programOf(instruction[1], build), place+".")
	case "try":
		values, err := play(ctx, run, instruction[1].([]any), place+".")
		var theirs *flaky
		// What a child failed with is the cause of its failure, not what was thrown here.
		if errors.As(err, &theirs) && !errors.Is(err, everstep.ErrRunFailed) {
			return map[string]any{"error": "flaky", "message": theirs.Error(), "attempt": theirs.Attempt}, nil
		}
		var ours *everstep.Error
		if errors.As(err, &ours) && !errors.Is(err, context.Canceled) {
			return map[string]any{"error": string(ours.Code)}, nil
		}
		return values, err
	case "finally":
		// Not in a defer: a stop runs those too, and then the clean-up would be one of an execution that has ended.
		values, err := play(ctx, run, instruction[1].([]any), place+".")
		if _, cleanUp := play(everstep.Shielded(ctx), run, instruction[2].([]any), place+".f"); cleanUp != nil {
			return nil, cleanUp
		}
		return values, err
	case "repeat":
		out := []any{}
		for i := range number(instruction[1]) {
			values, err := play(ctx, run, instruction[2].([]any), fmt.Sprintf("%s.%d.", place, i))
			if err != nil {
				return nil, err
			}
			out = append(out, values)
		}
		return out, nil
	case "log":
		everstep.Logger(ctx).Info(instruction[1].(string))
		return instruction[1], nil
	}
	return nil, fmt.Errorf("unknown instruction %v", instruction)
}

func programOf(programs any, build string) []any {
	program, _ := programs.(everstep.Object).Get(build)
	return program.([]any)
}

func child(ctx context.Context, run string, program []any, place string, o settings) (any, error) {
	id := o.ID
	if id == "" {
		id = run + "/" + place
	}
	options := []everstep.StartOption{everstep.WithID(id)}
	if o.Policy == "abandon" {
		options = append(options, everstep.AbandonOnClose())
	}
	started, err := interpret.Start(ctx, input(id, program), options...)
	if err != nil || o.Wait != nil && !*o.Wait {
		if err != nil {
			return nil, err
		}
		return started.Key(), nil
	}
	return started.Result(ctx)
}

func send(ctx context.Context, instruction []any, o settings) (any, error) {
	for {
		target, err := everstep.RunByID[any](app, instruction[1].(string))
		if err == nil {
			err = target.Send(ctx, instruction[2].(string), instruction[3])
		}
		retry := o.Wait != nil && *o.Wait || o.Optional
		switch {
		case err == nil:
			return true, nil
		case !errors.Is(err, everstep.ErrRunNotFound) || !retry:
			return nil, err
		case o.Optional:
			return false, nil
		}
		if err := everstep.Sleep(ctx, 20*time.Millisecond); err != nil {
			return nil, err
		}
	}
}

func durable(ctx context.Context, which string) (string, error) {
	switch which {
	case "now":
		t, err := everstep.Now(ctx)
		return t.Format(time.RFC3339Nano), err
	case "uuid":
		u, err := everstep.NewUUID(ctx)
		return u.String(), err
	}
	f, err := everstep.Random(ctx)
	return fmt.Sprint(f), err
}

// sayings keeps what the engine and the workflows logged, and shows it.
type sayings struct {
	mu   sync.Mutex
	text []string
}

func (s *sayings) Enabled(context.Context, slog.Level) bool { return true }
func (s *sayings) WithAttrs([]slog.Attr) slog.Handler       { return s }
func (s *sayings) WithGroup(string) slog.Handler            { return s }
func (s *sayings) Handle(_ context.Context, r slog.Record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text = append(s.text, r.Message)
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "replaying" {
			note("line", "-", "-", r.Message, 0)
		}
		return true
	})
	_, err := fmt.Fprintln(os.Stderr, r.Time.Format(time.RFC3339Nano), r.Level, r.Message)
	return err
}

func (s *sayings) launched(err error) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.text, "\n"), err
}
