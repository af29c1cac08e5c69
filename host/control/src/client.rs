//! The client of the protocol.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::envelope::{Id, JsonRpc, Message, Notice, Request};
use crate::event::{EventKind, Stamped};
use crate::limits::PROTOCOL;
use crate::method::{
    Call, Capture, Captured, Capturing, Counters, Counts, EndCapture, Greeting, Hello, Inspect,
    Link, LinkSetting, LinkStatus, Log, LogLevel, Rate, RateSetting, RateStatus, Rollback, Stage,
    Subscribe, Subscribed, SwapRequest, Swapped,
};
use crate::refusal::Refusal;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a swap may take: the new component is checked and compiled.
const SWAP_PATIENCE: Duration = Duration::from_secs(900);
/// The longest message that is taken from a server.
const MAX_MESSAGE: u64 = 64 << 20;

/// Why a request got no result.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens at the path.
    #[error("no control socket answers at {path}; is `manatee serve --control {path}` running?")]
    Connect {
        /// The path.
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
    /// The connection broke, or the answer took too long.
    #[error("the control socket at {0} gave no answer")]
    Broken(PathBuf, #[source] io::Error),
    /// The answer is malformed.
    #[error(
        "the answer from {0} can't be understood; is it a socket of `manatee serve --control`?"
    )]
    Garbled(PathBuf, #[source] serde_json::Error),
    /// The server predates the versions of the protocol.
    #[error(
        "the `manatee serve` at {0} is older than this command, and does not speak JSON-RPC 2.0: \
         use the `manatee` of its release, or start it again by this one"
    )]
    Older(PathBuf),
    /// The server refused, for this reason.
    #[error(transparent)]
    Refused(Refusal),
}

/// A notification for a subscriber.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// Something happened.
    Event(Stamped),
    /// This many events were lost, because they were not read in time.
    Lost(u64),
}

/// A connection to a control socket.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    stream: BufReader<Receiver>,
    last_id: i64,
    /// Notifications that arrived while an answer was awaited.
    told: VecDeque<Told>,
}

