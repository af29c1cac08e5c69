//! Checks that types with the layout of C contain no tuple: the compiler may order a
//! tuple's fields as it likes, in a `repr(C)` struct too.

use std::fs;
use std::path::{Path, PathBuf};

/// Returns the types in a source that have the layout of C and contain a tuple.
fn tuples(source: &str) -> Vec<String> {
    let code = source
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default());
    let code = code.collect::<Vec<_>>().join("\n");
    let mut found = Vec::new();
    for (at, _) in code.match_indices("#[repr(C") {
        let item = &code[at..];
        let Some(begin) = ["struct ", "union ", "enum "]
            .iter()
            .filter_map(|word| item.find(word))
            .min()
        else {
            continue;
        };
        let item = &item[begin..];
        let is_word = |it: char| it.is_alphanumeric() || it == '_';
        let name = item.split_whitespace().nth(1).unwrap_or_default();
        let name = name.split(|it| !is_word(it)).next().unwrap_or_default();
        let Some(open) = item.find(['{', '(', ';']) else {
            continue;
        };
        if holds_tuple(fields(&item[open..])) {
            found.push(name.to_owned());
        }
    }
    found
}

/// Returns the text between the bracket that a text begins with and its counterpart.
fn fields(text: &str) -> &str {
    let mut depth = 0;
    for (at, symbol) in text.char_indices() {
        match symbol {
            '{' | '(' => depth += 1,
            '}' | ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return text.get(1..at).unwrap_or_default();
        }
    }
    text
}

/// Returns whether there is an opening parenthesis other than an attribute's, a
/// visibility's or a function's.
fn holds_tuple(fields: &str) -> bool {
    let mut attributes = String::new();
    let mut depth = 0;
    // Attributes are removed first, as their brackets may contain anything.
    for (at, symbol) in fields.char_indices() {
        if symbol == '#' && fields[at..].starts_with("#[") {
            depth = 1;
        } else if depth > 0 && symbol == '[' && !fields[..at].ends_with('#') {
            depth += 1;
        } else if depth > 0 && symbol == ']' {
            depth -= 1;
            continue;
        }
        if depth == 0 {
            attributes.push(symbol);
        }
    }
    attributes.match_indices('(').any(|(at, _)| {
        let before = attributes[..at].trim_end();
        !["pub", "fn"].iter().any(|word| before.ends_with(word))
    })
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("a file").path();
        if path.is_dir() && !path.ends_with("target") {
            sources(&path, found);
        } else if path.extension().is_some_and(|it| it == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn types_with_the_layout_of_c_hold_no_tuple() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut all = Vec::new();
    for folder in ["component", "guest-tests", "host"] {
        sources(&root.join(folder), &mut all);
    }
    let mut types = 0;
    for path in all.iter().filter(|path| !path.ends_with("layouts.rs")) {
        let source = fs::read_to_string(path).expect("a source");
        types += source.matches("#[repr(C").count();
        assert_eq!(tuples(&source), Vec::<String>::new(), "{}", path.display());
    }
    assert!(types > 0, "no type has the layout of C");
}

#[test]
fn a_tuple_is_detected() {
    let good = "#[repr(C)]\n#[derive(Debug)]\npub struct A {\n    #[doc = \"(u8, u8)\"]\n    pub(crate) a: u8,\n    f: extern \"C\" fn(u32) -> u32, // (u8, u8)\n}\nfn g(x: (u8, u8)) {}";
    assert_eq!(tuples(good), Vec::<String>::new());
    assert_eq!(
        tuples("#[repr(C)]\nstruct B(u8, [u8; 2]);"),
        Vec::<String>::new()
    );
    let bad = "#[repr(C, packed)]\npub struct C {\n    a: u8,\n    b: [(u32, u64); 2],\n}";
    assert_eq!(tuples(bad), ["C"]);
    assert_eq!(tuples("#[repr(C)]\nstruct D((u32, u64));"), ["D"]);
}
