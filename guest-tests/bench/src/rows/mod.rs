//! The rows of the table, one file each.

pub mod device;
pub mod instructions;
mod source;

use std::path::Path;

use anyhow::Result;
use clap::ValueEnum;

use crate::report::Figure;

/// A row, or several that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Row {
    /// Transmit and receive, wasm against native
    Device,
    /// Ring windows against copies
    Windows,
    /// Two shapes that OpenVMM's native emulator was measured with
    Shapes,
    /// Instructions a packet; needs valgrind
    Instructions,
}

impl Row {
    /// Measures it; files go to `dir`.
    ///
    /// # Errors
    ///
    /// Something that it needs is missing, or does not work.
    pub fn run(self, dir: &Path) -> Result<Vec<Figure>> {
        match self {
            Self::Device => device::run(),
            Self::Windows => device::run_windows(),
            Self::Shapes => device::run_shapes(),
            Self::Instructions => instructions::run(dir),
        }
    }
}
