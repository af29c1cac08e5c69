//! The virtual machine.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::agent::{Agent, Output};
use crate::deadline::Deadline;
use crate::process::Process;
use crate::transcript::Transcript;

/// How long a boot may take: about 5 s on an idle machine of two cores.
const BOOT_WITHIN: Duration = Duration::from_secs(90);

/// How long QEMU may take to start.
const START_WITHIN: Duration = Duration::from_secs(20);

/// How often a wait for QEMU checks that it still runs.
const LIVENESS: Duration = Duration::from_millis(100);

/// How long a command may take unless it says otherwise.
const COMMAND_WITHIN: Duration = Duration::from_secs(30);

/// The kernel's command line. A kernel that panics reboots at once, which the agent
/// then reports; the console shows warnings and errors.
const COMMAND_LINE: &str = "console=ttyS0 panic=-1 loglevel=5 random.trust_cpu=on";

/// A network adapter of the machine.
pub enum Nic {
    /// A device that a vfio-user server at this socket emulates.
    VfioUser {
        /// The server's socket.
        socket: PathBuf,
    },
    /// QEMU's own virtio-net, to distinguish faults of the harness from faults of the
    /// device.
    VirtioNet {
        /// The TAP interface it is connected to.
        tap: String,
        /// Its MAC address.
        mac: String,
    },
    /// QEMU's own vmxnet3, for comparison.
    Vmxnet3 {
        /// The TAP interface it is connected to.
        tap: String,
        /// Its MAC address.
        mac: String,
    },
}

/// The configuration of a machine.
pub struct Machine<'a> {
    /// QEMU's program.
    pub qemu: &'a Path,
    /// The kernel's bzImage.
    pub kernel: &'a Path,
    /// The initramfs.
    pub initramfs: &'a Path,
    /// The number of processors.
    pub cpus: u8,
    /// The adapters, in order.
    pub nics: &'a [Nic],
}

/// A running machine; dropping it kills it.
pub struct Vm {
    process: Process,
    agent: Agent,
}

impl Vm {
    /// Starts the machine, with its agent's socket in `dir`.
    pub fn start(machine: &Machine<'_>, dir: &Path) -> Result<Self> {
        let path = dir.join("agent.sock");
        if path.exists() {
            std::fs::remove_file(&path)
                .with_context(|| format!("cannot remove {}", path.display()))?;
        }
        let listener =
            UnixListener::bind(&path).with_context(|| format!("cannot bind {}", path.display()))?;
        let mut process = Process::spawn("QEMU", machine.command(&path))?;
        let stream = match accept(&listener, &mut process) {
            Ok(stream) => stream,
            Err(error) => bail!("{error:#}; it printed: {}", process.output().tail(5)),
        };
        Ok(Self {
            process,
            agent: Agent::new(stream),
        })
    }

    /// Returns what QEMU and the guest's console have printed.
    pub fn console(&self) -> &Transcript {
        self.process.output()
    }

    /// Runs a shell command in the guest; fails unless its status is 0.
    pub fn sh(&mut self, command: &str) -> Result<String> {
        self.sh_within(command, COMMAND_WITHIN)
    }

    /// Runs a command that may take long.
    pub fn sh_within(&mut self, command: &str, within: Duration) -> Result<String> {
        let output = self.status_of(command, within)?;
        if output.status != 0 {
            bail!(
                "in the guest: {command}: status {}: {}",
                output.status,
                output.text.trim_end()
            );
        }
        Ok(output.text)
    }

    /// Runs a shell command in the guest, whatever its status.
    pub fn status_of(&mut self, command: &str, within: Duration) -> Result<Output> {
        match self.agent.run(command, within) {
            Ok(output) => Ok(output),
            Err(error) => Err(self.explain(error)),
        }
    }

    /// Reboots the guest as a user would, and waits until it answers again.
    pub fn reboot(&mut self) -> Result<()> {
        self.agent.send("reboot -f", COMMAND_WITHIN)?;
        self.wait_for_boot()?;
        Ok(())
    }

