//! A copy of the device's source that faults are applied to.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use walkdir::WalkDir;

use crate::fault::Fault;

/// The sources of the native conformance test.
const SOURCES: [&str; 5] = [
    "Cargo.lock",
    "component",
    "guest-tests/conformance",
    "guest-tests/world",
    "wit",
];
/// The members of the copy's workspace.
const MEMBERS: [&str; 5] = [
    "component",
    "component/kit",
    "component/wire",
    "guest-tests/conformance",
    "guest-tests/world",
];

/// The copy.
#[derive(Debug)]
pub struct Scratch {
    root: PathBuf,
}

impl Scratch {
    /// Copies the sources of the repository at `from` to `root`. Identical files stay
    /// untouched, so that they are not compiled again; other files in `root` are
    /// removed.
    ///
    /// # Errors
    ///
    /// If a source cannot be read, or the copy cannot be written.
    pub fn new(from: &Path, root: PathBuf) -> Result<Self> {
        let scratch = Self { root };
        for source in SOURCES {
            scratch.mirror(from, source)?;
        }
        let manifest = fs::read_to_string(from.join("Cargo.toml")).context("reading Cargo.toml")?;
        let manifest = narrowed(&manifest)?;
        write_if_new(&scratch.root.join("Cargo.toml"), manifest.as_bytes())?;
        Ok(scratch)
    }

    /// Returns its path.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Checks that a fault can be applied.
    ///
    /// # Errors
    ///
    /// If it is stale, or its file cannot be read.
    pub fn check(&self, fault: &Fault) -> Result<()> {
        let (_, good) = self.read(fault)?;
        fault.apply(&good)?;
        Ok(())
    }

    /// Runs `work` while the copy has the fault in it.
    ///
    /// # Errors
    ///
    /// If the fault is stale, or the copy cannot be written; those of `work`.
    pub fn with<T>(&self, fault: &Fault, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let (path, good) = self.read(fault)?;
        fs::write(&path, fault.apply(&good)?)
            .with_context(|| format!("writing {}", path.display()))?;
        let result = work();
        fs::write(&path, good).with_context(|| format!("restoring {}", path.display()))?;
        result
    }

    fn read(&self, fault: &Fault) -> Result<(PathBuf, String)> {
        let path = self.root.join(&fault.file);
        let good =
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        Ok((path, good))
    }

    fn mirror(&self, from: &Path, source: &str) -> Result<()> {
        let what = || format!("copying {source}");
        for entry in WalkDir::new(from.join(source)) {
            let entry = entry.with_context(what)?;
            if entry.file_type().is_file() {
                let place = self.root.join(entry.path().strip_prefix(from)?);
                let content = fs::read(entry.path()).with_context(what)?;
                write_if_new(&place, &content)?;
            }
        }
        let copy = self.root.join(source);
        if copy.is_dir() {
            for entry in WalkDir::new(&copy).contents_first(true) {
                let entry = entry.with_context(what)?;
                let origin = from.join(entry.path().strip_prefix(&self.root)?);
                if !origin.exists() {
                    remove(entry.path()).with_context(what)?;
                }
            }
        }
        Ok(())
    }
}

/// Returns the workspace's manifest, with the members that the copy has.
fn narrowed(manifest: &str) -> Result<String> {
    let mut manifest: toml::Table = manifest.parse().context("reading Cargo.toml")?;
    let Some(toml::Value::Table(workspace)) = manifest.get_mut("workspace") else {
        bail!("Cargo.toml is not a workspace's");
    };
    let members = MEMBERS.map(|member| toml::Value::String(member.to_owned()));
    workspace.insert("members".to_owned(), toml::Value::Array(members.to_vec()));
    Ok(toml::to_string(&manifest)?)
}

fn write_if_new(path: &Path, content: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|old| old == content) {
        return Ok(());
    }
    let write = || -> io::Result<()> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(path, content)
    };
    write().with_context(|| format!("writing {}", path.display()))
}

fn remove(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        fs::remove_dir(path)
    } else {
        fs::remove_file(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Area;

    const MANIFEST: &str = "[workspace]\nresolver = \"3\"\nmembers = [\"component\", \"host\"]\n";

    fn repository() -> tempfile::TempDir {
        let repository = tempfile::tempdir().unwrap();
        let write = |path: &str, content: &str| {
            write_if_new(&repository.path().join(path), content.as_bytes()).unwrap();
        };
        write("Cargo.toml", MANIFEST);
        write("Cargo.lock", "");
        write("component/src/cq.rs", "head + 1");
        write("guest-tests/conformance/src/lib.rs", "");
        write("guest-tests/world/src/lib.rs", "");
        write("wit/device.wit", "");
        repository
    }

    fn fault() -> Fault {
        Fault {
            name: "stuck".to_owned(),
            area: Area::Queues,
            file: "component/src/cq.rs".to_owned(),
            find: " + 1".to_owned(),
            replace: String::new(),
            effect: String::new(),
            accepted: None,
        }
    }

    #[test]
    fn a_fault_is_there_during_the_work_and_gone_after_it() {
        let (repository, copy) = (repository(), tempfile::tempdir().unwrap());
        let scratch = Scratch::new(repository.path(), copy.path().to_owned()).unwrap();
        let read = || fs::read_to_string(copy.path().join("component/src/cq.rs")).unwrap();
        let during = scratch.with(&fault(), || Ok(read())).unwrap();
        assert_eq!((during.as_str(), read().as_str()), ("head", "head + 1"));
        let failed: Result<()> = scratch.with(&fault(), || bail!("no"));
        assert!(failed.is_err());
        assert_eq!(read(), "head + 1");
    }

    #[test]
    fn a_copy_follows_the_repository() {
        let (repository, copy) = (repository(), tempfile::tempdir().unwrap());
        let made = || Scratch::new(repository.path(), copy.path().to_owned()).unwrap();
        made();
        let copied = copy.path().join("component/src/cq.rs");
        let before = fs::metadata(&copied).unwrap().modified().unwrap();
        let moved = repository.path().join("component/src/queue/eq.rs");
        write_if_new(&moved, b"").unwrap();
        made();
        assert!(copy.path().join("component/src/queue/eq.rs").exists());
        assert_eq!(fs::metadata(&copied).unwrap().modified().unwrap(), before);
        fs::remove_dir_all(moved.parent().unwrap()).unwrap();
        made();
        assert!(!copy.path().join("component/src/queue").exists());
    }

    #[test]
    fn the_copy_is_a_smaller_workspace() {
        let manifest: toml::Table = narrowed(MANIFEST).unwrap().parse().unwrap();
        let members = manifest["workspace"]["members"].as_array().unwrap();
        let members: Vec<_> = members.iter().filter_map(toml::Value::as_str).collect();
        assert_eq!(members, MEMBERS);
        assert_eq!(manifest["workspace"]["resolver"].as_str(), Some("3"));
        assert!(narrowed("[package]").is_err());
    }
}
