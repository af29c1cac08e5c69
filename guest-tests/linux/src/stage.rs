//! The prerequisites of every run.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::assets::{Assets, beside_this_program};
use crate::image;
use crate::kernel::Kernel;
use crate::sandbox::Sandbox;

/// The options that select what to test.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Kernel to boot: Debian's 6.12 or 6.1, or the path of a bzImage.
    #[arg(long, default_value = "6.12")]
    pub kernel: String,
    /// Directory with that kernel's modules: its /lib/modules/VERSION, or one that holds it.
    #[arg(long, value_name = "DIR")]
    pub modules: Option<PathBuf>,
    /// The program `manatee` to test [default: the one next to this program]
    #[arg(long, value_name = "PATH")]
    pub manatee: Option<PathBuf>,
}

/// A sandbox, with everything that a machine needs.
pub struct Stage {
    /// The sandbox that everything runs in.
    pub sandbox: Sandbox,
    /// QEMU and the tools.
    pub assets: Assets,
    /// The program under test.
    pub manatee: PathBuf,
    /// The guest's kernel.
    pub kernel: Kernel,
    /// The guest's file system.
    pub initramfs: PathBuf,
}

impl Stage {
    /// Moves into the sandbox and makes the guest's image there. Call it before any
    /// thread starts.
    pub fn set(options: &Options) -> Result<Self> {
        // Looked up first, so that missing files are reported before anything is
        // created.
        let assets = Assets::find()?;
        let kernel = Kernel::find(&assets, &options.kernel, options.modules.as_deref())?;
        let manatee = options
            .manatee
            .clone()
            .map_or_else(|| beside_this_program("manatee", "build"), Ok)?;
        let traffic = beside_this_program("traffic", "guest-programs")?;
        let sandbox = Sandbox::enter()?;
        let initramfs = sandbox.run_dir().join("initramfs");
        image::build(&assets, &kernel, &traffic, &initramfs)?;
        Ok(Self {
            sandbox,
            assets,
            manatee,
            kernel,
            initramfs,
        })
    }
}
