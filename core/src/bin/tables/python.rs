//! Python's tables.

use std::fmt::Write as _;

use crate::{Codes, NOTE, Operations, field, integers, strings, upper_camel};

pub fn operations(operations: &Operations) -> Result<String, String> {
    let mut out = format!(
        "# {NOTE}\n# ruff: noqa: E501\n\"\"\"Numbers and field orders of the border.\"\"\"\n\nfrom __future__ import annotations\n\nfrom typing import Final\n\n"
    );
    for op in &operations.op {
        let _ = writeln!(out, "OP_{}: Final = {}", op.name.to_uppercase(), op.number);
    }
    for (prefix, table) in [("EVENT", &operations.event), ("VERDICT", &operations.verdict), ("KIND", &operations.kind), ("FLAG", &operations.flag)] {
        out.push('\n');
        for (name, number) in integers(table)? {
            let _ = writeln!(out, "{prefix}_{}: Final = {number}", name.to_uppercase());
        }
    }
    out.push('\n');
    for (name, fields) in &operations.record {
        let _ = writeln!(out, "{name}: Final[tuple[str, ...]] = (");
        for declared in strings(name, fields)? {
            let _ = writeln!(out, "    {:?},", field(&declared));
        }
        out.push_str(")\n");
    }
    Ok(out)
}

/// Names a Python reader would pick where the code's own words do not make one.
const PYTHON_NAMES: &[(&str, &str)] =
    &[("step_failed", "StepError"), ("internal", "InternalError"), ("stopped", "ExecutionEnded"), ("deadline", "DeadlinePassed")];

fn name_of(code: &str) -> String {
    PYTHON_NAMES.iter().find(|(name, _)| *name == code).map_or_else(|| upper_camel(code), |(_, python)| (*python).to_owned())
}

pub fn errors(codes: &Codes) -> String {
    let mut out = format!(
        "# {NOTE}\n# ruff: noqa: E501\n\"\"\"One class per error code.\"\"\"\n\nfrom __future__ import annotations\n\nfrom typing import ClassVar, Final\n\nfrom ._error_base import EverstepError, RunError, SetupError, UsageError\n"
    );
    // `step_failed` first: what else a step can have failed with derives from its class, so that one `except StepError` sees every failed step.
    let (failed, rest): (Vec<_>, Vec<_>) = codes.iter().partition(|(name, _)| name == "step_failed");
    for (name, code) in failed.iter().chain(rest.iter()) {
        let base = match code.kind.as_str() {
            "setup" => "SetupError",
            "usage" => "UsageError",
            "run" => "RunError",
            "step" if code.outcome => "StepError",
            _ => "EverstepError",
        };
        let _ = writeln!(out, "\n\nclass {}({base}):\n    \"\"\"{}\"\"\"\n\n    code: ClassVar[str] = {name:?}", name_of(name), code.means);
    }
    out.push_str("\n\nBY_CODE: Final[dict[str, type[EverstepError]]] = {\n");
    for (name, _) in codes {
        let _ = writeln!(out, "    {name:?}: {},", name_of(name));
    }
    out.push_str("}\n\n__all__ = [\n");
    let mut names: Vec<String> = codes.iter().map(|(name, _)| name_of(name)).collect();
    names.sort();
    for name in names {
        let _ = writeln!(out, "    {name:?},");
    }
    out.push_str("]\n");
    out
}
