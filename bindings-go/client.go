package everstep

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"math"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/everstep/everstep/bindings-go/internal/ffi"
	"github.com/everstep/everstep/bindings-go/internal/frame"
	"github.com/everstep/everstep/bindings-go/internal/ops"
)

// drainMax is how many events one crossing brings.
const drainMax = 1024

// client is one open engine: its handle, its completion queue, and who waits for which token.
//
// One goroutine waits for the wake-up in the netpoller and drains without blocking; it is the only one that is ever in the engine for longer than a
// memory access. A blocking drain costs 258 us an operation, for the scheduler takes its processor away each time; a blocking call a
// goroutine costs a thread each.
type client struct {
	app    *App
	handle uint64
	id     uint32
	wake   *os.File
	tokens atomic.Uint64

	mu         sync.Mutex
	waiting    map[uint64]chan answer
	executions map[uint64]*execution

	started sync.Once
	pumped  chan struct{}
	// runs counts the goroutines this engine has opened.
	runs sync.WaitGroup
	// order counts the events; only the pump touches it. What is handled on another goroutine knows by it what came before.
	order uint64
}

// answer is a completed or a failed event; gone: the engine has ended, and no answer will come.
type answer struct {
	failed, gone bool
	frame        []byte
	order        uint64
}

// ticket is a place to wait for one answer; the zero ticket is none.
type ticket struct {
	token  uint64
	waiter chan answer
}

var answers = sync.Pool{New: func() any { return make(chan answer, 1) }}

func openClient(a *App, config []byte) (*client, error) {
	handle, err := ffi.Open(config)
	if err != nil {
		return nil, fromBorder(err)
	}
	c := &client{app: a, handle: handle, waiting: map[uint64]chan answer{}, executions: map[uint64]*execution{}, pumped: make(chan struct{})}
	c.id, err = ffi.Attach(handle)
	if err == nil {
		c.wake, err = ffi.Wake(handle, c.id)
	}
	if err != nil {
		ffi.Close(handle, 0)
		return nil, fromBorder(err)
	}
	return c, nil
}

// call asks what is answered from memory. The arguments are used up.
func (c *client) call(op uint32, arguments *frame.Writer) ([]byte, error) {
	if err := readable(arguments); err != nil {
		return nil, err
	}
	out, err := ffi.Call(c.handle, op, arguments.Data())
	arguments.Free()
	if err != nil {
		return nil, fromBorder(err)
	}
	return out, nil
}

// mostSent is what a frame's length has room for on its way across the border; beyond it would wrap around.
const mostSent = math.MaxInt32

func fits(size int) error {
	if size > mostSent {
		return refuse(ErrPayloadTooLarge, "what is to be sent at once is %d bytes, and %d is the most: send it in parts", size, mostSent)
	}
	return nil
}

// readable names what the program gave that is no text, or too much of it.
func readable(arguments *frame.Writer) error {
	if err := fits(len(arguments.Data())); err != nil {
		return err
	}
	if text := arguments.NotText(); text != "" {
		return refuse(ErrIDInvalid, "the text %.300q is not UTF-8, which names, ids and parameters are", text)
	}
	return nil
}

// expect registers a waiter: before the request is made, so that no answer can come too early.
func (c *client) expect() ticket {
	c.start()
	token := c.tokens.Add(1)
	waiter := answers.Get().(chan answer)
	c.mu.Lock()
	c.waiting[token] = waiter
	c.mu.Unlock()
	return ticket{token, waiter}
}

// settle gives a waiter back whose answer has come, or was not needed. It must hold nothing.
func (c *client) settle(t ticket) {
	if t.waiter == nil {
		return
	}
	c.mu.Lock()
	_, open := c.waiting[t.token]
	delete(c.waiting, t.token)
	c.mu.Unlock()
	if !open {
		// The pump has taken it and sends, or has sent.
		<-t.waiter
	}
	answers.Put(t.waiter)
}

// abandon forgets a request whose answer nobody waits for any more. The waiter is left to the collector: the pump may be about to send.
func (c *client) abandon(token uint64) {
	c.mu.Lock()
	_, open := c.waiting[token]
	delete(c.waiting, token)
	c.mu.Unlock()
	if open {
		ffi.Cancel(c.handle, c.id, token)
	}
}

// submit uses the arguments up, as call does.
func (c *client) submit(token uint64, op uint32, arguments *frame.Writer) bool {
	taken := ffi.Submit(c.handle, c.id, token, op, arguments.Data())
	arguments.Free()
	return taken
}

// Tokens from here on are of requests nobody waits for from the beginning: what else fails unheard was given up by who asked, and is no news.
const unawaited = 1 << 51

// submitQuietly is for answers nobody needs; the pump logs a failure.
func (c *client) submitQuietly(op uint32, arguments *frame.Writer) {
	c.start()
	c.submit(unawaited+c.tokens.Add(1), op, arguments)
}

// request waits for an answer from outside any run. A context that is done gives up the wait, not what was asked for.
func (c *client) request(ctx context.Context, op uint32, arguments *frame.Writer) (frame.Reader, error) {
	if ctx == nil {
		return frame.Reader{}, refuse(ErrConfigInvalid, "the context is nil")
	}
	if err := ctx.Err(); err != nil {
		return frame.Reader{}, err
	}
	if err := readable(arguments); err != nil {
		return frame.Reader{}, err
	}
	t := c.expect()
	if !c.submit(t.token, op, arguments) {
		c.settle(t)
		return frame.Reader{}, errClosed()
	}
	select {
	case got := <-t.waiter:
		answers.Put(t.waiter)
		return got.read()
	case <-ctx.Done():
		c.abandon(t.token)
		return frame.Reader{}, context.Cause(ctx)
	}
}

