//! Frames: positional lists of values, the only thing besides ids that crosses the border (`core/docs/protocol.md`).

use std::fmt;

/// One value of a frame, owned. Glue code converts these; the engine itself reads with [`Reader`] and writes with [`Writer`].
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(String),
    Bytes(Vec<u8>),
    List(Vec<Value>),
}

/// A frame that does not parse, or a value of another type than the operation's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameError(pub String);

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed frame: {}", self.0)
    }
}

impl std::error::Error for FrameError {}

/// Lists in lists: a hostile frame must not exhaust the stack.
const MAX_DEPTH: usize = 16;

pub fn encode(values: &[Value]) -> Vec<u8> {
    let mut w = Writer::new();
    for value in values {
        w.value(value);
    }
    w.finish()
}

pub fn decode(bytes: &[u8]) -> Result<Vec<Value>, FrameError> {
    let mut r = Reader::new(bytes);
    let mut out = Vec::new();
    while !r.at_end() {
        out.push(r.value(0)?);
    }
    Ok(out)
}

/// Writes values one after another.
#[derive(Debug, Default, Clone)]
pub struct Writer(Vec<u8>);

impl Writer {
    pub fn new() -> Self {
        Writer(Vec::with_capacity(64))
    }

    pub fn finish(self) -> Vec<u8> {
        self.0
    }

    pub fn null(&mut self) -> &mut Self {
        self.0.push(0);
        self
    }

    pub fn bool(&mut self, b: bool) -> &mut Self {
        self.0.push(if b { 2 } else { 1 });
        self
    }

    pub fn int(&mut self, i: i64) -> &mut Self {
        self.0.push(3);
        self.0.extend_from_slice(&i.to_le_bytes());
        self
    }

    pub fn float(&mut self, f: f64) -> &mut Self {
        self.0.push(4);
        self.0.extend_from_slice(&f.to_le_bytes());
        self
    }

    pub fn str(&mut self, s: &str) -> &mut Self {
        self.sized(5, s.as_bytes())
    }

    pub fn bytes(&mut self, b: &[u8]) -> &mut Self {
        self.sized(6, b)
    }

    /// Announces a list of `count` values, which must follow.
    pub fn list(&mut self, count: usize) -> &mut Self {
        self.0.push(7);
        self.0.extend_from_slice(&(count as u32).to_le_bytes());
        self
    }

    pub fn opt_str(&mut self, s: Option<&str>) -> &mut Self {
        match s {
            Some(s) => self.str(s),
            None => self.null(),
        }
    }

    pub fn opt_int(&mut self, i: Option<i64>) -> &mut Self {
        match i {
            Some(i) => self.int(i),
            None => self.null(),
        }
    }

    pub fn opt_bytes(&mut self, b: Option<&[u8]>) -> &mut Self {
        match b {
            Some(b) => self.bytes(b),
            None => self.null(),
        }
    }

    pub fn value(&mut self, value: &Value) -> &mut Self {
        match value {
            Value::Null => self.null(),
            Value::Bool(b) => self.bool(*b),
            Value::Int(i) => self.int(*i),
            Value::Float(f) => self.float(*f),
            Value::Str(s) => self.str(s),
            Value::Bytes(b) => self.bytes(b),
            Value::List(l) => {
                self.list(l.len());
                for v in l {
                    self.value(v);
                }
                self
            }
        }
    }

    fn sized(&mut self, tag: u8, data: &[u8]) -> &mut Self {
        self.0.push(tag);
        self.0.extend_from_slice(&(data.len() as u32).to_le_bytes());
        self.0.extend_from_slice(data);
        self
    }
}

const LONGEST_MS: i64 = 1000 * 365 * 86_400_000;

/// A duration. Hosts say "forever" with the longest one they have, and a database's interval ends before i64 does: a refused
/// statement would be tried again and again. A thousand years are as good.
pub fn bounded_ms(ms: i64) -> i64 {
    ms.min(LONGEST_MS)
}

