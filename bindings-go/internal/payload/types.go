// Package payload is codec 1 of core/docs/payload.md: values to bytes and back.
package payload

import (
	"encoding/hex"
	"fmt"
	"math/big"
	"strings"
	"time"
)

const (
	maxSafe  = 1<<53 - 1
	maxDepth = 128
	// Followed at once; several may lead to one container.
	maxPointers = 8 * maxDepth
)

// Error is payload_invalid: what is wrong, and where in the value.
type Error struct {
	Path    string
	Message string
}

func (e *Error) Error() string {
	if e.Path == "" {
		return e.Message
	}
	return e.Message + " (at " + strings.TrimPrefix(e.Path, ".") + ")"
}

func invalid(format string, arguments ...any) *Error {
	return &Error{Message: fmt.Sprintf(format, arguments...)}
}

// within says one level more of where.
func (e *Error) within(format string, arguments ...any) *Error {
	e.Path = fmt.Sprintf(format, arguments...) + e.Path
	return e
}

// UUID is a uuid; github.com/google/uuid's type is written and read alike.
type UUID [16]byte

func (u UUID) String() string {
	var text [36]byte
	hex.Encode(text[:8], u[:4])
	hex.Encode(text[9:13], u[4:6])
	hex.Encode(text[14:18], u[6:8])
	hex.Encode(text[19:23], u[8:10])
	hex.Encode(text[24:], u[10:])
	text[8], text[13], text[18], text[23] = '-', '-', '-', '-'
	return string(text[:])
}

// ParseUUID reads lower-case text with hyphens.
func ParseUUID(text string) (UUID, error) {
	var out UUID
	if len(text) != 36 || text[8] != '-' || text[13] != '-' || text[18] != '-' || text[23] != '-' || text != strings.ToLower(text) {
		return out, invalid("not a uuid: %q", text)
	}
	if _, err := hex.Decode(out[:], []byte(text[:8]+text[9:13]+text[14:18]+text[19:23]+text[24:])); err != nil {
		return out, invalid("not a uuid: %q", text)
	}
	return out, nil
}

// Decimal is a decimal number as text, which keeps its scale: "12.50".
type Decimal string

func (d Decimal) valid() bool {
	text := strings.TrimPrefix(string(d), "-")
	whole, exponent, scientific := strings.Cut(text, "E")
	whole, fraction, fractional := strings.Cut(whole, ".")
	exponent = strings.TrimPrefix(strings.TrimPrefix(exponent, "+"), "-")
	return digits(whole) && (!fractional || digits(fraction)) && (!scientific || digits(exponent)) && strings.Count(text, "E") < 2
}

func digits(text string) bool {
	for _, c := range text {
		if c < '0' || c > '9' {
			return false
		}
	}
	return text != ""
}

// Rat is the number's exact value; false when the text is no decimal.
func (d Decimal) Rat() (*big.Rat, bool) {
	if !d.valid() {
		return nil, false
	}
	return new(big.Rat).SetString(string(d))
}

// Date is a day of the calendar.
type Date struct {
	Year  int
	Month time.Month
	Day   int
}

func (d Date) String() string { return fmt.Sprintf("%04d-%02d-%02d", d.Year, int(d.Month), d.Day) }

func parseDate(text string) (Date, bool) {
	t, err := time.Parse("2006-01-02", text)
	if err != nil {
		return Date{}, false
	}
	return Date{t.Year(), t.Month(), t.Day()}, true
}

// LocalTime is a date and a time of day without an offset: what a wall clock somewhere shows. The zone of the time inside is UTC and means nothing.
type LocalTime struct {
	Time time.Time `json:"-"`
}

func (l LocalTime) String() string { return l.Time.Format(localLayout) }

const localLayout = "2006-01-02T15:04:05.999999999"

func formatTime(t time.Time) string {
	// RFC 3339 knows offsets of whole minutes; the instant counts, so an odd one is written in UTC.
	if _, offset := t.Zone(); offset%60 != 0 {
		t = t.UTC()
	}
	return t.Format("2006-01-02T15:04:05.999999999Z07:00")
}

// parseTime is a time.Time, a LocalTime, or nil.
func parseTime(text string) any {
	if len(text) < 19 || text[10] != 'T' || strings.ContainsAny(text, ",") {
		return nil
	}
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return t
	}
	if t, err := time.Parse(localLayout, text); err == nil {
		return LocalTime{t}
	}
	return nil
}

// formatDuration is ISO 8601 in seconds, which needs no calendar to be read: PT3.5S.
func formatDuration(d time.Duration) string {
	sign, whole := "", uint64(d)
	if d < 0 {
		sign, whole = "-", -uint64(d)
	}
	text := fmt.Sprintf("%sPT%d", sign, whole/1e9)
	if nanos := whole % 1e9; nanos != 0 {
		text += "." + strings.TrimRight(fmt.Sprintf("%09d", nanos), "0")
	}
	return text + "S"
}

func parseDuration(text string) (time.Duration, bool) {
	rest, negative := strings.CutPrefix(text, "-")
	rest, begins := strings.CutPrefix(rest, "PT")
	rest, ends := strings.CutSuffix(rest, "S")
	whole, fraction, fractional := strings.Cut(rest, ".")
	if !begins || !ends || !digits(whole) || (fractional && !digits(fraction)) {
		return 0, false
	}
	if len(fraction) > 9 {
		fraction = fraction[:9]
	}
	nanos, ok := new(big.Int).SetString(whole+fraction+strings.Repeat("0", 9-len(fraction)), 10)
	if negative {
		nanos.Neg(nanos)
	}
	return time.Duration(nanos.Int64()), ok && nanos.IsInt64()
}

// Object is a JSON object that keeps the order of its keys. A map[string]T is written in the order of its keys, for a Go map has none.
type Object []Member

// Member is one key of an Object with its value.
type Member struct {
	Key   string
	Value any
}

// Get is the value of a key.
func (o Object) Get(key string) (any, bool) {
	for _, member := range o {
		if member.Key == key {
			return member.Value, true
		}
	}
	return nil, false
}

// Set is a set of anything; a map[T]struct{} is written and read alike.
type Set []any

// Entries is a map in order, with keys of any type; a map[K]V whose K is no string is written in the order of its keys' text.
type Entries []Entry

// Entry is one key of Entries with its value.
type Entry struct {
	Key   any
	Value any
}

// MarshalText and UnmarshalText are for encoding/json, where the same type is sent elsewhere.
func (u UUID) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

func (u *UUID) UnmarshalText(text []byte) error {
	parsed, err := ParseUUID(string(text))
	*u = parsed
	return err
}
