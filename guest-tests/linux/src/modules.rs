//! A kernel's module files, and what each needs loaded before it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use walkdir::WalkDir;

/// The modules of one kernel.
pub struct ModuleTree {
    dir: PathBuf,
    files: BTreeMap<String, PathBuf>,
    builtin: String,
}

/// One module, ready for a guest.
pub struct Module {
    /// Its name, with underscores.
    pub name: String,
    /// The names of the modules it needs.
    pub depends: Vec<String>,
    /// The file, no longer compressed.
    pub elf: Vec<u8>,
}

impl ModuleTree {
    /// Finds the modules of `release` in or below `dir`: `dir` may be the release's
    /// own directory, one that holds it, or a root file system.
    pub fn find(dir: &Path, release: &str) -> Result<Self> {
        let places =
            ["", "lib/modules", "usr/lib/modules"].map(|place| dir.join(place).join(release));
        let own = dir.file_name() == Some(OsStr::new(release));
        let found = places
            .into_iter()
            .find(|place| place.is_dir())
            .or_else(|| own.then(|| dir.to_owned()))
            .with_context(|| {
                format!(
                    "no modules of kernel {release} in or below {}",
                    dir.display()
                )
            })?;
        Self::open(found)
    }

    fn open(dir: PathBuf) -> Result<Self> {
        let mut files = BTreeMap::new();
        for entry in WalkDir::new(&dir) {
            let path = entry.context("cannot list the modules")?.into_path();
            if let Some(name) = module_name(&path) {
                files.insert(name, path);
            }
        }
        let list = dir.join("modules.builtin");
        let builtin = if list.exists() {
            fs::read_to_string(&list).with_context(|| format!("cannot read {}", list.display()))?
        } else {
            String::new()
        };
        Ok(Self {
            dir,
            files,
            builtin,
        })
    }

    /// Returns the modules `names` and all they need, the needed ones first. What the
    /// kernel has built in is left out.
    pub fn with_dependencies(&self, names: &[&str]) -> Result<Vec<Module>> {
        let mut loaded = Vec::new();
        for name in names {
            self.add(name, &mut loaded)?;
        }
        Ok(loaded)
    }

    /// Returns whether the kernel has `name`, as a module or built in.
    pub fn has(&self, name: &str) -> bool {
        self.files.contains_key(name) || self.is_builtin(name)
    }

    fn add(&self, name: &str, loaded: &mut Vec<Module>) -> Result<()> {
        if loaded.iter().any(|module| module.name == name) || self.is_builtin(name) {
            return Ok(());
        }
        let path = self.files.get(name).with_context(|| {
            format!("the kernel has no module {name} in {}", self.dir.display())
        })?;
        let elf = read_module(path)?;
        let depends = dependencies(&elf);
        for needed in &depends {
            self.add(needed, loaded)?;
        }
        loaded.push(Module {
            name: name.to_owned(),
            depends,
            elf,
        });
        Ok(())
    }

    /// Returns the list of what the kernel has built in, as modprobe reads it; empty if it
    /// has none.
    pub fn builtin(&self) -> &str {
        &self.builtin
    }

    fn is_builtin(&self, name: &str) -> bool {
        self.builtin
            .lines()
            .any(|line| module_name(Path::new(line)).is_some_and(|builtin| builtin == name))
    }
}

/// Returns the name of a module's file, or `None` if it is none.
fn module_name(path: &Path) -> Option<String> {
    let (name, compression) = path.file_name()?.to_str()?.split_once(".ko")?;
    matches!(compression, "" | ".xz" | ".zst").then(|| name.replace('-', "_"))
}

fn read_module(path: &Path) -> Result<Vec<u8>> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut reader: Box<dyn Read> = match path.extension().and_then(OsStr::to_str) {
        Some("xz") => Box::new(liblzma::read::XzDecoder::new(file)),
        Some("zst") => {
            Box::new(ruzstd::decoding::StreamingDecoder::new(file).context("bad zstd header")?)
        }
        _ => Box::new(file),
    };
    let mut elf = Vec::new();
    reader
        .read_to_end(&mut elf)
        .with_context(|| format!("cannot read {}", path.display()))?;
    if !elf.starts_with(b"\x7fELF") {
        bail!("{} is no module", path.display());
    }
    Ok(elf)
}

/// Reads `depends=` out of the module's `.modinfo`: strings that end with NUL.
fn dependencies(elf: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(start) = elf.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let value = elf[start + KEY.len()..]
        .split(|byte| *byte == 0)
        .next()
        .unwrap_or_default();
    String::from_utf8_lossy(value)
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &[u8])]) -> (tempfile::TempDir, Result<ModuleTree>) {
        let root = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            let path = root.path().join("lib/modules/9.9").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        let tree = ModuleTree::find(root.path(), "9.9");
        (root, tree)
    }

    #[test]
    fn dependencies_come_first_and_built_in_ones_not_at_all() {
        let (_root, tree) = tree(&[
            ("kernel/net/nic.ko", b"\x7fELF\0depends=a-b,core\0"),
            ("kernel/a-b.ko", b"\x7fELF\0depends=\0"),
            ("modules.builtin", b"kernel/core.ko\n"),
        ]);
        let tree = tree.unwrap();
        let names: Vec<String> = tree
            .with_dependencies(&["nic", "a_b"])
            .unwrap()
            .into_iter()
            .map(|m| m.name)
            .collect();
        assert_eq!(names, ["a_b", "nic"]);
        assert!(tree.has("core") && !tree.has("other"));
    }

    #[test]
    fn missing_and_broken_modules_are_named() {
        let (_root, tree) = tree(&[("kernel/bad.ko", b"text")]);
        let tree = tree.unwrap();
        for name in ["bad", "none"] {
            let error = tree.with_dependencies(&[name]).err().unwrap();
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn another_kernels_modules_are_refused() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("lib/modules/1.0/kernel")).unwrap();
        assert!(ModuleTree::find(root.path(), "9.9").is_err());
    }
}
