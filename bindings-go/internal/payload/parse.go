package payload

import (
	"encoding/base64"
	"math"
	"math/big"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"
)

// parse reads one whole text: nil, bool, int64, float64, string, []any, Object, and what tags stand for: *big.Int, Decimal, []byte, time.Time,
// LocalTime, Date, UUID, Set, Entries. encoding/json is not used: it has one number, loses the order of keys, and replaces what is not UTF-8.
func parse(data []byte) (any, *Error) { return (&parser{what: "the stored value"}).whole(data) }

// parseForeign reads JSON that is not ours: without tags, and with every digit of its numbers (see exactly).
func parseForeign(data []byte) (any, *Error) {
	return (&parser{what: "its JSON", foreign: true}).whole(data)
}

func (p *parser) whole(data []byte) (any, *Error) {
	if !utf8.Valid(data) {
		return nil, invalid("%s is not UTF-8", p.what)
	}
	p.text = string(data)
	value, err := p.value(0)
	if err != nil {
		return nil, err
	}
	if p.space(); p.at < len(p.text) {
		return nil, p.unreadable()
	}
	return value, nil
}

type parser struct {
	text string
	at   int
	// what is read, for messages.
	what    string
	foreign bool
	// names are the keys of objects so far, those of a long text that are its own.
	names map[string]string
}

// What is read lies in the text, and keeps all of it in memory: of a short one nobody minds.
const shortText = 1024

// Of a list of records every key after the first one's is known. Keys without end are those of a map, which has each but once.
const mostNames = 256

// kept is a part of the text that may outlive it.
func (p *parser) kept(part string) string {
	if len(p.text) <= shortText {
		return part
	}
	return strings.Clone(part)
}

func (p *parser) name(key string) string {
	if len(p.text) <= shortText {
		return key
	}
	if known, ok := p.names[key]; ok {
		return known
	}
	key = strings.Clone(key)
	if p.names == nil {
		p.names = map[string]string{}
	}
	if len(p.names) < mostNames {
		p.names[key] = key
	}
	return key
}

func (p *parser) unreadable() *Error {
	if p.at >= len(p.text) {
		return invalid("%s is cut short", p.what)
	}
	return invalid("%s is no JSON at byte %d", p.what, p.at)
}

func (p *parser) space() {
	for p.at < len(p.text) {
		switch p.text[p.at] {
		case ' ', '\t', '\n', '\r':
			p.at++
		default:
			return
		}
	}
}

// next takes c, after white space.
func (p *parser) next(c byte) bool {
	p.space()
	if p.at < len(p.text) && p.text[p.at] == c {
		p.at++
		return true
	}
	return false
}

func (p *parser) word(word string, value any) (any, *Error) {
	if !strings.HasPrefix(p.text[p.at:], word) {
		return nil, p.unreadable()
	}
	p.at += len(word)
	return value, nil
}

func (p *parser) value(depth int) (any, *Error) {
	p.space()
	if p.at >= len(p.text) {
		return nil, p.unreadable()
	}
	switch c := p.text[p.at]; {
	case c == '"':
		text, err := p.str()
		return p.kept(text), err
	case c == '{' || c == '[':
		if depth >= maxDepth {
			return nil, invalid("nested deeper than %d levels", maxDepth)
		}
		p.at++
		if c == '[' {
			return p.list(depth + 1)
		}
		return p.object(depth + 1)
	case c == 't':
		return p.word("true", true)
	case c == 'f':
		return p.word("false", false)
	case c == 'n':
		return p.word("null", nil)
	case c == '-' || c >= '0' && c <= '9':
		return p.number()
	}
	return nil, p.unreadable()
}

func (p *parser) list(depth int) (any, *Error) {
	out := []any{}
	if p.next(']') {
		return out, nil
	}
	for {
		item, err := p.value(depth)
		if err != nil {
			return nil, err
		}
		out = append(out, item)
		if p.next(']') {
			return out, nil
		}
		if !p.next(',') {
			return nil, p.unreadable()
		}
	}
}

