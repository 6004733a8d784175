package payload

import (
	"encoding/json"
	"math/big"
	"reflect"
	"strings"
	"testing"
	"time"
)

type inner struct {
	Street string `json:"street"`
	Number int    `json:"number,omitempty"`
}

type level int

func (l level) MarshalText() ([]byte, error) { return []byte("level-" + string(rune('0'+l))), nil }
func (l *level) UnmarshalText(text []byte) error {
	*l = level(text[len(text)-1] - '0')
	return nil
}

type outer struct {
	inner
	ID      uint64              `json:"id"`
	When    time.Time           `json:"when"`
	For     time.Duration       `json:"for"`
	Data    []byte              `json:"data"`
	Big     *big.Int            `json:"big"`
	Price   Decimal             `json:"price"`
	Day     Date                `json:"day"`
	Names   map[int]string      `json:"names"`
	Tags    map[string]struct{} `json:"tags"`
	Next    *outer              `json:"next"`
	Any     any                 `json:"any"`
	Level   level               `json:"level"`
	Skipped string              `json:"-"`
	Array   [2]float64          `json:"array"`
}

func TestAStructComesBackAsItWas(t *testing.T) {
	big, _ := new(big.Int).SetString("170141183460469231731687303715884105728", 10)
	want := outer{
		inner: inner{"Hauptstraße", 7}, ID: 1<<63 + 1, When: time.Date(2026, 1, 2, 3, 4, 5, 250_000_000, time.UTC), For: 3500 * time.Millisecond,
		Data: []byte{0, 255}, Big: big, Price: "12.50", Day: Date{2026, 2, 28}, Names: map[int]string{2: "b", 1: "a"},
		Tags: map[string]struct{}{"x": {}}, Any: map[string]any{"n": int64(1), "l": []any{1.5, nil}}, Level: 3, Array: [2]float64{1, 2.5},
	}
	second := want
	want.Next = &second
	text, err := Encode(want)
	must(t, err)
	for _, part := range []string{`"street":"Hauptstraße","number":7`, `"id":{"$es":"int","v":"9223372036854775809"}`, `"for":"PT3.5S"`, `"names":{"$es":"map","v":[[1,"a"],[2,"b"]]}`,
		`"tags":{"$es":"set","v":["x"]}`, `"level":"level-3"`, `"array":[1,2.5]`} {
		if !strings.Contains(string(text), part) {
			t.Errorf("%s lacks %s", text, part)
		}
	}
	var got outer
	must(t, Decode(text, &got))
	if !reflect.DeepEqual(got, want) {
		t.Errorf("read %+v\nwanted %+v", got, want)
	}
}

func TestTheSameMapIsTheSameText(t *testing.T) {
	many := map[string]int{}
	for c := 'a'; c <= 'z'; c++ {
		many[string(c)] = int(c)
	}
	first, err := Encode(many)
	must(t, err)
	for range 20 {
		if again, _ := Encode(many); string(again) != string(first) {
			t.Fatalf("%s and %s", first, again)
		}
	}
}

func TestNilsAreNullOrEmpty(t *testing.T) {
	type nils struct {
		P *int           `json:"p"`
		S []int          `json:"s"`
		M map[string]int `json:"m"`
		I any            `json:"i"`
	}
	text, err := Encode(nils{})
	must(t, err)
	if string(text) != `{"p":null,"s":[],"m":{},"i":null}` {
		t.Errorf("wrote %s", text)
	}
	var typed *nils
	if text, err := Encode(typed); err != nil || string(text) != "null" {
		t.Errorf("a typed nil: %s, %v", text, err)
	}
	got := nils{S: []int{1}}
	must(t, Decode([]byte(`{"s":null}`), &got))
	if got.S != nil {
		t.Errorf("null read as %v", got.S)
	}
}