/// Reads values in place. What a frame leaves out at its end reads as null.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
    /// Values left, inside a list; a frame ends with its bytes.
    left: Option<u32>,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes, left: None }
    }

    pub fn at_end(&self) -> bool {
        match self.left {
            Some(left) => left == 0,
            None => self.rest.is_empty(),
        }
    }

    fn tag(&mut self) -> Result<u8, FrameError> {
        if self.at_end() {
            return Ok(0);
        }
        let (tag, rest) = self.rest.split_first().ok_or_else(|| FrameError("cut short".into()))?;
        self.rest = rest;
        if let Some(left) = &mut self.left {
            *left -= 1;
        }
        Ok(*tag)
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], FrameError> {
        if n > self.rest.len() {
            return Err(FrameError("cut short".into()));
        }
        let (head, rest) = self.rest.split_at(n);
        self.rest = rest;
        Ok(head)
    }

    fn u32(&mut self) -> Result<u32, FrameError> {
        let b = self.take(4)?;
        Ok(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }

    fn eight(&mut self) -> Result<[u8; 8], FrameError> {
        let b = self.take(8)?;
        Ok([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]])
    }

    fn sized(&mut self) -> Result<&'a [u8], FrameError> {
        let n = self.u32()? as usize;
        self.take(n)
    }

    pub fn opt_ms(&mut self) -> Result<Option<i64>, FrameError> {
        Ok(self.opt_int()?.map(bounded_ms))
    }

    pub fn opt_int(&mut self) -> Result<Option<i64>, FrameError> {
        match self.tag()? {
            0 => Ok(None),
            3 => Ok(Some(i64::from_le_bytes(self.eight()?))),
            t => Err(wrong("int", t)),
        }
    }

    pub fn int(&mut self) -> Result<i64, FrameError> {
        self.opt_int()?.ok_or_else(|| wrong("int", 0))
    }

    pub fn opt_float(&mut self) -> Result<Option<f64>, FrameError> {
        match self.tag()? {
            0 => Ok(None),
            3 => Ok(Some(i64::from_le_bytes(self.eight()?) as f64)),
            4 => Ok(Some(f64::from_le_bytes(self.eight()?))),
            t => Err(wrong("float", t)),
        }
    }

    pub fn opt_bool(&mut self) -> Result<Option<bool>, FrameError> {
        match self.tag()? {
            0 => Ok(None),
            1 => Ok(Some(false)),
            2 => Ok(Some(true)),
            t => Err(wrong("bool", t)),
        }
    }

    /// Null is false.
    pub fn bool(&mut self) -> Result<bool, FrameError> {
        Ok(self.opt_bool()?.unwrap_or(false))
    }

    pub fn opt_str(&mut self) -> Result<Option<&'a str>, FrameError> {
        match self.tag()? {
            0 => Ok(None),
            5 => std::str::from_utf8(self.sized()?).map(Some).map_err(|_| FrameError("a string is not UTF-8".into())),
            t => Err(wrong("str", t)),
        }
    }

    pub fn str(&mut self) -> Result<&'a str, FrameError> {
        self.opt_str()?.ok_or_else(|| wrong("str", 0))
    }

    pub fn opt_bytes(&mut self) -> Result<Option<&'a [u8]>, FrameError> {
        match self.tag()? {
            0 => Ok(None),
            6 => Ok(Some(self.sized()?)),
            t => Err(wrong("bytes", t)),
        }
    }

    pub fn bytes(&mut self) -> Result<&'a [u8], FrameError> {
        self.opt_bytes()?.ok_or_else(|| wrong("bytes", 0))
    }

    /// A reader over a list's values; this reader goes on behind the list. Null: None.
    pub fn opt_list(&mut self) -> Result<Option<Reader<'a>>, FrameError> {
        match self.tag()? {
            0 => Ok(None),
            7 => {
                let count = self.u32()?;
                let inner = Reader { rest: self.rest, left: Some(count) };
                let mut skip = inner.clone();
                for _ in 0..count {
                    skip.value(1)?;
                }
                self.rest = skip.rest;
                Ok(Some(inner))
            }
            t => Err(wrong("list", t)),
        }
    }

    pub fn value(&mut self, depth: usize) -> Result<Value, FrameError> {
        if depth > MAX_DEPTH {
            return Err(FrameError("lists nested too deep".into()));
        }
        Ok(match self.tag()? {
            0 => Value::Null,
            1 => Value::Bool(false),
            2 => Value::Bool(true),
            3 => Value::Int(i64::from_le_bytes(self.eight()?)),
            4 => Value::Float(f64::from_le_bytes(self.eight()?)),
            5 => Value::Str(String::from_utf8(self.sized()?.to_vec()).map_err(|_| FrameError("a string is not UTF-8".into()))?),
            6 => Value::Bytes(self.sized()?.to_vec()),
            7 => {
                let count = self.u32()?;
                let mut inner = Reader { rest: self.rest, left: Some(count) };
                let mut list = Vec::new();
                while !inner.at_end() {
                    list.push(inner.value(depth + 1)?);
                }
                self.rest = inner.rest;
                Value::List(list)
            }
            t => return Err(FrameError(format!("unknown tag {t}"))),
        })
    }
}

fn wrong(want: &str, tag: u8) -> FrameError {
    let got = ["null", "bool", "bool", "int", "float", "str", "bytes", "list"].get(tag as usize).copied().unwrap_or("an unknown tag");
    FrameError(format!("expected {want}, got {got}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<Value> {
        vec![
            Value::Null,
            Value::Bool(true),
            Value::Int(i64::MIN),
            Value::Float(1.5),
            Value::Str("héllo".into()),
            Value::Bytes(vec![0, 255]),
            Value::List(vec![Value::Int(1), Value::List(vec![]), Value::Str(String::new())]),
            Value::Bool(false),
        ]
    }

    #[test]
    fn round_trip() {
        assert_eq!(decode(&encode(&sample())).unwrap(), sample());
    }

    #[test]
    fn reader_goes_on_behind_a_list_and_reads_what_is_left_out_as_null() {
        let bytes = encode(&[Value::List(vec![Value::Int(7)]), Value::Str("after".into())]);
        let mut r = Reader::new(&bytes);
        let mut inner = r.opt_list().unwrap().unwrap();
        assert_eq!(inner.int().unwrap(), 7);
        assert_eq!(inner.opt_int().unwrap(), None);
        assert_eq!(r.str().unwrap(), "after");
        assert_eq!(r.opt_bytes().unwrap(), None);
    }

    #[test]
    fn every_cut_is_an_error_or_a_shorter_frame_never_a_panic() {
        let bytes = encode(&sample());
        for n in 0..bytes.len() {
            let _ = decode(&bytes[..n]);
        }
        assert!(decode(&[7, 255, 255, 255, 255]).is_err());
        let deep: Vec<u8> = [7u8, 1, 0, 0, 0].repeat(100_000);
        assert!(decode(&deep).is_err());
    }
}
