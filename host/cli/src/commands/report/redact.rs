//! Redacts addresses and names of users from a report.
//!
//! Each address is always replaced by the same word, so that a reader can still relate
//! its occurrences.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use serde_json::Value;

/// The length of a MAC address as text with colons.
const MAC_TEXT: usize = 17;

/// Replaces addresses by words.
#[derive(Debug, Default)]
pub struct Redaction {
    /// The word for each address, by its text in lower case.
    words: HashMap<String, String>,
    /// MAC addresses that were seen, as twelve digits, to find them without colons too.
    known: Vec<String>,
}

impl Redaction {
    /// Collects the addresses of a tree's members that are named as such.
    pub fn learn(&mut self, tree: &Value) {
        match tree {
            Value::Object(members) => {
                for (name, value) in members {
                    if let (true, Value::String(mac)) = (is_address(name), value) {
                        let digits = digits_of(mac);
                        if digits.len() == 12 && !self.known.contains(&digits) {
                            self.known.push(digits);
                        }
                    }
                    self.learn(value);
                }
            }
            Value::Array(values) => values.iter().for_each(|value| self.learn(value)),
            _ => {}
        }
    }

    /// Redacts a tree.
    pub fn tree(&mut self, tree: &mut Value) {
        match tree {
            Value::Object(members) => {
                for (name, value) in members {
                    match value {
                        // The name says that it is an address, in whatever form.
                        Value::Number(_) | Value::Array(_) if is_address(name) => {
                            *value = Value::from("[MAC]");
                        }
                        _ => self.tree(value),
                    }
                }
            }
            Value::Array(values) => values.iter_mut().for_each(|value| self.tree(value)),
            Value::String(text) => *text = self.text(text),
            _ => {}
        }
    }

