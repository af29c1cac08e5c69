//! Checks the layers in the code: modules of a crate do not import each other in a
//! circle, and imports only go down.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The modules that each module of the device may import.
const ARROWS: &[(&str, &[&str])] = &[
    ("limits", &[]),
    ("state", &["limits"]),
    ("gdma", &["limits", "state"]),
    ("hwc", &["gdma", "limits", "state"]),
    ("bnic", &["gdma", "limits", "state"]),
    ("recovery", &["bnic", "gdma", "hwc"]),
    ("faults", &[]),
    (
        "adapter",
        &["bnic", "gdma", "hwc", "limits", "recovery", "state"],
    ),
];

/// The workspace's crates that each crate of the device may depend on.
const CRATES: &[(&str, &[&str])] = &[
    ("component/wire", &[]),
    ("component/kit", &[]),
    ("component", &["device-kit", "mana-wire"]),
];

/// The crates of the host.
const HOST: &[&str] = &[
    "host/common",
    "host/vfio-user",
    "host/control",
    "host/keeper",
    "host",
    "host/check",
    "host/cli",
];

type Imports = BTreeMap<String, BTreeSet<String>>;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Reads the sources of a crate by module, without comments and tests.
fn sources(folder: &Path, module: &str, found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("a file").path();
        let stem = path.file_stem().and_then(|it| it.to_str()).expect("a name");
        let inner = [module, stem].join("::").trim_matches(':').to_owned();
        if path.is_dir() {
            sources(&path, &inner, found);
        } else if path.extension().is_some_and(|it| it == "rs") {
            let text = fs::read_to_string(&path).expect("a source");
            let text = text.split("#[cfg(test)]\nmod tests").next();
            let code = text.into_iter().flat_map(str::lines);
            let code = code.filter(|line| !line.trim_start().starts_with("//"));
            let name = match stem {
                "mod" | "lib" => module,
                _ => &inner,
            };
            found.insert(name.to_owned(), code.collect::<Vec<_>>().join("\n"));
        }
    }
}

/// Returns every path in the code, with `use a::{b, c}` expanded.
fn paths(code: &str) -> Vec<Vec<&str>> {
    let mut tokens = Vec::new();
    let mut rest = code;
    while let Some(next) = rest.chars().next() {
        let is_word = |it: char| it.is_alphanumeric() || it == '_';
        let length = match next {
            _ if is_word(next) => rest.find(|it| !is_word(it)).unwrap_or(rest.len()),
            ':' if rest.starts_with("::") => 2,
            _ => next.len_utf8(),
        };
        let (token, others) = rest.split_at(length);
        tokens.extend(Some(token).filter(|it| !it.trim().is_empty()));
        rest = others;
    }
    let mut found = Vec::new();
    // Prefixes of the braces that are open, and the path that is being read.
    let (mut open, mut path) = (Vec::<Vec<&str>>::new(), Vec::new());
    for (index, token) in tokens.iter().enumerate() {
        let follows = index > 0 && tokens[index - 1] == "::";
        match *token {
            "::" => {}
            "{" if follows => open.push(std::mem::take(&mut path)),
            "{" if !open.is_empty() => open.push(Vec::new()),
            "}" => {
                found.push([open.concat(), std::mem::take(&mut path)].concat());
                open.pop();
            }
            word if word.starts_with(|it: char| it.is_alphabetic() || it == '_') => {
                if !follows && !path.is_empty() {
                    found.push([open.concat(), std::mem::take(&mut path)].concat());
                }
                path.push(word);
            }
            _ => found.push([open.concat(), std::mem::take(&mut path)].concat()),
        }
    }
    found
}

/// Returns the module that a path in `module` refers to: the longest that exists.
fn resolve(path: &[&str], module: &str, all: &BTreeMap<String, String>) -> Option<String> {
    let mut here: Vec<&str> = module.split("::").filter(|it| !it.is_empty()).collect();
    let mut rest = path;
    match rest.first()? {
        &"crate" => (here, rest) = (Vec::new(), &rest[1..]),
        &"self" => rest = &rest[1..],
        &"super" => {
            while rest.first() == Some(&"super") {
                here.pop();
                rest = &rest[1..];
            }
        }
        // A child, as far as it is one.
        child => {
            here.push(child);
            all.get(&here.join("::"))?;
            rest = &rest[1..];
        }
    }
    for segment in rest {
        let inner = [here.join("::").as_str(), segment].join("::");
        if !all.contains_key(inner.trim_matches(':')) {
            break;
        }
        here.push(segment);
    }
    Some(here.join("::"))
}

