//! `internal/ffi` is written by hand: every symbol it names must be one the library has, with the checksum it expects, and the other way round.

use std::collections::BTreeMap;
use std::path::PathBuf;

fn source(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("internal/ffi").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

unsafe extern "C" {
    // Linked from this crate's own scaffolding; each takes nothing and returns a number.
    safe fn ffi_everstep_go_uniffi_contract_version() -> u32;
    safe fn uniffi_everstep_go_checksum_func_abi() -> u16;
    safe fn uniffi_everstep_go_checksum_func_open() -> u16;
    safe fn uniffi_everstep_go_checksum_func_attach() -> u16;
    safe fn uniffi_everstep_go_checksum_func_wake_fd() -> u16;
    safe fn uniffi_everstep_go_checksum_func_call() -> u16;
    safe fn uniffi_everstep_go_checksum_func_submit() -> u16;
    safe fn uniffi_everstep_go_checksum_func_try_drain() -> u16;
    safe fn uniffi_everstep_go_checksum_func_cancel() -> u16;
    safe fn uniffi_everstep_go_checksum_func_close() -> u16;
}

/// `checksumWakeFd = 14687` as (`wake_fd`, 14687).
fn checksums(go: &str) -> BTreeMap<String, u16> {
    go.lines()
        .filter_map(|line| line.trim().strip_prefix("checksum")?.split_once('='))
        .filter_map(|(name, number)| Some((snake(name.trim()), number.trim().parse().ok()?)))
        .collect()
}

fn snake(name: &str) -> String {
    let mut out = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(letter.to_ascii_lowercase());
    }
    out
}

/// The functions of `src/lib.rs`.
fn exported() -> Vec<String> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs");
    let text = std::fs::read_to_string(path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let names =
        lines.windows(2).filter(|pair| pair[0] == "#[uniffi::export]").filter_map(|pair| Some(pair[1].strip_prefix("fn ")?.split_once('(')?.0.to_owned()));
    names.collect()
}

#[test]
fn the_go_file_expects_the_checksums_this_library_has() {
    assert_ne!(everstep_go::NAMESPACE, "");
    let found: BTreeMap<String, u16> = [
        ("abi", uniffi_everstep_go_checksum_func_abi()),
        ("open", uniffi_everstep_go_checksum_func_open()),
        ("attach", uniffi_everstep_go_checksum_func_attach()),
        ("wake_fd", uniffi_everstep_go_checksum_func_wake_fd()),
        ("call", uniffi_everstep_go_checksum_func_call()),
        ("submit", uniffi_everstep_go_checksum_func_submit()),
        ("try_drain", uniffi_everstep_go_checksum_func_try_drain()),
        ("cancel", uniffi_everstep_go_checksum_func_cancel()),
        ("close", uniffi_everstep_go_checksum_func_close()),
    ]
    .into_iter()
    .map(|(name, checksum)| (name.to_owned(), checksum))
    .collect();
    let go = source("identity.go");
    assert_eq!(checksums(&go), found);
    assert!(go.contains(&format!("contractVersion = {}\n", ffi_everstep_go_uniffi_contract_version())), "contractVersion");
    let abi = format!("Abi = \"{}/{}\"", env!("CARGO_PKG_VERSION"), everstep::protocol::VERSION);
    assert!(go.contains(&abi), "{abi}");
}

#[test]
fn every_function_is_declared_in_the_header_and_verified() {
    let (header, native, go) = (source("everstep.h"), source("native.go"), source("identity.go"));
    let exported = exported();
    assert_eq!(exported.len(), checksums(&go).len());
    for name in exported {
        assert!(header.contains(&format!("uniffi_everstep_go_fn_func_{name}(")), "{name} is not declared");
        assert!(native.contains(&format!("uniffi_everstep_go_checksum_func_{name}()")), "{name} is not verified");
    }
}