    /// Redacts a text.
    pub fn text(&mut self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let before = out.chars().next_back();
            let inside = before.is_some_and(|before| before.is_ascii_alphanumeric());
            let found = match inside {
                true => None,
                false => self.find(rest),
            };
            if let Some((length, word)) = found {
                out.push_str(&word);
                rest = &rest[length..];
            } else {
                out.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
        out
    }

    /// Returns the length of the address or name that begins a text, and its word, if there is
    /// one.
    fn find(&mut self, text: &str) -> Option<(usize, String)> {
        if let Some(length) = mac_at(text) {
            let word = self.word("MAC", &digits_of(&text[..length]));
            return Some((length, word));
        }
        let digits = run(text, |byte| byte.is_ascii_hexdigit());
        if self.known.contains(&text[..digits].to_ascii_lowercase()) {
            let word = self.word("MAC", &digits_of(&text[..digits]));
            return Some((digits, word));
        }
        let length = address_at(text);
        if length > 0 {
            let word = self.word("IP", &text[..length].to_ascii_lowercase());
            return Some((length, word));
        }
        let name = text.strip_prefix("/home/")?;
        let length = name.find('/').unwrap_or(name.len());
        Some((6 + length, "/home/[user]".to_owned()))
    }

    fn word(&mut self, kind: &str, address: &str) -> String {
        let next = self.words.len() + 1;
        let word = || format!("[{kind} {next}]");
        let words = self.words.entry(address.to_owned());
        words.or_insert_with(word).clone()
    }
}

/// Returns whether a member of a tree is named as a MAC address.
fn is_address(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name == "mac" || name.ends_with("_mac") || name.starts_with("mac_")
}

/// Returns the digits of a MAC address, in lower case.
fn digits_of(text: &str) -> String {
    let digits = text.chars().filter(char::is_ascii_hexdigit);
    digits.map(|digit| digit.to_ascii_lowercase()).collect()
}

fn run(text: &str, of: impl Fn(&u8) -> bool) -> usize {
    text.bytes().take_while(|byte| of(byte)).count()
}

/// Returns the length of a MAC address that begins a text: six pairs with colons or dashes, or
/// three groups of four with dots.
fn mac_at(text: &str) -> Option<usize> {
    let is = |group: usize, separator: u8| {
        let length = 12 + 12 / group - 1;
        let bytes = text.as_bytes().get(..length)?;
        let right = bytes
            .iter()
            .enumerate()
            .all(|(at, byte)| match at % (group + 1) {
                place if place == group => *byte == separator,
                _ => byte.is_ascii_hexdigit(),
            });
        let ends = !text
            .as_bytes()
            .get(length)
            .is_some_and(u8::is_ascii_hexdigit);
        (right && ends).then_some(length)
    };
    debug_assert_eq!(MAC_TEXT, 12 + 12 / 2 - 1);
    is(2, b':').or_else(|| is(2, b'-')).or_else(|| is(4, b'.'))
}

/// Returns the length of an IP address that begins a text; 0 if none does.
fn address_at(text: &str) -> usize {
    let four = run(text, |byte| byte.is_ascii_digit() || *byte == b'.');
    let four = text[..four].trim_end_matches('.').len();
    if text[..four].parse::<Ipv4Addr>().is_ok() {
        return four;
    }
    let six = run(text, |byte| {
        byte.is_ascii_hexdigit() || b":.".contains(byte)
    });
    let six = text[..six].trim_end_matches('.');
    // A colon may be punctuation after the address.
    let six = match six.strip_suffix(':') {
        Some(shorter) if !shorter.ends_with(':') => shorter,
        _ => six,
    };
    let is = six.len() > 2 && six.parse::<Ipv6Addr>().is_ok();
    if is { six.len() } else { 0 }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn addresses_become_words_and_the_same_become_the_same() {
        let mut redaction = Redaction::default();
        for (text, shown) in [
            (
                "port 0 has 02:00:5E:aa:bb:cc, twice 02-00-5e-aa-bb-cc",
                "port 0 has [MAC 1], twice [MAC 1]",
            ),
            (
                "0200.5eaa.bbcc and 02:00:5e:aa:bb:cd.",
                "[MAC 1] and [MAC 2].",
            ),
            (
                "from 10.0.0.1:80 to fd00::1: refused",
                "from [IP 3]:80 to [IP 4]: refused",
            ),
            ("again 10.0.0.1; ::ffff:10.0.0.1", "again [IP 3]; [IP 5]"),
            (
                "/home/jane/nic.sock /home/jane",
                "/home/[user]/nic.sock /home/[user]",
            ),
        ] {
            assert_eq!(redaction.text(text), shown);
        }
    }

    #[test]
    fn text_without_addresses_is_unchanged() {
        let mut redaction = Redaction::default();
        for text in [
            "07:24:53.004 attached",
            "Linux 6.18.5 wasmtime 48.0.8",
            "manatee::device::handle",
            "sha256 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            "0000:00:04.0 at 0x1000",
            "02:00:5e:aa:bb",
            "02:00:5e:aa:bb:ccd",
            "naïve – 10 µs ::",
            "",
        ] {
            assert_eq!(redaction.text(text), text);
        }
    }

    #[test]
    fn trees_are_redacted_by_name_and_by_content() {
        let mut redaction = Redaction::default();
        let mut tree = json!({
            "ports": { "0": { "mac": "02:00:5e:aa:bb:cc", "text": "is 02005EAABBCC up" } },
            "vports": [{ "mac": 2_203_318_222_848_u64, "guest_mac": [2, 0, 0x5e, 0, 0, 1] }],
            "machine": "x86_64",
        });
        redaction.learn(&tree);
        redaction.tree(&mut tree);
        let expected = json!({
            "ports": { "0": { "mac": "[MAC 1]", "text": "is [MAC 1] up" } },
            "vports": [{ "mac": "[MAC]", "guest_mac": "[MAC]" }],
            "machine": "x86_64",
        });
        assert_eq!(tree, expected);
    }
}
