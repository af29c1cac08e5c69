//! A session of traffic: from the first datagram to both ends' reports.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::connections::{Connections, Listener};
use crate::shared::Shared;
use crate::tally::Tally;
use crate::transfer::Sum;
use crate::{datagrams, transfer};

/// What both ends send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Datagrams a second, at least 1.
    pub rate: u32,
    /// Bytes of payload in each.
    pub size: usize,
}

/// What one end received.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The datagrams.
    pub datagrams: Tally,
    /// The bytes that the other end has sent over TCP.
    pub sent: Sum,
    /// The bytes that were received over TCP.
    pub received: Sum,
    /// Datagrams of any stream that this end's kernel dropped because a socket's buffer
    /// was full: losses that are not the network's.
    pub dropped_here: u64,
}

/// The host's messages to the guest.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Word {
    Go(Settings),
    Stop,
}

/// The totals that one end has sent.
#[derive(Debug, Serialize, Deserialize)]
struct Sent {
    datagrams: u64,
    bytes: Sum,
}

/// The host's end of a session. Dropping it ends the traffic without a result.
pub struct Session {
    control: Control,
    end: End,
}

impl Session {
    /// Begins once the guest has connected to `listener`.
    ///
    /// # Errors
    ///
    /// If it does not connect within that time.
    pub fn host(listener: &Listener, settings: Settings, within: Duration) -> Result<Self> {
        let connections = Connections::from_guest(listener, within)?;
        let mut control = Control::new(&connections.control)?;
        control.write(&Word::Go(settings))?;
        let end = End::start(connections, settings)?;
        Ok(Self { control, end })
    }

    /// Waits until `datagrams` more have arrived in both directions.
    ///
    /// # Errors
    ///
    /// If they do not arrive within that time.
    pub fn wait_for_more(&self, datagrams: u64, within: Duration) -> Result<()> {
        self.end.shared.0.wait_for_more(datagrams, within)
    }

    /// Ends the traffic; returns what the host and what the guest received.
    ///
    /// # Errors
    ///
    /// If a connection broke.
    pub fn finish(mut self) -> Result<(Report, Report)> {
        self.control.write(&Word::Stop)?;
        let own = self.end.finish(&mut self.control)?;
        let guest = self.control.read().context("no report of the guest's")?;
        Ok((own, guest))
    }
}

/// Runs the guest's end, from the connection to the report.
///
/// # Errors
///
/// If a connection can't be made or breaks.
pub fn guest(own: IpAddr, host: IpAddr) -> Result<Report> {
    let connections = Connections::to_host(own, host)?;
    let mut control = Control::new(&connections.control)?;
    let Word::Go(settings) = control.read()? else {
        bail!("the host ended before it began");
    };
    let end = End::start(connections, settings)?;
    control.wait_for_ever()?;
    let Word::Stop = control.read()? else {
        bail!("the host began twice");
    };
    let report = end.finish(&mut control)?;
    control.write(&report)?;
    Ok(report)
}

/// One end, while its threads run.
struct End {
    shared: Owner,
    dropped_before: u64,
    datagrams_out: JoinHandle<Result<u64>>,
    datagrams_in: JoinHandle<Result<Tally>>,
    bytes_out: JoinHandle<Result<Sum>>,
    bytes_in: JoinHandle<Result<Sum>>,
}

impl End {
    fn start(connections: Connections, settings: Settings) -> Result<Self> {
        let Connections {
            outgoing,
            incoming,
            datagrams: socket,
            ..
        } = connections;
        let shared = Arc::new(Shared::default());
        let sender = socket.try_clone()?;
        Ok(Self {
            dropped_before: dropped_for_want_of_room()?,
            datagrams_in: spawn(&shared, move |shared| datagrams::receive(&socket, shared)),
            datagrams_out: spawn(&shared, move |shared| {
                datagrams::send(&sender, settings, shared)
            }),
            bytes_in: spawn(&shared, move |_| transfer::receive(&incoming)),
            bytes_out: spawn(&shared, move |shared| transfer::send(&outgoing, shared)),
            shared: Owner(shared),
        })
    }

