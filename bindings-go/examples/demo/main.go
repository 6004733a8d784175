// The demo's worker in Go: one run a file, with three steps: count it, add it to the running total, tell the provider. It runs until SIGTERM and then
// hands over what it has not finished.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"

	everstep "github.com/everstep/everstep/bindings-go"
)

type counted struct {
	Sha256 string `json:"sha256"`
	Lines  int    `json:"lines"`
	Tokens int    `json:"tokens"`
}

// counts is the input of add_to_total: a function of several parameters takes an object keyed by their names.
type counts struct {
	Path   string `json:"path"`
	Lines  int    `json:"lines"`
	Tokens int    `json:"tokens"`
}

func word(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z'
}

// count reads one file. A token is what every language of the fleet can tell apart in the bytes: a run of letters, digits and underscores.
func count(_ context.Context, path string) (counted, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return counted{}, err
	}
	digest := sha256.Sum256(data)
	out := counted{Sha256: hex.EncodeToString(digest[:])}
	inside := false
	for _, c := range data {
		if c == '\n' {
			out.Lines++
		}
		if word(c) && !inside {
			out.Tokens++
		}
		inside = word(c)
	}
	return out, nil
}

// addToTotal adds on purpose: done twice, the total is wrong.
func addToTotal(ctx context.Context, tx *everstep.Tx, in counts) (everstep.None, error) {
	_, err := tx.Execute(ctx, "update total set files = files + 1, lines = lines + $1, tokens = tokens + $2", in.Lines, in.Tokens)
	if err == nil {
		_, err = tx.Execute(ctx, "insert into seen values ($1, 1) on conflict (path) do update set times = times + 1", in.Path)
	}
	return everstep.None{}, err
}

// provider is a paid service: the key tells it that a repeat is a repeat.
func provider(port string) func(ctx context.Context, path string) (string, error) {
	return func(ctx context.Context, path string) (string, error) {
		key, err := everstep.IdempotencyKey(ctx)
		if err != nil {
			return "", err
		}
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://127.0.0.1:"+port+"/", strings.NewReader(path))
		if err != nil {
			return "", err
		}
		request.Header.Set("Idempotency-Key", key)
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			return "", err
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		if err == nil && answer.StatusCode != http.StatusOK {
			err = fmt.Errorf("the provider answered %d: %s", answer.StatusCode, body)
		}
		return string(body), err
	}
}

func run(ctx context.Context) error {
	app, err := everstep.Open(ctx, everstep.WithDatabase(os.Getenv("DEMO_DATABASE")))
	if err != nil {
		return err
	}
	if err := app.DeclareQueue(everstep.Queue{Name: "files"}); err != nil {
		return err
	}
	countFile := everstep.NewStep("count_file", count)
	tellProvider := everstep.NewStep("tell_provider", provider(os.Getenv("DEMO_PROVIDER_PORT")))
	addToTotal, err := everstep.NewTransaction(app, "add_to_total", addToTotal)
	if err != nil {
		return err
	}
	_, err = everstep.Register(app, "process", func(ctx everstep.Context, path string) (string, error) {
		counted, err := countFile.Do(ctx, path)
		if err != nil {
			return "", err
		}
		if _, err := addToTotal.Do(ctx, counts{path, counted.Lines, counted.Tokens}); err != nil {
			return "", err
		}
		return tellProvider.Do(ctx, path)
	})
	if err != nil {
		return err
	}
	return app.Serve(ctx)
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		log.Fatal(err)
	}
}
