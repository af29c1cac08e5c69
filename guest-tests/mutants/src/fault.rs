//! A fault: a text of the device's source, and its replacement.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The part of the device that a fault is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Area {
    /// Event, completion and work queues, and their memory.
    Queues,
    /// The hardware channel and its requests.
    Hwc,
    /// Transmit.
    Tx,
    /// Receive.
    Rx,
    /// DMA regions.
    Regions,
    /// BAR 0 and the shared-memory channel.
    Registers,
    /// Saving and restoring.
    State,
    /// Continuing after a failure.
    Recovery,
}

impl Area {
    /// Every area, in the order of reports.
    pub const ALL: [Self; 8] = [
        Self::Queues,
        Self::Hwc,
        Self::Tx,
        Self::Rx,
        Self::Regions,
        Self::Registers,
        Self::State,
        Self::Recovery,
    ];

    /// Returns the tests that can detect a fault of the area, the quickest first.
    pub fn suites(self) -> &'static [Suite] {
        match self {
            Self::State => &[Suite::Moves, Suite::SavedStates],
            Self::Recovery => &[Suite::Recovery],
            _ => &[Suite::OneQueue, Suite::ManyQueues],
        }
    }
}

impl fmt::Display for Area {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Queues => "queues",
            Self::Hwc => "hwc",
            Self::Tx => "tx",
            Self::Rx => "rx",
            Self::Regions => "regions",
            Self::Registers => "registers",
            Self::State => "state",
            Self::Recovery => "recovery",
        })
    }
}

/// A test that faults are tried with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// The requirements on a device of one queue, with windows and by copies.
    OneQueue,
    /// The same on a device of several queues, and the requirements of several queues.
    ManyQueues,
    /// The requirements with a save and a restore after every call.
    Moves,
    /// Saved states: those of released versions, and hostile ones.
    SavedStates,
    /// A device that fails at each step.
    Recovery,
}

impl Suite {
    /// Returns the test's name for cargo.
    pub fn test(self) -> &'static str {
        match self {
            Self::OneQueue | Self::ManyQueues | Self::Moves => "conformance",
            Self::SavedStates => "saved_states",
            Self::Recovery => "recovery",
        }
    }

    /// Returns the arguments of its program: kinds of the conformance test are
    /// `[copies]`, `[windows]`, `[queues]`, `[queues, copies]`, `[queues, moves]`.
    pub fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::OneQueue => &["--skip", "[queues"],
            Self::ManyQueues => &["[queues", "--skip", "moves]"],
            Self::Moves => &["moves]"],
            Self::SavedStates | Self::Recovery => &[],
        }
    }
}

/// A fault.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Its name, which is unique.
    pub name: String,
    /// The area that it is in.
    pub area: Area,
    /// Source file, from the repository's root.
    pub file: String,
    /// A text that the file holds exactly once.
    pub find: String,
    /// The replacement of the text.
    pub replace: String,
    /// Its effect on a guest.
    pub effect: String,
    /// Why no requirement catches it, if that is known and accepted.
    pub accepted: Option<String>,
}

/// Why the list of faults is invalid.
#[derive(Debug, Error)]
pub enum ListError {
    /// It is not TOML, or has other fields.
    #[error("the list of faults is malformed: {0}")]
    Malformed(#[from] toml::de::Error),
    /// Two faults have the same name.
    #[error("two faults are named {0}")]
    Repeated(String),
    /// A fault that changes nothing.
    #[error("fault {0} changes nothing")]
    Void(String),
    /// A name on the command line selects no fault.
    #[error("no fault has {0:?} in its name")]
    Unknown(String),
}

/// Why a fault cannot be applied.
#[derive(Debug, Error)]
#[error("fault {name} is stale: {file} holds its text {found} times, not once")]
pub struct Stale {
    name: String,
    file: String,
    found: usize,
}

/// Reads the list of faults.
///
/// # Errors
///
/// [`ListError`], if it is not one.
pub fn parse(text: &str) -> Result<Vec<Fault>, ListError> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct List {
        fault: Vec<Fault>,
    }
    let List { fault: faults } = toml::from_str(text)?;
    let mut names = BTreeSet::new();
    for fault in &faults {
        if !names.insert(&fault.name) {
            return Err(ListError::Repeated(fault.name.clone()));
        }
        if fault.find == fault.replace {
            return Err(ListError::Void(fault.name.clone()));
        }
    }
    Ok(faults)
}

