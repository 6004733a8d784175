package everstep_test

import (
	"context"
	"testing"

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
