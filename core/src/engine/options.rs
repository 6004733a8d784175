//! Options of registrations and of starts, and what of them travels with the run as JSON.

use serde::{Deserialize, Serialize};

use super::error::{EngineError, Result};
use super::identity::check_name;
use crate::protocol::errors::Code;
use crate::protocol::frame::{Reader, bounded_ms};
use crate::run::retry::PartialRetry;
use crate::store::{Dedup, DedupPolicy, DedupScope, Due};

/// `options` of `register`, JSON.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegisterOptions {
    /// Runs of this client executing at once; the last registration that names it wins.
    pub slots: Option<i64>,
    pub retry: Option<PartialRetry>,
    pub deadline_ms: Option<i64>,
    pub on_finish: Option<String>,
    /// Runs only on workers, and starts only go to workers, of this label.
    pub label: Option<String>,
}

impl RegisterOptions {
    /// `what` begins every error: these are read for each function of a program. What is wrong is said here, not by each start.
    pub fn read(what: &str, text: &str) -> Result<RegisterOptions> {
        let read: RegisterOptions = from_json(what, text)?;
        read.checked().map_err(|e| e.about(what))
    }

    fn checked(self) -> Result<RegisterOptions> {
        if let Some(refused) = self.retry.as_ref().and_then(PartialRetry::refused) {
            return Err(EngineError::new(Code::ConfigInvalid, refused));
        }
        if let Some(slots) = self.slots.filter(|slots| *slots < 1) {
            return Err(EngineError::new(Code::ConfigInvalid, format!("slots must be at least 1, not {slots}")));
        }
        not_below("deadline", 0, self.deadline_ms)?;
        name("on_finish", self.on_finish.as_deref())?;
        name("the label", self.label.as_deref())?;
        Ok(RegisterOptions { deadline_ms: self.deadline_ms.map(bounded_ms), retry: self.retry.map(PartialRetry::bounded), ..self })
    }
}

/// JSON of a host, with the name of the field that is wrong in the error; positions in the text would say nothing to who never saw it.
pub fn from_json<T: serde::de::DeserializeOwned>(what: &str, text: &str) -> Result<T> {
    serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_str(text)).map_err(|error| {
        let path = error.path().to_string();
        let said = error.inner().to_string();
        let said = said.split(" at line ").next().unwrap_or_default();
        let named = if path == "." { what.to_owned() } else { format!("{what}: {path}") };
        EngineError::new(Code::ConfigInvalid, format!("{named}: {said}"))
    })
}

/// A RUN_OPTIONS record.
#[derive(Debug, Default)]
pub struct StartOptions {
    pub id: Option<String>,
    pub queue: Option<String>,
    pub label: Option<String>,
    pub priority: i32,
    pub start: Option<Due>,
    pub expires_ms: Option<i64>,
    pub deadline_ms: Option<i64>,
    pub version: Option<String>,
    pub attributes: Option<String>,
    pub fairness_key: Option<String>,
    pub cost: i32,
    pub created_by: Option<String>,
    pub dedup: Option<Dedup>,
    pub retry: Option<PartialRetry>,
    pub on_finish: Option<String>,
    pub trace_parent: Option<String>,
    pub trace_state: Option<String>,
    pub reuse_purged: bool,
    /// Start it although its name looks mistyped.
    pub unchecked: bool,
}

/// What travels with the run: it may be executed by a process that registered other options.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct RunOptions {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<PartialRetry>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_finish: Option<String>,
}

impl RunOptions {
    pub fn to_text(&self) -> Option<String> {
        if self.retry.is_none() && self.on_finish.is_none() {
            return None;
        }
        serde_json::to_string(self).ok()
    }

    pub fn from_text(text: Option<&str>) -> Self {
        text.and_then(|t| serde_json::from_str(t).ok()).unwrap_or_default()
    }
}

fn name(what: &str, value: Option<&str>) -> Result<Option<String>> {
    if let Some(v) = value {
        check_name(what, v)?;
    }
    Ok(value.map(str::to_owned))
}