/// Returns the faults that have any of the patterns in their name, or every one if
/// there are no patterns.
///
/// # Errors
///
/// [`ListError::Unknown`] for a pattern that selects none.
pub fn select(faults: Vec<Fault>, patterns: &[String]) -> Result<Vec<Fault>, ListError> {
    let named = |fault: &Fault, pattern: &String| fault.name.contains(pattern.as_str());
    for pattern in patterns {
        if !faults.iter().any(|fault| named(fault, pattern)) {
            return Err(ListError::Unknown(pattern.clone()));
        }
    }
    let wanted =
        |fault: &Fault| patterns.is_empty() || patterns.iter().any(|pattern| named(fault, pattern));
    Ok(faults.into_iter().filter(wanted).collect())
}

impl Fault {
    /// Returns the file's content with the fault in it.
    ///
    /// # Errors
    ///
    /// [`Stale`] if the content does not hold the text exactly once.
    pub fn apply(&self, content: &str) -> Result<String, Stale> {
        match content.matches(&self.find).count() {
            1 => Ok(content.replacen(&self.find, &self.replace, 1)),
            found => Err(Stale {
                name: self.name.clone(),
                file: self.file.clone(),
                found,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = r#"
        [[fault]]
        name = "cq-owner"
        area = "queues"
        file = "cq.rs"
        find = "a + 1"
        replace = "a"
        effect = "the driver stops"
    "#;

    fn one() -> Fault {
        parse(ONE).unwrap().remove(0)
    }

    #[test]
    fn a_list_is_read() {
        let fault = one();
        assert_eq!(
            (fault.name.as_str(), fault.area),
            ("cq-owner", Area::Queues)
        );
        assert_eq!(fault.accepted, None);
    }

    #[test]
    fn a_misspelt_field_is_refused() {
        let text = ONE.replace("effect", "efect");
        assert!(matches!(parse(&text), Err(ListError::Malformed(_))));
        let text = ONE.replace("queues", "cues");
        assert!(matches!(parse(&text), Err(ListError::Malformed(_))));
    }

    #[test]
    fn names_are_unique() {
        let error = parse(&[ONE, ONE].concat()).unwrap_err();
        assert_eq!(error.to_string(), "two faults are named cq-owner");
    }

    #[test]
    fn a_fault_changes_something() {
        let error = parse(&ONE.replace(r#""a""#, r#""a + 1""#)).unwrap_err();
        assert_eq!(error.to_string(), "fault cq-owner changes nothing");
    }

    #[test]
    fn a_fault_is_applied_where_its_text_is() {
        assert_eq!(one().apply("let b = a + 1;").unwrap(), "let b = a;");
    }

    #[test]
    fn a_text_that_is_not_there_once_is_stale() {
        let error = one().apply("let b = a;").unwrap_err();
        assert_eq!(
            error.to_string(),
            "fault cq-owner is stale: cq.rs holds its text 0 times, not once"
        );
        assert!(one().apply("a + 1, a + 1").is_err());
    }

    #[test]
    fn patterns_select_by_name() {
        let select = |pattern: &str| select(vec![one()], &[pattern.to_owned()]);
        assert_eq!(select("owner").unwrap().len(), 1);
        let error = select("tx").unwrap_err();
        assert_eq!(error.to_string(), "no fault has \"tx\" in its name");
    }

    #[test]
    fn areas_are_named_as_in_the_list() {
        for area in Area::ALL {
            assert_eq!(
                serde_json::to_value(area).unwrap(),
                area.to_string().as_str()
            );
        }
    }
}
