package payload

import (
	"encoding/json"
	"math/big"
	"reflect"
	"strings"
	"testing"
	"time"
)

// snowflake is a 64-bit id as many a library has it: written by its own MarshalJSON, as a bare number.
type snowflake int64

func (f snowflake) MarshalJSON() ([]byte, error) { return json.Marshal(int64(f)) }
func (f *snowflake) UnmarshalJSON(text []byte) error {
	return json.Unmarshal(text, (*int64)(f))
}

type envelope struct {
	Number json.Number     `json:"number"`
	Raw    json.RawMessage `json:"raw"`
	ID     snowflake       `json:"id"`
}

func TestWhatATypeWritesItselfKeepsEveryDigit(t *testing.T) {
	for _, number := range []json.Number{"9007199254740993", "-9223372036854775808", "123456789012345678901234567890", "0.12345678901234567890", "1E400", "-0", "1.5", "0.001"} {
		in := envelope{Number: number, Raw: json.RawMessage(`{"id":9007199254740993,"n":` + string(number) + `}`), ID: 1<<60 + 1}
		text, err := Encode(in)
		must(t, err)
		var out envelope
		must(t, Decode(text, &out))
		if !reflect.DeepEqual(in, out) {
			t.Errorf("%s came back as %s %s %d, through %s", number, out.Number, out.Raw, out.ID, text)
		}
	}
	var empty envelope
	if text, err := Encode(empty); err != nil || string(text) != `{"number":0,"raw":null,"id":0}` {
		t.Errorf("%s, %v", text, err)
	}
	for text, number := range map[string]string{"1.0": "1", "1e2": "100", "100e-2": "1", "0.10": "0.1", "00": "", "1.": "", "+1": "", "0x1": "", "NaN": ""} {
		written, err := Encode(json.Number(text))
		if (number == "") != (err != nil) || string(written) != number {
			t.Errorf("%s was written %s, %v", text, written, err)
		}
	}
}

func TestNoObjectOfAStrangersIsATag(t *testing.T) {
	for _, raw := range []string{`{"$es":"int","v":"5"}`, `{"$es":"none"}`, `[{"$es":1,"a":[{}]}]`} {
		text, err := Encode(json.RawMessage(raw))
		must(t, err)
		var out json.RawMessage
		must(t, Decode(text, &out))
		if string(out) != raw {
			t.Errorf("%s came back as %s, through %s", raw, out, text)
		}
	}
}

type stamp struct{ time.Time }

func TestATypeThatReadsItselfIsGivenPlainJSON(t *testing.T) {
	// As another language writes them.
	for text, want := range map[string]string{
		`{"$es":"time","v":"2026-01-02T03:04:05.25Z"}`: `"2026-01-02T03:04:05.25Z"`, `{"$es":"bytes","v":"AP8="}`: `"AP8="`, `{"$es":"dec","v":"12.50"}`: `12.50`,
		`{"$es":"dec","v":"007"}`: `"007"`, `{"$es":"float","v":"NaN"}`: `"NaN"`, `{"$es":"float","v":"-0"}`: `-0`, `{"$es":"set","v":[1,2]}`: `[1,2]`,
		`{"$es":"map","v":[[1,"a"]]}`: `[[1,"a"]]`, `{"$es":"date","v":"2026-01-02"}`: `"2026-01-02"`, `{"$es":"int","v":"9007199254740993"}`: `9007199254740993`,
	} {
		var raw json.RawMessage
		must(t, Decode([]byte(text), &raw))
		if string(raw) != want {
			t.Errorf("%s was read as %s", text, raw)
		}
	}
	var when stamp
	must(t, Decode([]byte(`{"$es":"time","v":"2026-01-02T03:04:05Z"}`), &when))
	var ratio big.Rat
	must(t, Decode([]byte(`{"$es":"dec","v":"0.125"}`), &ratio))
	if when.Year() != 2026 || ratio.Cmp(big.NewRat(1, 8)) != 0 {
		t.Errorf("read %v and %v", when, &ratio)
	}
}

// Its MarshalJSON is that of the time, so encoding/json writes no ID, and says nothing.
type ordered struct {
	time.Time
	ID int
}

// its own methods, which know of both.
type complete struct {
	time.Time
	ID int
}

func (w complete) MarshalJSON() ([]byte, error) {
	return json.Marshal(map[string]any{"t": w.Time, "id": w.ID})
}
func (w *complete) UnmarshalJSON(text []byte) error { return json.Unmarshal(text, &w.ID) }

func TestAnEmbeddedFieldThatWritesTheWholeStructIsNamed(t *testing.T) {
	for _, value := range []any{ordered{}, struct{ In []ordered }{make([]ordered, 1)}, struct {
		*big.Int
		Unit string
	}{}} {
		if err := Check(reflect.TypeOf(value)); err == nil || !strings.Contains(err.Error(), "would be lost") {
			t.Errorf("%T: %v", value, err)
		}
	}
	if _, err := Encode([]any{ordered{}}); err == nil || !strings.Contains(err.Error(), "ID would be lost") {
		t.Error(err)
	}
	for _, fine := range []any{stamp{}, complete{}, struct {
		time.Time
		cached int `json:"-"`
	}{cached: 1}} {
		if err := Check(reflect.TypeOf(fine)); err != nil {
			t.Errorf("%T: %v", fine, err)
		}
	}
}

type exploding struct{ *big.Int }

func (e exploding) MarshalJSON() ([]byte, error)     { panic("on purpose") }
func (e *exploding) UnmarshalJSON(text []byte) error { panic("on purpose") }

func TestAPanicOfATypesOwnMethodIsAnError(t *testing.T) {
	if _, err := Encode(map[string]any{"a": exploding{}}); err == nil || !strings.Contains(err.Error(), "exploding.MarshalJSON panicked") {
		t.Error(err)
	}
	var out []exploding
	if err := Decode([]byte("[1]"), &out); err == nil || !strings.Contains(err.Error(), "exploding.UnmarshalJSON panicked") {
		t.Error(err)
	}
}
