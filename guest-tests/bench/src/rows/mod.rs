//! The rows of the table, one file each.

mod continuity;
pub mod device;
mod growth;
mod guest;
pub mod instructions;
mod latency;
mod memory;
mod queues;
mod replacement;
pub mod scale;
mod source;
mod start;
mod tap;

use std::path::Path;

use anyhow::{Context, Result};
use clap::ValueEnum;
use manatee_guest_linux::stage::Stage;

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
    /// Packets of several segments, with a long OOB, and to be cut, against plain ones
    Sges,
    /// Doorbell to interrupt, a hardware-channel request, a register read
    Latency,
    /// A TAP through the device, against system calls; needs `just setup`
    Tap,
    /// Two queues of an endpoint by two threads, against bare loops; needs `just setup`
    Queues,
    /// Receive side scaling and its hash, against none
    Hash,
    /// A stock guest, against QEMU's own adapters; needs `just setup`
    Guest,
    /// Exec to listening, making a device, compiling the component
    Start,
    /// 1 to 1000 devices in one process
    Scale,
    /// More queues, segments and guest memory
    Growth,
    /// Look-ups in guest memory, and changes of it, as its regions grow in number
    Memory,
    /// The pause of a live replacement, and a crash
    Swap,
    /// The pause when the process is upgraded, and restarted, 1000 times
    Upgrade,
    /// The pause when the process is killed, 200 times, and what recording for that costs
    Death,
    /// Instructions a packet; needs valgrind
    Instructions,
}

impl Row {
    /// Returns whether it needs a network, and so a [`Stage`].
    pub fn needs_stage(self) -> bool {
        matches!(self, Self::Tap | Self::Queues | Self::Guest)
    }

    /// Measures it; files go to `dir`.
    ///
    /// # Errors
    ///
    /// If something that it needs is missing, or does not work.
    pub fn run(self, dir: &Path, stage: Option<&Stage>) -> Result<Vec<Figure>> {
        match self {
            Self::Device => device::run(),
            Self::Windows => device::run_windows(),
            Self::Shapes => device::run_shapes(),
            Self::Sges => device::run_sges(),
            Self::Latency => latency::run(),
            Self::Tap => tap::run(stage.context("no network namespace")?),
            Self::Queues => queues::run(stage.context("no network namespace")?),
            Self::Hash => queues::run_hash(),
            Self::Guest => guest::run(stage.context("no network namespace")?),
            Self::Start => start::run(dir),
            Self::Scale => scale::run(),
            Self::Growth => growth::run(),
            Self::Memory => memory::run(),
            Self::Swap => replacement::run(),
            Self::Upgrade => continuity::run_upgrade(dir),
            Self::Death => continuity::run_death(dir),
            Self::Instructions => instructions::run(dir),
        }
    }
}
