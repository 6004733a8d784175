package payload

import (
	"reflect"
	"slices"
	"sort"
	"strings"
)

// field is one field of a struct as encoding/json would write it: its tags, its names and its rules for embedded structs.
type field struct {
	name      string
	index     []int
	omitEmpty bool
	omitZero  bool
	tagged    bool
}

// of follows the path to the field; false when an embedded pointer on the way is nil.
func (f *field) of(v reflect.Value) (reflect.Value, bool) {
	if len(f.index) == 1 {
		return v.Field(f.index[0]), true
	}
	for _, i := range f.index {
		if v.Kind() == reflect.Pointer {
			if v.IsNil() {
				return reflect.Value{}, false
			}
			v = v.Elem()
		}
		v = v.Field(i)
	}
	return v, true
}

func (f *field) omitted(v reflect.Value) bool {
	if f.omitZero {
		// Its own IsZero may be in the method set and have no receiver to ask: that of a *time.Time is time.Time's.
		if v.Kind() == reflect.Pointer && v.IsNil() {
			return true
		}
		if own, ok := v.Interface().(interface{ IsZero() bool }); ok {
			return own.IsZero()
		}
		return v.IsZero()
	}
	if !f.omitEmpty {
		return false
	}
	switch v.Kind() {
	case reflect.Array, reflect.Map, reflect.Slice, reflect.String:
		return v.Len() == 0
	case reflect.Bool, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64, reflect.Uint, reflect.Uint8, reflect.Uint16,
		reflect.Uint32, reflect.Uint64, reflect.Uintptr, reflect.Float32, reflect.Float64, reflect.Interface, reflect.Pointer:
		return v.IsZero()
	}
	return false
}

// fieldsOf are the fields that are written, in the order of their declaration.
func fieldsOf(t reflect.Type) []field {
	fields, _ := dominant(candidates(t, nil, nil))
	return fields
}

// candidates are the fields of a struct and of those embedded in it. reflect.VisibleFields would not do: it goes by the names in Go, and two
// fields of one name there may have two names on the wire.
func candidates(t reflect.Type, path []int, within []reflect.Type) []field {
	var all []field
	for i := range t.NumField() {
		f := t.Field(i)
		tag := f.Tag.Get("json")
		name, options, _ := strings.Cut(tag, ",")
		if tag == "-" {
			continue
		}
		index := append(slices.Clone(path), i)
		if f.Anonymous && name == "" && structLike(f.Type) {
			embedded := f.Type
			if embedded.Kind() == reflect.Pointer {
				embedded = embedded.Elem()
			}
			// A struct that embeds itself adds nothing the outer one does not have.
			if embedded != t && !slices.Contains(within, embedded) {
				all = append(all, candidates(embedded, index, append(slices.Clone(within), t))...)
			}
			continue
		}
		if !f.IsExported() {
			continue
		}
		one := field{name: name, index: index, tagged: name != ""}
		if name == "" {
			one.name = f.Name
		}
		for option := range strings.SplitSeq(options, ",") {
			one.omitEmpty = one.omitEmpty || option == "omitempty"
			one.omitZero = one.omitZero || option == "omitzero"
		}
		all = append(all, one)
	}
	return all
}

// structLike: a struct, or a pointer to one, that is written field by field.
func structLike(t reflect.Type) bool {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t.Kind() == reflect.Struct && !special(t)
}

// dominant keeps, of several fields with one name, the least nested one, then the tagged one; of two equals none, and says their name.
func dominant(all []field) (fields []field, ambiguous string) {
	byName := map[string][]field{}
	for _, f := range all {
		byName[f.name] = append(byName[f.name], f)
	}
	out := all[:0:0]
	for _, same := range byName {
		sort.SliceStable(same, func(i, j int) bool {
			if len(same[i].index) != len(same[j].index) {
				return len(same[i].index) < len(same[j].index)
			}
			return same[i].tagged && !same[j].tagged
		})
		if len(same) > 1 && len(same[0].index) == len(same[1].index) && same[0].tagged == same[1].tagged {
			ambiguous = same[0].name
			continue
		}
		out = append(out, same[0])
	}
	sort.Slice(out, func(i, j int) bool {
		a, b := out[i].index, out[j].index
		for k := 0; k < len(a) && k < len(b); k++ {
			if a[k] != b[k] {
				return a[k] < b[k]
			}
		}
		return len(a) < len(b)
	})
	return out, ambiguous
}

