//! The attacks.

mod answers;
mod describes;
mod growth;
mod lists;
mod loading;
mod logs;
mod queues;
mod realloc;
mod soak;
mod states;
mod time;
mod traffic;
mod windows;

use crate::case::Case;

/// An attack.
#[derive(Clone, Copy)]
pub struct Row {
    /// What the attack does.
    pub name: &'static str,
    /// The most that the process may grow by, in MiB.
    pub megabytes: u64,
    /// Carries the attack out, and checks the result.
    pub run: fn(&Case),
}

/// The environment variable that also selects the rows that take minutes.
const LONG: &str = "MANATEE_LONG";

/// The default bound of a row, in MiB: the compiler, an instance, and the
/// test's own reads.
const MEGABYTES: u64 = 48;

const fn row(name: &'static str, run: fn(&Case)) -> Row {
    large(name, MEGABYTES, run)
}

const fn large(name: &'static str, megabytes: u64, run: fn(&Case)) -> Row {
    Row {
        name,
        megabytes,
        run,
    }
}

/// Returns all attacks.
pub fn all() -> impl Iterator<Item = Row> {
    let all = [
        answers::ROWS,
        describes::ROWS,
        growth::ROWS,
        lists::ROWS,
        loading::ROWS,
        logs::ROWS,
        queues::ROWS,
        realloc::ROWS,
        states::ROWS,
        time::ROWS,
        traffic::ROWS,
        windows::ROWS,
    ];
    let long: &[Row] = match std::env::var_os(LONG) {
        Some(_) => soak::ROWS,
        None => &[],
    };
    all.into_iter().flatten().chain(long).copied()
}
