//! The stream of numbered datagrams: one thread sends, one receives.

use std::io::{ErrorKind, Result as IoResult};
use std::net::UdpSocket;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::socket::{setsockopt, sockopt};

use crate::datagram::{Datagram, HEADER};
use crate::session::Settings;
use crate::shared::Shared;
use crate::tally::{Counter, Tally};

/// Receive buffer for some seconds in which the receiver is not scheduled.
const RECEIVE_BUFFER: usize = 16 << 20;

/// How long missing datagrams may still be in flight, after the other end has reported
/// how many it sent, which it does after the last.
const STRAGGLERS: Duration = Duration::from_secs(2);

/// How often an idle receiver checks whether to stop.
const LOOK: Duration = Duration::from_millis(50);

/// How many datagrams a delayed sender may send at once.
const BURST: u32 = 8;

/// Prepares a socket that is bound and connected.
pub fn prepare(socket: &UdpSocket) -> Result<()> {
    // Only root may exceed the machine's limit.
    setsockopt(socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)
        .or_else(|_| setsockopt(socket, sockopt::RcvBuf, &RECEIVE_BUFFER))
        .context("cannot size a receive buffer")
}

/// Sends datagrams at the requested rate until told to stop. Returns their number.
pub fn send(socket: &UdpSocket, settings: Settings, shared: &Shared) -> Result<u64> {
    let interval = Duration::from_secs(1) / settings.rate;
    let mut bytes = vec![0; settings.size.max(HEADER)];
    let mut due = Instant::now();
    let mut number = 0;
    while !shared.stopped() {
        let datagram = Datagram {
            number,
            received: shared.received(),
        };
        datagram.write(&mut bytes);
        let sent = socket.send(&bytes).context("cannot send a datagram")?;
        if sent != bytes.len() {
            bail!("only {sent} bytes of a datagram were sent");
        }
        number += 1;
        let now = Instant::now();
        due = (due + interval).max(now.checked_sub(interval * BURST).unwrap_or(now));
        thread::sleep(due.saturating_duration_since(now));
    }
    Ok(number)
}

/// Receives datagrams until the other end has reported how many it sent, and all have
/// arrived or none for a while.
pub fn receive(socket: &UdpSocket, shared: &Shared) -> Result<Tally> {
    let mut bytes = vec![0; 1 << 16];
    let mut counter = Counter::default();
    let mut quiet_since = Instant::now();
    socket.set_read_timeout(Some(LOOK))?;
    while !shared.abandoned() {
        let expected = shared.expected();
        // When all have arrived, only duplicates that are already queued matter.
        let complete = expected.is_some_and(|sent| counter.received() >= sent);
        socket.set_nonblocking(complete)?;
        if let Some(length) = next(socket, &mut bytes).context("cannot receive datagrams")? {
            count(&mut counter, &bytes[..length], shared);
            quiet_since = Instant::now();
            continue;
        }
        if let Some(sent) = expected
            && (complete || quiet_since.elapsed() > STRAGGLERS)
        {
            return Ok(counter.finish(sent));
        }
    }
    bail!("given up")
}

fn next(socket: &UdpSocket, bytes: &mut [u8]) -> IoResult<Option<usize>> {
    match socket.recv(bytes) {
        Ok(length) => Ok(Some(length)),
        Err(error) if is_transient(error.kind()) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_transient(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}

fn count(counter: &mut Counter, bytes: &[u8], shared: &Shared) {
    match Datagram::read(bytes) {
        Some(datagram) => {
            counter.count(datagram.number, Instant::now());
            shared.note(counter.received(), datagram.received);
        }
        None => counter.count_corrupt(),
    }
}