impl Client {
    /// Connects to the control socket at `path`, and agrees on the version of the protocol.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
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
        let mut client = Self {
            path: path.to_owned(),
            stream: BufReader::new(Receiver {
                stream: connect().map_err(failed)?,
                descriptors: Vec::new(),
            }),
            last_id: 0,
            told: VecDeque::new(),
        };
        let hello = Hello {
            protocol: Some(PROTOCOL),
        };
        client.ask::<Greeting>(Call::Hello(hello))?;
        Ok(client)
    }

    /// Asks for the live tree, or the part of it that `pattern` selects.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; `Refused` if nothing matches the pattern.
    pub fn inspect(&mut self, pattern: Option<String>) -> Result<Value, ClientError> {
        self.ask(Call::Inspect(Inspect { pattern }))
    }

    /// Returns the device's counters.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub fn counters(&mut self) -> Result<Counts, ClientError> {
        self.ask(Call::Counters(Counters {}))
    }

    /// Replaces the device's component by the one in a file. Returns what was replaced. Reports
    /// stages to `progress`, if the swap asks for that.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; `Refused` if the old component continues.
    pub fn swap(
        &mut self,
        swap: SwapRequest,
        component: &File,
        progress: impl FnMut(Stage),
    ) -> Result<Swapped, ClientError> {
        self.wait_at_most(Some(SWAP_PATIENCE))?;
        self.ask_with(Call::Swap(swap), Some(component.as_fd()), progress)
    }

    /// Shows a port's link, or sets it.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; `Refused` if there is no such port.
    pub fn link(&mut self, port: u32, set: Option<LinkSetting>) -> Result<LinkStatus, ClientError> {
        self.ask(Call::Link(Link { port, set }))
    }

    /// Shows or sets a port's maximum transmit rate.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; `Refused` if there is no such port or rate.
    pub fn rate(&mut self, port: u32, set: Option<RateSetting>) -> Result<RateStatus, ClientError> {
        self.ask(Call::Rate(Rate { port, set }))
    }

    /// Shows what is logged, or changes it.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; `Refused` if the level is invalid.
    pub fn log(&mut self, level: Option<String>) -> Result<LogLevel, ClientError> {
        self.ask(Call::Log(Log { level }))
    }

    /// Captures the packets of a port. Returns the end of a pipe from which they are read, as
    /// pcapng.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; `Refused` if the port can't be captured.
    pub fn capture(&mut self, capture: Capture) -> Result<(Capturing, OwnedFd), ClientError> {
        let capturing = self.ask(Call::Capture(capture))?;
        let mut descriptors = std::mem::take(&mut self.stream.get_mut().descriptors);
        let pipe = descriptors.pop().ok_or_else(|| {
            let error = io::Error::other("no descriptor came with it");
            ClientError::Broken(self.path.clone(), error)
        })?;
        Ok((capturing, pipe))
    }

    /// Ends a capture, and returns its counters.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; `Refused` if there is none of this number.
    pub fn end_capture(&mut self, capture: u64) -> Result<Captured, ClientError> {
        self.ask(Call::EndCapture(EndCapture { capture }))
    }

    /// Returns to the previous component.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; `Refused` if there is none or it can't continue.
    pub fn rollback(&mut self) -> Result<Swapped, ClientError> {
        self.wait_at_most(Some(SWAP_PATIENCE))?;
        self.ask(Call::Rollback(Rollback {}))
    }

    /// Subscribes to some kinds of events, or to all; read them with [`follow`](Self::follow).
    ///
    /// # Errors
    ///
    /// [`ClientError`]; `Refused` if there are too many subscriptions.
    pub fn subscribe(&mut self, events: Option<Vec<EventKind>>) -> Result<(), ClientError> {
        self.ask::<Subscribed>(Call::Subscribe(Subscribe { events }))?;
        self.wait_at_most(None)
    }

    /// Waits for the next notification.
    ///
    /// # Errors
    ///
    /// [`ClientError`].
    pub fn follow(&mut self) -> Result<Told, ClientError> {
        loop {
            if let Some(told) = self.told.pop_front() {
                return Ok(told);
            }
            if let Message::Notification(notification) = self.receive()? {
                self.hear(notification.notice, &mut |_| ());
            }
        }
    }

    /// Has the process try to escape from its jail. Returns what stopped it.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; `Broken` if that ended it.
    #[cfg(feature = "escape")]
    pub fn escape(&mut self, way: String) -> Result<Value, ClientError> {
        self.ask(Call::Escape(crate::method::Escape { way }))
    }

    fn wait_at_most(&self, patience: Option<Duration>) -> Result<(), ClientError> {
        let stream = &self.stream.get_ref().stream;
        stream
            .set_read_timeout(patience)
            .map_err(|error| ClientError::Broken(self.path.clone(), error))
    }

    fn ask<T: DeserializeOwned>(&mut self, call: Call) -> Result<T, ClientError> {
        self.ask_with(call, None, |_| ())
    }

    fn ask_with<T: DeserializeOwned>(
        &mut self,
        call: Call,
        descriptor: Option<BorrowedFd<'_>>,
        mut progress: impl FnMut(Stage),
    ) -> Result<T, ClientError> {
        let garbled = |error| ClientError::Garbled(self.path.clone(), error);
        let broken = |error| ClientError::Broken(self.path.clone(), error);
        self.last_id += 1;
        let own = Id::Number(self.last_id);
        let request = Request {
            jsonrpc: JsonRpc::V2,
            id: own.clone(),
            call,
        };
        let mut line = serde_json::to_vec(&request).map_err(garbled)?;
        line.push(b'\n');
        send(&mut self.stream.get_mut().stream, &line, descriptor).map_err(broken)?;
        loop {
            match self.receive()? {
                Message::Answer(answer) if answer.id == own => {
                    let garbled = |error| ClientError::Garbled(self.path.clone(), error);
                    return serde_json::from_value(answer.result).map_err(garbled);
                }
                Message::Failure(failure) if failure.id.as_ref().is_none_or(|id| *id == own) => {
                    let code = failure.error.data.reason;
                    let refusal = Refusal::new(code, failure.error.message);
                    return Err(ClientError::Refused(refusal));
                }
                Message::Notification(notification) => {
                    self.hear(notification.notice, &mut progress);
                }
                Message::Answer(_) | Message::Failure(_) => {}
            }
        }
    }

    fn hear(&mut self, notice: Notice, progress: &mut impl FnMut(Stage)) {
        match notice {
            Notice::Progress(told) => progress(told.stage),
            Notice::Event(told) => self.told.push_back(Told::Event(told.event)),
            Notice::Lost(lost) => self.told.push_back(Told::Lost(lost.events)),
        }
    }

    fn receive(&mut self) -> Result<Message, ClientError> {
        let garbled = |error| ClientError::Garbled(self.path.clone(), error);
        let broken = |error| ClientError::Broken(self.path.clone(), error);
        let mut line = Vec::new();
        let mut most = self.stream.by_ref().take(MAX_MESSAGE);
        let length = most.read_until(b'\n', &mut line).map_err(broken)?;
        if length == 0 {
            return Err(broken(io::ErrorKind::UnexpectedEof.into()));
        }
        let value: Value = serde_json::from_slice(&line).map_err(garbled)?;
        if value.get("jsonrpc").is_none() && value["error"]["code"].is_string() {
            return Err(ClientError::Older(self.path.clone()));
        }
        serde_json::from_value(value).map_err(garbled)
    }
}

/// Reads from the server, and keeps the descriptors that arrive.
#[derive(Debug)]
struct Receiver {
    stream: UnixStream,
    descriptors: Vec<OwnedFd>,
}

impl Read for Receiver {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(buffer)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received = recvmsg(&self.stream, &mut parts, &mut control, flags)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
            }
        }
        Ok(received.bytes)
    }
}

/// Sends a line, and a descriptor with its first bytes.
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
