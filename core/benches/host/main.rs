//! One process under measurement by `make bench`: bare PostgreSQL, or the engine driven over its border as a binding would.
//! `host <load> '{"url": ..}'`; a bench target of this crate and not a program of the suite, so that no crash points are compiled in.

mod border;
mod limits;
mod load;
mod report;

use report::Outcome;
use serde_json::Value;

struct Options(Value);

impl Options {
    fn text(&self, name: &str) -> Result<&str, String> {
        self.0[name].as_str().ok_or_else(|| format!("option {name} is missing"))
    }

    fn count(&self, name: &str) -> Result<usize, String> {
        self.0[name].as_u64().map(|n| n as usize).ok_or_else(|| format!("option {name} is missing"))
    }

    fn number(&self, name: &str) -> Result<f64, String> {
        self.0[name].as_f64().ok_or_else(|| format!("option {name} is missing"))
    }
}

fn main() -> Result<(), String> {
    // `cargo bench` and `cargo test --benches` pass flags of their own: without a load there is nothing to do.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let [load, options] = arguments.as_slice() else {
        println!("this program is run by `make bench`");
        return Ok(());
    };
    let options = Options(serde_json::from_str(options).map_err(|e| e.to_string())?);
    run(load, &options)?.say();
    while report::another_line() {}
    Ok(())
}

fn run(load: &str, options: &Options) -> Result<Outcome, String> {
    let url = options.text("url")?;
    match load {
        "unnest" | "commit" => {
            report::ready();
            let runtime = tokio::runtime::Runtime::new().map_err(|e| e.to_string())?;
            runtime.block_on(async {
                match load {
                    "unnest" => limits::unnest(url, options.number("seconds")?).await,
                    _ => limits::commit(url, options.count("rows")?).await,
                }
            })
        }
        "steps" => load::steps(options),
        "sequential" => load::sequential(options),
        "queue" => load::queue(options),
        "starts" => load::starts(options),
        "enqueue" => load::enqueue(options),
        "idle" => load::idle(options),
        "sleepers" => load::sleepers(options),
        other => Err(format!("unknown load {other}")),
    }
}
