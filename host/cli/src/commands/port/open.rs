//! Opening the endpoints of ports.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::Context;
use manatee::device::Port;
use manatee::endpoint::{
    Endpoint, Guarded, InterfaceState, Loopback, Null, Stream, StreamLink, Tap, TapLink,
};

use super::{Backend, PortArgument};
use crate::commands::inherited;
use crate::commands::mac::{self, Mac};
use crate::commands::serve::kept::{Kept, queue_name};

/// The default MTU, as on most networks.
pub const DEFAULT_MTU: u16 = 1500;
/// The speed that the guest shows; there is no physical link.
pub const LINK_SPEED_MBPS: u32 = 100_000;

/// The opened ports of an adapter, with the interfaces that their links follow.
#[derive(Debug, Default)]
pub struct Opened {
    pub ports: Vec<Port>,
    pub interfaces: Vec<Option<Interface>>,
    /// Copies of TAP queues' descriptors, with the names by which the next process finds them.
    pub queues: Vec<(String, OwnedFd)>,
}

/// A port's endpoint.
struct Connected {
    endpoint: Box<dyn Endpoint>,
    /// The interface or stream that its link follows.
    interface: Option<Interface>,
    /// Copies of a TAP's queues' descriptors.
    queues: Vec<OwnedFd>,
}

/// The interface or stream that the link of a port follows.
#[derive(Clone, Debug)]
pub enum Interface {
    Tap(TapLink),
    Stream(StreamLink),
}

impl Interface {
    /// Returns its last known state.
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

/// Opens the endpoints of all ports. `socket` is the path at which the adapter is served, if
/// it has one.
///
/// # Errors
///
/// If an interface can't be opened, two ports have the same address, or one can't be
/// derived.
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
            interfaces,
            queues,
        } = &mut opened;
        if let Some(other) = ports.iter().position(|port| port.mac == mac) {
            anyhow::bail!(
                "ports {other} and {index} have the same address {}; give each its own mac=",
                mac::format(mac)
            );
        }
        let connected = argument.connect(kept.take_queues(index));
        let connected = connected.with_context(|| format!("port {index}"))?;
        let named = connected.queues.into_iter().enumerate();
        queues.extend(named.map(|(queue, fd)| (queue_name(index, queue), fd)));
        interfaces.push(connected.interface);
        ports.push(argument.port(mac, connected.endpoint)?);
    }
    Ok(opened)
}

impl PortArgument {
    fn port(&self, mac: Mac, endpoint: Box<dyn Endpoint>) -> anyhow::Result<Port> {
        let carried = endpoint.mtu();
        let mtu = self.mtu.or(carried).unwrap_or(DEFAULT_MTU);
        if carried.is_some_and(|carried| carried < mtu) {
            tracing::warn!(
                port = endpoint.name(),
                mtu,
                "the endpoint carries {} bytes only; longer packets are lost",
                carried.unwrap_or_default()
            );
        }
        let policy = self.policy(mac);
        let endpoint = match policy.restricts() {
            true => Box::new(Guarded::new(endpoint, policy)?),
            false => endpoint,
        };
        Ok(Port {
            mac,
            mtu,
            link_speed_mbps: self.speed.unwrap_or(LINK_SPEED_MBPS),
            endpoint,
        })
    }

    /// Opens its endpoint, or continues with the queues that another process left.
    fn connect(&self, kept: Vec<OwnedFd>) -> anyhow::Result<Connected> {
        match &self.backend {
            Backend::Tap(name) => of_tap(match self.queues {
                _ if !kept.is_empty() => Tap::from_queues(name, kept)?,
                Some(queues) => Tap::with_queues(name, queues)?,
                None => Tap::open(name)?,
            }),
            Backend::Descriptors(_) if !kept.is_empty() => of_tap(Tap::from_descriptors(kept)?),
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
                let stream = Stream::new(format!("stream={shown}"), socket.into())?;
                Ok(of_stream(stream))
            }
            Backend::StreamDescriptor(number) => {
                let stream = Stream::new(format!("fd={number}"), inherited::take(*number)?);
                let stream = stream.with_context(|| format!("descriptor {number}"))?;
                Ok(of_stream(stream))
            }
            Backend::Loopback => Ok(of_nothing(Loopback::with_queues(self.queues.unwrap_or(1)))),
            Backend::Null => Ok(of_nothing(Null::with_queues(self.queues.unwrap_or(1)))),
        }
    }
}

fn of_tap(tap: Tap) -> anyhow::Result<Connected> {
    let queues = tap.descriptors().map(|it| it.try_clone_to_owned());
    Ok(Connected {
        queues: queues.collect::<Result<_, _>>()?,
        interface: Some(Interface::Tap(tap.link())),
        endpoint: Box::new(tap),
    })
}

fn of_stream(stream: Stream) -> Connected {
    Connected {
        interface: Some(Interface::Stream(stream.link())),
        endpoint: Box::new(stream),
        queues: Vec::new(),
    }
}

fn of_nothing(endpoint: impl Endpoint + 'static) -> Connected {
    Connected {
        endpoint: Box::new(endpoint),
        interface: None,
        queues: Vec::new(),
    }
}
