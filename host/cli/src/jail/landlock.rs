//! Landlock: restricts paths, and denies the network.

use std::fs;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus,
    PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError,
    RulesetStatus, Scope,
};

use super::JailError;

/// The oldest supported version, of Linux 5.13. It covers all paths.
const OLDEST: ABI = ABI::V1;
/// The version that is used as far as the kernel supports it: truncation (6.2), TCP (6.7), device
/// ioctls (6.10), abstract sockets and signals (6.12).
const NEWEST: ABI = ABI::V6;

/// The paths that stay accessible; none by default.
#[derive(Clone, Debug, Default)]
pub struct Paths {
    /// Folders whose files may be removed.
    pub removable: Vec<PathBuf>,
    /// Whether this program, and the libraries that it is linked with, may be
    /// executed.
    pub program: bool,
}

/// Restricts this thread and those that it starts. Returns the version of landlock that
/// is used.
///
/// # Errors
///
/// [`JailError::Landlock`].
pub fn restrict(paths: &Paths) -> Result<i32, JailError> {
    let failed = |error: RulesetError| JailError::Landlock(error.to_string());
    let rules = ruleset().map_err(failed)?;
    let rules = allow(rules, paths).map_err(failed)?;
    let status = rules.restrict_self().map_err(failed)?;
    match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, landlock) => Err(JailError::Landlock(format!("{landlock:?}"))),
        (_, LandlockStatus::Available { effective_abi, .. }) => Ok(effective_abi as i32),
        (_, landlock) => Err(JailError::Landlock(format!("{landlock:?}"))),
    }
}

fn ruleset() -> Result<RulesetCreated, RulesetError> {
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(OLDEST))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()
}

fn allow(mut rules: RulesetCreated, paths: &Paths) -> Result<RulesetCreated, RulesetError> {
    for folder in &paths.removable {
        rules = add(rules, folder, AccessFs::RemoveFile.into())?;
    }
    if paths.program {
        let rights = AccessFs::Execute | AccessFs::ReadFile;
        rules = add(rules, Path::new("/proc/self/exe"), rights)?;
        for file in linked_files() {
            rules = add(rules, &file, rights)?;
        }
    }
    Ok(rules)
}

/// Allows accesses beneath a path. A path that can't be opened is not allowed.
fn add(
    rules: RulesetCreated,
    path: &Path,
    rights: BitFlags<AccessFs>,
) -> Result<RulesetCreated, RulesetError> {
    match PathFd::new(path) {
        Ok(fd) => rules.add_rule(PathBeneath::new(fd, rights)),
        Err(error) => {
            tracing::debug!(path = %path.display(), %error, "not accessible");
            Ok(rules)
        }
    }
}

/// Returns the files that are mapped into this process, and the loader's cache.
fn linked_files() -> Vec<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let mut files: Vec<PathBuf> = maps
        .lines()
        .filter_map(|line| line.find('/').map(|start| PathBuf::from(&line[start..])))
        .filter(|path| path.is_file())
        .collect();
    files.push("/etc/ld.so.cache".into());
    files.sort();
    files.dedup();
    files
}
