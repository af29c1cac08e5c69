//! Measures the device; prints a table, writes JSON and a chart.

mod chart;
mod driver;
mod machine;
mod native;
mod ram;
mod remote;
mod report;
mod rows;
mod sample;
mod sandboxed;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use manatee_guest_linux::stage::{Options, Stage};

use report::{Host, Report};
use rows::Row;
use rows::instructions::Probe;

/// Measures the device against its native build, the kernel, and QEMU's adapters.
#[derive(Parser)]
#[command(name = "bench")]
struct Arguments {
    /// The rows to measure [default: all of them]
    rows: Vec<Row>,
    #[command(flatten)]
    options: Options,
    /// Does what the row `instructions` counts, to be run by callgrind.
    #[arg(long, hide = true)]
    probe: Option<Probe>,
    /// Makes this many devices, for the row `scale`.
    #[arg(long, hide = true)]
    scale: Option<usize>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if let Some(probe) = arguments.probe {
        return probe.run();
    }
    if let Some(count) = arguments.scale {
        return rows::scale::probe(count);
    }
    let dir = output_dir()?;
    std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    let begun = Instant::now();
    let rows = match &arguments.rows[..] {
        [] => Row::value_variants(),
        rows => rows,
    };
    // Namespaces come before the first thread.
    let stage = if rows.iter().any(|row| row.needs_stage()) {
        Some(Stage::set(&arguments.options)?)
    } else {
        None
    };
    let mut figures = Vec::new();
    for row in rows {
        let measured = row.run(&dir, stage.as_ref());
        for figure in measured.with_context(|| format!("row {row:?}"))? {
            print!("{}", figure.lines());
            figures.push(figure);
        }
    }
    let report = Report {
        host: Host::this()?,
        seconds: begun.elapsed().as_secs_f64(),
        figures,
    };
    write(&report, &dir)
}

fn write(report: &Report, dir: &Path) -> Result<()> {
    report.write(&dir.join("report.json"))?;
    chart::draw(report, &dir.join("chart.svg"))?;
    let missed = report.missed();
    let judged = report
        .figures
        .iter()
        .filter(|f| f.verdict.as_ref().is_some_and(|v| v.bound.is_some()));
    println!(
        "{} of {} requirements met in {:.0} s; {} has report.json and chart.svg",
        judged.clone().count() - missed.len(),
        judged.count(),
        report.seconds,
        dir.display()
    );
    for line in missed {
        println!("missed: {line}");
    }
    Ok(())
}

/// Returns `target/bench`, next to the directory that this program was built into.
fn output_dir() -> Result<PathBuf> {
    let program = std::env::current_exe().context("cannot tell where this program lies")?;
    let target = program.ancestors().nth(2);
    Ok(target
        .context("this program does not lie in a target directory")?
        .join("bench"))
}