func TestWhatCannotBeWrittenSaysWhere(t *testing.T) {
	type node struct {
		Next *node `json:"next"`
	}
	cycle := &node{}
	cycle.Next = cycle
	for name, c := range map[string]struct {
		value any
		says  string
	}{
		"channel":     {map[string]any{"a": []any{1, make(chan int)}}, `at ["a"][1]`},
		"function":    {struct{ F func() }{func() {}}, "F"},
		"cycle":       {cycle, "nested deeper"},
		"not UTF-8":   {[]string{"ok", "\xff"}, "[1]"},
		"decimal":     {Decimal("NaN"), "decimal"},
		"complex":     {complex(1, 2), "complex128"},
		"no such day": {Date{2026, 2, 30}, "2026-02-30"},
		"repeated":    {Object{{"a", 1}, {"a", 2}}, "twice"},
		"one key":     {map[any]string{int(1): "a", int64(1): "b"}, "the key 1 is there twice"},
		"one entry":   {Entries{{UUID{}, "a"}, {UUID{}, "b"}}, "twice"},
	} {
		if _, err := Encode(c.value); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWhatDoesNotFitSaysWhere(t *testing.T) {
	type target struct {
		Items []struct {
			N int8 `json:"n"`
		} `json:"items"`
	}
	for wire, says := range map[string]string{
		`{"items":[{"n":1},{"n":"x"}]}`: "items[1].n",
		`{"items":[{"n":300}]}`:         "int8",
		`{"items":[{"n":1.5}]}`:         "a double",
		`{"items":{"n":1}}`:             "an object",
		`7`:                             "target",
	} {
		var got target
		if err := Decode([]byte(wire), &got); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", wire, err)
		}
	}
}

func TestCheckNamesWhatWouldBeLost(t *testing.T) {
	type hidden struct {
		Shown int
		lost  string
	}
	type tagged struct {
		Shown int
		kept  string `json:"-"`
	}
	type deep struct {
		List []map[string]hidden
	}
	type recursive struct {
		Next  *recursive
		Other json.RawMessage
	}
	_, _ = hidden{lost: ""}, tagged{kept: ""}
	for _, c := range []struct {
		t    reflect.Type
		says string
	}{
		{reflect.TypeFor[hidden](), "lost"}, {reflect.TypeFor[deep](), "lost"}, {reflect.TypeFor[chan int](), "chan"}, {reflect.TypeFor[[]func()](), "func"},
		{reflect.TypeFor[struct{ E error }](), "error"}, {reflect.TypeFor[complex64](), "complex64"},
		{reflect.TypeFor[tagged](), ""}, {reflect.TypeFor[recursive](), ""}, {reflect.TypeFor[outer](), ""}, {reflect.TypeFor[any](), ""}, {reflect.TypeFor[time.Time](), ""},
	} {
		err := Check(c.t)
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.t, err)
		}
	}
}

func TestCyclesOfPointersAreRefused(t *testing.T) {
	var cycle any
	cycle = &cycle
	if _, err := Encode(cycle); err == nil || !strings.Contains(err.Error(), "cycle") {
		t.Errorf("got %v", err)
	}
	type node struct{ Next *node }
	round := &node{}
	round.Next = round
	if _, err := Encode(round); err == nil || !strings.Contains(err.Error(), "cycle") {
		t.Errorf("got %v", err)
	}
}

type base struct {
	ID int `json:"base_id"`
}

// Derived and base both have an ID in Go, and two names on the wire.
type derived struct {
	base
	ID int `json:"id"`
}

func TestFieldsGoByTheirNamesOnTheWire(t *testing.T) {
	in := derived{base{1}, 2}
	data, err := Encode(in)
	if err != nil || string(data) != `{"base_id":1,"id":2}` {
		t.Fatalf("%s, %v", data, err)
	}
	var out derived
	if err := Decode(data, &out); err != nil || out != in {
		t.Errorf("%+v, %v", out, err)
	}
}

type onlyWrites int

func (onlyWrites) MarshalText() ([]byte, error) { return []byte("x"), nil }

func TestTypesThatWouldLoseSomethingAreNamed(t *testing.T) {
	type first struct{ ID int }
	type second struct{ ID int }
	for says, losing := range map[string]any{
		"unexported type": struct{ *inner }{},
		"two fields": struct {
			first
			second
		}{},
		"UnmarshalText": onlyWrites(1),
		"hidden":        struct{ hidden int }{1},
	} {
		if err := Check(reflect.TypeOf(losing)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v", says, err)
		}
	}
	// Where only a value shows the type, writing it is when it is named.
	if _, err := Encode([]any{struct{ hidden int }{1}}); err == nil || !strings.Contains(err.Error(), "hidden") {
		t.Errorf("got %v", err)
	}
	var filled struct{ *inner }
	if err := Decode([]byte(`{"street":"x"}`), &filled); err == nil {
		t.Error("a pointer to an unexported type was filled in")
	}
}