func (p *parser) object(depth int) (any, *Error) {
	out := Object{}
	tagged := false
	if p.next('}') {
		return out, nil
	}
	for {
		if p.space(); p.at >= len(p.text) || p.text[p.at] != '"' {
			return nil, p.unreadable()
		}
		key, err := p.str()
		if err != nil {
			return nil, err
		}
		if !p.next(':') {
			return nil, p.unreadable()
		}
		key = p.name(key)
		value, err := p.value(depth)
		if err != nil {
			return nil, err
		}
		tagged = tagged || key == "$es"
		out = append(out, Member{key, value})
		if p.next('}') {
			break
		}
		if !p.next(',') {
			return nil, p.unreadable()
		}
	}
	if tagged && !p.foreign {
		return untag(out)
	}
	return distinct(out)
}

// distinct keeps the last of repeated keys: a row written by hand may hold some.
func distinct(object Object) (any, *Error) {
	if len(object) > 16 {
		return distinctOfMany(object)
	}
	out := object[:0]
	for _, member := range object {
		repeated := false
		for j := range out {
			if out[j].Key == member.Key {
				out[j].Value, repeated = member.Value, true
				break
			}
		}
		if !repeated {
			out = append(out, member)
		}
	}
	return out, nil
}

// distinctOfMany looks keys up: comparing each with each takes minutes where there are many.
func distinctOfMany(object Object) (any, *Error) {
	at := make(map[string]int, len(object))
	out := object[:0]
	for _, member := range object {
		if i, repeated := at[member.Key]; repeated {
			out[i].Value = member.Value
			continue
		}
		at[member.Key] = len(out)
		out = append(out, member)
	}
	return out, nil
}

