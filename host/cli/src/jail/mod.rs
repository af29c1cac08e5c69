//! The jail: the privileges that a process gives up before it runs untrusted code.
//!
//! `manatee serve` opens all that it needs, starts its [broker](broker), and
//! [confines](Jail::enter) itself before it has a second thread: an unprivileged user,
//! no capability, no path and no network (landlock), and a list of system calls
//! (seccomp). The broker and the [children](child) that compile and check candidates
//! have jails of their own, each with a list of its own.

pub mod broker;
pub mod child;
mod error;
#[cfg(any(test, feature = "escape"))]
pub mod escape;
mod landlock;
pub mod limits;
mod privileges;
pub mod sealed;
mod seccomp;
pub mod signals;
#[cfg(test)]
mod tests;
mod user;

use rustix::thread::CapabilitySet;
use serde_json::{Value, json};

pub use error::JailError;
pub use landlock::Paths;
pub use seccomp::Role;
pub use user::{Ids, resolve};

/// How a process is to be confined.
#[derive(Debug)]
pub struct Jail {
    /// Which system calls it may make.
    pub role: Role,
    /// The user to become, if it changes.
    pub ids: Option<Ids>,
    /// Capabilities that are kept nevertheless.
    pub keep: CapabilitySet,
    /// The paths that stay accessible.
    pub paths: Paths,
}

/// A process' confinement, as reported by the kernel.
#[derive(Clone, Debug)]
pub struct Confinement {
    user: u32,
    group: u32,
    groups: usize,
    capabilities: u64,
    no_new_privs: bool,
    landlock_abi: i32,
    limits: [Option<u64>; 2],
}

impl Jail {
    /// Returns the jail of `role`, without paths, capabilities or a change of the user.
    pub fn new(role: Role) -> Self {
        Self {
            role,
            ids: None,
            keep: CapabilitySet::empty(),
            paths: Paths::default(),
        }
    }

    /// Confines this process irrevocably. It must have one thread.
    ///
    /// # Errors
    ///
    /// [`JailError`]; the process may then be partly confined, and should end.
    pub fn enter(&self) -> Result<Confinement, JailError> {
        check_threads()?;
        self.confine()
    }

    /// Confines this thread; the filter of system calls applies to all threads.
    fn confine(&self) -> Result<Confinement, JailError> {
        privileges::drop_all(self.ids, self.keep)?;
        let landlock_abi = landlock::restrict(&self.paths)?;
        let confinement = Confinement::measure(landlock_abi)?;
        seccomp::restrict(self.role)?;
        Ok(confinement)
    }
}

impl Confinement {
    fn measure(landlock_abi: i32) -> Result<Self, JailError> {
        let failed = |step| {
            move |errno: rustix::io::Errno| JailError::Privileges {
                step,
                source: errno.into(),
            }
        };
        let sets = rustix::thread::capabilities(None).map_err(failed("reading capabilities"))?;
        let groups = rustix::process::getgroups().map_err(failed("reading groups"))?;
        let limit = |resource| rustix::process::getrlimit(resource).current;
        Ok(Self {
            user: rustix::process::geteuid().as_raw(),
            group: rustix::process::getegid().as_raw(),
            groups: groups.len(),
            capabilities: (sets.effective | sets.permitted | sets.inheritable).bits(),
            no_new_privs: rustix::thread::no_new_privs().map_err(failed("no_new_privs"))?,
            landlock_abi,
            limits: [
                limit(rustix::process::Resource::Core),
                limit(rustix::process::Resource::Nofile),
            ],
        })
    }

    /// Returns it as JSON, for `manatee inspect`.
    pub fn to_json(&self) -> Value {
        json!({
            "user": self.user,
            "group": self.group,
            "supplementary_groups": self.groups,
            "capabilities": format!("{:#x}", self.capabilities),
            "no_new_privs": self.no_new_privs,
            "seccomp": "filter",
            "landlock_abi": self.landlock_abi,
            "core_limit": self.limits[0],
            "descriptor_limit": self.limits[1],
        })
    }
}

fn check_threads() -> Result<(), JailError> {
    // Without /proc threads can't be counted.
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else {
        return Ok(());
    };
    match threads.count() {
        0 | 1 => Ok(()),
        more => Err(JailError::Threads(more)),
    }
}
