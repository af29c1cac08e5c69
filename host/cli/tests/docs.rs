//! The documentation: its links have targets, and the book contains all of it. No network is
//! needed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The web address of this repository's files, which the book links to.
const WEB: &str = "https://github.com/manatee-vmm/manatee/blob/main/";

fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize().unwrap()
}

/// Returns all pages: those of the book, and those at the repository's root.
fn pages() -> Vec<PathBuf> {
    let folder = |folder: &Path| {
        let entries = fs::read_dir(folder).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths
            .filter(|path| path.extension().is_some_and(|it| it == "md"))
            .collect::<Vec<_>>()
    };
    [folder(&root()), folder(&root().join("docs"))].concat()
}

/// Returns the lines of a page outside of code blocks.
fn text(page: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    page.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        inside ^= fence;
        !inside && !fence
    })
}

/// Returns the targets of links: `](target)`.
fn links(page: &str) -> Vec<String> {
    let mut links = Vec::new();
    for line in text(page) {
        for part in line.split("](").skip(1) {
            if let Some((target, _)) = part.split_once(')') {
                links.push(target.to_owned());
            }
        }
    }
    links
}

/// Returns the anchors of headings, as GitHub and mdbook generate them.
fn anchors(page: &str) -> BTreeSet<String> {
    let headings = text(page).filter(|line| line.starts_with('#'));
    let anchor = |line: &str| {
        let heading = line.trim_start_matches('#').trim().to_lowercase();
        let kept = |c: &char| c.is_alphanumeric() || " -_".contains(*c);
        heading
            .chars()
            .filter(kept)
            .collect::<String>()
            .replace(' ', "-")
    };
    headings.map(anchor).collect()
}

#[test]
fn links_lead_somewhere() {
    let (mut broken, mut seen) = (Vec::new(), 0);
    for path in pages() {
        let page = fs::read_to_string(&path).unwrap();
        for link in links(&page) {
            seen += 1;
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = match file.strip_prefix(WEB) {
                Some(file) => root().join(file),
                None if file.contains("://") => continue,
                None if file.is_empty() => path.clone(),
                None => path.parent().unwrap().join(file),
            };
            let anchored = || {
                let page = fs::read_to_string(&target).unwrap_or_default();
                anchor.is_empty() || anchors(&page).contains(anchor)
            };
            if !target.exists() || !anchored() {
                broken.push(format!("{}: {link}", path.display()));
            }
        }
    }
    assert!(seen > 40, "only {seen} links were found");
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn the_book_has_every_page_and_leads_to_nothing_outside() {
    let docs = root().join("docs");
    let summary = fs::read_to_string(docs.join("SUMMARY.md")).unwrap();
    let listed: BTreeSet<_> = links(&summary).into_iter().collect();
    let own = pages().into_iter().filter(|page| page.starts_with(&docs));
    let names = own.map(|page| page.file_name().unwrap().to_str().unwrap().to_owned());
    let found: BTreeSet<_> = names.filter(|name| name != "SUMMARY.md").collect();
    assert_eq!(listed, found);
    // The published book comes without the repository.
    for name in found {
        let page = fs::read_to_string(docs.join(&name)).unwrap();
        let outside: Vec<_> = links(&page)
            .into_iter()
            .filter(|it| it.starts_with(".."))
            .collect();
        assert!(outside.is_empty(), "{name}: {outside:?}: link to {WEB}...");
    }
}

#[test]
fn every_part_of_the_changelog_has_upgrade_notes() {
    let changelog = fs::read_to_string(root().join("CHANGELOG.md")).unwrap();
    let parts: Vec<_> = changelog.split("\n## ").skip(1).collect();
    assert!(!parts.is_empty());
    for part in parts {
        let (title, text) = part.split_once('\n').unwrap();
        let notes = text.split_once("\n### Upgrade notes\n");
        let notes = notes.map(|(_, after)| after.split("\n### ").next().unwrap_or_default());
        let said = notes.is_some_and(|notes| notes.lines().any(|line| line.starts_with("- ")));
        assert!(said, "{title} does not say what to do on an upgrade");
    }
}

#[test]
fn links_and_anchors_are_found() {
    let page = "# A `b`, c!\n[x](y.md#z) and [w](v)\n```\n[no](link)\n# no heading\n```\n";
    assert_eq!(links(page), ["y.md#z", "v"]);
    assert_eq!(anchors(page).into_iter().collect::<Vec<_>>(), ["a-b-c"]);
}