    /// Makes the guest's kernel crash, and waits until it has booted again.
    pub fn crash(&mut self) -> Result<()> {
        self.agent
            .send("echo c >/proc/sysrq-trigger", COMMAND_WITHIN)?;
        self.wait_for_boot()?;
        if !self.console().tail(usize::MAX).contains("Kernel panic") {
            bail!("the guest has booted again, but without the kernel panic that was asked for");
        }
        Ok(())
    }

    /// Waits until the guest answers for the first time since it was started or
    /// restarted; returns its kernel's version.
    pub fn wait_for_boot(&mut self) -> Result<String> {
        match self.agent.wait_for_boot(BOOT_WITHIN) {
            Ok(boot) => Ok(boot.kernel),
            Err(error) => Err(self.explain(error)),
        }
    }

    /// Adds QEMU's exit status and output to an error.
    fn explain(&mut self, error: anyhow::Error) -> anyhow::Error {
        match self.process.check_running() {
            Ok(()) => error,
            Err(ended) => error.context(format!("{ended:#}: {}", self.process.output().tail(5))),
        }
    }
}

/// Waits for QEMU to connect, as long as it runs.
fn accept(listener: &UnixListener, process: &mut Process) -> Result<UnixStream> {
    let deadline = Deadline::after(START_WITHIN);
    while let Some(left) = deadline.remaining() {
        let timeout = PollTimeout::try_from(left.min(LIVENESS)).context("too long a wait")?;
        let mut waiting = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        if poll(&mut waiting, timeout).context("cannot wait for QEMU")? > 0 {
            return Ok(listener.accept().context("cannot hear QEMU")?.0);
        }
        process.check_running()?;
    }
    bail!("QEMU did not start within {START_WITHIN:?}")
}

impl Machine<'_> {
    fn command(&self, agent: &Path) -> Command {
        let mut command = Command::new(self.qemu);
        command.args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-cpu",
            "max",
        ]);
        command.args(["-accel", "tcg", "-machine", "q35,memory-backend=ram"]);
        // vfio-user needs memory that another process can map.
        command.args([
            "-m",
            "512M",
            "-object",
            "memory-backend-memfd,id=ram,size=512M,share=on",
        ]);
        command.args(["-smp", &self.cpus.to_string(), "-append", COMMAND_LINE]);
        command
            .arg("-kernel")
            .arg(self.kernel)
            .arg("-initrd")
            .arg(self.initramfs);
        command.args([
            "-chardev",
            "stdio,id=console,signal=off",
            "-serial",
            "chardev:console",
        ]);
        command
            .arg("-chardev")
            .arg(option("socket,id=agent,path=", agent));
        command.args(["-serial", "chardev:agent"]);
        for (number, nic) in self.nics.iter().enumerate() {
            nic.add_to(&mut command, number);
        }
        command
    }
}

impl Nic {
    fn add_to(&self, command: &mut Command, number: usize) {
        match self {
            Self::VfioUser { socket } => {
                let device = format!(
                    r#"{{"driver":"vfio-user-pci","socket":{{"type":"unix","path":"{}"}}}}"#,
                    socket.display()
                );
                command.args(["-device", &device]);
            }
            Self::VirtioNet { tap, mac } => {
                on_tap(command, number, "virtio-net-pci", tap, mac);
            }
            Self::Vmxnet3 { tap, mac } => on_tap(command, number, "vmxnet3", tap, mac),
        }
    }
}

/// Adds one of QEMU's own adapters on a TAP interface.
fn on_tap(command: &mut Command, number: usize, model: &str, tap: &str, mac: &str) {
    let backend = format!("tap,id=net{number},ifname={tap},script=no,downscript=no,vhost=off");
    let device = format!("{model},netdev=net{number},mac={mac},romfile=");
    command.args(["-netdev", &backend, "-device", &device]);
}

fn option(prefix: &str, path: &Path) -> OsString {
    let mut text = OsString::from(prefix);
    text.push(path);
    text
}