impl StartOptions {
    /// Reads the record where the frame's reader stands; null is all defaults.
    pub fn read(frame: &mut Reader<'_>) -> Result<Self> {
        let Some(mut r) = frame.opt_list()? else {
            return Ok(StartOptions { cost: 1, ..StartOptions::default() });
        };
        let r = &mut r;
        let id = name("the run's id", r.opt_str()?)?;
        let queue = name("the queue's name", r.opt_str()?)?;
        let label = name("the label", r.opt_str()?)?;
        let priority = r.opt_int()?.unwrap_or(0);
        if !(-MOST_PRIORITY..=MOST_PRIORITY).contains(&priority) {
            let message = format!("priority must be between -{MOST_PRIORITY} and {MOST_PRIORITY}, it is {priority}");
            return Err(EngineError::new(Code::ConfigInvalid, message));
        }
        let delay = r.opt_ms()?.filter(|ms| *ms > 0).map(Due::After);
        let start = r.opt_int()?.map(Due::at);
        if delay.is_some() && start.is_some() {
            return Err(EngineError::new(Code::ConfigInvalid, "delay and start_at both say when the run starts: name one of them"));
        }
        let start = start.or(delay);
        let expires_ms = not_below("expires", 0, r.opt_ms()?)?;
        let deadline_ms = not_below("deadline", 0, r.opt_ms()?)?;
        let version = name("version", r.opt_str()?)?;
        let attributes = r.opt_str()?.map(attributes).transpose()?;
        let fairness_key = name("the fairness key", r.opt_str()?)?;
        let cost = not_below("cost", 0, r.opt_int()?)?.unwrap_or(1).min(i32::MAX.into()) as i32;
        let created_by = name("created_by", r.opt_str()?)?;
        let key = name("the dedup key", r.opt_str()?)?;
        let (scope, policy, ttl) = (r.opt_str()?, r.opt_str()?, r.opt_ms()?);
        let dedup = key.map(|key| dedup(key, scope, policy, ttl)).transpose()?;
        let retry = PartialRetry::read(r)?;
        if let Some(refused) = retry.as_ref().and_then(PartialRetry::refused) {
            return Err(EngineError::new(Code::ConfigInvalid, refused));
        }
        Ok(StartOptions {
            id,
            queue,
            label,
            priority: priority as i32,
            start,
            expires_ms,
            deadline_ms,
            version,
            attributes,
            fairness_key,
            cost,
            created_by,
            dedup,
            retry,
            on_finish: name("on_finish", r.opt_str()?)?,
            trace_parent: trace("trace_parent", 512, r.opt_str()?)?,
            trace_state: trace("trace_state", 8192, r.opt_str()?)?,
            reuse_purged: r.bool()?,
            unchecked: r.bool()?,
        })
    }
}

const MOST_PRIORITY: i64 = 100_000;

/// Headers of somebody else's request: their form is not the engine's business, what a database takes is.
fn trace(what: &str, most: usize, value: Option<&str>) -> Result<Option<String>> {
    match value {
        Some(v) if v.len() > most || v.chars().any(char::is_control) => {
            Err(EngineError::new(Code::ConfigInvalid, format!("{what} must be at most {most} bytes without control characters; it has {} bytes", v.len())))
        }
        _ => Ok(value.map(str::to_owned)),
    }
}

fn not_below(what: &str, least: i64, value: Option<i64>) -> Result<Option<i64>> {
    match value {
        Some(n) if n < least => Err(EngineError::new(Code::ConfigInvalid, format!("{what} must not be below {least}, it is {n}"))),
        _ => Ok(value),
    }
}

/// Flat, so that a list can be filtered by one.
fn attributes(text: &str) -> Result<String> {
    let refused = not_flat;
    let value: serde_json::Value = serde_json::from_str(text).map_err(|e| refused(&e.to_string()))?;
    let object = value.as_object().ok_or_else(|| refused("it is no object"))?;
    object.iter().try_for_each(|(name, value)| one_attribute(name, value))?;
    Ok(text.to_owned())
}

fn not_flat(why: &str) -> EngineError {
    EngineError::new(Code::PayloadInvalid, format!("attributes must be a flat JSON object of strings, numbers and booleans: {why}"))
}

fn one_attribute(name: &str, value: &serde_json::Value) -> Result<()> {
    if value.is_array() || value.is_object() {
        return Err(not_flat(&format!("\"{name}\" is nested")));
    }
    // PostgreSQL cannot look into a document that holds one: every list by an attribute would fail over this run.
    if name.contains('\0') || value.as_str().is_some_and(|v| v.contains('\0')) {
        return Err(not_flat("a name or a text in it holds the character U+0000"));
    }
    Ok(())
}

/// Name and JSON of an attribute that runs are listed by: what no run can have is refused, as it is at a start.
pub fn attribute(name: &str, value: &str) -> Result<(String, String)> {
    one_attribute(name, &serde_json::from_str(value).map_err(|e| not_flat(&e.to_string()))?)?;
    Ok((name.to_owned(), value.to_owned()))
}

