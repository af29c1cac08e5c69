//! Traffic between the harness and the guest that accounts for every packet.

use std::fmt;
use std::time::Duration;

use anyhow::{Result, ensure};
use manatee_traffic::connections::Listener;
use manatee_traffic::session::{Report, Session, Settings};

use crate::lab::Port;
use crate::netns::{Family, Subnet};
use crate::qemu::Vm;

/// The datagrams in parallel with TCP: a rate that the guest sustains without KVM.
pub const SETTINGS: Settings = Settings {
    rate: 500,
    size: 512,
};

/// Packets that the TAP may queue while the device is paused: seconds of datagrams, and
/// all that TCP may have in flight.
const ROOM: u32 = 20_000;

/// How long the guest may take to connect.
const CONNECT_WITHIN: Duration = Duration::from_secs(30);

/// Traffic that runs.
pub struct Traffic {
    session: Session,
    subnet: Subnet,
    dropped_before: u64,
}

/// The outcome of the traffic.
pub struct Outcome {
    /// What the guest received.
    pub to_guest: Way,
    /// What the host received.
    pub from_guest: Way,
}

/// One direction.
pub struct Way(pub Report);

impl Traffic {
    /// Starts it on one port, at both ends.
    pub fn start(vm: &mut Vm, port: &Port) -> Result<Self> {
        port.tap.make_room(ROOM)?;
        let subnet = port.tap.subnet();
        let (host, guest) = (subnet.host(Family::V4), subnet.guest(Family::V4));
        let listener = Listener::bind(host, guest)?;
        vm.sh(&format!("traffic {guest} {host} >{} 2>&1 &", log(subnet)))?;
        let session = Session::host(&listener, SETTINGS, CONNECT_WITHIN);
        Ok(Self {
            session: session.map_err(|error| with_guest_words(vm, subnet, error))?,
            subnet,
            dropped_before: port.tap.dropped()?,
        })
    }

    /// Waits until `datagrams` more have arrived both ways.
    pub fn wait_for_more(&self, datagrams: u64, within: Duration) -> Result<()> {
        self.session.wait_for_more(datagrams, within)
    }

    /// Ends the traffic. Fails if packets were lost outside the device.
    pub fn finish(self, vm: &mut Vm, port: &Port) -> Result<Outcome> {
        let reports = self.session.finish();
        let (here, there) = reports.map_err(|error| with_guest_words(vm, self.subnet, error))?;
        let outside = [
            (
                "the TAP interface",
                port.tap.dropped()? - self.dropped_before,
            ),
            ("a socket of the host", here.dropped_here),
            ("a socket of the guest", there.dropped_here),
        ];
        for (place, dropped) in outside {
            ensure!(
                dropped == 0,
                "{place} has dropped {dropped} packets: this machine is too slow for {} datagrams a second",
                SETTINGS.rate
            );
        }
        Ok(Outcome {
            to_guest: Way(there),
            from_guest: Way(here),
        })
    }
}

impl Way {
    /// Fails unless every byte that was sent over TCP arrived unchanged.
    pub fn check_bytes(&self) -> Result<()> {
        let Report { sent, received, .. } = &self.0;
        ensure!(
            sent == received,
            "TCP took {} bytes with the SHA-256 sum {} and delivered {} with {}",
            sent.bytes,
            sent.sha256,
            received.bytes,
            received.sha256
        );
        ensure!(sent.bytes > 0, "TCP moved no byte");
        Ok(())
    }

    /// Fails unless every datagram arrived once, intact and in order.
    pub fn check_datagrams(&self) -> Result<()> {
        let tally = &self.0.datagrams;
        ensure!(tally.is_perfect(), "datagrams: {tally}");
        ensure!(tally.sent > 0, "no datagram was sent");
        Ok(())
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "datagrams: {}, longest silence {} ms; TCP: {} MiB, SHA-256 equal",
            self.0.datagrams,
            self.0.datagrams.longest_gap_us / 1000,
            self.0.received.bytes >> 20
        )
    }
}

/// Returns the path of the log of the guest's end.
fn log(subnet: Subnet) -> String {
    format!("/tmp/traffic-{}", subnet.guest(Family::V4))
}

fn with_guest_words(vm: &mut Vm, subnet: Subnet, error: anyhow::Error) -> anyhow::Error {
    let words = vm.sh(&format!("tail -n 5 {}", log(subnet)));
    let words = words.unwrap_or_else(|error| format!("{error:#}"));
    error.context(format!("the guest's end says: {}", words.trim_end()))
}
