package a

import (
	"context"
	"errors"
	"maps"
	"reflect"
	"slices"
	"sort"
	"sync"
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

func recovers(ctx everstep.Context, in string) (out int, err error) {
	defer func() {
		if value := recover(); value != nil {
			out, err = 0, errors.New("panicked")
		}
	}()
	return charge.Do(ctx, in)
}

func addsToItsError(ctx everstep.Context, in string) (out int, err error) {
	defer func() { err = errors.Join(err, errors.New("more")) }() // want `this defer looks at err`
	return charge.Do(ctx, in)
}

func helper(ctx everstep.Context, in string) error { return everstep.Sleep(ctx, time.Hour) }

func waitsInAHelper(ctx everstep.Context, in string) (err error) {
	defer func() { report(err) }() // want `this defer looks at err`
	return helper(ctx, in)
}

func looksInALiteral(ctx everstep.Context, in string) (int, error) {
	inner := func() (err error) {
		defer func() { report(err) }() // want `this defer looks at err`
		return everstep.Sleep(ctx, time.Hour)
	}
	return 0, inner()
}

func looksInAStep(ctx everstep.Context, in string) (int, error) {
	return everstep.Do(ctx, "step", func(ctx context.Context) (out int, err error) {
		defer func() { report(err) }()
		for range map[string]int{"a": 1} {
			if out, err = charge.Do(ctx, in); err != nil {
				return 0, err
			}
		}
		return out, nil
	})
}

func rangesOverAMapOfSteps(ctx everstep.Context, orders map[string]string) error {
	for _, order := range orders { // want `a range over a map`
		if err := helper(ctx, order); err != nil {
			return err
		}
	}
	return nil
}

func rangesOverAnIterator(ctx everstep.Context, orders map[string]string) error {
	for order := range maps.Keys(orders) { // want `a range over a map`
		if err := helper(ctx, order); err != nil {
			return err
		}
	}
	for _, order := range slices.Sorted(maps.Keys(orders)) {
		if err := helper(ctx, order); err != nil {
			return err
		}
	}
	return nil
}

func rangesOverATypeParameter[M ~map[string]string](ctx everstep.Context, orders M) error {
	for _, order := range orders { // want `a range over a map`
		if err := helper(ctx, order); err != nil {
			return err
		}
	}
	return nil
}

func collectsBranchesOfAMap(ctx everstep.Context, orders map[string]string) ([]int, error) {
	var branches []func(everstep.Context) (int, error)
	for _, order := range orders { // want `a range over a map`
		branches = append(branches, func(ctx everstep.Context) (int, error) { return charge.Do(ctx, order) })
	}
	return everstep.All(ctx, branches...)
}

func logsInARange(ctx everstep.Context, orders map[string]string) (int, error) {
	total := 0
	for key := range orders {
		everstep.Logger(ctx).Info(key)
		total += len(key)
	}
	return charge.Do(ctx, everstep.RunID(ctx))
}

func rangesInAStep(ctx everstep.Context, orders map[string]string) (int, error) {
	total := map[string]func(context.Context) (int, error){}
	for key := range orders {
		total[key] = func(ctx context.Context) (int, error) { return charge.Do(ctx, key) }
	}
	return everstep.Do(ctx, "step", total["a"])
}

func looksInAVariable(ctx everstep.Context, in string) (err error) {
	clean := func() { report(err) }
	defer clean() // want `this defer looks at err`
	return everstep.Sleep(ctx, time.Hour)
}

func looksAtAnotherInAVariable(ctx everstep.Context, in string) (err error) {
	clean := func() { report(nil) }
	defer clean()
	return everstep.Sleep(ctx, time.Hour)
}

type service struct{}

func (service) looksInAMethod(ctx everstep.Context, in string) (out int, err error) {
	defer func() { // want `this defer looks at err`
		switch {
		case errors.Is(err, context.Canceled):
			out = 1
		}
	}()
	return charge.Do(ctx, in)
}

func rangesOverCollectedKeys(ctx everstep.Context, orders map[string]string) error {
	for _, order := range slices.Collect(maps.Keys(orders)) { // want `a range over a map`
		if err := helper(ctx, order); err != nil {
			return err
		}
	}
	keys := slices.Collect(maps.Keys(orders))
	for _, order := range keys { // want `keys was filled in the order of a map`
		if err := helper(ctx, order); err != nil {
			return err
		}
	}
	sorted := slices.Collect(maps.Keys(orders))
	slices.Sort(sorted)
	for _, order := range sorted {
		if err := helper(ctx, order); err != nil {
			return err
		}
	}
	return nil
}

func rangesOverAppendedKeys(ctx everstep.Context, orders map[string]string) error {
	var keys, sorted []string
	longest := 0
	for key := range orders {
		keys = append(keys, key)
		sorted = append(sorted, key)
		longest = max(longest, len(key))
	}
	sort.Slice(sorted, func(i, j int) bool { return sorted[i] < sorted[j] })
	for _, key := range sorted {
		if err := helper(ctx, key); err != nil {
			return err
		}
	}
	for range len(keys) {
		if err := helper(ctx, "each alike"); err != nil {
			return err
		}
	}
	for _, key := range keys { // want `keys was filled in the order of a map`
		if err := helper(ctx, key); err != nil {
			return err
		}
	}
	return nil
}

func rangesOverASyncMap(ctx everstep.Context, orders *sync.Map) error {
	for key := range orders.Range { // want `a range over a map`
		if err := helper(ctx, key.(string)); err != nil {
			return err
		}
	}
	orders.Range(func(key, _ any) bool { return helper(ctx, key.(string)) == nil }) // want `a range over a map`
	count := 0
	orders.Range(func(any, any) bool { count++; return true })
	return helper(ctx, string(rune(count)))
}

func rangesOverReflectedKeys(ctx everstep.Context, orders any) error {
	for _, key := range reflect.ValueOf(orders).MapKeys() { // want `a range over a map`
		if err := helper(ctx, key.String()); err != nil {
			return err
		}
	}
	return nil
}
