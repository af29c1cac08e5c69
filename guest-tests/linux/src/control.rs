//! The operator's commands for a running `manatee serve`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::process::output_of;

/// The control socket of a `manatee serve`.
pub struct Control {
    manatee: PathBuf,
    socket: PathBuf,
}

/// A replacement of the device's component by another.
#[derive(Clone, Debug, Deserialize)]
pub struct Swap {
    /// The previous version.
    pub from: String,
    /// The new version.
    pub to: String,
    /// The device's pause.
    pub pause_us: u64,
    /// The size of the state that was handed over.
    pub state_bytes: u64,
}

/// A crash of the device, and its recovery.
#[derive(Clone, Debug, Deserialize)]
pub struct Recovery {
    /// Why it crashed.
    pub reason: String,
    /// From the crash to the next packet.
    pub took_us: u64,
    /// Packets from the guest that were in the device, and are lost.
    pub lost_transmits: u64,
    /// Packets to the guest that were in the device, and are lost.
    pub lost_receives: u64,
    /// WQEs that are skipped, because they crashed it twice.
    pub skipped: u64,
}

impl Control {
    /// Creates one for the program `manatee` and the socket that its `serve` listens on.
    pub fn new(manatee: &Path, socket: &Path) -> Self {
        Self {
            manatee: manatee.to_owned(),
            socket: socket.to_owned(),
        }
    }

    /// Replaces the component by that in the file `wasm`, checked or not.
    pub fn swap(&self, wasm: &Path, check: bool) -> Result<Swap> {
        let mut command = self.command("swap");
        command.arg(wasm).arg("--json");
        if !check {
            command.arg("--no-check");
        }
        let printed = output_of(command)?;
        serde_json::from_str(&printed).with_context(|| format!("manatee swap printed: {printed}"))
    }

    /// Rolls back to the previous component.
    pub fn rollback(&self) -> Result<Swap> {
        let mut command = self.command("rollback");
        command.arg("--json");
        let printed = output_of(command)?;
        serde_json::from_str(&printed)
            .with_context(|| format!("manatee rollback printed: {printed}"))
    }

    /// Has a test build try to escape from its jail. Returns what it printed.
    pub fn escape(&self, way: &str) -> Result<String> {
        let mut command = self.command("escape");
        command.arg(way);
        Ok(output_of(command)?.trim().to_owned())
    }

    /// Reads the part of the device's state at `path`: names joined by `/`.
    pub fn inspect<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let mut command = self.command("inspect");
        command.arg(path);
        let mut tree: Value = serde_json::from_str(&output_of(command)?)?;
        let pointer = format!("/{path}");
        let part = tree.pointer_mut(&pointer).map(Value::take);
        let part = part.with_context(|| format!("manatee inspect shows no {path}"))?;
        let text = part.to_string();
        serde_json::from_value(part).with_context(|| format!("{path} is {text}"))
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(&self.manatee);
        command.arg(name).arg("--control").arg(&self.socket);
        command
    }
}

/// The keeper of a `manatee serve`.
pub struct Keeper {
    manatee: PathBuf,
    socket: PathBuf,
}

/// An upgrade of the serving process.
#[derive(Clone, Debug, Deserialize)]
pub struct Upgraded {
    /// The serving process.
    pub process: u32,
    /// Time from the request to end until the next process was ready.
    pub took_us: u64,
    /// Whether the previous process has handed its device over.
    pub handed_over: bool,
    /// Whether the next process had rehearsed before.
    pub rehearsed: bool,
    /// The version of its program.
    pub version: String,
}

impl Keeper {
    /// Creates one for the program `manatee` and the socket that a keeper listens on.
    pub fn new(manatee: &Path, socket: &Path) -> Self {
        Self {
            manatee: manatee.to_owned(),
            socket: socket.to_owned(),
        }
    }

    /// Replaces the serving process by one of this program.
    pub fn upgrade(&self, program: &Path) -> Result<Upgraded> {
        let mut command = Command::new(&self.manatee);
        command.arg("upgrade").arg("--control").arg(&self.socket);
        command.arg("--program").arg(program).arg("--json");
        let printed = output_of(command)?;
        serde_json::from_str(&printed).context("what `manatee upgrade` prints")
    }
}
