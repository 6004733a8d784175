//! TypeScript's tables.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::{Codes, NOTE, Operations, field, integers, strings, upper_camel};

pub fn outputs(root: &Path, operations: &Operations, codes: &Codes) -> Result<Vec<(PathBuf, String)>, String> {
    let lib = root.join("bindings-node/lib");
    Ok(vec![(lib.join("ops_gen.ts"), numbers(operations)?), (lib.join("errors_gen.ts"), errors(codes))])
}

fn numbers(operations: &Operations) -> Result<String, String> {
    let mut out = format!("// {NOTE}\n/* Numbers and field orders of the border. */\n\n");
    for op in &operations.op {
        let _ = writeln!(out, "export const OP_{} = {};", op.name.to_uppercase(), op.number);
    }
    for (prefix, table) in [("EVENT", &operations.event), ("VERDICT", &operations.verdict), ("KIND", &operations.kind), ("FLAG", &operations.flag)] {
        out.push('\n');
        for (name, number) in integers(table)? {
            let _ = writeln!(out, "export const {prefix}_{} = {number};", name.to_uppercase());
        }
    }
    out.push('\n');
    for (name, fields) in &operations.record {
        let fields = strings(name, fields)?.iter().map(|declared| format!("{:?}", field(declared))).collect::<Vec<_>>();
        let _ = writeln!(out, "export const {name} = [{}] as const;", fields.join(", "));
    }
    Ok(out)
}

/// Names a reader would pick where the code's own words do not make one.
const NAMES: &[(&str, &str)] = &[("step_failed", "StepError"), ("internal", "InternalError"), ("stopped", "ExecutionEnded"), ("deadline", "DeadlinePassed")];

fn name_of(code: &str) -> String {
    NAMES.iter().find(|(name, _)| *name == code).map_or_else(|| upper_camel(code), |(_, own)| (*own).to_owned())
}

fn errors(codes: &Codes) -> String {
    let mut out = format!(
        "// {NOTE}\n/* One class per error code. Their names are texts, not identifiers: a minifier renames those. */\n\nimport {{ EverstepError, RunError, SetupError, UsageError }} from \"./error_base.js\";\n"
    );
    // `step_failed` first: what else a step can have failed with derives from its class, so that one `instanceof StepError` sees every failed step.
    let (failed, rest): (Vec<_>, Vec<_>) = codes.iter().partition(|(name, _)| name == "step_failed");
    for (name, code) in failed.iter().chain(rest.iter()) {
        let base = match code.kind.as_str() {
            "setup" => "SetupError",
            "usage" => "UsageError",
            "run" => "RunError",
            "step" if code.outcome => "StepError",
            _ => "EverstepError",
        };
        let own = name_of(name);
        let _ = writeln!(
            out,
            "\n/** {} */\nexport class {own} extends {base} {{\n  static override readonly code: string = {name:?};\n  static override readonly type: string = {own:?};\n}}",
            code.means
        );
    }
    out.push_str("\nexport const BY_CODE: ReadonlyMap<string, typeof EverstepError> = new Map<string, typeof EverstepError>([\n");
    for (name, _) in codes {
        let _ = writeln!(out, "  [{name:?}, {}],", name_of(name));
    }
    out.push_str("]);\n");
    out
}
