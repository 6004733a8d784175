package everstep_test

import (
	"context"
	"testing"
	"time"

	everstep "github.com/everstep/everstep/bindings-go"
)

func TestSmoke(t *testing.T) {
	ctx := context.Background()
	app, err := everstep.Open(ctx, everstep.WithDatabase("sqlite:"+t.TempDir()+"/a.db"))
	if err != nil {
		t.Fatal(err)
	}
	add := everstep.NewStep("add", func(ctx context.Context, n int) (int, error) { return n + 1, nil })
	wf, err := everstep.Register(app, "wf", func(ctx everstep.Context, n int) (int, error) {
		n, err := add.Do(ctx, n)
		if err != nil {
			return 0, err
		}
		if err := everstep.Sleep(ctx, 10*time.Millisecond); err != nil {
			return 0, err
		}
		ns, err := everstep.Map(ctx, "double", []int{n, n + 1}, func(ctx context.Context, n int) (int, error) { return 2 * n, nil })
		if err != nil {
			return 0, err
		}
		return ns[0] + ns[1], nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := app.Launch(ctx); err != nil {
		t.Fatal(err)
	}
	run, err := wf.Start(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	out, err := run.Result(ctx, everstep.WithTimeout(5*time.Second))
	t.Log(out, err)
	if out != 10 {
		t.Fail()
	}
	steps, err := run.Steps(ctx)
	for _, s := range steps {
		t.Log(s.Kind, s.Name, s.Location, s.Branch, s.Seq, string(s.Output))
	}
	if err := app.Close(ctx); err != nil {
		t.Fatal(err)
	}
}
