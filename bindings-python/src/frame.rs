//! Python tuples and lists to frames and back. Knows the value kinds of the border and no operation.

use everstep::protocol::frame::{Value, Writer, decode};
use pyo3::exceptions::{PyOverflowError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyFloat, PyInt, PyList, PyString, PyTuple};

/// A frame of the values of `arguments`.
pub(crate) fn pack(arguments: &Bound<'_, PyTuple>) -> PyResult<Vec<u8>> {
    let mut frame = Writer::new();
    for item in arguments.iter() {
        write(&mut frame, &item)?;
    }
    Ok(frame.finish())
}

/// The values of a frame as a tuple.
pub(crate) fn unpack<'py>(py: Python<'py>, frame: &[u8]) -> PyResult<Bound<'py, PyTuple>> {
    let values = decode(frame).map_err(|message| crate::refused("frame_invalid", &message.to_string()))?;
    let items = values.into_iter().map(|value| to_python(py, value)).collect::<PyResult<Vec<_>>>()?;
    PyTuple::new(py, items)
}

fn write(frame: &mut Writer, item: &Bound<'_, PyAny>) -> PyResult<()> {
    if item.is_none() {
        frame.null();
    } else if let Ok(text) = item.cast::<PyString>() {
        frame.str(text.to_str()?);
    } else if let Ok(bytes) = item.cast::<PyBytes>() {
        frame.bytes(bytes.as_bytes());
    } else if let Ok(flag) = item.cast::<PyBool>() {
        frame.bool(flag.is_true());
    } else if let Ok(number) = item.cast::<PyInt>() {
        frame.int(number.extract::<i64>().map_err(|_| PyOverflowError::new_err("a whole number of the border has 64 bits"))?);
    } else if let Ok(number) = item.cast::<PyFloat>() {
        frame.float(number.value());
    } else if let Ok(list) = item.cast::<PyList>() {
        frame.list(list.len());
        for item in list.iter() {
            write(frame, &item)?;
        }
    } else if let Ok(tuple) = item.cast::<PyTuple>() {
        frame.list(tuple.len());
        for item in tuple.iter() {
            write(frame, &item)?;
        }
    } else {
        return Err(PyTypeError::new_err(format!("no value of the border: {}", item.get_type().name()?)));
    }
    Ok(())
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
