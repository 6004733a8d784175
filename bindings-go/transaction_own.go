package everstep

import (
	"context"
	"database/sql/driver"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"time"

	"github.com/everstep/everstep/bindings-go/internal/frame"
	"github.com/everstep/everstep/bindings-go/internal/ops"
)

// Tx is a transaction on the engine's own connection. Placeholders are $1, $2 on both stores.
type Tx struct {
	execution *execution
	number    int64
}

// Rows are the rows of one statement. Values are nil, bool, int64, float64, string or []byte.
type Rows struct {
	Columns []string
	Rows    [][]any
	// Affected counts the rows the statement changed.
	Affected int
}

// Scalar is the first column of the first row, nil where there is none.
func (r *Rows) Scalar() any {
	if len(r.Rows) == 0 || len(r.Rows[0]) == 0 {
		return nil
	}
	return r.Rows[0][0]
}

// Maps are the rows by column name.
func (r *Rows) Maps() []map[string]any {
	out := make([]map[string]any, len(r.Rows))
	for i, row := range r.Rows {
		out[i] = make(map[string]any, len(row))
		for j, value := range row {
			out[i][r.Columns[j]] = value
		}
	}
	return out
}

// Execute runs one statement. A parameter that is no scalar goes as the text a database reads: a driver.Valuer (sql.NullString, uuid.UUID) as its
// value, times in RFC 3339, the rest as JSON.
func (tx *Tx) Execute(ctx context.Context, sql string, parameters ...any) (*Rows, error) {
	if tx == nil {
		return nil, refuse(ErrConfigInvalid, "the transaction is nil")
	}
	w := frame.New().Int(tx.number).Str(sql).List(len(parameters))
	for i, parameter := range parameters {
		value, err := scalar(parameter)
		if err != nil {
			return nil, refuse(ErrPayloadInvalid, "parameter $%d: %v", i+1, err)
		}
		w.Value(value)
	}
	r, err := tx.execution.request(ctx, ops.TxExecute, w)
	if err != nil {
		return nil, err
	}
	out := &Rows{}
	for range r.List() {
		out.Columns = append(out.Columns, r.Str())
	}
	for range r.List() {
		row, _ := r.Value().([]any)
		out.Rows = append(out.Rows, row)
	}
	out.Affected = int(r.Int())
	return out, r.Err()
}

// scalar is what the border carries.
func scalar(value any) (any, error) {
	switch v := value.(type) {
	case nil, bool, int64, float64, string, []byte:
		return value, nil
	case time.Time:
		return v.Format(time.RFC3339Nano), nil
	case UUID, Date, LocalTime:
		return v.(interface{ String() string }).String(), nil
	}
	v := reflect.ValueOf(value)
	if valuer, ok := value.(driver.Valuer); ok && !(v.Kind() == reflect.Pointer && v.IsNil()) {
		inner, err := valuer.Value()
		if _, again := inner.(driver.Valuer); err != nil || again {
			return nil, errors.Join(err, fmt.Errorf("%T.Value: no value of a database", value))
		}
		return scalar(inner)
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return nil, nil
		}
		return scalar(v.Elem().Interface())
	case reflect.Bool:
		return v.Bool(), nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return v.Int(), nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		if n := v.Uint(); n <= math.MaxInt64 {
			return int64(n), nil
		}
	case reflect.Float32, reflect.Float64:
		return v.Float(), nil
	case reflect.String:
		return v.String(), nil
	case reflect.Slice:
		// A type of bytes is bytes, as sql.RawBytes is, unless it says itself how it is written, as json.RawMessage and net.IP do.
		_, isJSON := value.(json.Marshaler)
		_, isText := value.(encoding.TextMarshaler)
		if v.Type().Elem().Kind() == reflect.Uint8 && !isJSON && !isText {
			return v.Bytes(), nil
		}
	}
	text, err := json.Marshal(value)
	return string(text), err
}
