package payload

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"math"
	"math/big"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// Encode is the text of a value.
func Encode(value any) ([]byte, error) {
	switch v := value.(type) {
	case nil:
		return []byte("null"), nil
	case string:
		if out, ok := appendString(make([]byte, 0, len(v)+2), v); ok {
			return out, nil
		}
		return nil, notText()
	case int:
		if v >= -maxSafe && v <= maxSafe {
			return strconv.AppendInt(make([]byte, 0, 20), int64(v), 10), nil
		}
	}
	w := writer{out: make([]byte, 0, 64)}
	if err := w.value(reflect.ValueOf(value), 0); err != nil {
		return nil, err
	}
	return w.out, nil
}

func notText() *Error { return invalid("a string is not UTF-8") }

type writer struct {
	out []byte
	// plain writes what encoding/json would, without tags: for a type that reads itself.
	plain bool
	// pointers that are being followed: a cycle of pointers and interfaces alone has no container to count.
	pointers int
}

type encoder func(w *writer, v reflect.Value, depth int) *Error

var (
	// How a type is written is worked out once.
	encoders sync.Map

	timeType      = reflect.TypeFor[time.Time]()
	durationType  = reflect.TypeFor[time.Duration]()
	bigIntType    = reflect.TypeFor[big.Int]()
	uuidType      = reflect.TypeFor[UUID]()
	decimalType   = reflect.TypeFor[Decimal]()
	dateType      = reflect.TypeFor[Date]()
	localTimeType = reflect.TypeFor[LocalTime]()
	objectType    = reflect.TypeFor[Object]()
	setType       = reflect.TypeFor[Set]()
	entriesType   = reflect.TypeFor[Entries]()
	numberType    = reflect.TypeFor[json.Number]()
	emptyType     = reflect.TypeFor[struct{}]()
)

func (w *writer) value(v reflect.Value, depth int) *Error {
	if !v.IsValid() {
		w.out = append(w.out, "null"...)
		return nil
	}
	return encoderOf(v.Type())(w, v, depth)
}

func encoderOf(t reflect.Type) encoder {
	if known, ok := encoders.Load(t); ok {
		return known.(encoder)
	}
	// A type that contains itself asks for its own encoder while it is made: it gets one that looks again.
	known, loaded := encoders.LoadOrStore(t, encoder(func(w *writer, v reflect.Value, depth int) *Error { return newEncoder(t)(w, v, depth) }))
	if loaded {
		return known.(encoder)
	}
	made := newEncoder(t)
	encoders.Store(t, made)
	return made
}

