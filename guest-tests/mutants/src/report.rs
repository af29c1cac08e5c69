//! The report: a line for each fault, a table, and a verdict.

use std::fmt::Write as _;

use serde::Serialize;

use crate::fault::{Area, Fault};
use crate::trial::Verdict;

/// How many of the faults were caught.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Faults that were tried.
    pub tried: usize,
    /// Faults that were caught.
    pub caught: usize,
    /// Faults with an unexpected outcome: neither caught nor accepted by name, or
    /// caught although accepted.
    pub unexpected: usize,
}

impl Tally {
    fn of<'a>(results: impl Iterator<Item = &'a (Fault, Verdict)>) -> Self {
        results.fold(Self::default(), |tally, (fault, verdict)| Self {
            tried: tally.tried + 1,
            caught: tally.caught + usize::from(verdict.is_caught()),
            unexpected: tally.unexpected
                + usize::from(verdict.is_caught() == fault.accepted.is_some()),
        })
    }

    /// Returns the share in percent; 100 if there are none.
    pub fn share(self) -> f64 {
        if self.tried == 0 {
            return 100.0;
        }
        100.0 * self.caught as f64 / self.tried as f64
    }

    /// Returns whether every fault but the accepted ones was caught.
    pub fn is_as_expected(self) -> bool {
        self.unexpected == 0
    }
}

/// Returns the tally of all.
pub fn total(results: &[(Fault, Verdict)]) -> Tally {
    Tally::of(results.iter())
}

/// Returns a verdict as text.
pub fn words(fault: &Fault, verdict: &Verdict) -> String {
    match (verdict, &fault.accepted) {
        (Verdict::Crashed(how), _) => format!("caught by a crash: {how}"),
        (Verdict::Ended(failed), Some(_)) if !failed.is_empty() => {
            format!("{}, and need not be accepted any more", by(failed))
        }
        (Verdict::Hung(failed), _) if failed.is_empty() => "caught by the time limit".to_owned(),
        (Verdict::Hung(failed), _) => format!("{}, and the time limit", by(failed)),
        (Verdict::Ended(failed), _) if !failed.is_empty() => by(failed),
        (Verdict::Ended(_), Some(reason)) => format!("SURVIVED: {reason}"),
        (Verdict::Ended(_), None) => "SURVIVED".to_owned(),
    }
}

fn by(failed: &[String]) -> String {
    match failed {
        [only] => format!("caught by 1 requirement: {only}"),
        _ => format!(
            "caught by {} requirements, first: {}",
            failed.len(),
            failed[0]
        ),
    }
}

/// Returns the table of areas.
pub fn table(results: &[(Fault, Verdict)]) -> String {
    let mut table = format!(
        "{:<10} {:>6} {:>6} {:>8}\n",
        "area", "faults", "caught", "share"
    );
    for area in Area::ALL {
        let tally = Tally::of(results.iter().filter(|(fault, _)| fault.area == area));
        if tally.tried > 0 {
            let Tally { tried, caught, .. } = tally;
            let share = tally.share();
            let _ = writeln!(table, "{area:<10} {tried:>6} {caught:>6} {share:>6.1} %");
        }
    }
    table
}

/// Returns the last line.
pub fn summary(tally: Tally) -> String {
    let Tally {
        tried,
        caught,
        unexpected,
    } = tally;
    let share = tally.share();
    let verdict = match unexpected {
        0 => "the others are accepted by name".to_owned(),
        _ => format!("{unexpected} are not as faults.toml says"),
    };
    format!("mutants: {caught} of {tried} caught ({share:.1} %); {verdict}")
}

/// A fault and its outcome, for JSON.
#[derive(Debug, Serialize)]
pub struct Record<'a> {
    name: &'a str,
    area: Area,
    file: &'a str,
    effect: &'a str,
    caught: bool,
    hung: bool,
    crashed: Option<&'a str>,
    failed: &'a [String],
    accepted: Option<&'a str>,
}

impl<'a> Record<'a> {
    /// Creates the record of a fault.
    pub fn new(fault: &'a Fault, verdict: &'a Verdict) -> Self {
        let (crashed, failed) = match verdict {
            Verdict::Crashed(how) => (Some(how.as_str()), &[][..]),
            Verdict::Ended(failed) | Verdict::Hung(failed) => (None, &failed[..]),
        };
        Self {
            name: &fault.name,
            area: fault.area,
            file: &fault.file,
            effect: &fault.effect,
            caught: verdict.is_caught(),
            hung: matches!(verdict, Verdict::Hung(_)),
            crashed,
            failed,
            accepted: fault.accepted.as_deref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(area: Area, accepted: Option<&str>) -> Fault {
        Fault {
            name: "name".to_owned(),
            area,
            file: String::new(),
            find: String::new(),
            replace: String::new(),
            effect: String::new(),
            accepted: accepted.map(str::to_owned),
        }
    }

    fn caught(by: &[&str]) -> Verdict {
        Verdict::Ended(by.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn verdicts_in_words() {
        let plain = fault(Area::Tx, None);
        assert_eq!(words(&plain, &caught(&[])), "SURVIVED");
        assert_eq!(
            words(&fault(Area::Tx, Some("equivalent")), &caught(&[])),
            "SURVIVED: equivalent"
        );
        assert_eq!(words(&plain, &caught(&["a"])), "caught by 1 requirement: a");
        assert_eq!(
            words(&plain, &caught(&["a", "b"])),
            "caught by 2 requirements, first: a"
        );
        let hung = Verdict::Hung(Vec::new());
        assert_eq!(words(&plain, &hung), "caught by the time limit");
        let hung = Verdict::Hung(vec!["a".to_owned()]);
        assert_eq!(
            words(&plain, &hung),
            "caught by 1 requirement: a, and the time limit"
        );
    }

    #[test]
    fn what_survives_is_accepted_by_name() {
        let known = (fault(Area::Tx, Some("equivalent")), caught(&[]));
        let found = (fault(Area::Tx, None), caught(&["a"]));
        let tally = total(&[known.clone(), found.clone()]);
        assert!(tally.is_as_expected());
        assert_eq!(
            summary(tally),
            "mutants: 1 of 2 caught (50.0 %); the others are accepted by name"
        );
        for unexpected in [
            (fault(Area::Tx, None), caught(&[])),
            (fault(Area::Tx, Some("equivalent")), caught(&["a"])),
        ] {
            let tally = total(&[known.clone(), found.clone(), unexpected]);
            assert!(!tally.is_as_expected());
            assert!(summary(tally).ends_with("1 are not as faults.toml says"));
        }
    }

    #[test]
    fn areas_are_told_apart() {
        let results = [
            (fault(Area::Tx, None), caught(&["a"])),
            (fault(Area::Tx, None), caught(&[])),
            (fault(Area::Rx, None), Verdict::Hung(Vec::new())),
        ];
        assert_eq!(
            table(&results),
            "area       faults caught    share\n\
             tx              2      1   50.0 %\n\
             rx              1      1  100.0 %\n"
        );
        assert_eq!(
            total(&results),
            Tally {
                tried: 3,
                caught: 2,
                unexpected: 1
            }
        );
    }

    #[test]
    fn a_record_says_by_what_it_was_caught() {
        let (fault, verdict) = (fault(Area::Hwc, None), caught(&["hwc::a"]));
        let record = serde_json::to_value(Record::new(&fault, &verdict)).unwrap();
        assert_eq!(record["area"], "hwc");
        assert_eq!(record["caught"], true);
        assert_eq!(record["failed"][0], "hwc::a");
    }
}