fn imports(folder: &Path) -> Imports {
    let mut all = BTreeMap::new();
    sources(&folder.join("src"), "", &mut all);
    let of = |(module, code): (&String, &String)| {
        // The declaration of a module is not an import of it.
        let code = code.replace("mod ", "mod =");
        let found = paths(&code);
        let found = found.iter().filter(|path| path.len() > 1);
        let found = found.filter_map(|path| resolve(path, module, &all));
        (module.clone(), found.filter(|to| to != module).collect())
    };
    all.iter().map(of).collect()
}

/// Returns the modules that a module imports, directly or not.
fn reached<'a>(from: &'a str, imports: &'a Imports) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    let mut left = vec![from];
    while let Some(module) = left.pop() {
        for to in imports.get(module).into_iter().flatten() {
            if found.insert(to.as_str()) {
                left.push(to);
            }
        }
    }
    found
}

/// Returns the circles of a crate, each as all of its modules.
fn circles(imports: &Imports) -> BTreeSet<Vec<&str>> {
    let mut circles = BTreeSet::new();
    for module in imports.keys() {
        let others = reached(module, imports).into_iter();
        let circle = others.filter(|it| reached(it, imports).contains(module.as_str()));
        let circle: Vec<&str> = circle.collect();
        if circle.len() > 1 {
            circles.insert(circle);
        }
    }
    circles
}

#[test]
fn modules_do_not_import_each_other_in_a_circle() {
    for folder in CRATES.iter().map(|it| it.0).chain(HOST.iter().copied()) {
        let imports = imports(&root().join(folder));
        assert!(!imports.is_empty(), "{folder} has no sources");
        assert_eq!(circles(&imports), BTreeSet::new(), "{folder}");
    }
}

#[test]
fn imports_go_down() {
    let layer = |module: &str| module.split("::").next().unwrap_or_default().to_owned();
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let imports = imports(&root().join("component"));
    let mut seen = BTreeSet::new();
    for (module, imported) in &imports {
        let from = layer(module);
        if matches!(&*from, "" | "properties") {
            continue;
        }
        let arrows = allowed.get(&*from);
        let arrows = arrows.unwrap_or_else(|| panic!("{from} is a new layer: say what it imports"));
        for to in imported.iter().map(|to| layer(to)).filter(|to| *to != from) {
            assert!(arrows.contains(&&*to), "{module} imports {to}");
            seen.insert((from.clone(), to));
        }
    }
    assert!(seen.contains(&("bnic".to_owned(), "gdma".to_owned())));
}

#[test]
fn crates_depend_down() {
    for (folder, allowed) in CRATES {
        let manifest = root().join(folder).join("Cargo.toml");
        let manifest = fs::read_to_string(manifest).expect("a manifest");
        let shipped = manifest.split("[dev-dependencies]").next();
        let shipped = shipped.into_iter().flat_map(str::lines);
        let is_ours = |name: &str| name.starts_with("mana") || name.starts_with("device-");
        for line in shipped.filter(|line| line.contains("path =") || is_ours(line)) {
            let name = line.split([' ', '.']).next().unwrap_or_default();
            assert!(allowed.contains(&name), "{folder} depends on {name}");
        }
    }
}

#[test]
fn a_circle_is_detected() {
    let code = "use crate::{a::{self, X}, b};\nfn f() { super::c::g(); self::h() }";
    let found = paths(code);
    for path in [
        &["crate", "a", "X"][..],
        &["crate", "b"],
        &["super", "c", "g"],
    ] {
        assert!(found.iter().any(|it| it == path), "{path:?} in {found:?}");
    }
    let edge = |to: &str| BTreeSet::from([to.to_owned()]);
    let mut imports = Imports::from([("a".to_owned(), edge("b")), ("b".to_owned(), edge("c"))]);
    assert!(circles(&imports).is_empty());
    imports.insert("c".to_owned(), edge("a"));
    assert_eq!(circles(&imports), BTreeSet::from([vec!["a", "b", "c"]]));
}
