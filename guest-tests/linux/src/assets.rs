//! The files that `scripts/setup.sh guest` installs in `target/guest`.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The directory with QEMU, the tools and the kernels.
pub struct Assets {
    dir: PathBuf,
}

impl Assets {
    /// Finds it next to the directory that this program was built into.
    pub fn find() -> Result<Self> {
        let program = env::current_exe().context("cannot tell where this program lies")?;
        let target = program
            .ancestors()
            .nth(2)
            .context("this program does not lie in a target directory")?;
        let assets = Self {
            dir: target.join("guest"),
        };
        for path in [
            assets.qemu(),
            assets.ip(),
            assets.program("ping"),
            assets.program("iperf3"),
            assets.tools(),
        ] {
            assets.require(&path)?;
        }
        Ok(assets)
    }

    /// Returns the QEMU that has vfio-user-pci.
    pub fn qemu(&self) -> PathBuf {
        self.program("qemu-system-x86_64")
    }

    /// Returns the command `ip`, for the host's end.
    pub fn ip(&self) -> PathBuf {
        self.program("ip")
    }

    /// Returns the command `ping` of iputils, for the host's end.
    pub fn ping(&self) -> Command {
        Command::new(self.program("ping"))
    }

    /// Returns the command `iperf3`, for the host's end.
    pub fn iperf3(&self) -> Command {
        Command::new(self.program("iperf3"))
    }

    /// Returns the tree of unpacked packages that the guest's image takes its tools from.
    pub fn tools(&self) -> PathBuf {
        self.dir.join("tools")
    }

    /// Returns the unpacked package of Debian's kernel `version` (6.12, 6.1).
    pub fn kernel(&self, version: &str) -> Result<PathBuf> {
        let path = self.dir.join(format!("kernel-{version}"));
        if !path.exists() {
            bail!(
                "{} is missing: run `scripts/setup.sh guest {version}`",
                path.display()
            );
        }
        Ok(path)
    }

    fn program(&self, name: &str) -> PathBuf {
        self.dir.join("bin").join(name)
    }

    fn require(&self, path: &Path) -> Result<()> {
        if !path.exists() {
            bail!("{} is missing: run `just setup`", path.display());
        }
        Ok(())
    }
}

/// Returns the program `name` that the task `task` built next to this one.
pub fn beside_this_program(name: &str, task: &str) -> Result<PathBuf> {
    let path = env::current_exe()
        .context("cannot tell where this program lies")?
        .with_file_name(name);
    if !path.exists() {
        bail!("{} is missing: run `just {task}`", path.display());
    }
    Ok(path)
}
