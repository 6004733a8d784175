//! What the engine answers when it cannot do what was asked: a stable code and a text that says what to do.

use crate::protocol::errors::Code;
use crate::protocol::frame::{FrameError, Writer};
use crate::store::StoreError;

#[derive(Debug, Clone)]
pub struct EngineError {
    pub code: Code,
    pub message: String,
}

impl EngineError {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        EngineError { code, message: message.into() }
    }

    /// The code's own meaning is all there is to say.
    pub fn plain(code: Code) -> Self {
        EngineError::new(code, code.means())
    }

    /// Of a panic: a bug in the engine, which must cost neither the host process nor an answer.
    pub fn panicked(panic: Box<dyn std::any::Any + Send>) -> Self {
        let what = panic.downcast_ref::<&str>().map(|s| (*s).to_owned()).or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "panic".into());
        EngineError::new(Code::Internal, format!("{}: {what}", Code::Internal.means()))
    }

    /// The same, and what it is about.
    pub fn about(self, what: &str) -> Self {
        EngineError { message: format!("{what}: {}", self.message), ..self }
    }

    pub fn frame(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.str(self.code.as_str()).str(&self.message);
        w.finish()
    }
}

impl std::fmt::Display for EngineError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.message)
    }
}

impl From<FrameError> for EngineError {
    fn from(e: FrameError) -> Self {
        EngineError::new(Code::FrameInvalid, e.to_string())
    }
}

impl From<StoreError> for EngineError {
    fn from(e: StoreError) -> Self {
        match e {
            StoreError::Setup { code, message } => EngineError::new(Code::from_name(code).unwrap_or(Code::Internal), message),
            StoreError::Configured(m) => EngineError::new(Code::BlockedByConfig, m),
            StoreError::Unavailable(m) | StoreError::Conflict(m) => EngineError::new(Code::Unavailable, m),
            StoreError::Rejected { sqlstate, message } => EngineError::new(Code::Internal, format!("the database refused a statement ({sqlstate}): {message}")),
        }
    }
}

pub type Result<T> = std::result::Result<T, EngineError>;
