package a

import (
	"context"
	"time"

	everstep "github.com/everstep/everstep/bindings-go"
)

var charge = &everstep.Step[string, int]{}

func report(error) {}

func looksAtItsError(ctx everstep.Context, in string) (out int, err error) {
	defer func() { // want `this defer looks at err`
		if err != nil {
			out = -1
		}
	}()
	return out, everstep.Sleep(ctx, time.Hour)
}

func passesItsError(ctx everstep.Context, in string) (out int, err error) {
	defer report(err) // want `this defer looks at err`
	return charge.Do(ctx, in)
}

func looksAtAnother(ctx everstep.Context, in string) (out int, err error) {
	defer func() {
		var err error
		report(err)
	}()
	return out, everstep.Sleep(ctx, time.Hour)
}

func neverWaits(ctx everstep.Context, in string) (out int, err error) {
	defer func() { report(err) }()
	return len(in), nil
}

func noWorkflow(ctx context.Context, in string) (out int, err error) {
	defer func() { report(err) }()
	return charge.Do(ctx, in)
}

func rangesOverAMap(ctx everstep.Context, orders map[string]string) (int, error) {
	total := 0
	for _, order := range orders { // want `a range over a map`
		n, err := charge.Do(ctx, order)
		if err != nil {
			return 0, err
		}
		total += n
	}
	return total, nil
}

func rangesOnlyToCount(ctx everstep.Context, orders map[string]string) (int, error) {
	total := 0
	for _, order := range orders {
		total += len(everstep.WithID(order))
	}
	return charge.Do(ctx, string(rune(total)))
}

func rangesOverASlice(ctx everstep.Context, orders []string) (int, error) {
	for _, order := range orders {
		if _, err := charge.Do(ctx, order); err != nil {
			return 0, err
		}
	}
	return 0, nil
}

var literal = func(ctx everstep.Context, orders map[string]string) (int, error) {
	for key := range orders { // want `a range over a map`
		if err := everstep.Sleep(ctx, time.Duration(len(key))); err != nil {
			return 0, err
		}
	}
	return 0, nil
}
