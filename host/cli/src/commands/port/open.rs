//! Opening what ports are connected to.

use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::Context;
use manatee::device::Port;
use manatee::endpoint::{
    Endpoint, InterfaceState, Loopback, Null, Stream, StreamLink, Tap, TapLink,
};

use super::{Backend, PortArgument};
use crate::commands::inherited;
use crate::commands::mac::{self, Mac};

/// What a port that says nothing else gets, as on most networks.
pub const DEFAULT_MTU: u16 = 1500;
/// There is no wire; this is what the guest shows.
pub const LINK_SPEED_MBPS: u32 = 100_000;

/// The ports of an adapter, and what the link of each follows.
#[derive(Debug, Default)]
pub struct Opened {
    pub ports: Vec<Port>,
    pub interfaces: Vec<Option<Interface>>,
}

/// What the link of a port follows.
#[derive(Clone, Debug)]
pub enum Interface {
    Tap(TapLink),
    Stream(StreamLink),
}

impl Interface {
    /// Returns its state, as it was seen last.
    pub fn state(&self) -> InterfaceState {
        match self {
            Self::Tap(tap) => tap.state(),
            Self::Stream(stream) if stream.is_up() => InterfaceState::Up,
            Self::Stream(_) => InterfaceState::Down,
        }
    }

    /// Returns its MTU, if it has one.
    pub fn mtu(&self) -> Option<u16> {
        match self {
            Self::Tap(tap) => Some(tap.mtu()),
            Self::Stream(_) => None,
        }
    }
}

/// Opens the endpoints of all ports of the adapter that is served at `socket`, if that has a
/// path.
///
/// # Errors
///
/// If an interface can't be opened, two ports would have the same address, or there is none
/// to give.
pub fn open_all(arguments: &[PortArgument], socket: Option<&Path>) -> anyhow::Result<Opened> {
    let mut opened = Opened::default();
    for (index, argument) in arguments.iter().enumerate() {
        let made = || socket.map(|socket| mac::for_port(socket, index));
        let mac = argument.mac.or_else(made).with_context(|| {
            format!("port {index} needs mac=ADDRESS: the socket has no path to make one from")
        })?;
        let Opened { ports, interfaces } = &mut opened;
        if let Some(other) = ports.iter().position(|port| port.mac == mac) {
            anyhow::bail!(
                "ports {other} and {index} have the same address {}; give each its own mac=",
                mac::format(mac)
            );
        }
        let (port, interface) = argument
            .open(mac)
            .with_context(|| format!("port {index}"))?;
        ports.push(port);
        interfaces.push(interface);
    }
    Ok(opened)
}

impl PortArgument {
    fn open(&self, mac: Mac) -> anyhow::Result<(Port, Option<Interface>)> {
        let (endpoint, link) = self.endpoint()?;
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
        Ok((port, link))
    }

    /// Opens what it is connected to, and what its link follows.
    fn endpoint(&self) -> anyhow::Result<(Box<dyn Endpoint>, Option<Interface>)> {
        Ok(match &self.backend {
            Backend::Tap(name) => of_tap(match self.queues {
                Some(queues) => Tap::with_queues(name, queues)?,
                None => Tap::open(name)?,
            }),
            Backend::Descriptors(numbers) => {
                let fds = numbers.iter().map(|number| inherited::take(*number));
                let names: Vec<_> = numbers.iter().map(ToString::to_string).collect();
                let tap = Tap::from_descriptors(fds.collect::<anyhow::Result<_>>()?);
                of_tap(tap.with_context(|| format!("descriptor {}", names.join(" or ")))?)
            }
            Backend::Stream(path) => {
                let shown = path.display();
                let socket = UnixStream::connect(path).with_context(|| {
                    format!(
                        "nobody answers at {shown}: start the other side first, such as `passt \
                         --socket {shown}`"
                    )
                })?;
                of_stream(Stream::new(format!("stream={shown}"), socket.into())?)
            }
            Backend::StreamDescriptor(number) => {
                let stream = Stream::new(format!("fd={number}"), inherited::take(*number)?);
                of_stream(stream.with_context(|| format!("descriptor {number}"))?)
            }
            Backend::Loopback => (
                Box::new(Loopback::with_queues(self.queues.unwrap_or(1))),
                None,
            ),
            Backend::Null => (Box::new(Null::with_queues(self.queues.unwrap_or(1))), None),
        })
    }
}

fn of_tap(tap: Tap) -> (Box<dyn Endpoint>, Option<Interface>) {
    let link = Interface::Tap(tap.link());
    (Box::new(tap), Some(link))
}

fn of_stream(stream: Stream) -> (Box<dyn Endpoint>, Option<Interface>) {
    let link = Interface::Stream(stream.link());
    (Box::new(stream), Some(link))
}
