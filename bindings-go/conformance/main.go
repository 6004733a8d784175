// The conformance worker: an interpreter of the programs of tests/README.md on the public API, driven by JSON lines on stdin.
package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	everstep "github.com/everstep/everstep/bindings-go"
)

type command struct {
	N         int            `json:"n"`
	Op        string         `json:"op"`
	ID        string         `json:"id"`
	Workflow  string         `json:"workflow"`
	Program   []any          `json:"program"`
	Options   map[string]any `json:"options"`
	Count     int            `json:"count"`
	TimeoutMs *int64         `json:"timeout_ms"`
	Seq       int            `json:"seq"`
	Branch    string         `json:"branch"`
	Why       string         `json:"why"`
	Topic     string         `json:"topic"`
	Message   any            `json:"message"`
	Key       string         `json:"key"`
	Value     any            `json:"value"`
	Deadline  int64          `json:"deadline_ms"`
	// Of a message, of a list, of a queue.
	MessageKey  string   `json:"idempotency_key"`
	Attribute   []string `json:"attribute"`
	States      []everstep.State
	Limit       int
	After       string
	Name        string
	Paused      bool
	Hold        bool
	WorkerLimit int `json:"worker_limit"`
	KeyLimit    int `json:"key_limit"`
}

type input struct {
	ID      string `json:"id"`
	Program []any  `json:"program"`
}

type flow = everstep.Workflow[input, []any]

var (
	config struct {
		Engine       map[string]any `json:"engine"`
		Store        string         `json:"store"`
		UserDatabase string         `json:"user_database"`
		Log          string         `json:"log"`
		Gates        string         `json:"gates"`
	}
	app       *everstep.App
	interpret *flow
	job       *everstep.Workflow[any, any]
)

func main() {
	check(json.Unmarshal([]byte(os.Args[1]), &config))
	var options []everstep.EngineOption
	for key, value := range config.Engine {
		options = append(options, everstep.WithSetting(key, value))
	}
	var err error
	app, err = everstep.Open(context.Background(), append(options, everstep.WithLogger(slog.New(&said)))...)
	check(err)
	check(app.DeclareError("flaky", errFlaky))
	declareSteps()
	interpret, err = everstep.Register(app, "interpret", func(ctx everstep.Context, in input) ([]any, error) { return play(ctx, in.ID, in.Program, "") })
	check(err)
	if os.Getenv("EVERSTEP_SUITE_WITHOUT") != "other" {
		_, err = everstep.Register(app, "other", func(ctx everstep.Context, in input) ([]any, error) { return play(ctx, in.ID, in.Program, "") })
		check(err)
	}
	lines := bufio.NewReaderSize(os.Stdin, 1<<20)
	var last sync.WaitGroup
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return
		}
		var c command
		check(json.Unmarshal(line, &c))
		last.Add(1)
		go func() {
			defer last.Done()
			answer(c)
		}()
		if c.Op == "close" {
			last.Wait()
			return
		}
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func answer(c command) {
	value, err := execute(context.Background(), c)
	out := map[string]any{"n": c.N, "ok": value}
	if err != nil {
		code := fmt.Sprintf("%T", err)
		var ours *everstep.Error
		if errors.As(err, &ours) {
			code = string(ours.Code)
		}
		out = map[string]any{"n": c.N, "error": map[string]any{"code": code, "message": err.Error()}}
	}
	line, err := json.Marshal(out)
	check(err)
	_, err = os.Stdout.Write(append(line, '\n'))
	check(err)
}

func ms(n int64) time.Duration { return time.Duration(n) * time.Millisecond }

func startOptions(given map[string]any) []everstep.StartOption {
	var out []everstep.StartOption
	var dedup everstep.Dedup
	for key, value := range given {
		n, _ := value.(float64)
		text, _ := value.(string)
		switch key {
		case "queue":
			out = append(out, everstep.OnQueue(text))
		case "label":
			out = append(out, everstep.WithLabel(text))
		case "priority":
			out = append(out, everstep.WithPriority(int(n)))
		case "delay_ms":
			out = append(out, everstep.WithDelay(ms(int64(n))))
		case "expires_ms":
			out = append(out, everstep.WithExpiry(ms(int64(n))))
		case "deadline_ms":
			out = append(out, everstep.WithDeadline(ms(int64(n))))
		case "version":
			out = append(out, everstep.WithVersion(text))
		case "attributes":
			out = append(out, everstep.WithAttributes(value.(map[string]any)))
		case "fairness_key":
			out = append(out, everstep.WithFairnessKey(text))
		case "cost":
			out = append(out, everstep.WithCost(int(n)))
		case "created_by":
			out = append(out, everstep.WithCreatedBy(text))
		case "on_finish":
			out = append(out, everstep.WithOnFinish(text))
		case "dedup_key":
			dedup.Key = text
		case "dedup_scope":
			dedup.Scope = text
		case "dedup_policy":
			dedup.Policy = text
		default:
			check(fmt.Errorf("unknown option %s", key))
		}
	}
	if dedup.Key != "" {
		out = append(out, everstep.WithDedup(dedup))
	}
	return out
}

