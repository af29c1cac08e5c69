//! A component's own metadata: custom sections with the names that
//! [wasm-metadata](https://docs.rs/wasm-metadata) gives them.

use manatee_common::ration::clean;
use wasmparser::{ComponentName, ComponentNameSectionReader, KnownCustom, Parser, Payload};

/// The longest value that is shown, in bytes.
const MAX_VALUE: usize = 256;
/// The sections, and their titles in the output.
const SECTIONS: [(&str, &str); 6] = [
    ("version", "version"),
    ("description", "description"),
    ("authors", "authors"),
    ("licenses", "licences"),
    ("source", "source"),
    ("revision", "revision"),
];

/// Reads names and values. Of a truncated or corrupt file, those before the corruption.
pub fn read(wasm: &[u8]) -> Vec<(&'static str, String)> {
    let mut found: Vec<(&'static str, String)> = Vec::new();
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(wasm) {
        match payload {
            // A nested component has metadata of its own.
            Ok(Payload::Version { .. }) => depth += 1,
            Ok(Payload::End(_)) => depth = depth.saturating_sub(1),
            Ok(Payload::CustomSection(section)) if depth == 1 => {
                let entry = match section.as_known() {
                    KnownCustom::ComponentName(names) => name_in(names).map(|name| ("name", name)),
                    _ => SECTIONS
                        .iter()
                        .find(|(name, _)| *name == section.name())
                        .map(|(_, called)| (*called, clean(section.data(), MAX_VALUE))),
                };
                let new = entry.filter(|(name, _)| found.iter().all(|(known, _)| known != name));
                found.extend(new);
            }
            Ok(_) => {}
            Err(_) => break,
        }
    }
    found
}

fn name_in(names: ComponentNameSectionReader<'_>) -> Option<String> {
    names.into_iter().find_map(|part| match part {
        Ok(ComponentName::Component { name, .. }) => Some(clean(name.as_bytes(), MAX_VALUE)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embedded_component_says_what_it_is() {
        let found = read(manatee_component::BYTES);
        let value = |name: &str| {
            found
                .iter()
                .find(|(known, _)| *known == name)
                .unwrap()
                .1
                .clone()
        };
        assert_eq!(value("name"), "manatee-device");
        assert_eq!(value("version"), env!("CARGO_PKG_VERSION"));
        assert_eq!(value("licences"), env!("CARGO_PKG_LICENSE"));
        assert_eq!(value("source"), env!("CARGO_PKG_REPOSITORY"));
    }

    #[test]
    fn others_sections_and_broken_ones_are_left_out() {
        let section = |name: &str, data: &[u8]| {
            let length = [name.len() as u8];
            let content = [&length[..], name.as_bytes(), data].concat();
            [&[0, content.len() as u8][..], &content].concat()
        };
        let begin = b"\0asm\x0d\0\x01\0";
        let inner = [&begin[..], &section("version", b"9")].concat();
        let nested = [&[4, inner.len() as u8][..], &inner].concat();
        let own = [
            section("version", b"1\n\x1b"),
            section("version", b"2"),
            section("other", b"x"),
        ];
        let whole = [&begin[..], &nested, &own.concat()].concat();
        let found = read(&whole);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].0 == "version" && found[0].1.starts_with('1'));
        assert!(!found[0].1.contains(char::is_control), "{found:?}");
        for end in 0..whole.len() {
            read(&whole[..end]);
        }
    }
}
