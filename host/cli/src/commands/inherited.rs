//! Descriptors that were inherited from the parent process: sd_listen_fds(3), and
//! `--fd`.
//!
//! They are taken before anything else is opened.

#![allow(unsafe_code)]

use std::env;
use std::ffi::OsStr;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use rustix::io::{FdFlags, fcntl_setfd};

/// The number of the first descriptor from a service manager (`SD_LISTEN_FDS_START`).
const FIRST: RawFd = 3;
/// The most descriptors that are accepted from a service manager.
const MAX_LISTED: RawFd = 4096;

/// Takes the inherited descriptor with this number.
///
/// # Errors
///
/// If it is not open, a standard stream, or was opened by this process.
pub fn take(number: RawFd) -> anyhow::Result<OwnedFd> {
    ensure!(
        number >= FIRST,
        "descriptors 0, 1 and 2 are the standard streams: hand over one from {FIRST} on"
    );
    // SAFETY: F_GETFD takes no argument, and of a closed descriptor says that it is closed.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    // Inherited descriptors survived execve(2), which closes all that have this flag; those
    // that this process opened or took have it.
    let given = flags >= 0 && flags & libc::FD_CLOEXEC == 0;
    ensure!(
        given,
        "descriptor {number} is not open: start the command with it open, and without \
        close-on-exec"
    );
    // SAFETY: it is open, and as it lacks the flag nothing in this process owns it.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    fcntl_setfd(&descriptor, FdFlags::CLOEXEC)?;
    Ok(descriptor)
}

/// Takes the descriptors from a service manager, with their names.
///
/// # Errors
///
/// If the variables LISTEN_FDS, LISTEN_PID or LISTEN_FDNAMES are invalid.
pub fn listed() -> anyhow::Result<Vec<(String, OwnedFd)>> {
    let Some(count) = env::var_os("LISTEN_FDS") else {
        return Ok(Vec::new());
    };
    let process = env::var_os("LISTEN_PID").unwrap_or_default();
    if process != OsStr::new(&std::process::id().to_string()) {
        // The variables are meant for another process.
        return Ok(Vec::new());
    }
    let names = env::var_os("LISTEN_FDNAMES");
    let names = names_of(&count, names.as_deref())?;
    let take = |(number, name)| {
        let socket = take(number).with_context(|| format!("LISTEN_FDS is {}", count.display()))?;
        Ok((name, socket))
    };
    (FIRST..).zip(names).map(take).collect()
}

/// Returns the names of this many descriptors; empty ones if none are given.
fn names_of(count: &OsStr, names: Option<&OsStr>) -> anyhow::Result<Vec<String>> {
    let number = count.to_str().and_then(|count| count.parse().ok());
    let number = number.filter(|number| (0..=MAX_LISTED).contains(number));
    let number: RawFd = number.with_context(|| {
        let count = count.display();
        format!("LISTEN_FDS is `{count}`: it must be a number of descriptors, {MAX_LISTED} at most")
    })?;
    let Some(names) = names else {
        return Ok(vec![String::new(); number as usize]);
    };
    let text = names.to_str().context("LISTEN_FDNAMES is not UTF-8")?;
    let names: Vec<_> = text.split(':').map(str::to_owned).collect();
    if names.len() != number as usize {
        bail!(
            "LISTEN_FDNAMES is `{text}`, {} names, and LISTEN_FDS is {number}",
            names.len()
        );
    }
    Ok(names)
}

/// Returns the absolute path, and device and inode of the file there.
pub fn place(path: &Path) -> (PathBuf, (u64, u64)) {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let file = absolute.symlink_metadata();
    let inode = file.map_or((0, 0), |file| (file.dev(), file.ino()));
    (absolute, inode)
}

/// Checks that an inherited socket is bound to the path that the command line gives.
pub fn check_address(bound: Option<&Path>, path: &Path, option: &str) -> anyhow::Result<()> {
    let bound = bound.map(std::path::absolute).transpose()?;
    ensure!(
        bound.as_deref() == Some(path),
        "the previous process listened on {}, and {option} is {}: give the same path, or stop \
        the service for good and start it again",
        bound.as_deref().unwrap_or(Path::new("no path")).display(),
        path.display()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn what_the_process_opened_itself_is_not_taken() {
        let own = tempfile::tempfile().unwrap();
        let error = take(own.as_raw_fd()).unwrap_err().to_string();
        assert!(error.contains("is not open"), "{error}");
        assert!(
            take(1)
                .unwrap_err()
                .to_string()
                .contains("standard streams")
        );
        assert!(take(RawFd::MAX).is_err());
    }

    #[test]
    fn names_are_as_many_as_descriptors() {
        let names = |count: &str, names: Option<&str>| {
            let names = names_of(count.as_ref(), names.map(OsStr::new));
            names.map_err(|error| error.to_string())
        };
        assert_eq!(
            names("2", Some("vfio:control")).unwrap(),
            ["vfio", "control"]
        );
        assert_eq!(names("2", None).unwrap(), ["", ""]);
        assert!(names("2", Some("vfio")).unwrap_err().contains("1 names"));
        for wrong in ["", "x", "-1", "4097", "99999999999"] {
            assert!(
                names(wrong, None).unwrap_err().contains("LISTEN_FDS"),
                "{wrong}"
            );
        }
    }
}
