//! Hostile components against the host that runs them.
//!
//! Each row runs in a process of its own, which runs a neighbour too: a
//! device that moves packets before, during and after the attack. The row fails if
//! its process dies or hangs, if the neighbour stops, if memory grows beyond the
//! row's bound, or if the row's own claims do not hold.

mod case;
mod child;
mod lines;
mod neighbour;
mod rows;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use manatee_kit::{description, hostile};

use case::Case;
use rows::Row;

fn main() -> ExitCode {
    if let Some(name) = child::asked_for() {
        return match cases().find(|(row, case)| name_of(row, case) == name) {
            Some((row, case)) => child::carry_out(&row, &case),
            None => ExitCode::from(2),
        };
    }
    let trials = cases().map(|(row, case)| {
        let name = name_of(&row, &case);
        Trial::test(name.clone(), move || {
            child::run(&name).map_err(Failed::from)
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

fn cases() -> impl Iterator<Item = (Row, Case)> {
    rows::all().flat_map(|row| Case::all().map(move |case| (row, case)))
}

fn name_of(row: &Row, case: &Case) -> String {
    format!("{}/{case}", row.name)
}
