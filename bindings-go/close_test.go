package everstep_test

import (
	"context"
	"testing"
	"time"

	everstep "github.com/everstep/everstep/bindings-go"
)

// What Close drains it must serve: a run whose own calls were refused recorded the refusal, and had failed for good.
func TestARunThatIsDrainedMayStillStartAndSend(t *testing.T) {
	ctx := context.Background()
	url := file(t)
	begun := make(chan struct{})
	started := func(app *everstep.App) (*everstep.Workflow[int, int], *everstep.Workflow[everstep.None, string]) {
		other := register(t, app, "other", func(ctx everstep.Context, n int) (int, error) {
			sent, _, err := everstep.Receive[int](ctx, "topic")
			return n + sent, err
		})
		return other, register(t, app, "starts", func(ctx everstep.Context, _ everstep.None) (string, error) {
			_, err := everstep.Do(ctx, "start", func(ctx context.Context) (string, error) {
				close(begun)
				closing(t, app)
				run, err := other.Start(ctx, 40, everstep.WithID("other"))
				if err != nil {
					return "", err
				}
				if _, err := run.Status(ctx); err != nil {
					return "", err
				}
				return run.Key(), run.Send(ctx, "topic", 2)
			})
			if err != nil {
				return "", err
			}
			run, err := everstep.RunByID[int](app, "other")
			if err != nil {
				return "", err
			}
			return run.Key(), nil
		})
	}
	app := open(t, url)
	_, starts := started(app)
	launch(t, app)
	run, err := starts.Start(ctx, everstep.None{})
	must(t, err)
	<-begun
	must(t, app.Close(ctx))
	wants(t, second(starts.Start(ctx, everstep.None{})), everstep.ErrClosed)

	app = open(t, url)
	other, _ := started(app)
	launch(t, app)
	key, err := everstep.RunByKey[string](app, run.Key()).Result(ctx, everstep.WithTimeout(patience))
	must(t, err)
	if out, err := everstep.RunByKey[int](app, key).Result(ctx, everstep.WithTimeout(patience)); out != 42 || err != nil {
		t.Errorf("%s: %d, %v", other.Name(), out, err)
	}
}

// Its time is over while the drain is under way: what is left is handed over, as a drain that comes to its end does it. Left behind, the run would count a
// crash, and be blocked after five deploys.
func TestADrainThatIsCutShortHandsOver(t *testing.T) {
	url := file(t)
	begun := make(chan struct{}, 2)
	finish := make(chan struct{})
	started := func() (*everstep.App, *everstep.Workflow[int, int]) {
		app := open(t, url, everstep.WithLease(2*time.Second))
		w := register(t, app, "slow", func(ctx everstep.Context, n int) (int, error) {
			return everstep.Do(ctx, "slow", func(ctx context.Context) (int, error) {
				begun <- struct{}{}
				select {
				case <-finish:
					return n, nil
				case <-ctx.Done():
					return 0, ctx.Err()
				}
			})
		})
		launch(t, app)
		return app, w
	}
	app, w := started()
	run, err := w.Start(context.Background(), 42)
	must(t, err)
	<-begun
	ctx, cancel := context.WithCancel(context.Background())
	closed := make(chan error, 1)
	go func() { closed <- app.Close(ctx) }()
	closing(t, app)
	time.Sleep(50 * time.Millisecond) // Until the drain itself has begun, of which nothing can be seen from here.
	cancel()
	must(t, <-closed)
	app, _ = started()
	<-begun
	info, err := everstep.RunByKey[int](app, run.Key()).Status(context.Background())
	if err != nil || info.Crashes != 0 {
		t.Errorf("%d crashes, %v", info.Crashes, err)
	}
	close(finish)
	must(t, second(everstep.RunByKey[int](app, run.Key()).Result(context.Background(), everstep.WithTimeout(patience))))
}