func wait(c command) []everstep.WaitOption {
	if c.TimeoutMs == nil {
		return nil
	}
	return []everstep.WaitOption{everstep.WithTimeout(ms(*c.TimeoutMs))}
}

func execute(ctx context.Context, c command) (any, error) {
	run, err := everstep.RunByID[any](app, c.ID)
	switch c.Op {
	case "launch":
		return said.launched(app.Launch(ctx))
	case "start":
		target := interpret
		if c.Workflow != "" && c.Workflow != "interpret" {
			target = everstep.Reference[input, []any](app, c.Workflow)
		}
		started, err := target.Start(ctx, input{c.ID, c.Program}, append(startOptions(c.Options), everstep.WithID(c.ID))...)
		if err != nil {
			return nil, err
		}
		note("accepted", strings.ReplaceAll(started.Key(), "-", ""), "-", "-", 0)
		return map[string]any{"run": started.Key(), "attached": started.Attached()}, nil
	case "start_step":
		started, err := job.Start(ctx, c.Value, everstep.WithID(c.ID))
		if err != nil {
			return nil, err
		}
		return started.Key(), nil
	case "start_many":
		var inputs []input
		for i := range c.Count {
			inputs = append(inputs, input{fmt.Sprintf("%s-%d", c.ID, i), c.Program})
		}
		options := append(startOptions(c.Options), everstep.WithIDs(func(in input) string { return in.ID }))
		runs, err := interpret.StartMany(ctx, inputs, options...)
		for _, started := range runs {
			note("accepted", strings.ReplaceAll(started.Key(), "-", ""), "-", "-", 0)
		}
		return len(runs), err
	case "queue":
		put, err := app.PutQueue(ctx, everstep.Queue{Name: c.Name, Paused: c.Paused, Limit: c.Limit, WorkerLimit: c.WorkerLimit, KeyLimit: c.KeyLimit, Hold: c.Hold})
		return put.Name, err
	case "list":
		filter := everstep.Filter{States: c.States, Workflow: c.Workflow, After: c.After, Limit: c.Limit}
		if len(c.Attribute) == 2 {
			filter.Attribute, filter.AttributeValue = c.Attribute[0], c.Attribute[1]
		}
		page, err := app.Runs(ctx, filter)
		out := map[string]any{"runs": []string{}, "next": nil}
		for _, run := range page.Runs {
			out["runs"] = append(out["runs"].([]string), run.Key)
		}
		if page.Next != "" {
			out["next"] = page.Next
		}
		return out, err
	case "adopt":
		return nil, app.Adopt(ctx)
	case "close":
		bounded, cancel := context.WithTimeout(ctx, ms(c.Deadline))
		defer cancel()
		return nil, app.Close(bounded)
	}
	if err != nil {
		return nil, err
	}
	switch c.Op {
	case "result":
		value, err := run.Result(ctx, wait(c)...)
		if err == nil {
			text, encodeErr := json.Marshal(value)
			check(encodeErr)
			digest := sha256.Sum256(text)
			note("result", c.ID, "-", hex.EncodeToString(digest[:8]), 0)
		}
		return value, err
	case "status":
		info, err := run.Status(ctx)
		return info, err
	case "steps":
		steps, err := run.Steps(ctx)
		return steps, err
	case "cancel":
		return run.Cancel(ctx, everstep.By("suite"), everstep.Why(c.Why))
	case "resume":
		return run.Resume(ctx, everstep.By("suite"))
	case "retry":
		return run.Retry(ctx, everstep.By("suite"))
	case "rewind":
		return run.Rewind(ctx, c.Branch, c.Seq, everstep.By("suite"))
	case "send":
		var options []everstep.SendOption
		if c.MessageKey != "" {
			options = append(options, everstep.WithIdempotencyKey(c.MessageKey))
		}
		return nil, run.Send(ctx, c.Topic, c.Message, options...)
	case "event":
		value, found, err := everstep.GetEvent[any](ctx, run, c.Key, wait(c)...)
		if !found {
			value = "timeout"
		}
		return value, err
	}
	return nil, fmt.Errorf("unknown command %s", c.Op)
}
