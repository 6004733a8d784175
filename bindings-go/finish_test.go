package everstep_test

import (
	"context"
	"errors"
	"reflect"
	"testing"
	"time"

	everstep "github.com/everstep/everstep/bindings-go"
)

func TestAWorkflowIsStartedWithTheOutcomeOfAnother(t *testing.T) {
	ctx := context.Background()
	app := open(t, file(t))
	must(t, app.DeclareError("card_declined", errDeclined))
	seen := make(chan everstep.Finished, 10)
	report := func(_ everstep.Context, of everstep.Finished) (int, error) {
		seen <- of
		return 0, nil
	}
	register(t, app, "report", report)
	register(t, app, "other report", report)
	w := register(t, app, "ends", func(ctx everstep.Context, how string) ([]int, error) {
		switch how {
		case "fails":
			return nil, errDeclined
		case "waits":
			return nil, everstep.Sleep(ctx, time.Hour)
		}
		return []int{1, 2}, nil
	}, everstep.WithOnFinish("report"))
	launch(t, app)

	for how, state := range map[string]everstep.State{"returns": everstep.StateSucceeded, "fails": everstep.StateFailed, "waits": everstep.StateCancelled} {
		run, err := w.Start(ctx, how)
		must(t, err)
		if how == "waits" {
			until(t, "it waits", func() bool {
				info, err := run.Status(ctx)
				return err == nil && len(info.WaitsFor) > 0
			})
			must(t, second(run.Cancel(ctx)))
		}
		var got everstep.Finished
		select {
		case got = <-seen:
		case <-time.After(patience):
			t.Fatalf("%s: nothing was started", how)
		}
		if got.Run != run.Key() || got.Workflow != "ends" || got.State != state {
			t.Errorf("%s: %+v", how, got)
		}
		switch document, _ := got.Value.(map[string]any); how {
		case "returns":
			if !reflect.DeepEqual(got.Value, []any{int64(1), int64(2)}) {
				t.Errorf("%+v", got.Value)
			}
		case "fails":
			if document["code"] != "card_declined" || document["message"] != errDeclined.Error() {
				t.Errorf("%+v", got.Value)
			}
		}
	}

	run, err := w.Start(ctx, "returns", everstep.WithOnFinish("other report"))
	must(t, err)
	must(t, second(run.Result(ctx, everstep.WithTimeout(patience))))
	<-seen
	page, err := app.Runs(ctx, everstep.Filter{Workflow: "other report"})
	if err != nil || len(page.Runs) != 1 || page.Runs[0].Parent != run.Key() {
		t.Errorf("%+v, %v", page, err)
	}
}

func TestAReportThatFailsChangesNothingOfItsRun(t *testing.T) {
	ctx := context.Background()
	app := open(t, file(t))
	register(t, app, "report", func(everstep.Context, everstep.Finished) (int, error) { return 0, errors.New("no printer") })
	w := register(t, app, "ends", func(_ everstep.Context, n int) (int, error) { return n, nil }, everstep.WithOnFinish("report"))
	launch(t, app)
	run, err := w.Start(ctx, 5)
	must(t, err)
	if out, err := run.Result(ctx, everstep.WithTimeout(patience)); out != 5 || err != nil {
		t.Errorf("%d, %v", out, err)
	}
	until(t, "the report has failed", func() bool {
		page, err := app.Runs(ctx, everstep.Filter{Workflow: "report", States: []everstep.State{everstep.StateFailed}})
		return err == nil && len(page.Runs) == 1
	})
	info, err := run.Status(ctx)
	if err != nil || info.State != everstep.StateSucceeded {
		t.Errorf("%+v, %v", info, err)
	}
}
