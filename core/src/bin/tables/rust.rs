//! The core's own tables.

use std::fmt::Write as _;

use crate::{Codes, NOTE, Operations, field, integers, quoted, strings, upper_camel};

pub fn operations(operations: &Operations) -> Result<String, String> {
    let mut out = format!("// {NOTE}\n#![cfg_attr(rustfmt, rustfmt_skip)]\n\n");
    out.push_str("/// How an operation answers.\n#[derive(Debug, Clone, Copy, PartialEq, Eq)]\npub enum Mode {\n    Call,\n    Submit,\n}\n\n");
    out.push_str("/// One row of `core/ops.toml`.\n#[derive(Debug)]\npub struct Operation {\n    pub number: u32,\n    pub name: &'static str,\n    pub mode: Mode,\n    /// `name:type`, a trailing `?` where it may be left out.\n    pub args: &'static [&'static str],\n    pub returns: &'static [&'static str],\n}\n\n");
    out.push_str("pub const OPERATIONS: &[Operation] = &[\n");
    for op in &operations.op {
        let mode = upper_camel(&op.mode);
        let (number, name) = (op.number, &op.name);
        let _ = writeln!(
            out,
            "    Operation {{ number: {number}, name: {name:?}, mode: Mode::{mode}, args: &[{}], returns: &[{}] }},",
            quoted(&op.args),
            quoted(&op.returns)
        );
    }
    out.push_str("];\n\npub mod op {\n");
    for op in &operations.op {
        let _ = writeln!(out, "    /// {}\n    pub const {}: u32 = {};", op.doc, op.name.to_uppercase(), op.number);
    }
    out.push_str("}\n");
    for (module, kind, table) in
        [("event", "u32", &operations.event), ("verdict", "i64", &operations.verdict), ("kind", "i16", &operations.kind), ("flag", "i64", &operations.flag)]
    {
        let _ = writeln!(out, "\npub mod {module} {{");
        for (name, number) in integers(table)? {
            let _ = writeln!(out, "    pub const {}: {kind} = {number};", name.to_uppercase());
        }
        out.push_str("}\n");
    }
    out.push_str("\n/// Field positions of the records.\npub mod record {\n");
    for (name, fields) in &operations.record {
        let _ = writeln!(out, "    pub mod {} {{", name.to_lowercase());
        let fields = strings(name, fields)?;
        for (position, declared) in fields.iter().enumerate() {
            let _ = writeln!(out, "        /// `{declared}`\n        pub const {}: usize = {position};", field(declared).to_uppercase());
        }
        let _ = writeln!(out, "        pub const FIELDS: usize = {};\n    }}", fields.len());
    }
    out.push_str("}\n");
    Ok(out)
}

pub fn errors(codes: &Codes) -> String {
    let mut out = format!("// {NOTE}\n#![cfg_attr(rustfmt, rustfmt_skip)]\n\n");
    out.push_str("/// A stable error code.\n#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]\npub enum Code {\n");
    for (name, code) in codes {
        let _ = writeln!(out, "    /// {}\n    {},", code.means, upper_camel(name));
    }
    let _ = writeln!(out, "}}\n\nimpl Code {{\n    pub const ALL: [Code; {}] = [", codes.len());
    for (name, _) in codes {
        let _ = writeln!(out, "        Code::{},", upper_camel(name));
    }
    out.push_str("    ];\n\n    pub const fn as_str(self) -> &'static str {\n        match self {\n");
    for (name, _) in codes {
        let _ = writeln!(out, "            Code::{} => {name:?},", upper_camel(name));
    }
    out.push_str("        }\n    }\n\n    pub const fn means(self) -> &'static str {\n        match self {\n");
    for (name, code) in codes {
        let _ = writeln!(out, "            Code::{} => {:?},", upper_camel(name), code.means);
    }
    out.push_str(
        "        }\n    }\n\n    /// setup, usage, run, step, unavailable or internal.\n    pub const fn kind(self) -> &'static str {\n        match self {\n",
    );
    for (name, code) in codes {
        let _ = writeln!(out, "            Code::{} => {:?},", upper_camel(name), code.kind);
    }
    out.push_str(
        "        }\n    }\n\n    pub fn from_name(name: &str) -> Option<Code> {\n        Self::ALL.into_iter().find(|code| code.as_str() == name)\n    }\n}\n",
    );
    out
}
