package everstep

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"reflect"
	"strconv"
	"sync"
	"time"

	"github.com/everstep/everstep/bindings-go/internal/ffi"
	"github.com/everstep/everstep/bindings-go/internal/frame"
	"github.com/everstep/everstep/bindings-go/internal/goroutine"
	"github.com/everstep/everstep/bindings-go/internal/ops"
	"github.com/everstep/everstep/bindings-go/internal/payload"
)

// grace is how long Close lets runs finish when its context says nothing: within the 30 s most orchestrators give.
const grace = 25 * time.Second

// App is one engine in this process. Two may live in one process. Its methods may be called from any goroutine.
type App struct {
	// config is a function, which no dump of a struct that holds an App looks into: the database's URL has the password in it.
	config    func() []byte
	log       *slog.Logger
	declared  declarations
	locations locations
	// returned is why a context is done whose function has returned: the same for all.
	returned error

	mu        sync.Mutex
	client    *client
	functions map[string]*registered
	// Where each transaction was declared. None can be started by its name.
	transactions map[string]string
	// In the order they were registered, for a launch that is tried again.
	order    []*registered
	queues   []*frame.Writer
	launched bool
	// warned: it was said that somebody waits here for what an engine that is not launched will not execute.
	warned bool
	// closing: the first Close has begun. Nothing new is declared, but the runs it drains are served to their end: one that was told "closed" here would
	// record that as its failure.
	closing bool
	// closed: they are drained, and nothing is answered any more.
	closed bool
	// over is closed when the first Close has come to its end.
	over chan struct{}
}

// registered is a function the engine knows by name.
type registered struct {
	kind    string
	name    string
	version string
	options string
	// where it was registered, for messages.
	where   string
	run     func(ctx Context, step *stepContext, input []byte) ([]byte, error)
	retryIf func(error) bool
}

