//! The command line.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use manatee_conformance::suite::{Requirement, requirements};

/// The text of `--help`.
pub const HELP: &str = "\
Tests a device, requirement by requirement.

Usage: guest-tests.wasm [OPTIONS] [NAME]...

  NAME                    Try the requirements with this in their name; all by default
  --exact                 Names are whole names
  --list                  List the requirements instead of trying them
  --format pretty|json    How to print: for people, or one JSON object a line
  --help                  Say this
";

/// The output format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Pretty,
    /// One JSON object a line.
    Json,
}

/// The parsed command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    /// Parts of names; every requirement if there are none.
    pub names: Vec<String>,
    /// Whether names have to match exactly.
    pub exact: bool,
    /// Whether to list the requirements instead of running them.
    pub list: bool,
    /// Whether to print the usage.
    pub help: bool,
    /// The output format.
    pub format: Format,
}

impl Arguments {
    /// Reads a command line, without the program's name.
    ///
    /// # Errors
    ///
    /// A text that says what is wrong with it.
    pub fn parse(words: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut arguments = Self::default();
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--exact" => arguments.exact = true,
                "--list" => arguments.list = true,
                "--help" | "-h" => arguments.help = true,
                "--format" => {
                    let value = words.next().ok_or("--format needs `pretty` or `json`")?;
                    arguments.format = format(&value)?;
                }
                option => match option.strip_prefix("--format=") {
                    Some(value) => arguments.format = format(value)?,
                    None if option.starts_with('-') => {
                        return Err(format!("unknown option {option}; --help lists all"));
                    }
                    None => arguments.names.push(word),
                },
            }
        }
        Ok(arguments)
    }

    /// Returns the selected requirements.
    ///
    /// # Errors
    ///
    /// A text that names what no requirement matches.
    pub fn select(&self) -> Result<Vec<&'static Requirement>, String> {
        let fits = |name: &String, requirement: &Requirement| {
            if self.exact {
                requirement.name == name
            } else {
                requirement.name.contains(name.as_str())
            }
        };
        for name in &self.names {
            if !requirements().any(|requirement| fits(name, requirement)) {
                return Err(format!(
                    "no requirement has the name {name}; --list lists all"
                ));
            }
        }
        let asked = |requirement: &&Requirement| {
            self.names.is_empty() || self.names.iter().any(|name| fits(name, requirement))
        };
        Ok(requirements().filter(asked).collect())
    }
}

fn format(value: &str) -> Result<Format, String> {
    match value {
        "pretty" => Ok(Format::Pretty),
        "json" => Ok(Format::Json),
        other => Err(format!("unknown format {other}: give `pretty` or `json`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use std::collections::BTreeSet;

    fn parse(line: &str) -> Result<Arguments, String> {
        Arguments::parse(line.split_whitespace().map(ToString::to_string))
    }

    #[test]
    fn options_and_names_mix() {
        let arguments = parse("a --format=json --exact b").unwrap();
        assert_eq!(arguments.names, ["a", "b"]);
        assert!(arguments.exact && !arguments.list);
        assert_eq!(arguments.format, Format::Json);
        assert_eq!(parse("--format pretty").unwrap(), Arguments::default());
    }

    #[test]
    fn mistakes_are_named() {
        assert!(parse("--exakt").unwrap_err().contains("--exakt"));
        assert!(parse("--format").is_err());
        assert!(parse("--format xml").unwrap_err().contains("xml"));
        let nobody = parse("nobody-is-called-this").unwrap();
        assert!(nobody.select().unwrap_err().contains("nobody"));
    }

    #[test]
    fn names_select() {
        let every = parse("").unwrap().select().unwrap();
        let names: BTreeSet<_> = every.iter().map(|requirement| requirement.name).collect();
        assert_eq!(names.len(), every.len());
        let first = every[0].name;
        let exact = parse("--exact").unwrap();
        let exact = Arguments {
            names: [first.to_string()].into(),
            ..exact
        };
        assert_eq!(exact.select().unwrap().len(), 1);
    }
}
