// Package frame packs and unpacks the positional lists of values that cross the border (core/docs/protocol.md). It knows no operation.
package frame

import (
	"encoding/binary"
	"math"
	"sync"
	"unicode/utf8"
)

const (
	tagNull = iota
	tagFalse
	tagTrue
	tagInt
	tagFloat
	tagStr
	tagBytes
	tagList
)

// Writer writes values one after another. Its methods return it, so that a frame reads as one line.
type Writer struct {
	data []byte
	bad  string
}

// Every call of a workflow takes three frames, and each is dead once it has crossed: they were a third of what a step allocated.
var writers = sync.Pool{New: func() any { return &Writer{data: make([]byte, 0, 256)} }}

// Room beyond this is not kept: one large payload must not stay in memory for good.
const mostKept = 4096

// New is an empty writer with room for an ordinary frame.
func New() *Writer {
	w := writers.Get().(*Writer)
	w.data, w.bad = w.data[:0], ""
	return w
}

// Free gives the writer back. Whoever hands a frame to the engine does it: nothing of it may be used afterwards.
func (w *Writer) Free() {
	if w != nil && cap(w.data) <= mostKept {
		writers.Put(w)
	}
}

// Data is the frame so far.
func (w *Writer) Data() []byte {
	if w == nil {
		return nil
	}
	return w.data
}

func (w *Writer) Null() *Writer { w.data = append(w.data, tagNull); return w }

func (w *Writer) Bool(b bool) *Writer {
	tag := byte(tagFalse)
	if b {
		tag = tagTrue
	}
	w.data = append(w.data, tag)
	return w
}

func (w *Writer) Int(i int64) *Writer {
	w.data = binary.LittleEndian.AppendUint64(append(w.data, tagInt), uint64(i))
	return w
}

func (w *Writer) Float(f float64) *Writer {
	w.data = binary.LittleEndian.AppendUint64(append(w.data, tagFloat), math.Float64bits(f))
	return w
}

func (w *Writer) Str(s string) *Writer {
	if !utf8.ValidString(s) {
		w.bad = s
	}
	w.data = append(binary.LittleEndian.AppendUint32(append(w.data, tagStr), uint32(len(s))), s...)
	return w
}

func (w *Writer) Bytes(b []byte) *Writer {
	w.data = append(binary.LittleEndian.AppendUint32(append(w.data, tagBytes), uint32(len(b))), b...)
	return w
}

// List announces a list of count values, which must follow.
func (w *Writer) List(count int) *Writer {
	w.data = binary.LittleEndian.AppendUint32(append(w.data, tagList), uint32(count))
	return w
}

// OptStr writes null for an empty text.
func (w *Writer) OptStr(s string) *Writer {
	if s == "" {
		return w.Null()
	}
	return w.Str(s)
}

// Maybe writes null for nil.
func (w *Writer) Maybe(s *string) *Writer {
	if s == nil {
		return w.Null()
	}
	return w.Str(*s)
}

// OptBytes writes null for nil.
func (w *Writer) OptBytes(b []byte) *Writer {
	if b == nil {
		return w.Null()
	}
	return w.Bytes(b)
}

// OptInt writes null for nil.
func (w *Writer) OptInt(i *int64) *Writer {
	if i == nil {
		return w.Null()
	}
	return w.Int(*i)
}

// Append writes what another writer holds.
func (w *Writer) Append(other *Writer) *Writer {
	w.data = append(w.data, other.Data()...)
	if other != nil && other.bad != "" {
		w.bad = other.bad
	}
	return w
}

// NotText is a text among the values that is not UTF-8; "" where all are. Only a program's own can be: the engine would call the frame malformed.
func (w *Writer) NotText() string {
	if w == nil {
		return ""
	}
	return w.bad
}

// Value writes a value of any of the border's types; false when it has none of them.
func (w *Writer) Value(value any) bool {
	switch v := value.(type) {
	case nil:
		w.Null()
	case bool:
		w.Bool(v)
	case int64:
		w.Int(v)
	case float64:
		w.Float(v)
	case string:
		w.Str(v)
	case []byte:
		w.Bytes(v)
	default:
		return false
	}
	return true
}
