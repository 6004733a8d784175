//! The functions of `core/docs/protocol.md` for Java.
