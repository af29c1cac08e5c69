//! Picks parts of a JSON tree by pattern.

use globset::{GlobBuilder, GlobMatcher};
use serde_json::{Map, Value};

/// The longest pattern in bytes.
const MAX_PATTERN: usize = 1024;

/// Why a pattern selects nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// The pattern is no valid glob.
    #[error("`{pattern}` is not a pattern: {reason}")]
    Malformed {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The pattern is longer than the limit.
    #[error("the pattern has more than {MAX_PATTERN} bytes")]
    TooLong,
    /// No path matches.
    #[error(
        "nothing matches `{pattern}`; at the top there are: {}. `*` stands for one name, \
         `**` for any number of them", top.join(", ")
    )]
    NoMatch {
        /// The pattern.
        pattern: String,
        /// The names at the top of the tree.
        top: Vec<String>,
    },
}

/// Returns the parts of `tree` whose path matches the glob `pattern`, with their ancestors.
///
/// A path is the names and indices from the top, joined by `/`: `ports/0/mac`.
/// In a pattern `*` and `?` match within one name, `**` across names; `[ab]` and
/// `{one,two}` offer a choice. A match includes everything below it. An array of which
/// only a part matches becomes an object with the indices as names.
///
/// # Errors
///
/// [`SelectError`] if the pattern is malformed or nothing matches.
pub fn select(tree: &Value, pattern: &str) -> Result<Value, SelectError> {
    if pattern.len() > MAX_PATTERN {
        return Err(SelectError::TooLong);
    }
    let glob = GlobBuilder::new(pattern).literal_separator(true).build();
    let malformed = |error: globset::Error| SelectError::Malformed {
        pattern: pattern.to_owned(),
        reason: error.kind().to_string(),
    };
    let glob = glob.map_err(malformed)?.compile_matcher();
    prune(tree, &mut String::new(), &glob).ok_or_else(|| SelectError::NoMatch {
        pattern: pattern.to_owned(),
        top: children(tree).map(|(name, _)| name).collect(),
    })
}

/// Returns whether a pattern may match something below `name`, a name at the top of a tree.
/// Returns false only if it certainly does not.
pub fn may_match(pattern: &str, name: &str) -> bool {
    let first = pattern.split('/').next().unwrap_or_default();
    if first.contains(['{', '}', '[', ']', '\\']) || first.contains("**") {
        return true;
    }
    let glob = GlobBuilder::new(first).literal_separator(true).build();
    glob.is_ok_and(|glob| glob.compile_matcher().is_match(name))
}

fn children(value: &Value) -> Box<dyn Iterator<Item = (String, &Value)> + '_> {
    match value {
        Value::Object(map) => Box::new(map.iter().map(|(name, child)| (name.clone(), child))),
        Value::Array(list) => Box::new(
            list.iter()
                .enumerate()
                .map(|(index, child)| (index.to_string(), child)),
        ),
        _ => Box::new(std::iter::empty()),
    }
}

fn prune(value: &Value, path: &mut String, glob: &GlobMatcher) -> Option<Value> {
    if !path.is_empty() && glob.is_match(&*path) {
        return Some(value.clone());
    }
    let length = path.len();
    let mut kept = Map::new();
    for (name, child) in children(value) {
        if length > 0 {
            path.push('/');
        }
        path.push_str(&name);
        if let Some(child) = prune(child, path, glob) {
            kept.insert(name, child);
        }
        path.truncate(length);
    }
    (!kept.is_empty()).then_some(Value::Object(kept))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tree() -> Value {
        json!({
            "pci": { "bars": { "0": 1, "2": 2 } },
            "ports": [
                { "mac": "02:00:00:00:00:01", "rx": { "packets": 3 } },
                { "mac": "02:00:00:00:00:02", "rx": { "packets": 4 } },
            ],
        })
    }

    #[test]
    fn whole_parts_stay_in_their_places() {
        assert_eq!(
            select(&tree(), "pci").unwrap(),
            json!({ "pci": { "bars": { "0": 1, "2": 2 } } })
        );
        assert_eq!(
            select(&tree(), "pci/bars/2").unwrap(),
            json!({ "pci": { "bars": { "2": 2 } } })
        );
        assert_eq!(select(&tree(), "ports").unwrap()["ports"], tree()["ports"]);
        assert_eq!(select(&tree(), "*").unwrap(), tree());
    }

    #[test]
    fn indices_are_names() {
        let one =
            json!({ "ports": { "1": { "mac": "02:00:00:00:00:02", "rx": { "packets": 4 } } } });
        assert_eq!(select(&tree(), "ports/1").unwrap(), one);
        assert_eq!(select(&tree(), "ports/1/*").unwrap(), one);
    }

    #[test]
    fn star_stays_within_a_name_and_two_do_not() {
        assert!(matches!(
            select(&tree(), "ports/*/packets"),
            Err(SelectError::NoMatch { .. })
        ));
        let packets = json!({ "ports": {
            "0": { "rx": { "packets": 3 } }, "1": { "rx": { "packets": 4 } },
        } });
        assert_eq!(select(&tree(), "**/packets").unwrap(), packets);
        assert_eq!(select(&tree(), "ports/*/rx/packets").unwrap(), packets);
    }

    #[test]
    fn parts_that_a_pattern_cannot_match_are_known() {
        for (pattern, expected) in [
            ("ports/0/*", false),
            ("pc*/bars", true),
            ("pci", true),
            ("pci/**", true),
            ("**/packets", true),
            ("{ports,pci}/0", true),
            ("{ports/0,pci/bars}", true),
            ("*", true),
            ("?ci/x", true),
            ("", false),
        ] {
            assert_eq!(may_match(pattern, "pci"), expected, "{pattern}");
            let found = select(&tree(), pattern).is_ok_and(|found| found.get("pci").is_some());
            assert!(expected || !found, "{pattern}");
        }
    }

    #[test]
    fn errors_say_what_is_there() {
        let error = select(&tree(), "port").unwrap_err().to_string();
        assert!(
            error.contains("`port`") && error.contains("pci, ports"),
            "{error}"
        );
        assert!(matches!(
            select(&tree(), "a["),
            Err(SelectError::Malformed { .. })
        ));
        assert_eq!(
            select(&tree(), &"*".repeat(2000)),
            Err(SelectError::TooLong)
        );
        assert!(select(&json!(1), "*").is_err());
    }
}
