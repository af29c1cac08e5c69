//! The shipped device in a process of its own, which `manatee keep` supervises.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use manatee_control::{Client as Control, SwapRequest};
use manatee_keeper::ask;
use manatee_keeper::protocol::{Answer, Request};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::process::{Pid, Signal, kill_process};
use vfio_user::Client;

use crate::machine::{InterruptController, Machine};
use crate::ram::Ram;

/// The longest that a step may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a wait for readiness checks that the process still runs.
const LIVENESS: Duration = Duration::from_millis(100);
/// The index of the configuration space, and of MSI-X (linux/vfio.h).
const CONFIG: u32 = 7;
const MSIX: u32 = 2;
/// `VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER`.
const TRIGGER_BY_EVENTFD: u32 = 4 | 32;
/// The command register, and memory space and bus master in it.
const COMMAND: u64 = 4;
const ENABLED: [u8; 2] = [6, 0];

/// A running `manatee keep -- serve ...`.
#[derive(Debug)]
pub struct Kept {
    keeper: Child,
    dir: PathBuf,
}

/// What a process has taken.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    /// Bytes of memory of its own.
    pub memory: f64,
    /// Open descriptors.
    pub descriptors: f64,
}

impl Kept {
    /// Starts it with this number of ports that lose every packet, and returns when it serves.
    ///
    /// # Errors
    ///
    /// If it does not start.
    pub fn start(manatee: &Path, dir: &Path, ports: u32) -> Result<Self> {
        let dir = dir.join(format!("kept-{ports}"));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir)?;
        let notify = dir.join("notify");
        let readiness = UnixDatagram::bind(&notify).context("binding the notification socket")?;
        readiness.set_read_timeout(Some(LIVENESS))?;
        let mut command = Command::new(manatee);
        command.arg("keep").arg("--control").arg(dir.join("keeper"));
        command.args(["--tries", "1000", "--", "serve"]);
        for _ in 0..ports {
            command.args(["--port", "null"]);
        }
        command.arg("--socket-path").arg(dir.join("vfio"));
        command.arg("--control").arg(dir.join("control"));
        command.env("NOTIFY_SOCKET", &notify).stdin(Stdio::null());
        command.stderr(File::create(dir.join("log"))?);
        let keeper = command.spawn().context("starting manatee keep")?;
        let mut kept = Self { keeper, dir };
        let begun = Instant::now();
        while readiness.recv(&mut [0; 64]).is_err() {
            let ended = kept.keeper.try_wait()?.is_some();
            ensure!(
                !ended && begun.elapsed() < PATIENCE,
                "it is not ready; {} says why",
                kept.path("log").display()
            );
        }
        Ok(kept)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Returns the process that serves.
    ///
    /// # Errors
    ///
    /// If none answers.
    pub fn process(&self) -> Result<u32> {
        let mut control = Control::connect(&self.path("control"))?;
        let tree = control.inspect(Some("process/id".to_owned()))?;
        let id = tree["process"]["id"].as_u64().context("a process id")?;
        Ok(id.try_into()?)
    }

    /// Swaps a component in.
    ///
    /// # Errors
    ///
    /// If it is refused.
    pub fn swap(&self, wasm: &[u8]) -> Result<()> {
        let path = self.path("swapped.wasm");
        std::fs::write(&path, wasm)?;
        let swap = SwapRequest {
            name: "swapped".to_owned(),
            check: false,
            probation_ms: 0,
            progress: false,
        };
        let mut control = Control::connect(&self.path("control"))?;
        control.swap(swap, &File::open(path)?, |_| ())?;
        Ok(())
    }

    /// Replaces the process by another of the same program.
    ///
    /// # Errors
    ///
    /// If that is refused.
    pub fn upgrade(&self) -> Result<()> {
        match ask(&self.path("keeper"), &Request::Upgrade { program: None })? {
            Answer::Upgraded(upgraded) => {
                ensure!(upgraded.handed_over && upgraded.rehearsed, "{upgraded:?}");
                Ok(())
            }
            Answer::Refused { reason } => bail!("no upgrade: {reason}"),
        }
    }

    /// Ends the process by a signal, and waits until the next one serves.
    ///
    /// # Errors
    ///
    /// If none does in time.
    pub fn end(&self, process: &mut u32, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(process.cast_signed()).context("a process id")?;
        kill_process(pid, signal)?;
        let begun = Instant::now();
        loop {
            // The old one may still answer, or leave a client without an answer.
            match self.process() {
                Ok(other) if other != *process => {
                    *process = other;
                    return Ok(());
                }
                _ if begun.elapsed() < PATIENCE => std::thread::yield_now(),
                served => bail!("no process follows: {served:?}"),
            }
        }
    }

    /// Returns what the keeper has taken.
    ///
    /// # Errors
    ///
    /// If it is gone.
    pub fn taken(&self) -> Result<Taken> {
        let proc = PathBuf::from(format!("/proc/{}", self.keeper.id()));
        let status = std::fs::read_to_string(proc.join("status"))?;
        let own = status.lines().find_map(|line| {
            let kib = line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB")?;
            kib.parse::<f64>().ok()
        });
        Ok(Taken {
            memory: own.context("the keeper's memory")? * 1024.0,
            descriptors: std::fs::read_dir(proc.join("fd"))?.count() as f64,
        })
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = kill_process(Pid::from_child(&self.keeper), Signal::TERM);
        let _ = self.keeper.wait();
    }
}

/// A machine that is attached to the process that serves.
pub struct Remote {
    client: Client,
    ram: Ram,
    /// The vector of the hardware channel.
    channel: OwnedFd,
    interrupts: InterruptController,
}

impl Remote {
    /// Attaches, with this much guest memory.
    ///
    /// # Errors
    ///
    /// If the process refuses.
    pub fn attach(kept: &Kept, size: u64) -> Result<Self> {
        let mut client = Client::new(&kept.path("vfio"))?;
        let ram = Ram::new(size)?;
        client.dma_map(0, 0, size, ram.share()?.as_raw_fd())?;
        let channel = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let fds = [channel.as_raw_fd()];
        client.set_irqs(MSIX, TRIGGER_BY_EVENTFD, 0, 1, &fds)?;
        client.region_write(CONFIG, COMMAND, &ENABLED)?;
        Ok(Self {
            client,
            ram,
            channel,
            interrupts: InterruptController::new(),
        })
    }
}

impl Machine for Remote {
    fn write_register(&mut self, offset: u64, width: u8, value: u64) {
        let bytes = &value.to_le_bytes()[..width.into()];
        let written = self.client.region_write(0, offset, bytes);
        written.expect("an answer to a register write");
    }

    fn read_register(&mut self, offset: u64, width: u8) -> u64 {
        let mut value = [0; 8];
        let bytes = &mut value[..width.into()];
        let read = self.client.region_read(0, offset, bytes);
        read.expect("an answer to a register read");
        u64::from_le_bytes(value)
    }

    fn ram(&self) -> &Ram {
        &self.ram
    }

    fn interrupts(&self) -> &InterruptController {
        &self.interrupts
    }

    /// Waits for the hardware channel's, the only one that the driver uses.
    fn take_interrupts(&mut self) -> Vec<u16> {
        let patience = Timespec::try_from(PATIENCE).expect("some seconds");
        let mut fds = [PollFd::new(&self.channel, PollFlags::IN)];
        poll(&mut fds, Some(&patience)).expect("an interrupt of the hardware channel");
        match rustix::io::read(&self.channel, &mut [0; 8]) {
            Ok(_) => vec![0],
            Err(_) => Vec::new(),
        }
    }
}
