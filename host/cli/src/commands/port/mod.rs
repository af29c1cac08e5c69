//! `--port`: a port of the adapter.

mod open;
#[cfg(test)]
mod tests;

use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use manatee::endpoint::{InvalidVlans, MAX_QUEUES, Policy, Vlans};

pub use open::{Interface, Opened, open_all};

use super::mac::{self, InvalidMac, Mac};
use super::rate::{InvalidRate, Limit};

/// The smallest MTU of IPv4 (RFC 791).
const MIN_MTU: u16 = 68;
/// The largest MTU whose frame length fits 16 bits.
const MAX_MTU: u16 = 65521;
/// Faster than any link, and within Linux's type of a speed.
const MAX_SPEED_MBPS: u32 = 1_000_000;

/// The parsed argument of `--port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortArgument {
    backend: Backend,
    mac: Option<Mac>,
    mtu: Option<u16>,
    speed: Option<u32>,
    queues: Option<u16>,
    rate: Option<u32>,
    spoof_check: Option<bool>,
    promiscuous: Option<bool>,
    vlans: Option<Vlans>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Backend {
    Tap(String),
    /// Queues of a TAP that another process opened.
    Descriptors(Vec<RawFd>),
    Stream(PathBuf),
    StreamDescriptor(RawFd),
    Loopback,
    Null,
}

/// Why `--port` is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPort {
    /// No such backend.
    #[error(
        "`{0}` is not a kind of port: use tap=INTERFACE, fd=N or fds=N:M (a TAP's queues that \
        another process opened), stream=PATH or fd=N,type=stream (a Unix stream socket, such as \
        passt's), loopback or null, optionally followed by ,mac=ADDRESS, ,mtu=BYTES, \
        ,speed=MBITS and ,queues=NUMBER"
    )]
    Backend(String),
    /// `tap=` without a name.
    #[error("tap= needs the name of an interface, as in tap=tap0")]
    NoInterface,
    /// `stream=` without a path.
    #[error("stream= needs the path of a socket, as in stream=/tmp/passt_1.socket")]
    NoPath,
    /// `fd=` or `fds=` is wrong.
    #[error(
        "`{0}` is not a list of descriptors: fd=N is one, fds=N:M up to {MAX_QUEUES} different ones"
    )]
    Descriptors(String),
    /// `type=` is wrong, or where it has no meaning.
    #[error("`type={0}`: fd=N may have type=tap, the default, or type=stream")]
    Type(String),
    /// `queues=` where it has no meaning.
    #[error(
        "queues= is for tap=, loopback and null: a stream has one, and fds= has as many as it names"
    )]
    QueuesOfAnother,
    /// No such setting.
    #[error(
        "`{0}` is not a setting of a port: there are mac=ADDRESS, mtu=BYTES, speed=MBITS, \
         queues=NUMBER, rate=MBITS, spoof-check=on, promiscuous=on and vlans=LIST"
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
    /// `rate=` is wrong.
    #[error(transparent)]
    Rate(#[from] InvalidRate),
    /// `rate=off`.
    #[error("`rate=off` is the default: leave it out")]
    RateOff,
    /// A switch that is neither on nor off.
    #[error("`{0}={1}`: give {0}=on or {0}=off")]
    Switch(&'static str, String),
    /// `vlans=` is wrong.
    #[error(transparent)]
    Vlans(#[from] InvalidVlans),
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
            rate: None,
            spoof_check: None,
            promiscuous: None,
            vlans: None,
        };
        for part in &with_lists(parts)[..] {
            match part.split_once('=') {
                Some(("mac", value)) => set(&mut port.mac, "mac", mac::parse(value)?)?,
                Some(("mtu", value)) => set(&mut port.mtu, "mtu", parse_mtu(value)?)?,
                Some(("speed", value)) => set(&mut port.speed, "speed", parse_speed(value)?)?,
                Some(("queues", value)) => {
                    set(&mut port.queues, "queues", parse_queues(value)?)?;
                }
                Some(("rate", value)) => set(&mut port.rate, "rate", parse_rate(value)?)?,
                Some(("spoof-check", value)) => {
                    let on = parse_switch("spoof-check", value)?;
                    set(&mut port.spoof_check, "spoof-check", on)?;
                }
                Some(("promiscuous", value)) => {
                    let on = parse_switch("promiscuous", value)?;
                    set(&mut port.promiscuous, "promiscuous", on)?;
                }
                Some(("vlans", value)) => set(&mut port.vlans, "vlans", value.parse()?)?,
                Some(("type", value)) => port.backend = port.backend.of_type(value)?,
                _ => return Err(InvalidPort::Setting(part.clone())),
            }
        }
        match port.backend {
            Backend::Tap(_) | Backend::Loopback | Backend::Null => Ok(port),
            _ if port.queues.is_some() => Err(InvalidPort::QueuesOfAnother),
            _ => Ok(port),
        }
    }
}