// special types have a form of their own and are not looked into.
func special(t reflect.Type) bool {
	switch t {
	case timeType, bigIntType, dateType, localTimeType:
		return true
	}
	pointer := reflect.PointerTo(t)
	return pointer.Implements(marshaler) || pointer.Implements(textMarshaler)
}

func isUUID(t reflect.Type) bool {
	if t == uuidType {
		return true
	}
	return t.Kind() == reflect.Array && t.Len() == 16 && t.Elem().Kind() == reflect.Uint8 && t.Name() == "UUID" && t.Implements(textMarshaler)
}

// Check names what of a type could not be written, read back, or would be lost: a channel, an interface nobody can fill again, an unexported field.
func Check(t reflect.Type) error {
	if err := check(t, map[reflect.Type]bool{}); err != nil {
		return err
	}
	return nil
}

func check(t reflect.Type, seen map[reflect.Type]bool) *Error {
	if seen[t] || t == setType || t == objectType || t == entriesType || t == decimalType || t == uuidType || isUUID(t) {
		return nil
	}
	seen[t] = true
	if t.Kind() != reflect.Interface && special(t) {
		return checkSpecial(t)
	}
	switch t.Kind() {
	case reflect.Chan, reflect.Func, reflect.UnsafePointer, reflect.Complex64, reflect.Complex128:
		return invalid("a %s has no form on the wire: %s", t.Kind(), t)
	case reflect.Interface:
		if t.NumMethod() > 0 {
			return invalid("the interface %s cannot be read back: nothing says which type it was. Use a struct, or any", t)
		}
	case reflect.Pointer, reflect.Slice, reflect.Array:
		return check(t.Elem(), seen)
	case reflect.Map:
		if err := check(t.Key(), seen); err != nil {
			return err.within("[key]")
		}
		if t.Elem() == emptyType {
			return nil
		}
		return check(t.Elem(), seen)
	case reflect.Struct:
		return checkStruct(t, seen)
	}
	return nil
}

// checkSpecial: a text is read back by UnmarshalText, or into a string. What MarshalJSON writes may well fit the type as it is.
func checkSpecial(t reflect.Type) *Error {
	if err := overridden(t); err != nil {
		return err
	}
	pointer := reflect.PointerTo(t)
	if pointer.Implements(textMarshaler) && !pointer.Implements(marshaler) && t.Kind() != reflect.String &&
		!pointer.Implements(textUnmarshaler) && !pointer.Implements(unmarshaler) {
		return invalid("%s has a MarshalText and no UnmarshalText, so it could not be read back: add one", t)
	}
	return nil
}

func embeddedPointer(t reflect.Type) *Error {
	return invalid("%s is embedded as a pointer to an unexported type, which no reader can fill: embed it by value, or export it", t)
}

func checkStruct(t reflect.Type, seen map[reflect.Type]bool) *Error {
	if err := losing(t); err != nil {
		return err
	}
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Tag.Get("json") == "-" || f.Name == "_" {
			continue
		}
		if f.Anonymous && !f.IsExported() && f.Type.Kind() == reflect.Pointer {
			return embeddedPointer(f.Type)
		}
		if err := check(f.Type, seen); err != nil {
			return err.within(".%s", f.Name)
		}
	}
	return nil
}

// losing names a field of a struct that would not be written.
func losing(t reflect.Type) *Error {
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Tag.Get("json") != "-" && f.Name != "_" && !f.IsExported() && !(f.Anonymous && structLike(f.Type)) {
			return invalid(`the field %s of %s is unexported and would be lost: export it, or tag it json:"-"`, f.Name, t)
		}
	}
	if _, name := dominant(candidates(t, nil, nil)); name != "" {
		return invalid("two fields of %s are named %q and both would be lost: give one another name", t, name)
	}
	return nil
}
