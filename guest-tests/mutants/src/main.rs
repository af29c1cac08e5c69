//! Shows the share of seeded faults that the conformance suite catches.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use manatee_mutants::fault::{self, Fault, Suite};
use manatee_mutants::report::{self, Record};
use manatee_mutants::scratch::Scratch;
use manatee_mutants::trial::{self, Verdict};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
const LIST: &str = "guest-tests/mutants/faults.toml";

/// Seeds faults into a copy of the device's source, one at a time, and runs
/// the conformance suite on each.
///
/// Exits with 0 if every fault compiles, and the suite catches all but those that
/// faults.toml accepts by name.
#[derive(Parser)]
#[command(name = "guest-tests-mutants")]
struct Arguments {
    /// Only faults that have one of these in their name
    names: Vec<String>,
    /// Only list the faults
    #[arg(long)]
    list: bool,
    /// How to print: for people, or a JSON object a line
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Seconds that a run of the suite may take before it counts as hung
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    time_limit: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Returns whether all faults were caught but the accepted ones.
fn run(arguments: &Arguments) -> Result<bool> {
    let root = fs::canonicalize(ROOT).context("finding the repository")?;
    let text = fs::read_to_string(root.join(LIST)).with_context(|| format!("reading {LIST}"))?;
    let faults = fault::select(fault::parse(&text)?, &arguments.names)?;
    if arguments.list {
        list(&faults);
        return Ok(true);
    }
    let limit = Duration::from_secs(arguments.time_limit);
    let mut suites = Vec::new();
    for suite in faults.iter().flat_map(|fault| fault.area.suites()) {
        if !suites.contains(suite) {
            suites.push(*suite);
        }
    }
    let laboratory = Laboratory::new(&root, limit, &suites)?;
    laboratory.check(&faults)?;
    let count = faults.len();
    let mut results = Vec::with_capacity(count);
    for (index, fault) in faults.into_iter().enumerate() {
        let verdict = match laboratory.try_fault(&fault) {
            Ok(verdict) => verdict,
            Err(error) => {
                eprintln!("error: {}: {error:#}", fault.name);
                continue;
            }
        };
        match arguments.format {
            Format::Text => {
                let words = report::words(&fault, &verdict);
                println!(
                    "[{:>2}/{count}] {:<9} {} ... {words}",
                    index + 1,
                    fault.area,
                    fault.name
                );
            }
            Format::Json => println!("{}", serde_json::to_string(&Record::new(&fault, &verdict))?),
        }
        results.push((fault, verdict));
    }
    let tally = report::total(&results);
    match arguments.format {
        Format::Text => println!("\n{}\n{}", report::table(&results), report::summary(tally)),
        Format::Json => println!(
            "{}",
            serde_json::json!({
                "tried": tally.tried,
                "caught": tally.caught,
                "share": tally.share(),
                "unexpected": tally.unexpected,
            })
        ),
    }
    Ok(tally.tried == count && tally.is_as_expected())
}

fn list(faults: &[Fault]) {
    for fault in faults {
        println!("{:<9} {}: {}", fault.area, fault.name, fault.effect);
    }
}

/// The workshop in which faults are tried.
struct Laboratory {
    scratch: Scratch,
    target: PathBuf,
    limit: Duration,
}

impl Laboratory {
    /// Builds the device without a fault, which has to pass.
    fn new(root: &Path, limit: Duration, suites: &[Suite]) -> Result<Self> {
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| root.join("target"), PathBuf::from)
            .join("mutants");
        let laboratory = Self {
            scratch: Scratch::new(root, target.join("source"))?,
            target: target.join("build"),
            limit,
        };
        let begun = Instant::now();
        for suite in suites {
            let verdict = laboratory
                .test(*suite)
                .context("the device without a fault")?;
            if verdict.is_caught() {
                bail!("{suite:?} finds faults in the device as it is: {verdict:?}");
            }
        }
        let seconds = begun.elapsed().as_secs_f64();
        eprintln!("the device without a fault passes ({seconds:.1} s)");
        Ok(laboratory)
    }

    /// Checks that no fault is stale.
    fn check(&self, faults: &[Fault]) -> Result<()> {
        faults
            .iter()
            .try_for_each(|fault| self.scratch.check(fault))
    }

    fn try_fault(&self, fault: &Fault) -> Result<Verdict> {
        self.scratch.with(fault, || {
            let mut verdict = Verdict::Ended(Vec::new());
            for suite in fault.area.suites() {
                verdict = self.test(*suite)?;
                if verdict.is_caught() {
                    break;
                }
            }
            Ok(verdict)
        })
    }

    fn test(&self, suite: Suite) -> Result<Verdict> {
        let program = trial::build(suite, self.scratch.root(), &self.target)?;
        trial::run(suite, &program, self.limit)
    }
}
