//! `manatee check`.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::builder::{RangedU64ValueParser, TypedValueParser};
use manatee::component;
use manatee_check::{self, SuiteLimits, Verdict};
use serde_json::json;

use super::exit;
use crate::jail::child::{self, Suite};

const EMBEDDED: &str = "the embedded device";

/// Test a device component against the conformance suite
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Test a device component against the conformance suite: what the Linux driver \
    relies on, requirement by requirement, each on a fresh instance within limits of time and \
    memory, in a confined process of its own. It needs no virtual machine, TAP or privileges. \
    Exit status 0 means that it may serve a guest, 3 that it misses a requirement."
)]
pub struct Arguments {
    /// The component; by default the embedded device
    #[arg(value_name = "FILE.wasm")]
    file: Option<PathBuf>,

    /// Run only the requirements whose name contains one of these
    #[arg(value_name = "NAME")]
    names: Vec<String>,

    /// Run only the requirements whose name contains this; works for the embedded device too
    #[arg(long = "requirement", value_name = "NAME")]
    requirements: Vec<String>,

    /// List the requirements instead of running them
    #[arg(long)]
    list: bool,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    /// The longest that one requirement may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds())]
    requirement_limit: Duration,

    /// The longest that all may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds())]
    time_limit: Duration,

    /// The most memory that the device may have, in MiB
    #[arg(long, value_name = "MIB", default_value = "64",
        value_parser = clap::value_parser!(u16).range(64..=4095))]
    memory_limit: u16,

    /// Do not confine the process that runs the suite
    #[arg(long)]
    no_sandbox: bool,
}

fn seconds() -> impl TypedValueParser<Value = Duration> {
    RangedU64ValueParser::<u64>::new()
        .range(1..=86_400)
        .map(Duration::from_secs)
}

pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let names = [&arguments.names[..], &arguments.requirements].concat();
    let requirements = manatee_check::select(&names)?;
    if arguments.list {
        let names = requirements.iter().map(|r| format!("{}\n", r.name));
        super::output::print(&names.collect::<String>())?;
        return Ok(ExitCode::SUCCESS);
    }
    let limits = SuiteLimits {
        requirement: arguments.requirement_limit,
        total: arguments.time_limit,
        memory: usize::from(arguments.memory_limit) << 20,
    };
    let (bytes, name) = component(arguments.file.as_deref())?;
    let begun = Instant::now();
    let suite = Suite::new(&names, &limits);
    let verdicts = child::check(&bytes, &name, &suite, !arguments.no_sandbox)?;
    let passed = verdicts.iter().all(|verdict| verdict.missed.is_none());
    if arguments.json {
        super::output::print(&as_json(&verdicts, passed))?;
    } else {
        super::output::print(&as_text(&name, &verdicts, begun.elapsed()))?;
    }
    Ok(if passed {
        ExitCode::SUCCESS
    } else {
        exit::REFUSED_BY_CHECK.into()
    })
}

/// Returns the component to test, and its name in messages.
fn component(file: Option<&Path>) -> anyhow::Result<(Cow<'static, [u8]>, String)> {
    let Some(file) = file else {
        return Ok((manatee_component::BYTES.into(), EMBEDDED.to_owned()));
    };
    let name = file.display().to_string();
    let read = component::read(file);
    if read.is_err() && !file.exists() {
        bail!(
            "there is no file {name}; `manatee check --requirement NAME` runs requirements of \
            the embedded device, and `manatee check --list` lists them"
        );
    }
    Ok((read?.into(), name))
}

fn as_text(name: &str, verdicts: &[Verdict], took: Duration) -> String {
    let count = verdicts.len();
    let missed: Vec<_> = verdicts
        .iter()
        .filter_map(|verdict| Some((verdict, verdict.missed.as_deref()?)))
        .collect();
    let took = format!("{:.1} s", took.as_secs_f64());
    if missed.is_empty() {
        return format!("pass: {name} meets all {count} requirements ({took})\n");
    }
    let mut text = String::new();
    for (verdict, reason) in &missed {
        text += &format!("{}\n", verdict.name);
        for line in reason.lines() {
            // Text from a component may contain terminal escape sequences.
            text += &format!("    {}\n", line.replace(char::is_control, " "));
        }
        text += &format!("    required by: {}\n\n", verdict.source);
    }
    let missed = missed.len();
    text + &format!("fail: {name} misses {missed} of {count} requirements ({took})\n")
}

fn as_json(verdicts: &[Verdict], passed: bool) -> String {
    let requirements: Vec<_> = verdicts
        .iter()
        .map(|verdict| {
            json!({
                "name": verdict.name,
                "source": verdict.source,
                "met": verdict.missed.is_none(),
                "reason": verdict.missed,
            })
        })
        .collect();
    format!(
        "{:#}\n",
        json!({ "pass": passed, "requirements": requirements })
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(missed: Option<&str>) -> Verdict {
        Verdict {
            name: "registers::some",
            source: "gdma_main.c: mana_gd_init_registers",
            missed: missed.map(str::to_owned),
        }
    }

    #[test]
    fn text_says_pass_or_fail_and_why() {
        let took = Duration::from_millis(1234);
        let text = as_text("a.wasm", &[verdict(None)], took);
        assert_eq!(text, "pass: a.wasm meets all 1 requirements (1.2 s)\n");
        let text = as_text(
            "a.wasm",
            &[verdict(None), verdict(Some("found \x1b"))],
            took,
        );
        assert!(text.starts_with("registers::some\n    found  \n"), "{text}");
        assert!(text.ends_with("fail: a.wasm misses 1 of 2 requirements (1.2 s)\n"));
    }

    #[test]
    fn json_has_the_same() {
        let text = as_json(&[verdict(Some("why"))], false);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["pass"], false);
        assert_eq!(value["requirements"][0]["reason"], "why");
    }
}
