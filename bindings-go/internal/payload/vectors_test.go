package payload

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"os"
	"reflect"
	"strconv"
	"testing"
	"time"
	"unicode/utf16"
)

type vector struct {
	Name    string                     `json:"name"`
	Value   json.RawMessage            `json:"value"`
	ReadsAs json.RawMessage            `json:"reads_as"`
	Wire    string                     `json:"wire"`
	WireHex string                     `json:"wire_hex"`
	Given   map[string]json.RawMessage `json:"arguments"`
}

func (v vector) wire(t *testing.T) []byte {
	if v.WireHex == "" {
		return []byte(v.Wire)
	}
	data, err := hex.DecodeString(v.WireHex)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func vectors(t *testing.T, part string) []vector {
	t.Helper()
	data, err := os.ReadFile("../../../tests/vectors/payload.json")
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]json.RawMessage
	var out []vector
	if err := json.Unmarshal(data, &all); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(all[part], &out); err != nil || len(out) == 0 {
		t.Fatalf("%s: %d vectors, %v", part, len(out), err)
	}
	return out
}

// build makes the value a notation of the vectors names.
func build(t *testing.T, notation json.RawMessage) any {
	t.Helper()
	var node map[string]json.RawMessage
	must(t, json.Unmarshal(notation, &node))
	for kind, raw := range node {
		var text string
		var items []json.RawMessage
		if raw[0] == '"' {
			must(t, json.Unmarshal(raw, &text))
		}
		if raw[0] == '[' {
			must(t, json.Unmarshal(raw, &items))
		}
		switch kind {
		case "null":
			return nil
		case "bool":
			return string(raw) == "true"
		case "str":
			return text
		case "int":
			if n, err := strconv.ParseInt(text, 10, 64); err == nil {
				return n
			}
			n, _ := new(big.Int).SetString(text, 10)
			return n
		case "float":
			f, err := strconv.ParseFloat(text, 64)
			must(t, err)
			return f
		case "dec":
			return Decimal(text)
		case "bytes":
			data, err := hex.DecodeString(text)
			must(t, err)
			return data
		case "time":
			return parseTime(text)
		case "date":
			d, _ := parseDate(text)
			return d
		case "uuid":
			u, err := ParseUUID(text)
			must(t, err)
			return u
		case "list", "set":
			out := []any{}
			for _, item := range items {
				out = append(out, build(t, item))
			}
			if kind == "set" {
				return Set(out)
			}
			return out
		case "object", "map":
			object, pairs := Object{}, Entries{}
			for _, item := range items {
				var pair [2]json.RawMessage
				must(t, json.Unmarshal(item, &pair))
				if kind == "map" {
					pairs = append(pairs, Entry{build(t, pair[0]), build(t, pair[1])})
					continue
				}
				var key string
				must(t, json.Unmarshal(pair[0], &key))
				object = append(object, Member{key, build(t, pair[1])})
			}
			if kind == "map" {
				return pairs
			}
			return object
		case "nested":
			n, err := strconv.Atoi(string(raw))
			must(t, err)
			out := []any{}
			for range n - 1 {
				out = []any{out}
			}
			return out
		case "str_utf16", "object_utf16_key":
			var units []string
			must(t, json.Unmarshal(raw, &units))
			lone := ""
			for _, unit := range units {
				n, err := strconv.ParseUint(unit, 16, 16)
				must(t, err)
				if !utf16.IsSurrogate(rune(n)) {
					t.Fatal("no surrogate")
				}
				// What a Go program has that holds a lone surrogate: its three bytes, which are not UTF-8.
				lone += string([]byte{0xe0 | byte(n>>12), 0x80 | byte(n>>6&0x3f), 0x80 | byte(n&0x3f)})
			}
			if kind == "str_utf16" {
				return lone
			}
			return map[string]int{lone: 1}
		}
		t.Fatalf("unknown notation %s", kind)
	}
	return nil
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// same: equal in type too, NaN equal to itself, -0 not equal to 0, keys in the same order, a set in any.
func same(a, b any) bool {
	switch x := a.(type) {
	case float64:
		y, ok := b.(float64)
		return ok && math.Float64bits(x) == math.Float64bits(y) || ok && math.IsNaN(x) && math.IsNaN(y)
	case time.Time:
		y, ok := b.(time.Time)
		_, left := x.Zone()
		_, right := y.Zone()
		return ok && x.Equal(y) && left == right
	case *big.Int:
		y, ok := b.(*big.Int)
		return ok && x.Cmp(y) == 0
	case Set:
		left, err := Encode(x)
		right, otherErr := Encode(b)
		return err == nil && otherErr == nil && string(left) == string(right) && reflect.TypeOf(a) == reflect.TypeOf(b)
	case []any:
		y, ok := b.([]any)
		if !ok || len(x) != len(y) {
			return false
		}
		for i := range x {
			if !same(x[i], y[i]) {
				return false
			}
		}
		return true
	case Object:
		y, ok := b.(Object)
		if !ok || len(x) != len(y) {
			return false
		}
		for i := range x {
			if x[i].Key != y[i].Key || !same(x[i].Value, y[i].Value) {
				return false
			}
		}
		return true
	}
	return reflect.DeepEqual(a, b)
}

func TestVectorsAreWrittenAndRead(t *testing.T) {
	for _, v := range vectors(t, "both") {
		t.Run(v.Name, func(t *testing.T) {
			text, err := Encode(build(t, v.Value))
			if err != nil || string(text) != v.Wire {
				t.Errorf("wrote %s, %v", text, err)
			}
			want := build(t, v.Value)
			if v.ReadsAs != nil {
				want = build(t, v.ReadsAs)
			}
			// What `$es` of the user's own is wrapped in reads as pairs with string keys.
			got, err := Parse([]byte(v.Wire))
			if pairs, ok := got.(Entries); ok {
				if object, all := pairs.object(); all {
					got = object
				}
			}
			if err != nil || !same(got, want) {
				t.Errorf("read %#v, wanted %#v, %v", got, want, err)
			}
		})
	}
}

func TestVectorsAreRead(t *testing.T) {
	for _, v := range vectors(t, "reads") {
		t.Run(v.Name, func(t *testing.T) {
			got, err := Parse(v.wire(t))
			if err != nil || !same(got, build(t, v.Value)) {
				t.Errorf("read %#v, %v", got, err)
			}
		})
	}
}

func TestVectorsAreRefused(t *testing.T) {
	for _, v := range vectors(t, "refused") {
		t.Run(v.Name, func(t *testing.T) {
			if got, err := Parse(v.wire(t)); err == nil {
				t.Errorf("read %#v", got)
			}
		})
	}
	for _, v := range vectors(t, "refused_values") {
		t.Run(v.Name, func(t *testing.T) {
			if text, err := Encode(build(t, v.Value)); err == nil {
				t.Errorf("wrote %.80s", text)
			}
		})
	}
}

func TestInputsOfSeveralParametersAreAStructByName(t *testing.T) {
	type input struct {
		A int64  `json:"a"`
		B string `json:"b,omitempty"`
	}
	for name, want := range map[string]input{"several": {1, "x"}, "several, one left to its default": {1, ""}} {
		for _, v := range vectors(t, "inputs") {
			if v.Name != name {
				continue
			}
			text, err := Encode(want)
			var got input
			if err != nil || string(text) != v.Wire || Decode([]byte(v.Wire), &got) != nil || got != want {
				t.Errorf("%s: wrote %s (%v), read %v", name, text, err, got)
			}
			name = ""
		}
		if name != "" {
			t.Error(fmt.Sprint("no vector ", name))
		}
	}
}
