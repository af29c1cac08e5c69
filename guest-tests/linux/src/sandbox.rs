//! The namespaces in which everything runs.
//!
//! The program starts itself once more inside a network and a process namespace of its
//! own. The kernel then cleans up: when the inner program ends, for whatever reason,
//! every process it started is killed, and the interfaces are removed. The outer
//! program only waits, handles Ctrl-C, and removes the files.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, exit};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{getegid, geteuid};

/// The variable that marks the inner program, and names its directory.
const INSIDE: &str = "MANATEE_GUEST_RUN_DIR";

/// A token that the program is inside, for functions that would otherwise change the
/// machine's own network.
pub struct Sandbox {
    run_dir: PathBuf,
}

impl Sandbox {
    /// Moves the program into its sandbox. Call it before any thread starts.
    ///
    /// Returns in the inner program only; the outer one exits with its status.
    pub fn enter() -> Result<Self> {
        if let Some(run_dir) = env::var_os(INSIDE) {
            // If the outer program is killed, this one must end too.
            prctl::set_pdeathsig(Signal::SIGKILL)
                .context("cannot tie this process to its parent")?;
            // Blocked signals are inherited, but programs started here have to receive
            // them.
            watched_signals()
                .thread_unblock()
                .context("cannot unblock signals")?;
            return Ok(Self {
                run_dir: run_dir.into(),
            });
        }
        exit(run_inside()?)
    }

    /// Returns a directory for sockets and images, with a path short enough for sockets.
    pub fn run_dir(&self) -> &Path {
        &self.run_dir
    }
}

fn run_inside() -> Result<i32> {
    let run_dir = tempfile::Builder::new()
        .prefix("manatee-")
        .tempdir()
        .context("cannot make a directory for the run")?;
    let signals = watched_signals();
    signals.thread_block().context("cannot block signals")?;
    unshare_all()?;
    let mut child = Command::new("/proc/self/exe")
        .args(env::args_os().skip(1))
        .env(INSIDE, run_dir.path())
        .spawn()
        .context("cannot start the harness inside its namespaces")?;
    wait(&mut child, &signals)
}

fn watched_signals() -> SigSet {
    SigSet::from_iter([
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGCHLD,
    ])
}

/// Waits for the inner program; kills it when asked to stop. Returns the status to
/// exit with.
fn wait(child: &mut Child, signals: &SigSet) -> Result<i32> {
    let mut asked = None;
    loop {
        match signals.wait().context("cannot wait for signals")? {
            Signal::SIGCHLD => {}
            signal => {
                asked = Some(signal as i32);
                child.kill().context("cannot stop the harness")?;
            }
        }
        if let Some(status) = child.try_wait().context("cannot wait for the harness")? {
            let signal = asked.or(status.signal()).unwrap_or(0);
            return Ok(status.code().unwrap_or(128 + signal));
        }
    }
}

fn unshare_all() -> Result<()> {
    let own = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWPID;
    if geteuid().is_root() {
        return unshare(own).context("cannot make a network namespace, although this is root: is this a restricted container?");
    }
    // Without root, a user namespace gives the same rights over the new network.
    let (uid, gid) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER | own)
        .context("cannot make a network namespace: run this as root, or allow user namespaces")?;
    map_id("setgroups", "deny")?;
    map_id("uid_map", format!("0 {uid} 1"))?;
    map_id("gid_map", format!("0 {gid} 1"))
}

fn map_id(file: &str, line: impl AsRef<OsStr>) -> Result<()> {
    let path = Path::new("/proc/self").join(file);
    fs::write(&path, line.as_ref().as_encoded_bytes())
        .with_context(|| format!("cannot write {}", path.display()))
}
