//! The requirements: what a driver relies on, one name each.

use alloc::vec::Vec;
use core::fmt;

use crate::bench::{Bench, Workshop};
use crate::driver::Driver;
use crate::failure::{Failure, Outcome, check_eq};

mod admin;
mod coalescing;
mod cq;
mod eq;
mod hostile;
mod hwc;
mod hwc_timeout;
mod limits;
mod links;
mod moderation;
mod nic;
mod objects;
mod pairs;
mod queues;
mod regions;
mod registers;
mod reset;
mod revoked;
mod rss;
mod rx;
mod rx_flags;
mod smc;
mod stats;
mod steering;
mod tx;
mod tx_errors;
mod tx_offloads;
mod vports;
mod wq;

/// Ports of the device for most requirements.
pub const PORTS: u32 = 2;

/// A requirement of a device.
#[derive(Clone, Copy)]
pub struct Requirement {
    /// Unique, `module::what_it_does`.
    pub name: &'static str,
    /// Where it comes from: file and function of the Linux driver, or the
    /// reference.
    pub source: &'static str,
    /// Ports of the device that it runs on.
    pub ports: u32,
    check: fn(&mut Driver<'_>) -> Outcome,
}

impl fmt::Debug for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.source)
    }
}

impl Requirement {
    /// Runs it on a new device.
    ///
    /// # Errors
    ///
    /// A failure that says what the device did instead.
    pub fn run(&self, workshop: &impl Workshop) -> Outcome {
        self.run_on(&mut workshop.bench(self.ports))
    }

    /// Runs it on a device that was made for it, with [`ports`](Self::ports) ports.
    ///
    /// # Errors
    ///
    /// A failure that says what the device did instead.
    pub fn run_on(&self, bench: &mut dyn Bench) -> Outcome {
        (self.check)(&mut Driver::new(bench))
    }
}

/// The requirements of a module: `name = "where it comes from"`, with the function of
/// that name; `name(n)` runs with n ports.
macro_rules! declare {
    ($module:literal: $($name:ident $(($ports:expr))? = $source:literal,)*) => {
        /// The requirements of this module.
        pub const REQUIREMENTS: &[$crate::suite::Requirement] = &[$(
            $crate::suite::Requirement {
                name: concat!($module, "::", stringify!($name)),
                source: $source,
                ports: {
                    let ports = $crate::suite::PORTS;
                    $(let _ = ports; let ports = $ports;)?
                    ports
                },
                check: $name,
            },
        )*];
    };
}
use declare;

const MODULES: &[&[Requirement]] = &[
    registers::REQUIREMENTS,
    smc::REQUIREMENTS,
    hwc::REQUIREMENTS,
    hwc_timeout::REQUIREMENTS,
    admin::REQUIREMENTS,
    regions::REQUIREMENTS,
    queues::REQUIREMENTS,
    eq::REQUIREMENTS,
    nic::REQUIREMENTS,
    objects::REQUIREMENTS,
    steering::REQUIREMENTS,
    cq::REQUIREMENTS,
    wq::REQUIREMENTS,
    tx::REQUIREMENTS,
    tx_errors::REQUIREMENTS,
    tx_offloads::REQUIREMENTS,
    rx::REQUIREMENTS,
    rx_flags::REQUIREMENTS,
    coalescing::REQUIREMENTS,
    stats::REQUIREMENTS,
    vports::REQUIREMENTS,
    links::REQUIREMENTS,
    reset::REQUIREMENTS,
    revoked::REQUIREMENTS,
    hostile::REQUIREMENTS,
];

/// Checks a number in the state that the device shows, if it shows it.
fn check_inspect(driver: &mut Driver<'_>, pointer: &str, expected: usize) -> Outcome {
    match driver.inspect(pointer)? {
        Some(found) => check_eq(pointer, found, expected.into()),
        None => Ok(()),
    }
}

/// Returns the requirements of ports with several queues, and of a host that offers every feature.
pub fn of_several_queues() -> impl Iterator<Item = &'static Requirement> + Clone {
    [
        pairs::REQUIREMENTS,
        rss::REQUIREMENTS,
        limits::REQUIREMENTS,
        moderation::REQUIREMENTS,
    ]
    .into_iter()
    .flatten()
}

/// Returns every requirement of ports with one queue, which also apply to ports with
/// several, in the order in which a driver encounters them.
pub fn requirements() -> impl Iterator<Item = &'static Requirement> + Clone {
    MODULES.iter().copied().flatten()
}

/// Returns the requirements whose name contains any of the patterns; every one if
/// there are no patterns.
pub fn select<S: AsRef<str>>(
    patterns: impl IntoIterator<Item = S>,
) -> impl Iterator<Item = &'static Requirement> {
    let patterns: Vec<S> = patterns.into_iter().collect();
    requirements().filter(move |requirement| {
        let named = |pattern: &S| requirement.name.contains(pattern.as_ref());
        patterns.is_empty() || patterns.iter().any(named)
    })
}

/// Returns the requirement with exactly this name.
pub fn find(name: &str) -> Option<&'static Requirement> {
    requirements().find(|requirement| requirement.name == name)
}

/// The result of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Requirements that were met.
    pub passed: Vec<&'static Requirement>,
    /// Requirements that were not met, with their failures.
    pub failed: Vec<(&'static Requirement, Failure)>,
}

impl Report {
    /// Returns whether every requirement was met.
    pub fn is_ok(&self) -> bool {
        self.failed.is_empty()
    }
}

/// Runs requirements, each on a device of its own, and calls `each` as they end.
pub fn run(
    workshop: &impl Workshop,
    requirements: impl IntoIterator<Item = &'static Requirement>,
    mut each: impl FnMut(&'static Requirement, &Outcome),
) -> Report {
    let mut report = Report::default();
    for requirement in requirements {
        let outcome = requirement.run(workshop);
        each(requirement, &outcome);
        match outcome {
            Ok(()) => report.passed.push(requirement),
            Err(failure) => report.failed.push((requirement, failure)),
        }
    }
    report
}
