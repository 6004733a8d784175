package payload

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"
)

// Each key was compared with each: minutes for a payload of half the size that is allowed.
func TestManyKeysAndOneTwiceAreReadInNoTime(t *testing.T) {
	const count = 200_000
	var text strings.Builder
	text.WriteString(`{"twice":1`)
	for i := range count {
		fmt.Fprintf(&text, `,"key %d":%d`, i, i)
	}
	text.WriteString(`,"twice":2}`)
	done := make(chan Object, 1)
	go func() {
		var out Object
		if err := Decode([]byte(text.String()), &out); err != nil {
			t.Error(err)
		}
		done <- out
	}()
	select {
	case out := <-done:
		if last, _ := out.Get("twice"); len(out) != count+1 || out[0].Key != "twice" || last != int64(2) || out[count].Key != fmt.Sprintf("key %d", count-1) {
			t.Errorf("%d keys, the first %v, the last %v", len(out), out[0], out[len(out)-1])
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it is still reading")
	}
}

type optional struct {
	When *time.Time `json:"when,omitzero"`
	At   time.Time  `json:"at,omitzero"`
}

// The method set of a *time.Time holds time.Time's IsZero, which has no time to ask in a nil one.
func TestANilPointerThatIsLeftOutIsNotAsked(t *testing.T) {
	zero := time.Time{}
	for given, wanted := range map[optional]string{{}: `{}`, {When: &zero}: `{}`} {
		text, err := Encode(given)
		if err != nil || string(text) != wanted {
			t.Errorf("%s, %v", text, err)
		}
	}
}

// A workflow that keeps one id of a large list across a sleep of a month kept the list.
func TestAStringThatIsKeptKeepsNothingElse(t *testing.T) {
	type record struct {
		ID   string         `json:"id"`
		Any  any            `json:"any"`
		Tags map[string]int `json:"tags"`
		Dec  Decimal        `json:"dec"`
	}
	const size = 4 << 20
	one := `{"id":"one","any":{"name":"two"},"tags":{"three":3},"dec":{"$es":"dec","v":"1.50"},"rest":"`
	text := []byte(one + strings.Repeat("x", size) + `"}`)
	heap := func() uint64 {
		var stats runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&stats)
		return stats.HeapAlloc
	}
	before := heap()
	var kept [8]record
	for i := range kept {
		if err := Decode(text, &kept[i]); err != nil || kept[i].ID != "one" || kept[i].Dec != "1.50" {
			t.Fatal(kept[i], err)
		}
	}
	if after := heap(); after > before+size {
		t.Errorf("%d kB are kept", (after-before)>>10)
	}
	runtime.KeepAlive(kept)
	runtime.KeepAlive(text)
}
