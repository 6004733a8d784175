package payload

import (
	"encoding/json"
	"math"
	"math/big"
	"reflect"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// Fields by name of each struct that was read into.
var readers sync.Map

// Decode reads a text into what target points to. A type is never chosen by what the text says.
func Decode(data []byte, target any) error {
	if text, ok := target.(*string); ok && plainString(data) {
		*text = string(data[1 : len(data)-1])
		return nil
	}
	value, err := parse(data)
	if err == nil {
		err = assign(value, reflect.ValueOf(target).Elem())
	}
	if err != nil {
		return err
	}
	return nil
}

// Parse reads a text as it stands: objects keep the order of their keys.
func Parse(data []byte) (any, error) {
	value, err := parse(data)
	if err != nil {
		return nil, err
	}
	return value, nil
}

// plainString: one string without escapes.
func plainString(data []byte) bool {
	last := len(data) - 1
	if last < 1 || data[0] != '"' || data[last] != '"' {
		return false
	}
	for _, c := range data[1:last] {
		if c < 0x20 || c == '"' || c == '\\' {
			return false
		}
	}
	return utf8.Valid(data)
}

func unfit(value any, v reflect.Value) *Error {
	return invalid("the stored value is %s, which does not fit %s", kindOf(value), v.Type())
}

func kindOf(value any) string {
	switch value.(type) {
	case nil:
		return "null"
	case bool:
		return "a boolean"
	case int64, *big.Int:
		return "an integer"
	case float64:
		return "a double"
	case string:
		return "a string"
	case []any:
		return "a list"
	case Object:
		return "an object"
	case Decimal:
		return "a decimal"
	case []byte:
		return "bytes"
	case time.Time:
		return "a time"
	case LocalTime:
		return "a local date-time"
	case Date:
		return "a date"
	case UUID:
		return "a uuid"
	case Set:
		return "a set"
	}
	return "a map"
}

// assign puts a parsed value into v.
func assign(value any, v reflect.Value) *Error {
	t := v.Type()
	switch t.Kind() {
	case reflect.Pointer:
		if value == nil {
			v.SetZero()
			return nil
		}
		if v.IsNil() {
			v.Set(reflect.New(t.Elem()))
		}
		return assign(value, v.Elem())
	case reflect.Interface:
		if t.NumMethod() > 0 {
			return invalid("the interface %s cannot be filled: nothing says which type it was", t)
		}
		if value == nil {
			v.SetZero()
		} else {
			v.Set(reflect.ValueOf(plain(value)))
		}
		return nil
	}
	if done, err := assignSpecial(value, v); done {
		return err
	}
	if value == nil {
		v.SetZero()
		return nil
	}
	if done, err := assignOwn(value, v); done {
		return err
	}
	return assignKind(value, v)
}

// plain is what a value that is read into `any` looks like: objects are maps, for that is what Go programs expect.
func plain(value any) any {
	switch v := value.(type) {
	case []any:
		for i := range v {
			v[i] = plain(v[i])
		}
	case Set:
		for i := range v {
			v[i] = plain(v[i])
		}
	case Object:
		out := make(map[string]any, len(v))
		for _, member := range v {
			out[member.Key] = plain(member.Value)
		}
		return out
	case Entries:
		for i := range v {
			v[i].Key, v[i].Value = plain(v[i].Key), plain(v[i].Value)
		}
	}
	return value
}

// assignSpecial is for types with a tag of their own.
func assignSpecial(value any, v reflect.Value) (bool, *Error) {
	fits := func(ok bool) (bool, *Error) {
		if !ok && value == nil {
			v.SetZero()
			return true, nil
		}
		if !ok {
			return true, unfit(value, v)
		}
		return true, nil
	}
	switch target := v.Addr().Interface().(type) {
	case *time.Time:
		if text, ok := value.(string); ok {
			value = parseTime(text) // Of a program that has no tags.
		}
		t, ok := value.(time.Time)
		if ok {
			*target = fixed(t)
		} else if _, local := value.(LocalTime); local {
			return true, invalid("the stored time has no offset: read it as a LocalTime")
		}
		return fits(ok)
	case *LocalTime:
		t, ok := value.(LocalTime)
		*target = t
		return fits(ok)
	case *time.Duration:
		text, ok := value.(string)
		if ok {
			*target, ok = parseDuration(text)
		}
		return fits(ok)
	case *Date:
		d, ok := value.(Date)
		*target = d
		return fits(ok)
	case *Decimal:
		d, ok := value.(Decimal)
		if n, whole := value.(int64); whole {
			d, ok = Decimal(big.NewInt(n).String()), true
		}
		*target = d
		return fits(ok)
	case *big.Int:
		switch n := value.(type) {
		case *big.Int:
			target.Set(n)
			return true, nil
		case int64:
			target.SetInt64(n)
			return true, nil
		}
		return fits(false)
	case *Object:
		o, ok := value.(Object)
		if pairs, isMap := value.(Entries); isMap {
			o, ok = pairs.object()
		}
		*target = o
		return fits(ok)
	case *Set:
		s, ok := value.(Set)
		*target = s
		return fits(ok)
	case *Entries:
		e, ok := value.(Entries)
		*target = e
		return fits(ok)
	case *json.Number:
		text, ok := numberText(value)
		*target = json.Number(text)
		return fits(ok)
	}
	if isUUID(v.Type()) {
		u, ok := value.(UUID)
		if text, isText := value.(string); isText {
			parsed, err := ParseUUID(text)
			u, ok = parsed, err == nil
		}
		v.Set(reflect.ValueOf(u).Convert(v.Type()))
		return fits(ok)
	}
	return false, nil
}

// object of pairs whose keys are all strings: one with a key $es of the user's own.
func (e Entries) object() (Object, bool) {
	out := make(Object, len(e))
	for i, pair := range e {
		key, ok := pair.Key.(string)
		if !ok {
			return nil, false
		}
		out[i] = Member{key, pair.Value}
	}
	return out, true
}

func assignKind(value any, v reflect.Value) *Error {
	switch v.Kind() {
	case reflect.Bool:
		if b, ok := value.(bool); ok {
			v.SetBool(b)
			return nil
		}
	case reflect.String:
		if s, ok := value.(string); ok {
			v.SetString(s)
			return nil
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		if n, ok := whole(value); ok && n.IsInt64() && !v.OverflowInt(n.Int64()) {
			v.SetInt(n.Int64())
			return nil
		}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		if n, ok := whole(value); ok && n.IsUint64() && !v.OverflowUint(n.Uint64()) {
			v.SetUint(n.Uint64())
			return nil
		}
	case reflect.Float32, reflect.Float64:
		switch n := value.(type) {
		case float64:
			v.SetFloat(n)
			return nil
		case int64:
			v.SetFloat(float64(n))
			return nil
		}
	case reflect.Slice, reflect.Array:
		return assignList(value, v)
	case reflect.Map:
		return assignMap(value, v)
	case reflect.Struct:
		if pairs, ok := value.(Entries); ok {
			if object, all := pairs.object(); all {
				value = object
			}
		}
		if object, ok := value.(Object); ok {
			return assignStruct(object, v)
		}
	}
	return unfit(value, v)
}

// whole is an integer, or a double without a fraction: a language with one kind of number writes 3.0 as 3, and reads it so.
func whole(value any) (*big.Int, bool) {
	switch n := value.(type) {
	case int64:
		return big.NewInt(n), true
	case *big.Int:
		return n, true
	case float64:
		if n == math.Trunc(n) && math.Abs(n) <= maxSafe {
			return big.NewInt(int64(n)), true
		}
	}
	return nil, false
}

func assignList(value any, v reflect.Value) *Error {
	if data, ok := value.([]byte); ok && v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Uint8 {
		v.SetBytes(append([]byte{}, data...))
		return nil
	}
	if set, ok := value.(Set); ok {
		value = []any(set)
	}
	items, ok := value.([]any)
	if !ok || v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Uint8 {
		return unfit(value, v)
	}
	if v.Kind() == reflect.Array {
		if len(items) != v.Len() {
			return invalid("the stored list has %d items, %s has %d", len(items), v.Type(), v.Len())
		}
	} else {
		v.Set(reflect.MakeSlice(v.Type(), len(items), len(items)))
	}
	for i, item := range items {
		if err := assign(item, v.Index(i)); err != nil {
			return err.within("[%d]", i)
		}
	}
	return nil
}

func assignMap(value any, v reflect.Value) *Error {
	var pairs Entries
	switch given := value.(type) {
	case Object:
		pairs = make(Entries, len(given))
		for i, member := range given {
			pairs[i] = Entry{member.Key, member.Value}
		}
	case Entries:
		pairs = given
	case Set:
		if v.Type().Elem() != emptyType {
			return unfit(value, v)
		}
		for _, item := range given {
			pairs = append(pairs, Entry{item, nil})
		}
	default:
		return unfit(value, v)
	}
	t := v.Type()
	out := reflect.MakeMapWithSize(t, len(pairs))
	for _, pair := range pairs {
		key, element := reflect.New(t.Key()).Elem(), reflect.New(t.Elem()).Elem()
		if err := assign(pair.Key, key); err != nil {
			return err.within("[key]")
		}
		if !key.Comparable() {
			return invalid("%s cannot be the key of a map in Go: read it as Entries", kindOf(pair.Key))
		}
		if err := assign(pair.Value, element); err != nil {
			return err.within("[%v]", pair.Key)
		}
		out.SetMapIndex(key, element)
	}
	v.Set(out)
	return nil
}

func assignStruct(object Object, v reflect.Value) *Error {
	fields := readersOf(v.Type())
	for _, member := range object {
		f := fields[member.Key]
		if f == nil {
			// As encoding/json: another case will do where no name fits exactly.
			if f = fields[strings.ToLower(member.Key)]; f == nil || !strings.EqualFold(f.name, member.Key) {
				continue
			}
		}
		target, err := f.reach(v)
		if err == nil {
			err = assign(member.Value, target)
		}
		if err != nil {
			return err.within(".%s", member.Key)
		}
	}
	return nil
}

// reach follows the path to the field and makes embedded pointers on the way.
func (f *field) reach(v reflect.Value) (reflect.Value, *Error) {
	for _, i := range f.index {
		if v.Kind() == reflect.Pointer {
			if v.IsNil() {
				if !v.CanSet() {
					return v, embeddedPointer(v.Type())
				}
				v.Set(reflect.New(v.Type().Elem()))
			}
			v = v.Elem()
		}
		v = v.Field(i)
	}
	return v, nil
}

func readersOf(t reflect.Type) map[string]*field {
	if known, ok := readers.Load(t); ok {
		return known.(map[string]*field)
	}
	fields := fieldsOf(t)
	byName := make(map[string]*field, 2*len(fields))
	for i := range fields {
		folded := strings.ToLower(fields[i].name)
		if byName[folded] == nil {
			byName[folded] = &fields[i]
		}
	}
	for i := range fields {
		byName[fields[i].name] = &fields[i]
	}
	readers.Store(t, byName)
	return byName
}