    /// Stops sending, exchanges totals with the other end, and waits for what is still
    /// in flight.
    fn finish(self, control: &mut Control) -> Result<Report> {
        self.shared.0.stop();
        control.write(&Sent {
            datagrams: join(self.datagrams_out)?,
            bytes: join(self.bytes_out)?,
        })?;
        let sent: Sent = control.read()?;
        self.shared.0.expect(sent.datagrams);
        Ok(Report {
            datagrams: join(self.datagrams_in)?,
            sent: sent.bytes,
            received: join(self.bytes_in)?,
            dropped_here: dropped_for_want_of_room()? - self.dropped_before,
        })
    }
}

/// Stops the threads when it is dropped.
struct Owner(Arc<Shared>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

fn spawn<T: Send + 'static>(
    shared: &Arc<Shared>,
    work: impl FnOnce(&Shared) -> Result<T> + Send + 'static,
) -> JoinHandle<Result<T>> {
    let shared = Arc::clone(shared);
    thread::spawn(move || {
        let result = work(&shared);
        if let Err(error) = &result {
            shared.fail(format!("{error:#}"));
        }
        result
    })
}

fn join<T>(thread: JoinHandle<Result<T>>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("a thread panicked"))?
}

/// Lines of JSON over a connection.
struct Control {
    reader: BufReader<TcpStream>,
}

impl Control {
    fn new(stream: &TcpStream) -> Result<Self> {
        Ok(Self {
            reader: BufReader::new(stream.try_clone()?),
        })
    }

    /// Removes the read timeout.
    fn wait_for_ever(&self) -> Result<()> {
        Ok(self.reader.get_ref().set_read_timeout(None)?)
    }

    fn write(&mut self, message: &impl Serialize) -> Result<()> {
        let line = format!("{}\n", serde_json::to_string(message)?);
        let mut stream = self.reader.get_ref();
        stream
            .write_all(line.as_bytes())
            .context("cannot tell the other end")
    }

    fn read<T: DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = String::new();
        self.reader
            .read_line(&mut line)
            .context("cannot hear the other end")?;
        serde_json::from_str(&line).with_context(|| format!("the other end said: {line:?}"))
    }
}

/// Reads the kernel's count of datagrams for which a socket's buffer was full.
fn dropped_for_want_of_room() -> Result<u64> {
    let table = fs::read_to_string("/proc/self/net/snmp")?;
    let mut rows = table.lines().filter(|line| line.starts_with("Udp:"));
    let (names, values) = rows.next().zip(rows.next()).context("no UDP counters")?;
    names
        .split_whitespace()
        .zip(values.split_whitespace())
        .find(|(name, _)| *name == "RcvbufErrors")
        .and_then(|(_, value)| value.parse().ok())
        .context("no counter RcvbufErrors")
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    /// Both ends in one process, over the loopback interface.
    #[test]
    fn what_goes_well_is_reported_as_perfect_at_both_ends() {
        let host = IpAddr::from(Ipv4Addr::new(127, 0, 0, 1));
        let guest_address = IpAddr::from(Ipv4Addr::new(127, 0, 0, 2));
        let listener = Listener::bind(host, guest_address).unwrap();
        let guest_end = thread::spawn(move || guest(guest_address, host));
        let settings = Settings {
            rate: 2000,
            size: 200,
        };
        let within = Duration::from_secs(20);
        let session = Session::host(&listener, settings, within).unwrap();
        session.wait_for_more(500, within).unwrap();
        let (here, there) = session.finish().unwrap();
        assert_eq!(guest_end.join().unwrap().unwrap(), there);
        for report in [&here, &there] {
            assert!(report.datagrams.sent >= 500);
            assert!(report.datagrams.is_perfect(), "{}", report.datagrams);
            assert_eq!(report.sent, report.received);
            assert!(report.received.bytes > 0);
        }
    }
}
