//! A class loader that is collected unloads its native libraries. Threads of the engine's runtime may still be on their way out of the code then, so
//! on Linux the library asks to stay mapped; a second load of it finds it there.

fn main() {
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    }
    println!("cargo:rerun-if-changed=build.rs");
}
