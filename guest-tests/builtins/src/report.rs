//! Prints the table.

use crate::sample::Contender;
use crate::{BATCH, NOTES};

/// The calls of one way.
pub struct Calls<'a> {
    /// A call of a function that does nothing.
    pub empty: &'a Contender,
    /// The same, which calls the host.
    pub notify: &'a Contender,
}

impl Calls<'_> {
    /// Returns the nanoseconds of a call out of the guest.
    fn out(&self) -> f64 {
        let of = |notify: f64, empty: f64| (notify - empty) / NOTES as f64;
        self.notify.against(self.empty, of)
    }
}

/// Prints the cost of batches and calls. The first three batches are by windows, by the
/// component model without builtins, and by builtins.
pub fn print(batches: &[Contender], direct: &Calls<'_>, model: &Calls<'_>) {
    let (windows, own, builtins) = (&batches[0], &batches[1], &batches[2]);
    println!(
        "{BATCH} entries of 32 bytes read, {BATCH} completions of 64 bytes published, a call\n"
    );
    println!(
        "{:<42}{:>10}{:>13}{:>9}",
        "", "ns a call", "ns an entry", "ratio"
    );
    for batch in batches {
        println!(
            "{:<42}{:>10.1}{:>13.2}{:>9.2}",
            batch.name,
            batch.median(),
            batch.median() / BATCH as f64,
            batch.against(windows, |this, windows| this / windows),
        );
    }
    println!(
        "\n{:<42}{:>10}{:>13}{:>9}",
        "a call that does nothing, ns", "directly", "component", "ratio"
    );
    println!(
        "{:<42}{:>10.1}{:>13.1}{:>9.2}",
        "into the guest",
        direct.empty.median(),
        model.empty.median(),
        model.empty.against(direct.empty, |this, that| this / that),
    );
    println!(
        "{:<42}{:>10.1}{:>13.1}{:>9.2}",
        "out of it, into the host",
        direct.out(),
        model.out(),
        model.out() / direct.out(),
    );
    let call = model.empty.median();
    let all = builtins.median();
    println!("\nOf the {all:.1} ns with builtins:");
    println!(
        "{:<42}{call:>10.1}{:>10.0}%",
        "the call",
        100.0 * call / all
    );
    println!(
        "{:<42}{:>10.1}{:>10.0}%",
        "the accesses and the loop",
        all - call,
        100.0 * (1.0 - call / all)
    );
    let more = builtins.against(windows, |this, windows| this - windows);
    let by_call = own.against(windows, |own, windows| own - windows);
    let by_access = builtins.against(own, |this, own| this - own);
    println!("What they take more than windows, {more:.1} ns:");
    println!(
        "{:<42}{by_call:>10.1}{:>10.0}%",
        "by the call (own memory instead)",
        100.0 * by_call / more
    );
    println!(
        "{:<42}{by_access:>10.1}{:>10.0}%",
        "by the accesses",
        100.0 * by_access / more
    );
}
