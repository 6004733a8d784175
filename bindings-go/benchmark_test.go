package everstep_test

import (
	"context"
	"sync"
	"testing"

	everstep "github.com/everstep/everstep/bindings-go"
)

// BenchmarkSteps is what the whole of a step costs on SQLite, 1,000 runs of ten at a time.
func BenchmarkSteps(b *testing.B) {
	app := open(b, file(b), everstep.WithSlots(1000))
	w := register(b, app, "ten", func(ctx everstep.Context, n int) (int, error) {
		for i := range 10 {
			if _, err := plusOne.Do(ctx, i); err != nil {
				return 0, err
			}
		}
		return n, nil
	})
	launch(b, app)
	b.ResetTimer()
	var all sync.WaitGroup
	each := b.N/1000 + 1
	for range 1000 {
		all.Add(1)
		go func() {
			defer all.Done()
			for range each {
				run, err := w.Start(context.Background(), 1)
				if err == nil {
					_, err = run.Result(context.Background())
				}
				if err != nil {
					b.Error(err)
				}
			}
		}()
	}
	all.Wait()
	b.ReportMetric(float64(each*1000*10)/b.Elapsed().Seconds(), "steps/s")
}
