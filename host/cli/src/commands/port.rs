//! `--port`: a port of the adapter.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::str::FromStr;

use anyhow::Context;
use manatee::device::Port;
use manatee::endpoint::{Endpoint, Loopback, MAX_QUEUES, Null, Tap, TapLink};

use super::mac::{self, InvalidMac, Mac};
use super::serve::kept::{Kept, queue_name};

/// What a port that says nothing else gets, as on most networks.
const DEFAULT_MTU: u16 = 1500;
/// The smallest MTU of IPv4 (RFC 791).
const MIN_MTU: u16 = 68;
/// The largest that fits a length of 16 bits with the Ethernet header.
const MAX_MTU: u16 = 65521;
/// There is no wire; this is what the guest shows.
const LINK_SPEED_MBPS: u32 = 100_000;
/// Faster than any wire; what Linux keeps a speed in holds it.
const MAX_SPEED_MBPS: u32 = 1_000_000;

/// `--port` as it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortArgument {
    backend: Backend,
    mac: Option<Mac>,
    mtu: Option<u16>,
    speed: Option<u32>,
    queues: Option<u16>,
}

/// The ports of an adapter, and the interface of each that is a TAP.
#[derive(Debug, Default)]
pub struct Opened {
    pub ports: Vec<Port>,
    pub taps: Vec<Option<TapLink>>,
    /// The queues of TAPs once more, by the names by which the next process finds them.
    pub queues: Vec<(String, OwnedFd)>,
}

/// A port, the interface if it is a TAP, and its queues once more.
type OpenedPort = (Port, Option<TapLink>, Vec<OwnedFd>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Backend {
    Tap(String),
    Loopback,
    Null,
}

/// Why `--port` can't be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPort {
    /// No such backend.
    #[error(
        "`{0}` is no kind of port: use tap=INTERFACE, loopback or null, and then, if you like, \
         ,mac=ADDRESS, ,mtu=BYTES, ,speed=MBITS and ,queues=NUMBER"
    )]
    Backend(String),
    /// `tap=` without a name.
    #[error("tap= needs the name of an interface, as in tap=tap0")]
    NoInterface,
    /// No such setting.
    #[error(
        "`{0}` is no setting of a port: there are mac=ADDRESS, mtu=BYTES, speed=MBITS and \
         queues=NUMBER"
    )]
    Setting(String),
    /// A setting twice.
    #[error("`{0}` is given twice")]
    Repeated(&'static str),
    /// `mac=` is wrong.
    #[error(transparent)]
    Mac(#[from] InvalidMac),
    /// `mtu=` is wrong.
    #[error("MTU `{0}` is not a number from {MIN_MTU} to {MAX_MTU}")]
    Mtu(String),
    /// `speed=` is wrong.
    #[error("speed `{0}` is not a number of Mbit/s from 1 to {MAX_SPEED_MBPS}")]
    Speed(String),
    /// `queues=` is wrong.
    #[error("queues `{0}` is not a number from 1 to {MAX_QUEUES}")]
    Queues(String),
}

impl FromStr for PortArgument {
    type Err = InvalidPort;

    fn from_str(text: &str) -> Result<Self, InvalidPort> {
        let mut parts = text.split(',');
        let backend = parse_backend(parts.next().unwrap_or_default())?;
        let mut port = Self {
            backend,
            mac: None,
            mtu: None,
            speed: None,
            queues: None,
        };
        for part in parts {
            match part.split_once('=') {
                Some(("mac", value)) => set(&mut port.mac, "mac", mac::parse(value)?)?,
                Some(("mtu", value)) => set(&mut port.mtu, "mtu", parse_mtu(value)?)?,
                Some(("speed", value)) => set(&mut port.speed, "speed", parse_speed(value)?)?,
                Some(("queues", value)) => {
                    set(&mut port.queues, "queues", parse_queues(value)?)?;
                }
                _ => return Err(InvalidPort::Setting(part.to_owned())),
            }
        }
        Ok(port)
    }
}

fn set<T>(slot: &mut Option<T>, name: &'static str, value: T) -> Result<(), InvalidPort> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(InvalidPort::Repeated(name)),
    }
}

