// The conformance worker: an interpreter of the programs of tests/README.md on the public API, driven by JSON lines on stdin.
package main

import (
	"bufio"
	"bytes"
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
	N          int            `json:"n"`
	Op         string         `json:"op"`
	ID         string         `json:"id"`
	Workflow   string         `json:"workflow"`
	Program    ordered        `json:"program"`
	Options    map[string]any `json:"options"`
	Count      int            `json:"count"`
	TimeoutMs  *int64         `json:"timeout_ms"`
	Seq        int            `json:"seq"`
	Branch     string         `json:"branch"`
	NewEffects bool           `json:"new_effects"`
	Why        string         `json:"why"`
	Topic      string         `json:"topic"`
	Message    ordered        `json:"message"`
	Key        string         `json:"key"`
	Value      ordered        `json:"value"`
	As         string         `json:"as"`
	Deadline   int64          `json:"deadline_ms"`
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

// flow's input is {id, program}: an Object, which keeps the order of keys, for a program may be started or finished in another language.
type flow = everstep.Workflow[everstep.Object, []any]

func input(id string, program any) everstep.Object {
	return everstep.Object{{Key: "id", Value: id}, {Key: "program", Value: program}}
}

func interpreter(ctx everstep.Context, in everstep.Object) ([]any, error) {
	id, _ := in.Get("id")
	program, _ := in.Get("program")
	return play(ctx, id.(string), program.([]any), "")
}

// ordered is JSON as it was written: keys in order, whole numbers of any size.
type ordered struct{ value any }

func (o *ordered) UnmarshalJSON(text []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var err error
	o.value, err = read(decoder)
	return err
}

func read(decoder *json.Decoder) (any, error) {
	token, err := decoder.Token()
	if err != nil {
		return nil, err
	}
	switch token {
	case json.Delim('['):
		out := []any{}
		for decoder.More() {
			item, err := read(decoder)
			if err != nil {
				return nil, err
			}
			out = append(out, item)
		}
		_, err = decoder.Token()
		return out, err
	case json.Delim('{'):
		out := everstep.Object{}
		for decoder.More() {
			key, err := decoder.Token()
			if err != nil {
				return nil, err
			}
			value, err := read(decoder)
			if err != nil {
				return nil, err
			}
			out = append(out, everstep.Member{Key: key.(string), Value: value})
		}
		_, err = decoder.Token()
		return out, err
	}
	return token, nil
}

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
	check(everstep.DeclareErrorType[*flaky](app, "flaky"))
	declareSteps()
	interpret, err = everstep.Register(app, "interpret", interpreter)
	check(err)
	_, err = everstep.Register(app, "report", func(_ everstep.Context, in everstep.Finished) (bool, error) {
		note("finished", in.Run, "-", string(in.State), 0)
		return true, nil
	})
	check(err)
	if os.Getenv("EVERSTEP_SUITE_WITHOUT") != "other" {
		_, err = everstep.Register(app, "other", interpreter)
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
		// A number beyond 2^53 must come to the workflow as it was written.
		exact := json.NewDecoder(bytes.NewReader(line))
		exact.UseNumber()
		check(exact.Decode(&c))
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
		exact, _ := value.(json.Number)
		n, _ := exact.Int64()
		text, _ := value.(string)
		switch key {
		case "queue":
			out = append(out, everstep.OnQueue(text))
		case "label":
			out = append(out, everstep.WithLabel(text))
		case "priority":
			out = append(out, everstep.WithPriority(int(n)))
		case "delay_ms":
			out = append(out, everstep.WithDelay(ms(n)))
		case "expires_ms":
			out = append(out, everstep.WithExpiry(ms(n)))
		case "deadline_ms":
			out = append(out, everstep.WithDeadline(ms(n)))
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
		case "dedup_ttl_ms":
			dedup.TTL = ms(n)
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
			target = everstep.Reference[everstep.Object, []any](app, c.Workflow)
		}
		started, err := target.Start(ctx, input(c.ID, c.Program.value), append(startOptions(c.Options), everstep.WithID(c.ID))...)
		if err != nil {
			return nil, err
		}
		note("accepted", strings.ReplaceAll(started.Key(), "-", ""), "-", "-", 0)
		return map[string]any{"run": started.Key(), "attached": started.Attached()}, nil
	case "start_step":
		if c.As == "" {
			c.As = "work"
		}
		started, err := jobs[c.As].Start(ctx, c.Value.value, everstep.WithID(c.ID))
		if err != nil {
			return nil, err
		}
		return started.Key(), nil
	case "start_many":
		var inputs []everstep.Object
		for i := range c.Count {
			inputs = append(inputs, input(fmt.Sprintf("%s-%d", c.ID, i), c.Program.value))
		}
		options := append(startOptions(c.Options), everstep.WithIDs(func(in everstep.Object) string { return in[0].Value.(string) }))
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
		options := []everstep.RewindOption{everstep.By("suite")}
		if c.NewEffects {
			options = append(options, everstep.NewEffects())
		}
		return run.Rewind(ctx, c.Branch, c.Seq, options...)
	case "send":
		var options []everstep.SendOption
		if c.MessageKey != "" {
			options = append(options, everstep.WithIdempotencyKey(c.MessageKey))
		}
		return nil, run.Send(ctx, c.Topic, c.Message.value, options...)
	case "event":
		value, found, err := everstep.GetEvent[any](ctx, run, c.Key, wait(c)...)
		if !found {
			value = "timeout"
		}
		return value, err
	}
	return nil, fmt.Errorf("unknown command %s", c.Op)
}
