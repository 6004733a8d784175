//! Java's tables.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::{Codes, NOTE, Operations, field, integers, strings};

pub fn outputs(root: &Path, operations: &Operations, codes: &Codes) -> Result<Vec<(PathBuf, String)>, String> {
    let package = root.join("bindings-java/everstep/src/main/java/dev/everstep");
    Ok(vec![(package.join("Ops.java"), ops(operations)?), (package.join("ErrorCode.java"), error_codes(codes))])
}

fn ops(operations: &Operations) -> Result<String, String> {
    let mut out = format!("// {NOTE}\npackage dev.everstep;\n\nimport java.util.List;\n\n/** Numbers and field orders of the border. */\nfinal class Ops {{\n");
    for op in &operations.op {
        let _ = writeln!(out, "  static final int {} = {};", op.name.to_uppercase(), op.number);
    }
    for (prefix, table) in [("EVENT", &operations.event), ("VERDICT", &operations.verdict), ("KIND", &operations.kind), ("FLAG", &operations.flag)] {
        out.push('\n');
        for (name, number) in integers(table)? {
            let _ = writeln!(out, "  static final int {prefix}_{} = {number};", name.to_uppercase());
        }
    }
    for (name, fields) in &operations.record {
        let _ = writeln!(out, "\n  /** Fields of a record, in order. */\n  static final List<String> {name}_FIELDS =\n      List.of(");
        let fields = strings(name, fields)?;
        for (position, declared) in fields.iter().enumerate() {
            let end = if position + 1 == fields.len() { ");" } else { "," };
            let _ = writeln!(out, "          {:?}{end}", field(declared));
        }
    }
    out.push_str("\n  private Ops() {}\n}\n");
    Ok(out)
}

fn error_codes(codes: &Codes) -> String {
    let mut out = format!(
        "// {NOTE}\npackage dev.everstep;\n\nimport java.util.HashMap;\nimport java.util.Map;\n\n/** The stable codes of errors. Codes are added, never renamed; their texts may change. */\npublic enum ErrorCode {{\n"
    );
    for (position, (name, code)) in codes.iter().enumerate() {
        let end = if position + 1 == codes.len() { ';' } else { ',' };
        let _ = writeln!(out, "  /** {} */\n  {}({name:?}, Kind.{}){end}", code.means, name.to_uppercase(), code.kind.to_uppercase());
    }
    out.push_str(
        "
  /** Who has to do something about it. */
  public enum Kind {
    /** A person must act: configuration, credentials, schema. */
    SETUP,
    /** The program is wrong. */
    USAGE,
    /** About one run. */
    RUN,
    /** About one step. */
    STEP,
    /** Try again. */
    UNAVAILABLE,
    /** A bug in the engine, or an execution that has ended. */
    INTERNAL
  }

  private static final Map<String, ErrorCode> BY_TEXT = new HashMap<>();

  static {
    for (ErrorCode code : values()) {
      BY_TEXT.put(code.text, code);
    }
  }

  private final String text;
  private final Kind kind;

  ErrorCode(String text, Kind kind) {
    this.text = text;
    this.kind = kind;
  }

  /**
   * The code as every language writes it, for example {@code run_not_found}.
   *
   * @return the text
   */
  public String text() {
    return text;
  }

  /**
   * What kind of error this is.
   *
   * @return the kind
   */
  public Kind kind() {
    return kind;
  }

  /** {@code null} for a text this library does not know. */
  static ErrorCode of(String text) {
    return text == null ? null : BY_TEXT.get(text);
  }
}
",
    );
    out
}
