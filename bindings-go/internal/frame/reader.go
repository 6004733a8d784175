package frame

import (
	"encoding/binary"
	"errors"
	"math"
)

// ErrMalformed is a frame that does not parse, or a value of another type than asked for.
var ErrMalformed = errors.New("a frame of the border is malformed")

// Reader reads values in order, in place: what it returns lies in the frame. What a frame leaves out at its end reads as null. The first error
// sticks, so a caller asks once, at the end.
type Reader struct {
	rest []byte
	bad  bool
}

// Read starts at the beginning of a frame.
func Read(data []byte) Reader { return Reader{rest: data} }

// Err is ErrMalformed when anything read so far was not as asked for.
func (r *Reader) Err() error {
	if r.bad {
		return ErrMalformed
	}
	return nil
}

// More says whether anything is left.
func (r *Reader) More() bool { return len(r.rest) > 0 && !r.bad }

func (r *Reader) take(n uint64) []byte {
	if r.bad || n > uint64(len(r.rest)) {
		r.bad = true
		return nil
	}
	head := r.rest[:n:n]
	r.rest = r.rest[n:]
	return head
}

func (r *Reader) tag() byte {
	if len(r.rest) == 0 || r.bad {
		return tagNull
	}
	return r.take(1)[0]
}

func (r *Reader) word() uint64 {
	data := r.take(8)
	if data == nil {
		return 0
	}
	return binary.LittleEndian.Uint64(data)
}

func (r *Reader) sized() []byte {
	data := r.take(4)
	if data == nil {
		return nil
	}
	return r.take(uint64(binary.LittleEndian.Uint32(data)))
}

func (r *Reader) Int() int64 {
	value, _ := r.OptInt()
	return value
}

func (r *Reader) OptInt() (int64, bool) {
	switch r.tag() {
	case tagNull:
		return 0, false
	case tagInt:
		return int64(r.word()), true
	}
	r.bad = true
	return 0, false
}

func (r *Reader) Bool() bool {
	switch r.tag() {
	case tagNull, tagFalse:
		return false
	case tagTrue:
		return true
	}
	r.bad = true
	return false
}

// Str is "" for null.
func (r *Reader) Str() string { return string(r.Text()) }

// Text is Str in place, and nil for null.
func (r *Reader) Text() []byte {
	switch r.tag() {
	case tagNull:
		return nil
	case tagStr:
		return r.sized()
	}
	r.bad = true
	return nil
}

// Bytes is nil for null, and not nil for an empty value.
func (r *Reader) Bytes() []byte {
	switch r.tag() {
	case tagNull:
		return nil
	case tagBytes:
		if data := r.sized(); data != nil {
			return data
		}
	}
	r.bad = true
	return nil
}

// List is the number of values that follow; 0 for null.
func (r *Reader) List() int {
	switch r.tag() {
	case tagNull:
		return 0
	case tagList:
		if data := r.take(4); data != nil {
			return int(binary.LittleEndian.Uint32(data))
		}
	}
	r.bad = true
	return 0
}

// Value is nil, bool, int64, float64, string, []byte or []any.
func (r *Reader) Value() any {
	switch r.tag() {
	case tagNull:
		return nil
	case tagFalse:
		return false
	case tagTrue:
		return true
	case tagInt:
		return int64(r.word())
	case tagFloat:
		return math.Float64frombits(r.word())
	case tagStr:
		return string(r.sized())
	case tagBytes:
		return append([]byte{}, r.sized()...)
	case tagList:
		data := r.take(4)
		if data == nil {
			return nil
		}
		// One byte a value at least: a wrong count cannot make us reserve more than the frame could hold.
		count := min(uint64(binary.LittleEndian.Uint32(data)), uint64(len(r.rest)))
		out := make([]any, 0, count)
		for range count {
			out = append(out, r.Value())
		}
		return out
	}
	r.bad = true
	return nil
}

// Event is one completion out of a queue.
type Event struct {
	Token uint64
	Kind  uint32
	Frame []byte
}

// Events unpacks a batch: [u64 token][u32 kind][u32 length][frame], little-endian, one after another.
func Events(batch []byte, handle func(Event)) {
	for len(batch) >= 16 {
		length := uint64(binary.LittleEndian.Uint32(batch[12:]))
		if length > uint64(len(batch)-16) {
			return
		}
		handle(Event{binary.LittleEndian.Uint64(batch), binary.LittleEndian.Uint32(batch[8:]), batch[16 : 16+length : 16+length]})
		batch = batch[16+length:]
	}
}

// Rest is what was not read yet.
func (r *Reader) Rest() []byte { return r.rest }