func errClosed() *Error { return refuse(ErrClosed, "the engine is closed") }

func (got answer) read() (frame.Reader, error) {
	r := frame.Read(got.frame)
	if got.gone {
		return r, refuse(ErrClosed, "the engine was closed while this call waited; what was submitted may still take effect")
	}
	if got.failed {
		code, message := r.Str(), r.Str()
		return r, ofCode(code, message)
	}
	return r, nil
}

// start begins to listen, at the first question: opening an engine starts nothing.
func (c *client) start() { c.started.Do(func() { go c.pump() }) }

func (c *client) pump() {
	defer close(c.pumped)
	var count [8]byte
	for {
		if _, err := c.wake.Read(count[:]); err != nil {
			if !errors.Is(err, os.ErrClosed) {
				c.app.logger().Error("the engine's wake-up cannot be read", "error", err)
			}
			return
		}
		// The wake-up is taken back before the queue is read, so that none is lost.
		for {
			batch, err := ffi.TryDrain(c.handle, c.id, drainMax)
			if err != nil {
				c.app.logger().Error("the engine's queue cannot be read", "error", err)
			}
			if len(batch) == 0 {
				break
			}
			frame.Events(batch, c.event)
		}
	}
}

func (c *client) event(e frame.Event) {
	c.order++
	switch e.Kind & 0xff {
	case ops.EventCompleted, ops.EventFailed:
		failed := e.Kind&0xff == ops.EventFailed
		c.mu.Lock()
		waiter := c.waiting[e.Token]
		delete(c.waiting, e.Token)
		c.mu.Unlock()
		if waiter != nil {
			waiter <- answer{failed: failed, frame: e.Frame, order: c.order}
		} else if failed && e.Token >= unawaited {
			_, err := answer{failed: true, frame: e.Frame}.read()
			c.app.logger().Error("a request failed that nobody waits for", "error", err)
		}
	case ops.EventRunReady:
		c.ready(e)
	case ops.EventStop:
		if x := c.execution(e.Token); x != nil {
			r := frame.Read(e.Frame)
			x.stop(r.Str())
		}
	case ops.EventSignal:
		if x := c.execution(e.Token); x != nil {
			x.signal(e.Frame, c.order)
		}
	case ops.EventLog:
		r := frame.Read(e.Frame)
		level, code, message := r.Str(), r.Str(), r.Str()
		c.app.logger().Log(context.Background(), levelOf(level), message, slog.String("code", code))
	}
}

func (c *client) execution(id uint64) *execution {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.executions[id]
}

func (c *client) forget(x *execution) {
	c.mu.Lock()
	delete(c.executions, x.id)
	c.mu.Unlock()
}

// ready starts the goroutine of a run.
func (c *client) ready(e frame.Event) {
	x, err := newExecution(c, e.Token, e.Frame)
	var function *registered
	if err == nil {
		function = c.app.function(x.name)
	}
	if function == nil {
		if _, err := c.call(ops.Abandon, frame.New().Int(int64(e.Token)).Str(string(ErrUnknownWorkflow))); err != nil {
			c.app.logger().Error("a run could not be given back", "error", err)
		}
		return
	}
	c.mu.Lock()
	c.executions[x.id] = x
	c.mu.Unlock()
	c.runs.Add(1)
	go x.play(function)
}

// onRun: a workflow's or a branch's function is on this goroutine.
func (c *client) onRun(current uintptr) bool {
	c.mu.Lock()
	running := slices.Collect(maps.Values(c.executions))
	c.mu.Unlock()
	return slices.ContainsFunc(running, func(x *execution) bool { return x.isOn(current) })
}

func (c *client) stopAll() int {
	c.mu.Lock()
	running := slices.Collect(maps.Values(c.executions))
	c.mu.Unlock()
	for _, x := range running {
		x.stop("closed")
	}
	return len(running)
}

// failAll tells whoever still waits that no answer will come. Nothing is sent into the queue any more, so nobody else sends to a waiter.
func (c *client) failAll() {
	c.mu.Lock()
	waiting := c.waiting
	c.waiting = map[uint64]chan answer{}
	c.mu.Unlock()
	for _, waiter := range waiting {
		waiter <- answer{gone: true}
	}
}

// end closes the engine and ends every goroutine that will end. Waiters are told last: until then their answers may still come.
func (c *client) end(ctx context.Context) {
	running := c.stopAll()
	ffi.Close(c.handle, 0)
	c.started.Do(func() { close(c.pumped) })
	if err := c.wake.Close(); err != nil {
		c.app.logger().Debug("the wake-up was closed already", "error", err)
	}
	<-c.pumped
	c.failAll()
	// What was claimed in the meantime.
	running += c.stopAll()
	left := make(chan struct{})
	go func() { c.runs.Wait(); close(left) }()
	select {
	case <-left:
	case <-ctx.Done():
		// A step that ignores its context: nothing can end it, and nothing it does counts.
		c.app.logger().Warn("steps that ignore their context are still running", "runs", running)
	}
}
