//! Tests that the documentation's command lines are valid: each is parsed as the command does, or
//! its program is on a list with the reason why it is not.

use std::path::Path;

use clap::Parser;
use clap::error::ErrorKind;

use super::Cli;

const PAGES: [(&str, &str); 12] = [
    ("README.md", include_str!("../../../../README.md")),
    (
        "CONTRIBUTING.md",
        include_str!("../../../../CONTRIBUTING.md"),
    ),
    (
        "architecture.md",
        include_str!("../../../../docs/architecture.md"),
    ),
    (
        "conformance.md",
        include_str!("../../../../docs/conformance.md"),
    ),
    ("control.md", include_str!("../../../../docs/control.md")),
    (
        "device-authors.md",
        include_str!("../../../../docs/device-authors.md"),
    ),
    ("how-to.md", include_str!("../../../../docs/how-to.md")),
    (
        "operations.md",
        include_str!("../../../../docs/operations.md"),
    ),
    (
        "performance.md",
        include_str!("../../../../docs/performance.md"),
    ),
    ("security.md", include_str!("../../../../docs/security.md")),
    ("tutorial.md", include_str!("../../../../docs/tutorial.md")),
    ("wit.md", include_str!("../../../../docs/wit.md")),
];
const TASKS: &str = include_str!("../../../../justfile");

/// Other programs, and the reason why their lines are not parsed here.
const OTHERS: [(&str, &str); 12] = [
    ("apt", "just package installs the package in a chroot"),
    (
        "qemu-system-x86_64",
        "just test-guest boots a guest with these options",
    ),
    ("cloud-hypervisor", "not tested, as the page says"),
    ("passt", "just demo-rootless runs it"),
    ("ip", "the tests of TAPs make theirs in the same way"),
    ("systemctl", "it needs a running systemd"),
    ("pip", "it fetches from a registry"),
    ("cargo", "the build itself"),
    ("cd", "the shell's"),
    ("cp", "the shell's"),
    ("compose-guest-tests", "just guest-tests runs it"),
    ("wasmtime", "just guest-tests runs it"),
];

/// Returns the command lines of a page's examples, with their continuation lines.
fn typed(page: &str) -> Vec<String> {
    let (mut lines, mut inside, mut open) = (Vec::<String>::new(), false, false);
    for line in page.lines() {
        if line.starts_with("```") {
            inside = line == "```console";
            open = false;
        } else if inside {
            let begun = line.strip_prefix("# ").or_else(|| line.strip_prefix("$ "));
            let text = begun.unwrap_or(line);
            let more = text.trim_end().strip_suffix('\\');
            match (begun, lines.last_mut()) {
                (None, Some(last)) if open => last.push_str(more.unwrap_or(text)),
                (Some(_), _) => lines.push(more.unwrap_or(text).to_owned()),
                _ => continue,
            }
            open = more.is_some();
        }
    }
    lines
}

/// Returns the words of a line, up to a comment, a pipe or a redirection.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (c, quote) {
            ('\'' | '"', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (_, Some(open)) if c == open => quote = None,
            (' ', None) => words.extend(word.take()),
            ('#' | '|' | '>' | '&' | ';', None) if word.is_none() => return words,
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// Returns the error in a command line; None if it is valid.
fn wrong(line: &str) -> Option<String> {
    let words = words(line);
    match words.first().map(String::as_str) {
        Some("manatee") => match Cli::try_parse_from(&words) {
            Ok(_) => None,
            Err(error) if error.kind() == ErrorKind::DisplayHelp => None,
            Err(error) => Some(error.to_string()),
        },
        Some("just") => {
            let task = words.get(1)?;
            let defined = TASKS.lines().any(|line| {
                let name = line.split([' ', ':']).next();
                name == Some(task) && line.contains(':')
            });
            (!defined).then(|| format!("there is no task `{task}`"))
        }
        Some(other) if OTHERS.iter().any(|(name, _)| *name == other) => None,
        Some(other) => Some(format!(
            "{other} is unknown here: run the line in a test, or add it to OTHERS with the reason"
        )),
        None => None,
    }
}

#[test]
fn command_lines_of_the_documentation_are_valid() {
    let (mut bad, mut seen) = (Vec::new(), 0);
    for (name, page) in PAGES {
        for line in typed(page) {
            seen += 1;
            bad.extend(wrong(&line).map(|why| format!("{name}: {line}\n{why}")));
        }
    }
    assert!(seen > 50, "only {seen} lines were found");
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn every_page_with_examples_is_read() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for folder in [root.clone(), root.join("docs")] {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.extension().is_some_and(|it| it == "md") && !PAGES.iter().any(|it| it.0 == name)
            {
                let text = std::fs::read_to_string(&path).unwrap();
                assert!(!text.contains("```console"), "{name} is not read");
            }
        }
    }
}

#[test]
fn mistakes_in_command_lines_are_found() {
    let page =
        "```console\n# manatee link --control /c \\\n    0 down   # why\nport 0\n$ nope\n```\n";
    let lines = typed(page);
    assert_eq!(
        lines,
        ["manatee link --control /c     0 down   # why", "nope"]
    );
    assert_eq!(words("a 'b c' | d"), ["a", "b c"]);
    assert_eq!(wrong(&lines[0]), None);
    for mistake in [
        "nope",
        "manatee link 0 down",
        "manatee serve --port tap=a,mtu=1",
        "just nothing",
    ] {
        assert!(wrong(mistake).is_some(), "{mistake}");
    }
    assert_eq!(wrong("just demo"), None);
}