fn dedup(key: String, scope: Option<&str>, policy: Option<&str>, ttl_ms: Option<i64>) -> Result<Dedup> {
    let refused = |what: String| EngineError::new(Code::ConfigInvalid, what);
    let scope = match scope.unwrap_or("until_done") {
        "queued" => DedupScope::Queued,
        "until_done" => DedupScope::UntilDone,
        "ttl" => DedupScope::Ttl(ttl_ms.filter(|t| *t > 0).ok_or_else(|| refused("dedup scope ttl needs a duration above 0".into()))?),
        other => return Err(refused(format!("dedup scope must be queued, until_done or ttl, not {other}"))),
    };
    let policy = match policy.unwrap_or("attach") {
        "attach" => DedupPolicy::Attach,
        "reject" => DedupPolicy::Reject,
        "replace" => DedupPolicy::Replace,
        other => return Err(refused(format!("dedup policy must be attach, reject or replace, not {other}"))),
    };
    Ok(Dedup { key, scope, policy })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registration_is_checked_as_a_start_is_and_names_its_function() {
        let read = |text: &str| RegisterOptions::read("options of \"pay\"", text);
        let refused = [
            (r#"{"deadline_ms":-5}"#, Code::ConfigInvalid, "deadline must not be below 0, it is -5"),
            (r#"{"retry":{"max_ms":-5}}"#, Code::ConfigInvalid, "retry.max_ms"),
            (r#"{"slots":0}"#, Code::ConfigInvalid, "slots must be at least 1, not 0"),
            (r#"{"on_finish":""}"#, Code::IdInvalid, "on_finish must be 1 to 255 bytes"),
            (r#"{"on_finish":"a\u0000"}"#, Code::IdInvalid, "on_finish"),
            (r#"{"label":"a\nb"}"#, Code::IdInvalid, "label"),
        ];
        for (text, code, said) in refused {
            let e = read(text).expect_err(text);
            assert!(e.code == code && e.message.starts_with("options of \"pay\": ") && e.message.contains(said), "{}", e.message);
        }
        // "For ever" of a host: an interval of the database ends before i64 does.
        let longest = i64::MAX;
        let text = format!(r#"{{"deadline_ms":{longest},"retry":{{"initial_ms":{longest},"max_ms":{longest},"timeout_ms":{longest}}}}}"#);
        let options = read(&text).unwrap();
        let retry = options.retry.unwrap();
        for ms in [options.deadline_ms, retry.initial_ms, retry.max_ms, retry.timeout_ms] {
            assert_eq!(ms, Some(bounded_ms(longest)));
        }
        assert!(bounded_ms(longest) < longest / 1000);
    }

    #[test]
    fn attributes_are_flat_and_hold_what_both_databases_can_look_into() {
        for text in [r#"{"a":1,"b":"two","c":true,"d":null}"#, "{}", r#"{"a":"\\u0000"}"#] {
            assert_eq!(attributes(text).expect(text), text);
        }
        for text in ["[]", r#"{"a":[1]}"#, r#"{"a":{}}"#, r#"{"a":"x\u0000"}"#, r#"{"a\u0000":1}"#, "{"] {
            assert_eq!(attributes(text).expect_err(text).code, Code::PayloadInvalid, "{text}");
        }
        assert_eq!(attribute("a", "1.0").ok(), Some(("a".into(), "1.0".into())));
        for (name, value) in [("a\0", "1"), ("a", r#""x\u0000""#), ("a", "[1]"), ("a", "not JSON")] {
            assert_eq!(attribute(name, value).expect_err(value).code, Code::PayloadInvalid, "{value}");
        }
    }

    /// RUN_OPTIONS with these texts, all else left out.
    fn start_with(version: Option<&str>, trace_parent: Option<&str>, trace_state: Option<&str>) -> Result<StartOptions> {
        let mut w = crate::protocol::frame::Writer::new();
        w.list(23);
        (0..8).for_each(|_| {
            w.null();
        });
        w.opt_str(version);
        (0..10).for_each(|_| {
            w.null();
        });
        w.opt_str(trace_parent).opt_str(trace_state).bool(false).bool(false);
        StartOptions::read(&mut Reader::new(&w.finish()))
    }

    #[test]
    fn version_and_trace_of_a_start_are_checked() {
        let started = start_with(Some("v1"), Some(""), Some("a=b")).expect("is good");
        assert_eq!((started.version.as_deref(), started.trace_parent.as_deref(), started.trace_state.as_deref()), (Some("v1"), Some(""), Some("a=b")));
        assert_eq!(start_with(Some("v\0"), None, None).expect_err("refused").code, Code::IdInvalid);
        assert_eq!(start_with(Some(&"v".repeat(256)), None, None).expect_err("refused").code, Code::IdInvalid);
        for (parent, state, named) in [(Some("a\0".to_owned()), None, "trace_parent"), (None, Some("x".repeat(8193)), "trace_state")] {
            let error = start_with(None, parent.as_deref(), state.as_deref()).expect_err("refused");
            assert!(error.code == Code::ConfigInvalid && error.message.starts_with(named), "{}", error.message);
        }
    }
}