func newEncoder(t reflect.Type) encoder {
	switch t {
	case timeType:
		return func(w *writer, v reflect.Value, depth int) *Error {
			t := v.Interface().(time.Time)
			if year := t.Year(); year < 0 || year > 9999 {
				return invalid("the year %d has no form in RFC 3339", year)
			}
			return w.tag("time", formatTime(t), depth)
		}
	case durationType:
		return func(w *writer, v reflect.Value, _ int) *Error { return w.str(formatDuration(time.Duration(v.Int()))) }
	case bigIntType:
		return func(w *writer, v reflect.Value, depth int) *Error {
			n := v.Interface().(big.Int)
			return w.big(&n, depth)
		}
	case decimalType:
		return func(w *writer, v reflect.Value, depth int) *Error {
			if !Decimal(v.String()).valid() {
				return invalid("the decimal %.40q cannot be encoded", v.String())
			}
			return w.tag("dec", v.String(), depth)
		}
	case dateType:
		return func(w *writer, v reflect.Value, depth int) *Error {
			text := v.Interface().(Date).String()
			if _, ok := parseDate(text); !ok {
				return invalid("%s is no day of the calendar", text)
			}
			return w.tag("date", text, depth)
		}
	case localTimeType:
		return func(w *writer, v reflect.Value, depth int) *Error {
			return w.tag("time", v.Interface().(LocalTime).String(), depth)
		}
	case objectType:
		return func(w *writer, v reflect.Value, depth int) *Error { return w.object(v.Interface().(Object), depth) }
	case setType:
		return func(w *writer, v reflect.Value, depth int) *Error { return w.set(v.Interface().(Set), depth) }
	case entriesType:
		return func(w *writer, v reflect.Value, depth int) *Error { return w.entries(v.Interface().(Entries), depth) }
	case numberType:
		return func(w *writer, v reflect.Value, depth int) *Error {
			if v.Len() == 0 {
				return w.integer(0, depth) // As encoding/json: the zero value is zero.
			}
			return w.text([]byte(v.String()), depth)
		}
	case emptyType:
		return func(w *writer, _ reflect.Value, _ int) *Error { return w.value(reflect.Value{}, 0) }
	}
	if isUUID(t) {
		return func(w *writer, v reflect.Value, depth int) *Error {
			return w.tag("uuid", v.Convert(uuidType).Interface().(UUID).String(), depth)
		}
	}
	if t.Kind() == reflect.Pointer {
		element := t.Elem()
		return func(w *writer, v reflect.Value, depth int) *Error {
			if v.IsNil() {
				return w.value(reflect.Value{}, depth)
			}
			if w.pointers >= maxPointers {
				return tooDeep()
			}
			w.pointers++
			err := encoderOf(element)(w, v.Elem(), depth)
			w.pointers--
			return err
		}
	}
	if t.Kind() == reflect.Interface {
		return func(w *writer, v reflect.Value, depth int) *Error { return w.value(v.Elem(), depth) }
	}
	if method := ownMarshal(t); method != nil {
		return method
	}
	return plainEncoder(t)
}

func plainEncoder(t reflect.Type) encoder {
	switch t.Kind() {
	case reflect.Bool:
		return func(w *writer, v reflect.Value, _ int) *Error {
			w.out = strconv.AppendBool(w.out, v.Bool())
			return nil
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return func(w *writer, v reflect.Value, depth int) *Error { return w.integer(v.Int(), depth) }
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		return func(w *writer, v reflect.Value, depth int) *Error {
			if n := v.Uint(); n > maxSafe {
				return w.tag("int", strconv.FormatUint(n, 10), depth)
			}
			return w.integer(int64(v.Uint()), depth)
		}
	case reflect.Float32:
		return func(w *writer, v reflect.Value, depth int) *Error { return w.float(v.Float(), depth) }
	case reflect.Float64:
		return func(w *writer, v reflect.Value, depth int) *Error { return w.float(v.Float(), depth) }
	case reflect.String:
		return func(w *writer, v reflect.Value, _ int) *Error { return w.str(v.String()) }
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return func(w *writer, v reflect.Value, depth int) *Error {
				return w.tag("bytes", base64.StdEncoding.EncodeToString(v.Bytes()), depth)
			}
		}
		return listEncoder(t)
	case reflect.Array:
		return listEncoder(t)
	case reflect.Map:
		return mapEncoder(t)
	case reflect.Struct:
		return structEncoder(t)
	}
	return func(*writer, reflect.Value, int) *Error { return invalid("a value of type %s cannot be encoded", t) }
}

func tooDeep() *Error { return invalid("nested deeper than %d levels, or a cycle", maxDepth) }

func listEncoder(t reflect.Type) encoder {
	element := t.Elem()
	return func(w *writer, v reflect.Value, depth int) *Error {
		if depth >= maxDepth {
			return tooDeep()
		}
		write := encoderOf(element)
		w.out = append(w.out, '[')
		for i := range v.Len() {
			if i > 0 {
				w.out = append(w.out, ',')
			}
			if err := write(w, v.Index(i), depth+1); err != nil {
				return err.within("[%d]", i)
			}
		}
		w.out = append(w.out, ']')
		return nil
	}
}