impl PortArgument {
    /// Returns the path of the socket that it connects to, if it does.
    pub fn stream(&self) -> Option<&Path> {
        match &self.backend {
            Backend::Stream(path) => Some(path),
            _ => None,
        }
    }

    /// Returns its rate limit in Mbit/s.
    pub fn rate(&self) -> Option<u32> {
        self.rate
    }

    /// Returns the policy for what its guest may send and receive. By default a guest on a network
    /// is not promiscuous; what a loopback returns was the guest's own.
    fn policy(&self, mac: Mac) -> Policy {
        let network = !matches!(self.backend, Backend::Loopback | Backend::Null);
        Policy {
            mac,
            spoof_check: self.spoof_check.unwrap_or(false),
            promiscuous: self.promiscuous.unwrap_or(!network),
            vlans: self.vlans.clone(),
        }
    }
}

impl Backend {
    /// Returns the backend with this type.
    fn of_type(&self, text: &str) -> Result<Self, InvalidPort> {
        match (self, text) {
            (Self::Descriptors(fds), "stream") if fds.len() == 1 => {
                Ok(Self::StreamDescriptor(fds[0]))
            }
            (Self::Descriptors(_), "tap") => Ok(self.clone()),
            _ => Err(InvalidPort::Type(text.to_owned())),
        }
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
        Some(("stream", "")) => Err(InvalidPort::NoPath),
        None if text == "stream" => Err(InvalidPort::NoPath),
        Some(("stream", path)) => Ok(Backend::Stream(path.into())),
        Some(("fd", number)) if !number.contains(':') => parse_descriptors(number),
        Some(("fds", numbers)) => parse_descriptors(numbers),
        _ => Err(InvalidPort::Backend(text.to_owned())),
    }
}

fn parse_descriptors(text: &str) -> Result<Backend, InvalidPort> {
    let wrong = || InvalidPort::Descriptors(text.to_owned());
    let number = |text: &str| text.parse().ok().filter(|number: &RawFd| *number >= 0);
    let numbers: Option<Vec<_>> = text.split(':').map(number).collect();
    let numbers = numbers.ok_or_else(wrong)?;
    let repeated = (1..numbers.len()).any(|index| numbers[..index].contains(&numbers[index]));
    if repeated || numbers.len() > MAX_QUEUES.into() {
        return Err(wrong());
    }
    Ok(Backend::Descriptors(numbers))
}

/// Joins the later ids of a list to its first: commas separate both ids and settings.
fn with_lists<'a>(parts: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut settings: Vec<String> = Vec::new();
    for part in parts {
        match settings.last_mut() {
            Some(list)
                if list.starts_with("vlans=")
                    && part.starts_with(|first: char| first.is_ascii_digit()) =>
            {
                list.push(',');
                list.push_str(part);
            }
            _ => settings.push(part.to_owned()),
        }
    }
    settings
}

fn parse_switch(name: &'static str, text: &str) -> Result<bool, InvalidPort> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(InvalidPort::Switch(name, text.to_owned())),
    }
}

fn parse_rate(text: &str) -> Result<u32, InvalidPort> {
    let limit: Limit = text.parse()?;
    // `off` is the default.
    limit.mbps().ok_or(InvalidPort::RateOff)
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
