//! Python tuples and lists to frames and back. Knows the value kinds of the border and no operation.

use everstep::protocol::frame::{Value, decode, encode};
use pyo3::exceptions::{PyOverflowError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyFloat, PyInt, PyList, PyString, PyTuple};

/// A frame of the values of `arguments`.
pub(crate) fn pack(arguments: &Bound<'_, PyTuple>) -> PyResult<Vec<u8>> {
    let values = arguments.iter().map(|item| to_value(&item)).collect::<PyResult<Vec<_>>>()?;
    Ok(encode(&values))
}

/// The values of a frame as a tuple.
pub(crate) fn unpack<'py>(py: Python<'py>, frame: &[u8]) -> PyResult<Bound<'py, PyTuple>> {
    let values = decode(frame).map_err(|message| crate::refused("frame_invalid", &message.to_string()))?;
    let items = values.into_iter().map(|value| to_python(py, value)).collect::<PyResult<Vec<_>>>()?;
    PyTuple::new(py, items)
}

fn to_value(item: &Bound<'_, PyAny>) -> PyResult<Value> {
    if item.is_none() {
        Ok(Value::Null)
    } else if let Ok(text) = item.cast::<PyString>() {
        Ok(Value::Str(text.to_str()?.to_owned()))
    } else if let Ok(bytes) = item.cast::<PyBytes>() {
        Ok(Value::Bytes(bytes.as_bytes().to_vec()))
    } else if let Ok(flag) = item.cast::<PyBool>() {
        Ok(Value::Bool(flag.is_true()))
    } else if let Ok(number) = item.cast::<PyInt>() {
        let number = number.extract::<i64>().map_err(|_| PyOverflowError::new_err("a whole number of the border has 64 bits"))?;
        Ok(Value::Int(number))
    } else if let Ok(number) = item.cast::<PyFloat>() {
        Ok(Value::Float(number.value()))
    } else if let Ok(list) = item.cast::<PyList>() {
        Ok(Value::List(list.iter().map(|item| to_value(&item)).collect::<PyResult<_>>()?))
    } else if let Ok(tuple) = item.cast::<PyTuple>() {
        Ok(Value::List(tuple.iter().map(|item| to_value(&item)).collect::<PyResult<_>>()?))
    } else {
        Err(PyTypeError::new_err(format!("no value of the border: {}", item.get_type().name()?)))
    }
}

fn to_python(py: Python<'_>, value: Value) -> PyResult<Bound<'_, PyAny>> {
    Ok(match value {
        Value::Null => py.None().into_bound(py),
        Value::Bool(flag) => PyBool::new(py, flag).to_owned().into_any(),
        Value::Int(number) => number.into_pyobject(py)?.into_any(),
        Value::Float(number) => PyFloat::new(py, number).into_any(),
        Value::Str(text) => PyString::new(py, &text).into_any(),
        Value::Bytes(bytes) => PyBytes::new(py, &bytes).into_any(),
        Value::List(items) => {
            let items = items.into_iter().map(|item| to_python(py, item)).collect::<PyResult<Vec<_>>>()?;
            PyList::new(py, items)?.into_any()
        }
    })
}