func mapEncoder(t reflect.Type) encoder {
	isSet := t.Elem() == emptyType
	text := t.Key().Kind() == reflect.String && !t.Key().Implements(textMarshaler)
	return func(w *writer, v reflect.Value, depth int) *Error {
		if isSet {
			items := make(Set, 0, v.Len())
			for _, key := range v.MapKeys() {
				items = append(items, key.Interface())
			}
			return w.set(items, depth)
		}
		if text {
			object := make(Object, 0, v.Len())
			for pairs := v.MapRange(); pairs.Next(); {
				object = append(object, Member{pairs.Key().String(), pairs.Value().Interface()})
			}
			slices.SortFunc(object, func(a, b Member) int { return strings.Compare(a.Key, b.Key) })
			return w.object(object, depth)
		}
		type written struct {
			key   []byte
			entry Entry
		}
		sorted := make([]written, 0, v.Len())
		for pairs := v.MapRange(); pairs.Next(); {
			key := writer{}
			if err := key.value(pairs.Key(), depth+3); err != nil {
				return err.within("[key]")
			}
			sorted = append(sorted, written{key.out, Entry{pairs.Key().Interface(), pairs.Value().Interface()}})
		}
		slices.SortFunc(sorted, func(a, b written) int { return bytes.Compare(a.key, b.key) })
		out := make(Entries, len(sorted))
		for i := range sorted {
			out[i] = sorted[i].entry
		}
		return w.entries(out, depth)
	}
}

func structEncoder(t reflect.Type) encoder {
	// A registration has named it where the type was known there; in an `any` it comes up here.
	if err := losing(t); err != nil {
		return func(*writer, reflect.Value, int) *Error { return invalid("%s", err.Message) }
	}
	fields := fieldsOf(t)
	return func(w *writer, v reflect.Value, depth int) *Error {
		if depth >= maxDepth {
			return tooDeep()
		}
		w.out = append(w.out, '{')
		first := true
		for i := range fields {
			f := &fields[i]
			value, ok := f.of(v)
			if !ok || f.omitted(value) {
				continue
			}
			if !first {
				w.out = append(w.out, ',')
			}
			first = false
			w.out, _ = appendString(w.out, f.name)
			w.out = append(w.out, ':')
			if err := encoderOf(value.Type())(w, value, depth+1); err != nil {
				return err.within(".%s", f.name)
			}
		}
		w.out = append(w.out, '}')
		return nil
	}
}

func (w *writer) integer(n int64, depth int) *Error {
	if n < -maxSafe || n > maxSafe {
		return w.tag("int", strconv.FormatInt(n, 10), depth)
	}
	w.out = strconv.AppendInt(w.out, n, 10)
	return nil
}

func (w *writer) big(n *big.Int, depth int) *Error {
	if n.IsInt64() {
		return w.integer(n.Int64(), depth)
	}
	return w.tag("int", n.String(), depth)
}

// float writes as ECMAScript prints a number: shortest digits, an exponent from 1e21 up and below 1e-6.
func (w *writer) float(f float64, depth int) *Error {
	switch {
	case math.IsNaN(f):
		return w.tag("float", "NaN", depth)
	case math.IsInf(f, 1):
		return w.tag("float", "Infinity", depth)
	case math.IsInf(f, -1):
		return w.tag("float", "-Infinity", depth)
	case f == 0 && math.Signbit(f):
		return w.tag("float", "-0", depth)
	}
	if size := math.Abs(f); size != 0 && (size < 1e-6 || size >= 1e21) {
		text := strconv.FormatFloat(f, 'e', -1, 64)
		mantissa, exponent, _ := strings.Cut(text, "e")
		w.out = append(append(append(w.out, mantissa...), 'e', exponent[0]), strings.TrimLeft(exponent[1:], "0")...)
		return nil
	}
	w.out = strconv.AppendFloat(w.out, f, 'f', -1, 64)
	return nil
}

func (w *writer) str(text string) *Error {
	out, ok := appendString(w.out, text)
	if !ok {
		return notText()
	}
	w.out = out
	return nil
}

func (w *writer) tag(name, value string, depth int) *Error {
	if depth >= maxDepth {
		return tooDeep()
	}
	if w.plain {
		return w.untagged(name, value)
	}
	w.out = append(append(append(append(append(w.out, `{"$es":"`...), name...), `","v":"`...), value...), `"}`...)
	return nil
}

