//! The registers of a device in another process, over its standard input and
//! output: fixed-size messages, a length for the state.

use std::io::{ErrorKind, Read, Write, stdin, stdout};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use manatee::device::Device;

/// The argument that makes this program the second process.
pub const COMMAND: &str = "take-over";
/// The longest state that is accepted.
const MAX_STATE: usize = 4 << 20;

/// A register access: whether it writes, its width, its offset, its value.
type Access = [u8; 18];

/// The second process, as seen by the first one.
pub struct Remote {
    child: Child,
}

impl Remote {
    /// Starts it, and waits until its device has taken over.
    pub fn start(memory: &str, state: &[u8]) -> Result<Self> {
        let child = Command::new(std::env::current_exe()?)
            .args([COMMAND, memory])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting the second process")?;
        let mut remote = Self { child };
        let input = remote.child.stdin.as_mut().context("its input")?;
        input.write_all(&(state.len() as u64).to_le_bytes())?;
        input.write_all(state)?;
        input.flush()?;
        // The read fails if the device could not take over.
        remote.read(0, 4)?;
        Ok(remote)
    }

    /// Returns its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Reads a register.
    pub fn read(&mut self, offset: u64, width: u8) -> Result<u64> {
        self.ask(false, offset, width, 0)
    }

    /// Writes a register, and waits until the device has finished its work.
    pub fn write(&mut self, offset: u64, width: u8, value: u64) -> Result<()> {
        self.ask(true, offset, width, value).map(|_| ())
    }

    fn ask(&mut self, writes: bool, offset: u64, width: u8, value: u64) -> Result<u64> {
        let mut access: Access = [0; 18];
        access[0] = writes.into();
        access[1] = width;
        access[2..10].copy_from_slice(&offset.to_le_bytes());
        access[10..].copy_from_slice(&value.to_le_bytes());
        let input = self.child.stdin.as_mut().context("its input")?;
        input.write_all(&access)?;
        input.flush()?;
        let mut answer = [0; 8];
        let output = self.child.stdout.as_mut().context("its output")?;
        output
            .read_exact(&mut answer)
            .context("the second process has ended")?;
        Ok(u64::from_le_bytes(answer))
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        // It ends when its standard input is closed.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Receives the state, in the second process.
pub fn receive_state() -> Result<Vec<u8>> {
    let mut length = [0; 8];
    stdin().read_exact(&mut length)?;
    let length = u64::from_le_bytes(length) as usize;
    if length > MAX_STATE {
        bail!("a state of {length} bytes is too long");
    }
    let mut state = vec![0; length];
    stdin().read_exact(&mut state)?;
    Ok(state)
}

/// Carries out accesses in the second process, until its standard input is closed.
pub fn serve(device: &Device) -> Result<()> {
    let mut access: Access = [0; 18];
    loop {
        match stdin().read_exact(&mut access) {
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            result => result?,
        }
        let width = usize::from(access[1]).clamp(1, 8);
        let (offset, value) = access[2..].split_at(8);
        let offset = u64::from_le_bytes(offset.try_into()?);
        let mut answer = [0; 8];
        if access[0] == 1 {
            device.bar_write(0, offset, &value[..width]);
            while device.has_work() {
                std::thread::yield_now();
            }
        } else {
            device.bar_read(0, offset, &mut answer[..width]);
        }
        stdout().write_all(&answer)?;
        stdout().flush()?;
    }
}