func (p *parser) number() (any, *Error) {
	start := p.at
	if p.text[p.at] == '-' {
		p.at++
	}
	count := func() int {
		from := p.at
		for p.at < len(p.text) && p.text[p.at] >= '0' && p.text[p.at] <= '9' {
			p.at++
		}
		return p.at - from
	}
	leading := p.at
	whole := count()
	if whole == 0 || whole > 1 && p.text[leading] == '0' {
		return nil, p.unreadable()
	}
	integer := true
	if p.at < len(p.text) && p.text[p.at] == '.' {
		p.at++
		integer = false
		if count() == 0 {
			return nil, p.unreadable()
		}
	}
	if p.at < len(p.text) && (p.text[p.at] == 'e' || p.text[p.at] == 'E') {
		p.at++
		integer = false
		if p.at < len(p.text) && (p.text[p.at] == '+' || p.text[p.at] == '-') {
			p.at++
		}
		if count() == 0 {
			return nil, p.unreadable()
		}
	}
	text := p.text[start:p.at]
	if p.foreign {
		return exactly(text, integer), nil
	}
	if integer {
		if n, err := strconv.ParseInt(text, 10, 64); err == nil && n >= -maxSafe && n <= maxSafe {
			return n, nil
		}
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil && math.IsInf(f, 0) {
		return nil, invalid("the number %.40s is beyond a double", text)
	}
	return f, nil
}

func (p *parser) str() (string, *Error) {
	p.at++
	start := p.at
	for p.at < len(p.text) {
		switch c := p.text[p.at]; {
		case c == '"':
			p.at++
			return p.text[start : p.at-1], nil
		case c == '\\':
			return p.escaped(start)
		case c < 0x20:
			return "", p.unreadable()
		}
		p.at++
	}
	return "", p.unreadable()
}

func (p *parser) escaped(start int) (string, *Error) {
	out := append(make([]byte, 0, p.at-start+32), p.text[start:p.at]...)
	for p.at < len(p.text) {
		c := p.text[p.at]
		p.at++
		switch {
		case c == '"':
			return string(out), nil
		case c < 0x20:
			p.at--
			return "", p.unreadable()
		case c != '\\':
			out = append(out, c)
			continue
		}
		if p.at >= len(p.text) {
			break
		}
		c = p.text[p.at]
		p.at++
		switch c {
		case '"', '\\', '/':
			out = append(out, c)
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			unit, ok := p.unit()
			if ok && utf16.IsSurrogate(unit) {
				var low rune
				if strings.HasPrefix(p.text[p.at:], `\u`) {
					p.at += 2
					low, ok = p.unit()
				}
				if unit = utf16.DecodeRune(unit, low); unit == utf8.RuneError {
					return "", invalid("a string holds a lone surrogate, which has no UTF-8 form")
				}
			}
			if !ok {
				return "", p.unreadable()
			}
			out = utf8.AppendRune(out, unit)
		default:
			p.at--
			return "", p.unreadable()
		}
	}
	return "", p.unreadable()
}

func (p *parser) unit() (rune, bool) {
	if p.at+4 > len(p.text) {
		return 0, false
	}
	n, err := strconv.ParseUint(p.text[p.at:p.at+4], 16, 16)
	p.at += 4
	return rune(n), err == nil
}

// untag reads an object with a key $es: always a tag, exactly $es and v.
func untag(object Object) (any, *Error) {
	name, _ := object.Get("$es")
	value, has := object.Get("v")
	if len(object) != 2 || !has {
		return nil, invalid("an object with a key $es has exactly $es and v")
	}
	tag, ok := name.(string)
	if !ok {
		return nil, invalid("a tag is a string")
	}
	switch tag {
	case "set":
		if items, ok := value.([]any); ok {
			return Set(items), nil
		}
		return nil, malformed(tag)
	case "map":
		return entries(value)
	}
	text, ok := value.(string)
	if !ok {
		return nil, malformed(tag)
	}
	switch tag {
	case "int":
		if digits(strings.TrimPrefix(text, "-")) {
			if n, err := strconv.ParseInt(text, 10, 64); err == nil {
				return n, nil
			}
			if n, ok := new(big.Int).SetString(text, 10); ok {
				return n, nil
			}
		}
	case "float":
		switch text {
		case "NaN":
			return math.NaN(), nil
		case "Infinity":
			return math.Inf(1), nil
		case "-Infinity":
			return math.Inf(-1), nil
		case "-0":
			return math.Copysign(0, -1), nil
		}
	case "dec":
		if d := Decimal(text); d.valid() {
			return d, nil
		}
	case "bytes":
		// Strict refuses padding bits that are not zero: one value has one text.
		if data, err := base64.StdEncoding.Strict().DecodeString(text); err == nil && !strings.ContainsAny(text, "\r\n") {
			return data, nil
		}
	case "time":
		if t := parseTime(text); t != nil {
			return t, nil
		}
	case "date":
		if d, ok := parseDate(text); ok {
			return d, nil
		}
	case "uuid":
		if u, err := ParseUUID(text); err == nil {
			return u, nil
		}
	default:
		return nil, invalid("unknown tag %q", tag)
	}
	return nil, malformed(tag)
}

func malformed(tag string) *Error { return invalid("malformed value of tag %q", tag) }

func entries(value any) (any, *Error) {
	pairs, ok := value.([]any)
	if !ok {
		return nil, malformed("map")
	}
	out := make(Entries, 0, len(pairs))
	for _, item := range pairs {
		pair, ok := item.([]any)
		if !ok || len(pair) != 2 {
			return nil, malformed("map")
		}
		out = append(out, Entry{pair[0], pair[1]})
	}
	return out, nil
}

// A time that was parsed without a zone name keeps its offset alone: two readers in two zones see the same value.
func fixed(t time.Time) time.Time {
	name, offset := t.Zone()
	if offset == 0 {
		return t.UTC()
	}
	if name != "" {
		return t.In(time.FixedZone("", offset))
	}
	return t
}