func (w *writer) object(object Object, depth int) *Error {
	seen := make(map[string]struct{}, len(object))
	own := false
	for _, member := range object {
		if _, repeated := seen[member.Key]; repeated {
			return invalid("the key %.40q is there twice", member.Key)
		}
		seen[member.Key] = struct{}{}
		own = own || member.Key == "$es"
	}
	if own && !w.plain {
		// A key $es of the user's own: everything of the object is pairs.
		pairs := make(Entries, len(object))
		for i, member := range object {
			pairs[i] = Entry{member.Key, member.Value}
		}
		return w.entries(pairs, depth)
	}
	if depth >= maxDepth {
		return tooDeep()
	}
	w.out = append(w.out, '{')
	for i, member := range object {
		if i > 0 {
			w.out = append(w.out, ',')
		}
		if err := w.str(member.Key); err != nil {
			return err
		}
		w.out = append(w.out, ':')
		if err := w.value(reflect.ValueOf(member.Value), depth+1); err != nil {
			return err.within("[%q]", member.Key)
		}
	}
	w.out = append(w.out, '}')
	return nil
}

func (w *writer) entries(pairs Entries, depth int) *Error {
	if depth+2 >= maxDepth {
		return tooDeep()
	}
	if w.plain {
		return w.untaggedEntries(pairs, depth)
	}
	w.out = append(w.out, `{"$es":"map","v":[`...)
	// By what is written: an int and an int64 are two keys here and one for whoever reads them, who would keep the last.
	seen := make(map[string]struct{}, len(pairs))
	for i, pair := range pairs {
		if i > 0 {
			w.out = append(w.out, ',')
		}
		w.out = append(w.out, '[')
		start := len(w.out)
		if err := w.value(reflect.ValueOf(pair.Key), depth+3); err != nil {
			return err.within("[key %d]", i)
		}
		key := string(w.out[start:])
		if _, repeated := seen[key]; repeated {
			return invalid("the key %.40s is there twice", key)
		}
		seen[key] = struct{}{}
		w.out = append(w.out, ',')
		if err := w.value(reflect.ValueOf(pair.Value), depth+3); err != nil {
			return err.within("[%v]", pair.Key)
		}
		w.out = append(w.out, ']')
	}
	w.out = append(w.out, "]}"...)
	return nil
}

func (w *writer) set(items Set, depth int) *Error {
	if depth+1 >= maxDepth {
		return tooDeep()
	}
	if w.plain {
		return w.value(reflect.ValueOf([]any(items)), depth)
	}
	written := make([][]byte, len(items))
	for i, item := range items {
		one := writer{}
		if err := one.value(reflect.ValueOf(item), depth+2); err != nil {
			return err.within("[element %d]", i)
		}
		written[i] = one.out
	}
	// In the order of their bytes: the same set has the same digest in every process.
	slices.SortFunc(written, bytes.Compare)
	w.out = append(append(append(w.out, `{"$es":"set","v":[`...), bytes.Join(written, []byte{','})...), "]}"...)
	return nil
}

const hexDigits = "0123456789abcdef"

// appendString escapes what RFC 8785 says and nothing else; false: the text is not UTF-8.
func appendString(out []byte, text string) ([]byte, bool) {
	if !utf8.ValidString(text) {
		return out, false
	}
	out = append(out, '"')
	start := 0
	for i := range len(text) {
		c := text[i]
		if c >= 0x20 && c != '"' && c != '\\' {
			continue
		}
		out = append(out, text[start:i]...)
		start = i + 1
		switch c {
		case '"', '\\':
			out = append(out, '\\', c)
		case '\b':
			out = append(out, '\\', 'b')
		case '\t':
			out = append(out, '\\', 't')
		case '\n':
			out = append(out, '\\', 'n')
		case '\f':
			out = append(out, '\\', 'f')
		case '\r':
			out = append(out, '\\', 'r')
		default:
			out = append(out, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	return append(append(out, text[start:]...), '"'), true
}
