//! The side that asks.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::Value;

use super::{Inspect, Link, LinkSetting, Log, Refusal, Request, Response, Stage, Swap};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a swap may take: the new component is checked and compiled.
const SWAP_PATIENCE: Duration = Duration::from_secs(900);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no control socket answers at {path}; is `manatee serve --control {path}` running?")]
    Connect {
        /// The path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The connection broke, or the answer took too long.
    #[error("the control socket at {0} gave no answer")]
    Broken(PathBuf, #[source] io::Error),
    /// What came back is no answer.
    #[error(
        "the answer from {0} can't be understood; is it a socket of `manatee serve --control`?"
    )]
    Garbled(PathBuf, #[source] serde_json::Error),
    /// The server refuses, for the reason given.
    #[error(transparent)]
    Refused(Refusal),
}

/// A connection to a control socket.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the control socket at `path`.
    ///
    /// # Errors
    ///
    /// [`ClientError::Connect`].
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let connect = || {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            Ok(stream)
        };
        let failed = |source| ClientError::Connect {
            path: path.to_owned(),
            source,
        };
        let stream = BufReader::new(connect().map_err(failed)?);
        Ok(Self {
            path: path.to_owned(),
            stream,
        })
    }

    /// The live tree, or the part of it that `pattern` selects.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; `Refused` if nothing matches the pattern.
    pub fn inspect(&mut self, pattern: Option<String>) -> Result<Value, ClientError> {
        self.ask(&Request::Inspect(Inspect { pattern }), None, |_| ())
    }

    /// Replaces the device's component by the one in a file; what came of it. What is being
    /// done meanwhile is told to `progress`, if the swap asks for that.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; `Refused` if the old one goes on.
    pub fn swap(
        &mut self,
        swap: Swap,
        component: &File,
        progress: impl FnMut(Stage),
    ) -> Result<Value, ClientError> {
        self.wait_for_long()?;
        self.ask(&Request::Swap(swap), Some(component.as_fd()), progress)
    }

    /// Shows a port's link, or sets it.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; `Refused` if there is no such port.
    pub fn link(&mut self, port: u32, set: Option<LinkSetting>) -> Result<Value, ClientError> {
        self.ask(&Request::Link(Link { port, set }), None, |_| ())
    }

    /// Shows what is logged, or changes it.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; `Refused` if the level makes no sense.
    pub fn log(&mut self, level: Option<String>) -> Result<Value, ClientError> {
        self.ask(&Request::Log(Log { level }), None, |_| ())
    }

    /// Goes back to the component before; what came of it.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; `Refused` if there is none or it can't go on.
    pub fn rollback(&mut self) -> Result<Value, ClientError> {
        self.wait_for_long()?;
        self.ask(&Request::Rollback, None, |_| ())
    }

    /// Has the process try to get out of its jail; what stopped it.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; `Broken` if that ended it.
    #[cfg(feature = "escape")]
    pub fn escape(&mut self, way: String) -> Result<Value, ClientError> {
        self.ask(&Request::Escape(way), None, |_| ())
    }

    fn wait_for_long(&self) -> Result<(), ClientError> {
        let stream = self.stream.get_ref();
        stream
            .set_read_timeout(Some(SWAP_PATIENCE))
            .map_err(|error| ClientError::Broken(self.path.clone(), error))
    }

    fn ask(
        &mut self,
        request: &Request,
        descriptor: Option<BorrowedFd<'_>>,
        mut progress: impl FnMut(Stage),
    ) -> Result<Value, ClientError> {
        let garbled = |error| ClientError::Garbled(self.path.clone(), error);
        let broken = |error| ClientError::Broken(self.path.clone(), error);
        let mut line = serde_json::to_vec(request).map_err(garbled)?;
        line.push(b'\n');
        send(self.stream.get_mut(), &line, descriptor).map_err(broken)?;
        loop {
            let mut answer = String::new();
            let length = self.stream.read_line(&mut answer).map_err(broken)?;
            if length == 0 {
                return Err(broken(io::ErrorKind::UnexpectedEof.into()));
            }
            match serde_json::from_str(&answer).map_err(garbled)? {
                Response::Ok(value) => return Ok(value),
                Response::Error(refusal) => return Err(ClientError::Refused(refusal)),
                Response::Progress(stage) => progress(stage),
            }
        }
    }
}

/// Sends a line, with a descriptor along with its first bytes.
fn send(
    stream: &mut UnixStream,
    line: &[u8],
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if let Some(descriptor) = &descriptor {
        let descriptors = std::slice::from_ref(descriptor);
        control.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    let parts = [IoSlice::new(line)];
    let flags = SendFlags::NOSIGNAL;
    let sent = rustix::io::retry_on_intr(|| sendmsg(&*stream, &parts, &mut control, flags))?;
    stream.write_all(&line[sent..])
}