fn parse_backend(text: &str) -> Result<Backend, InvalidPort> {
    match text.split_once('=') {
        None if text == "loopback" => Ok(Backend::Loopback),
        None if text == "null" => Ok(Backend::Null),
        Some(("tap", "")) => Err(InvalidPort::NoInterface),
        None if text == "tap" => Err(InvalidPort::NoInterface),
        Some(("tap", name)) => Ok(Backend::Tap(name.to_owned())),
        _ => Err(InvalidPort::Backend(text.to_owned())),
    }
}

fn parse_mtu(text: &str) -> Result<u16, InvalidPort> {
    let mtu = text
        .parse()
        .ok()
        .filter(|mtu| (MIN_MTU..=MAX_MTU).contains(mtu));
    mtu.ok_or_else(|| InvalidPort::Mtu(text.to_owned()))
}

fn parse_speed(text: &str) -> Result<u32, InvalidPort> {
    let speed = text.parse().ok();
    let speed = speed.filter(|speed| (1..=MAX_SPEED_MBPS).contains(speed));
    speed.ok_or_else(|| InvalidPort::Speed(text.to_owned()))
}

fn parse_queues(text: &str) -> Result<u16, InvalidPort> {
    let queues = text.parse().ok();
    let queues = queues.filter(|queues| (1..=MAX_QUEUES).contains(queues));
    queues.ok_or_else(|| InvalidPort::Queues(text.to_owned()))
}

/// Opens the endpoints of all ports of the adapter that is served at `socket`, if that has a
/// path.
///
/// # Errors
///
/// If an interface can't be opened, two ports would have the same address, or there is none
/// to give.
pub fn open_all(
    arguments: &[PortArgument],
    socket: Option<&Path>,
    kept: &mut Kept,
) -> anyhow::Result<Opened> {
    let mut opened = Opened::default();
    for (index, argument) in arguments.iter().enumerate() {
        let made = || socket.map(|socket| mac::for_port(socket, index));
        let mac = argument.mac.or_else(made).with_context(|| {
            format!("port {index} needs mac=ADDRESS: the socket has no path to make one from")
        })?;
        let Opened {
            ports,
            taps,
            queues,
        } = &mut opened;
        if let Some(other) = ports.iter().position(|port| port.mac == mac) {
            anyhow::bail!(
                "ports {other} and {index} have the same address {}; give each its own mac=",
                mac::format(mac)
            );
        }
        let (port, tap, own) = argument.open(mac, kept.take_queues(index))?;
        let named = own.into_iter().enumerate();
        queues.extend(named.map(|(queue, fd)| (queue_name(index, queue), fd)));
        ports.push(port);
        taps.push(tap);
    }
    Ok(opened)
}