// Open makes an engine. It connects nothing; the first call that needs the database does, or Launch.
//
// It fails with ErrConfigInvalid where there is no native library for this program (cgo off, another platform) or a library of another version.
func Open(ctx context.Context, options ...EngineOption) (*App, error) {
	if ctx == nil {
		return nil, refuse(ErrConfigInvalid, "Open: the context is nil")
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := ffi.Load(); err != nil {
		return nil, fromBorder(err)
	}
	given := engineOptions{settings: map[string]any{"language": "go"}}
	for _, option := range options {
		if option == nil || isNil(option) {
			return nil, refuse(ErrConfigInvalid, "Open: an option is nil")
		}
		option.applyEngine(&given)
	}
	config, err := json.Marshal(given.settings)
	if err != nil {
		return nil, refuse(ErrConfigInvalid, "a setting has no form in JSON: %v", err)
	}
	a := &App{returned: refuse(ErrStopped, "this run's function has returned"), config: func() []byte { return config }, log: given.logger, functions: map[string]*registered{}, over: make(chan struct{})}
	if a.client, err = openClient(a, config); err != nil {
		return nil, err
	}
	return a, nil
}

// Format shows an App by its role, with every verb: its fields are others' to change while it is printed.
func (a *App) Format(f fmt.State, _ rune) {
	role := string(Worker)
	if a != nil && a.role() != "" {
		role = a.role()
	}
	_, _ = fmt.Fprintf(f, "everstep.App(%s)", role)
}

// isNil: nil in an interface, of whatever type.
func isNil(value any) bool {
	v := reflect.ValueOf(value)
	switch v.Kind() {
	case reflect.Invalid:
		return true
	case reflect.Chan, reflect.Func, reflect.Interface, reflect.Map, reflect.Pointer, reflect.Slice:
		return v.IsNil()
	}
	return false
}

func (a *App) logger() *slog.Logger {
	if a.log != nil {
		return a.log
	}
	return slog.Default()
}

// current is the open engine.
func (a *App) current() (*client, error) {
	if a == nil {
		return nil, refuse(ErrConfigInvalid, "the app is nil: use what Open returned")
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return nil, errClosed()
	}
	return a.client, nil
}

func (a *App) function(name string) *registered {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.functions[name]
}

func (a *App) register(f *registered) error {
	if a == nil {
		return refuse(ErrConfigInvalid, "the app is nil: use what Open returned")
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.closing:
		return errClosed()
	case a.functions[f.name] != nil:
		known := a.functions[f.name]
		return refuse(ErrAlreadyRegistered, "the name %q is taken by the %s registered at %s; this one is registered at %s: give it another",
			f.name, known.kind, known.where, f.where)
	case a.launched:
		return refuse(ErrRegisteredLate, "%q (%s) was registered after Launch; register before it", f.name, f.where)
	}
	if err := announce(a.client, f); err != nil {
		return err
	}
	a.functions[f.name] = f
	a.order = append(a.order, f)
	return nil
}

// transaction notes the name of one that was declared.
func (a *App) transaction(name, where string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closing {
		return errClosed()
	}
	if a.transactions == nil {
		a.transactions = map[string]string{}
	}
	a.transactions[name] = where
	return nil
}

// startable refuses a reference to a transaction of this program: nobody is told of it, so that its run would wait for ever.
func (a *App) startable(name string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	where, known := a.transactions[name]
	if !known || a.functions[name] != nil {
		return nil
	}
	return refuse(ErrConfigInvalid, "%q is a transaction (%s), which has no run of its own: call it in a workflow, and start that", name, where)
}

func announce(c *client, f *registered) error {
	_, err := c.call(ops.Register, frame.New().Int(int64(c.id)).Str(f.kind).Str(f.name).OptStr(f.version).OptStr(f.options))
	return err
}

// Launch connects, migrates where that is allowed, and starts to claim. A client only connects. A launch that failed may be tried again.
func (a *App) Launch(ctx context.Context) error {
	c, err := a.current()
	if err != nil {
		return err
	}
	if ctx == nil {
		return refuse(ErrConfigInvalid, "Launch: the context is nil")
	}
	a.mu.Lock()
	if a.closing {
		a.mu.Unlock()
		return errClosed()
	}
	if a.launched {
		a.mu.Unlock()
		return refuse(ErrAlreadyLaunched, "Launch was called twice")
	}
	a.launched = true
	queues := a.queues
	a.mu.Unlock()
	err = a.launch(ctx, c, queues)
	if err != nil {
		a.startOver(c)
	}
	return err
}

func (a *App) launch(ctx context.Context, c *client, queues []*frame.Writer) error {
	for _, queue := range queues {
		if _, err := c.request(ctx, ops.PutQueue, frame.New().Append(queue).Bool(false)); err != nil {
			return err
		}
	}
	op := ops.Launch
	if a.role() == string(Client) {
		op = ops.Connect
	}
	r, err := c.request(ctx, op, frame.New())
	if err != nil {
		return err
	}
	if notice := r.Str(); notice != "" {
		a.logger().Info(notice)
	}
	if held := r.Str(); held != "" {
		a.logger().Warn(held)
	}
	return r.Err()
}

func (a *App) role() string {
	var settings struct{ Role string }
	if json.Unmarshal(a.config(), &settings) != nil {
		return ""
	}
	return settings.Role
}

// startOver opens the engine anew after a launch that failed: the database was down, the password wrong.
func (a *App) startOver(failed *client) {
	patience, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	failed.end(patience)
	fresh, err := openClient(a, a.config())
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closing {
		if err == nil {
			ffi.Close(fresh.handle, 0)
		}
		return
	}
	for _, f := range a.order {
		if err == nil {
			err = announce(fresh, f)
		}
	}
	if err != nil {
		a.closing, a.closed = true, true
		close(a.over)
		a.logger().Error("the engine cannot be opened again", "error", err)
		return
	}
	a.client, a.launched = fresh, false
}

// Close claims no more, lets runs finish or park until the context's deadline (25 s without one), and hands the rest over. Until then these runs may
// start others, send and wait as ever, and so may the program; nothing is registered or launched any more. Calls that still wait after that end with
// ErrClosed. Closing twice is no error: the second waits for the first, so that a program that closes on a signal and at its end, too, does not end in
// the middle of it. Inside one of its own runs, which it would wait for, it is ErrConfigInvalid.
func (a *App) Close(ctx context.Context) error {
	if a == nil {
		return nil
	}
	if ctx == nil {
		return refuse(ErrConfigInvalid, "Close: the context is nil")
	}
	if a.insideRun(ctx) {
		return refuse(ErrConfigInvalid, "Close inside a run would wait for that run; close from outside, with a context that is not the run's")
	}
	a.mu.Lock()
	if a.closing {
		a.mu.Unlock()
		select {
		case <-a.over:
		case <-ctx.Done():
		}
		return nil
	}
	a.closing = true
	defer close(a.over)
	c, launched := a.client, a.launched
	a.mu.Unlock()
	left := grace
	if deadline, ok := ctx.Deadline(); ok {
		left = time.Until(deadline)
	}
	var err error
	if launched && left > 0 && ctx.Err() == nil {
		_, err = c.request(ctx, ops.Drain, frame.New().Int(milliseconds(left)))
		if ctx.Err() != nil {
			// Its time was over. The drain is not: the end of the engine below joins it and cuts it short, and what is left is handed over, which is what
			// a deadline asks for.
			err = nil
		}
	}
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	c.end(patience)
	return err
}

// insideRun: of a run's context or, where the program passed another one, on a run's goroutine.
func (a *App) insideRun(ctx context.Context) bool {
	if x := inside(ctx); x != nil && x.app == a {
		return true
	}
	a.mu.Lock()
	c := a.client
	a.mu.Unlock()
	return c.onRun(goroutine.Current())
}

// waits says once, before a wait, that nothing here will end it. Another worker may.
func (a *App) waits() {
	a.mu.Lock()
	silent := a.launched || a.closing || a.warned
	a.warned = true
	a.mu.Unlock()
	if silent {
		return
	}
	if role := a.role(); role == "" || role == string(Worker) {
		a.logger().Warn("waiting for a run on an engine that is not launched: unless another worker executes it, call Launch or Serve first")
	}
}

// ask is a question to the engine from outside any run.
func (a *App) ask(ctx context.Context, op uint32, arguments *frame.Writer) (frame.Reader, error) {
	c, err := a.current()
	if err != nil {
		return frame.Reader{}, err
	}
	return c.request(ctx, op, arguments)
}

func (a *App) call(op uint32, arguments *frame.Writer) (frame.Reader, error) {
	c, err := a.current()
	if err != nil {
		return frame.Reader{}, err
	}
	data, err := c.call(op, arguments)
	return frame.Read(data), err
}

// Migrate brings the schema to this library's version and returns it.
func (a *App) Migrate(ctx context.Context) (int, error) {
	r, err := a.ask(ctx, ops.Migrate, frame.New())
	return int(r.Int()), err
}

// Adopt stamps this environment and this database: a copied database may run from now on.
func (a *App) Adopt(ctx context.Context) error {
	_, err := a.ask(ctx, ops.Adopt, frame.New())
	return err
}

// MigrationSQL is the migrations as text, to run by hand where this role may not change the schema. store: postgres or sqlite.
func (a *App) MigrationSQL(store, schema string) (string, error) {
	r, err := a.call(ops.MigrationSQL, frame.New().Str(store).OptStr(schema))
	return r.Str(), err
}

// KeyOf is the key of the run with this id.
func (a *App) KeyOf(id string) (string, error) {
	r, err := a.call(ops.RunKey, frame.New().Str(id))
	return r.Str(), err
}

// Info is counters and settings of this engine: phase (opened, connected, launched, draining, closed), store (postgres, sqlite), namespace, schema, environment, version
// (WithBuild), incarnation (this worker, nil where it has none), held (why it claims nothing, or nil), executing (runs now), slots, lease_ms, beat_ms,
// max_parked, release_after_ms, max_payload, cancel_grace_ms, max_crashes, outage_budget_ms, and counters, an object of numbers since Open.
func (a *App) Info() (map[string]any, error) {
	r, err := a.call(ops.Info, frame.New())
	if err != nil {
		return nil, err
	}
	out := map[string]any{}
	if err := json.Unmarshal([]byte(r.Str()), &out); err != nil {
		return nil, refuse(ErrInternal, "info: %v", err)
	}
	return out, nil
}

// label is only put together for an error: a call that succeeds builds no text.
func label(what, name string) string {
	if name == "" {
		return what
	}
	return what + " " + strconv.Quote(name)
}

// encode writes a value of the program's, or says which one cannot be.
func encode(what, name string, value any) ([]byte, error) {
	data, err := payload.Encode(value)
	if err != nil {
		return nil, refuse(ErrPayloadInvalid, "%s: %v", label(what, name), err)
	}
	// A result goes with a few numbers around it. What a run may hold is the engine's to say, once it has been sent.
	if len(data) > mostSent/2 {
		return nil, refuse(ErrPayloadTooLarge, "%s is %d bytes", label(what, name), len(data))
	}
	return data, nil
}

func decode[T any](what, name string, data []byte) (T, error) {
	var out T
	if data == nil {
		return out, nil
	}
	if err := payload.Decode(data, &out); err != nil {
		return out, refuse(ErrPayloadInvalid, "%s: %v", label(what, name), err)
	}
	return out, nil
}
