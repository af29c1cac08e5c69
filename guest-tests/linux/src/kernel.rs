//! The guest's kernel: a bzImage, and the modules that belong to it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::assets::Assets;
use crate::modules::ModuleTree;

/// Debian kernels that the set-up can fetch, by the version that names them.
const DEBIAN: [&str; 2] = ["6.12", "6.1"];

/// A kernel to boot.
pub struct Kernel {
    /// The bzImage.
    pub image: PathBuf,
    /// Its full version, as `uname -r` prints it.
    pub release: String,
    /// Its modules; `None` when all it needs is built in.
    pub modules: Option<ModuleTree>,
}

impl Kernel {
    /// Finds a kernel. `name` is a Debian version that the set-up has fetched, or the path of a
    /// bzImage whose modules are in or below `modules`.
    pub fn find(assets: &Assets, name: &str, modules: Option<&Path>) -> Result<Self> {
        if !DEBIAN.contains(&name) {
            return Self::open(Path::new(name), modules);
        }
        let package = assets.kernel(name)?;
        let image = only_file(&package.join("boot"), "vmlinuz-")?;
        Self::open(&image, Some(modules.unwrap_or(&package)))
    }

    fn open(image: &Path, modules: Option<&Path>) -> Result<Self> {
        let release = release_of(image)?;
        let modules = modules
            .map(|dir| ModuleTree::find(dir, &release))
            .transpose()?;
        Ok(Self {
            image: image.to_owned(),
            release,
            modules,
        })
    }
}

fn only_file(dir: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(prefix))
        })
        .with_context(|| format!("no {prefix}* in {}", dir.display()))
}

/// Reads the version out of a bzImage (the kernel's Documentation/arch/x86/boot.rst:
/// `header` at 0x202, `kernel_version` at 0x20e, relative to 0x200).
fn release_of(image: &Path) -> Result<String> {
    let bytes =
        fs::read(image).with_context(|| format!("cannot read the kernel {}", image.display()))?;
    if bytes.get(0x202..0x206) != Some(b"HdrS") {
        bail!("{} is no x86 Linux kernel (bzImage)", image.display());
    }
    let text = bytes
        .get(0x20e..0x210)
        .map(|field| usize::from(u16::from_le_bytes([field[0], field[1]])) + 0x200)
        .and_then(|start| bytes.get(start..))
        .context("the kernel's header is cut short")?;
    let end = text
        .iter()
        .position(|byte| matches!(byte, b' ' | 0))
        .unwrap_or(0);
    let release = String::from_utf8_lossy(&text[..end]).into_owned();
    if release.is_empty() {
        bail!("{} does not tell its version", image.display());
    }
    Ok(release)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bz_image(version: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 0x300];
        bytes[0x202..0x206].copy_from_slice(b"HdrS");
        bytes[0x20e..0x210].copy_from_slice(&0x60_u16.to_le_bytes());
        bytes[0x260..0x260 + version.len()].copy_from_slice(version);
        bytes
    }

    fn release(bytes: &[u8]) -> Result<String> {
        let file = tempfile::NamedTempFile::new()?;
        fs::write(file.path(), bytes)?;
        release_of(file.path())
    }

    #[test]
    fn reads_the_version_of_a_kernel() {
        assert_eq!(
            release(&bz_image(b"6.12.9-cloud (x@y) #1")).unwrap(),
            "6.12.9-cloud"
        );
    }

    #[test]
    fn refuses_what_is_no_kernel() {
        assert!(release(b"\x7fELF").is_err());
        assert!(release(&bz_image(b"")).is_err());
        assert!(release(&bz_image(b"x")[..0x210]).is_err());
    }
}
