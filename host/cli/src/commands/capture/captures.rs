//! The captures of a device that is served.
//!
//! Each has a ring, which the device fills, a thread that writes the ring's content, and a pipe,
//! whose other end the client reads. The pipe is created here, so that no client chooses the kind of
//! descriptor that is written to, or whether writes to it block.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread;

use manatee::device::{Device, WatchError};
use manatee::endpoint::Watcher;
use manatee_common::ration::Ration;
use manatee_control::method::{Captured, Capturing};
use manatee_control::{Capture, Code, EndCapture, Refusal};
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use serde_json::{Value, json};

use super::pcapng;
use super::ring::{Chunk, Ring};

/// The most captures at a time, including those that have ended and are still being read.
const MOST: usize = 4;

/// The captures of a device.
pub struct Captures {
    device: Device,
    running: Arc<Mutex<Running>>,
}

#[derive(Debug, Default)]
struct Running {
    /// Captures so far.
    last: u64,
    list: Vec<One>,
    /// The rationing of log lines that clients can cause.
    lines: Ration,
}

#[derive(Debug)]
struct One {
    capture: u64,
    asked: Capture,
    ring: Arc<Ring>,
}

impl Captures {
    /// Creates an empty set of captures of a device.
    pub fn new(device: Device) -> Self {
        Self {
            device,
            running: Arc::default(),
        }
    }

    /// Starts a capture. Returns the end of the pipe from which it is read.
    pub fn begin(&self, asked: &Capture) -> Result<(Capturing, OwnedFd), Refusal> {
        check(asked)?;
        let failed = |error: io::Error| Refusal::failed(format!("the capture's pipe: {error}"));
        let (reader, writer) = pipe().map_err(failed)?;
        let ring = Ring::new(asked.snaplen, asked.ring_bytes).map_err(failed)?;
        let ring = Arc::new(ring);
        let capture = self.running.lock().add(asked, &ring)?;
        let watcher: Arc<dyn Watcher> = ring.clone();
        let begun = self.device.watch(asked.port, &watcher);
        let begun = begun.map_err(|error| refused(&error));
        let begun = begun.and_then(|()| self.start(capture, asked, ring, writer));
        if let Err(refusal) = begun {
            self.running.lock().remove(capture);
            return Err(refusal);
        }
        Ok((Capturing { capture }, reader))
    }

    /// Starts the thread that writes.
    fn start(
        &self,
        capture: u64,
        asked: &Capture,
        ring: Arc<Ring>,
        pipe: OwnedFd,
    ) -> Result<(), Refusal> {
        let mut header = Vec::new();
        let program = concat!("manatee ", env!("CARGO_PKG_VERSION"));
        let Capture { port, snaplen, .. } = *asked;
        pcapng::begin(&mut header, program, &self.name(port), snaplen);
        let (device, running) = (self.device.clone(), self.running.clone());
        if let Some(dropped) = running.lock().lines.pass() {
            tracing::info!(port, dropped, "packets are captured");
        }
        let write = move || {
            let written = write(&pipe, &ring, header);
            device.unwatch(port);
            let (packets, lost) = ring.counts();
            let mut running = running.lock();
            running.remove(capture);
            if let Some(dropped) = running.lines.pass() {
                let error = written.err().map(tracing::field::display);
                let text = "the capture has ended";
                tracing::info!(port, packets, lost, error, dropped, "{text}");
            }
        };
        let started = thread::Builder::new()
            .name("capture".to_owned())
            .spawn(write);
        started.map(drop).map_err(|error| {
            self.device.unwatch(port);
            Refusal::failed(format!("the capture's thread: {error}"))
        })
    }

    /// Returns the port's name in the capture.
    fn name(&self, port: u32) -> String {
        let ports = self.device.totals().ports;
        let endpoint = ports.get(port as usize).map(|port| port.endpoint.as_str());
        format!("port {port} ({})", endpoint.unwrap_or_default())
    }

    /// Ends a capture. Captured packets can still be read.
    pub fn end(&self, end: &EndCapture) -> Result<Captured, Refusal> {
        let running = self.running.lock();
        let found = running.list.iter().find(|one| one.capture == end.capture);
        let Some((port, ring)) = found.map(|one| (one.asked.port, one.ring.clone())) else {
            let text = format!("there is no capture {}: it has ended", end.capture);
            return Err(Refusal::not_found(text));
        };
        drop(running);
        self.device.unwatch(port);
        ring.end();
        let (packets, dropped) = ring.counts();
        Ok(Captured { packets, dropped })
    }