impl PortArgument {
    fn open(&self, mac: Mac, kept: Vec<OwnedFd>) -> anyhow::Result<OpenedPort> {
        let (mut link, mut queues) = (None, Vec::new());
        let endpoint: Box<dyn Endpoint> = match &self.backend {
            Backend::Tap(name) => {
                let tap = match self.queues {
                    _ if !kept.is_empty() => Tap::from_queues(name, kept)?,
                    Some(queues) => Tap::with_queues(name, queues)?,
                    None => Tap::open(name)?,
                };
                let own = tap.descriptors().map(|it| it.try_clone_to_owned());
                queues = own.collect::<Result<_, _>>()?;
                link = Some(tap.link());
                Box::new(tap)
            }
            Backend::Loopback => Box::new(Loopback::with_queues(self.queues.unwrap_or(1))),
            Backend::Null => Box::new(Null::with_queues(self.queues.unwrap_or(1))),
        };
        let carried = endpoint.mtu();
        let mtu = self.mtu.or(carried).unwrap_or(DEFAULT_MTU);
        if carried.is_some_and(|carried| carried < mtu) {
            tracing::warn!(
                port = endpoint.name(),
                mtu,
                "the other side carries {} bytes only; longer packets are lost",
                carried.unwrap_or_default()
            );
        }
        let port = Port {
            mac,
            mtu,
            link_speed_mbps: self.speed.unwrap_or(LINK_SPEED_MBPS),
            endpoint,
        };
        Ok((port, link, queues))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<PortArgument, InvalidPort> {
        text.parse()
    }

    #[test]
    fn all_kinds_are_read() {
        let loopback = PortArgument {
            backend: Backend::Loopback,
            mac: None,
            mtu: None,
            speed: None,
            queues: None,
        };
        assert_eq!(parse("loopback"), Ok(loopback));
        let tap = PortArgument {
            backend: Backend::Tap("tap0".to_owned()),
            mac: Some([2, 0, 0, 0, 0, 1]),
            mtu: Some(9000),
            speed: Some(25_000),
            queues: Some(4),
        };
        assert_eq!(
            parse("tap=tap0,mac=02:00:00:00:00:01,mtu=9000,speed=25000,queues=4"),
            Ok(tap.clone())
        );
        assert_eq!(
            parse("tap=tap0,queues=4,speed=25000,mtu=9000,mac=02:00:00:00:00:01"),
            Ok(tap)
        );
        assert!(parse("null,mtu=68").is_ok());
    }

    #[test]
    fn mistakes_are_named() {
        for text in ["", "eth0", "tun=x", "loopback=1", "tap0"] {
            assert_eq!(parse(text), Err(InvalidPort::Backend(text.to_owned())));
        }
        assert_eq!(parse("tap="), Err(InvalidPort::NoInterface));
        assert_eq!(parse("tap"), Err(InvalidPort::NoInterface));
        assert_eq!(parse("null,"), Err(InvalidPort::Setting(String::new())));
        assert_eq!(
            parse("null,rate=1"),
            Err(InvalidPort::Setting("rate=1".to_owned()))
        );
        assert_eq!(
            parse("null,mtu=99,mtu=99"),
            Err(InvalidPort::Repeated("mtu"))
        );
        for mtu in ["67", "65522", "-1", "x", ""] {
            assert_eq!(
                parse(&format!("null,mtu={mtu}")),
                Err(InvalidPort::Mtu(mtu.to_owned()))
            );
        }
        for speed in ["0", "1000001", "-1", "fast", ""] {
            assert_eq!(
                parse(&format!("null,speed={speed}")),
                Err(InvalidPort::Speed(speed.to_owned()))
            );
        }
        for queues in ["0", "65", "-1", "many", ""] {
            assert_eq!(
                parse(&format!("tap=tap0,queues={queues}")),
                Err(InvalidPort::Queues(queues.to_owned()))
            );
        }
        assert!(matches!(
            parse("null,mac=01:00:00:00:00:00"),
            Err(InvalidPort::Mac(_))
        ));
    }

    #[test]
    fn two_ports_with_one_address_are_refused() {
        let same: PortArgument = "null,mac=02:00:00:00:00:01".parse().unwrap();
        let error = open_all(
            &[same.clone(), same],
            Some(Path::new("/s")),
            &mut Kept::default(),
        )
        .unwrap_err()
        .to_string();
        assert!(error.contains("02:00:00:00:00:01"), "{error}");
    }

    #[test]
    fn without_a_path_an_address_has_to_be_given() {
        let error = open_all(&["null".parse().unwrap()], None, &mut Kept::default()).unwrap_err();
        assert!(error.to_string().contains("port 0 needs mac="), "{error}");
        let given = "null,mac=02:00:00:00:00:01".parse().unwrap();
        assert_eq!(
            open_all(&[given], None, &mut Kept::default())
                .unwrap()
                .ports
                .len(),
            1
        );
    }

    #[test]
    fn mtu_is_what_was_given_or_1500() {
        let open = |text: &str| {
            let opened = open_all(
                &[text.parse().unwrap()],
                Some(Path::new("/s")),
                &mut Kept::default(),
            )
            .unwrap();
            (opened.ports[0].mtu, opened.ports[0].link_speed_mbps)
        };
        assert_eq!(open("null,mtu=9000"), (9000, LINK_SPEED_MBPS));
        assert_eq!(open("null,speed=10"), (DEFAULT_MTU, 10));
    }
}
