package frame

import (
	"math"
	"reflect"
	"testing"
)

func TestWhatIsWrittenIsRead(t *testing.T) {
	w := New().Null().Bool(true).Bool(false).Int(math.MinInt64).Float(-0.5).Str("ünï").Bytes([]byte{0, 255}).List(2).Int(1).Str("")
	want := []any{nil, true, false, int64(math.MinInt64), -0.5, "ünï", []byte{0, 255}, []any{int64(1), ""}}
	r := Read(w.Data())
	var got []any
	for r.More() {
		got = append(got, r.Value())
	}
	if r.Err() != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("read %#v, %v", got, r.Err())
	}
}

func TestWhatIsLeftOutIsNull(t *testing.T) {
	r := Read(nil)
	if r.Int() != 0 || r.Str() != "" || r.Bytes() != nil || r.Bool() || r.List() != 0 || r.Value() != nil || r.Err() != nil {
		t.Error("an empty frame reads as nulls")
	}
	present := Read(New().Bytes(nil).Data())
	if present.Bytes() == nil {
		t.Error("an empty value is not null")
	}
}

func TestEveryCutIsMalformedOrShorter(t *testing.T) {
	whole := New().Str("text").List(1).Bytes([]byte("bytes")).Int(7).Data()
	for cut := range whole {
		r := Read(whole[:cut])
		for r.More() {
			r.Value()
		}
	}
	r := Read([]byte{tagStr, 255, 255, 255, 255})
	if r.Str(); r.Err() == nil {
		t.Error("a text longer than its frame was read")
	}
	other := Read(New().Str("1").Data())
	if other.Int(); other.Err() == nil {
		t.Error("a text was read as a number")
	}
}

func TestEventsAreUnpackedInPlaceAndCutOnesAreNot(t *testing.T) {
	batch := []byte{7, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0}
	var got []Event
	Events(batch, func(e Event) { got = append(got, e) })
	if len(got) != 1 || got[0].Token != 7 || got[0].Kind != 2 || len(got[0].Frame) != 1 {
		t.Errorf("unpacked %v", got)
	}
}