    /// Adds them to a device's tree.
    pub fn inspect(&self, tree: &mut Value) {
        for one in &self.running.lock().list {
            if let Some(shown) = tree["ports"].get_mut(one.asked.port.to_string()) {
                let (packets, dropped) = one.ring.counts();
                shown["capture"] = json!({
                    "capture": one.capture,
                    "snaplen": one.asked.snaplen,
                    "ring_bytes": one.asked.ring_bytes,
                    "packets": packets,
                    "dropped": dropped,
                });
            }
        }
    }
}

impl Running {
    fn add(&mut self, asked: &Capture, ring: &Arc<Ring>) -> Result<u64, Refusal> {
        let port = asked.port;
        if let Some(other) = self.list.iter().find(|one| one.asked.port == port) {
            let text = format!(
                "port {port} is captured already (capture {}), or what was captured is still read: \
                 end that one first",
                other.capture
            );
            return Err(Refusal::new(Code::Busy, text));
        }
        if self.list.len() >= MOST {
            let text = format!("{MOST} ports are captured already: end one of these captures");
            return Err(Refusal::new(Code::TooMany, text));
        }
        self.last += 1;
        self.list.push(One {
            capture: self.last,
            asked: *asked,
            ring: ring.clone(),
        });
        Ok(self.last)
    }

    fn remove(&mut self, capture: u64) {
        self.list.retain(|one| one.capture != capture);
    }
}

fn check(asked: &Capture) -> Result<(), Refusal> {
    let Capture {
        snaplen,
        ring_bytes,
        ..
    } = asked;
    let wrong = |text| Err(Refusal::new(Code::InvalidParams, text));
    let (lengths, rings) = (Capture::SNAPLEN, Capture::RING_BYTES);
    if !lengths.contains(snaplen) {
        let (least, most) = lengths.into_inner();
        return wrong(format!(
            "`snaplen` is {snaplen}: it is {least} to {most} bytes"
        ));
    }
    if !rings.contains(ring_bytes) {
        let (least, most) = rings.into_inner();
        return wrong(format!(
            "`ring_bytes` is {ring_bytes}: it is {least} to {most}"
        ));
    }
    Ok(())
}

fn refused(error: &WatchError) -> Refusal {
    let code = match error {
        WatchError::NoPort { .. } => Code::NotFound,
        WatchError::Watched { .. } => Code::Busy,
    };
    Refusal::new(code, error.to_string())
}

/// Creates a pipe whose write end is non-blocking.
fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    fcntl_setfl(&writer, fcntl_getfl(&writer)? | OFlags::NONBLOCK)?;
    Ok((reader, writer))
}

/// Writes packets until the capture ends, or its reader is gone.
fn write(pipe: &OwnedFd, ring: &Ring, header: Vec<u8>) -> io::Result<()> {
    let mut blocks = header;
    put(pipe, &blocks)?;
    loop {
        match ring.take(blocks) {
            Err(empty) => {
                blocks = empty;
                wait(pipe, ring)?;
            }
            Ok(chunk) => {
                let Chunk { over, .. } = chunk;
                blocks = chunk.blocks;
                if let Some(statistics) = &over {
                    pcapng::end(&mut blocks, statistics);
                }
                put(pipe, &blocks)?;
                if over.is_some() {
                    return Ok(());
                }
            }
        }
    }
}

/// Writes all of it, as fast as it is read.
fn put(pipe: &OwnedFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(pipe, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let mut room = [PollFd::new(pipe, PollFlags::OUT)];
                rustix::io::retry_on_intr(|| poll(&mut room, None))?;
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// Waits for more packets. Fails if the reader is gone.
fn wait(pipe: &OwnedFd, ring: &Ring) -> io::Result<()> {
    let news = ring.as_fd();
    let mut both = [
        PollFd::new(pipe, PollFlags::empty()),
        PollFd::new(&news, PollFlags::IN),
    ];
    rustix::io::retry_on_intr(|| poll(&mut both, None))?;
    match both[0].revents().is_empty() {
        true => Ok(()),
        false => Err(io::ErrorKind::BrokenPipe.into()),
    }
}
