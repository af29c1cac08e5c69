//! The host's end of the network: TAP interfaces, inside the sandbox only.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::process::output_of;
use crate::sandbox::Sandbox;

/// The addresses of one link between host and guest. They are reserved for
/// documentation, so that they never belong to anybody.
#[derive(Clone, Copy, Debug)]
pub struct Subnet {
    number: u8,
}

/// One family of internet protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both of them.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

impl Subnet {
    /// Returns subnet `number`, of 16.
    pub fn new(number: u8) -> Self {
        assert!(number < 16, "there are 16 subnets");
        Self { number }
    }

    /// Returns the host's address.
    pub fn host(self, family: Family) -> IpAddr {
        self.address(family, 1)
    }

    /// Returns the guest's address.
    pub fn guest(self, family: Family) -> IpAddr {
        self.address(family, 2)
    }

    /// Returns `address` as `ip address add` wants it.
    pub fn with_prefix(self, address: IpAddr) -> String {
        format!("{address}/{}", if address.is_ipv4() { 28 } else { 64 })
    }

    fn address(self, family: Family, end: u8) -> IpAddr {
        match family {
            Family::V4 => Ipv4Addr::new(192, 0, 2, self.number * 16 + end).into(),
            Family::V6 => {
                Ipv6Addr::new(0x2001, 0xdb8, 0, self.number.into(), 0, 0, 0, end.into()).into()
            }
        }
    }
}

/// An interface of the sandbox; dropping it removes it.
struct Interface {
    ip: PathBuf,
    name: String,
}

impl Interface {
    /// Creates an interface. `ip` is the command of that name; `add` are the arguments that make it.
    fn create(_inside: &Sandbox, ip: &Path, name: &str, add: &[&str]) -> Result<Self> {
        run(ip, add)?;
        Ok(Self {
            ip: ip.to_owned(),
            name: name.to_owned(),
        })
    }
}

impl Drop for Interface {
    fn drop(&mut self) {
        // If it fails, the interface is removed with the sandbox anyway.
        let _ = run(&self.ip, &["link", "delete", &self.name]);
    }
}

/// A TAP interface; dropping it removes it.
pub struct Tap {
    interface: Interface,
    subnet: Subnet,
}

impl Tap {
    /// Makes an interface with the addresses of `subnet`, and brings it up, by the
    /// command `ip`. It can have several queues if `queues` is more than 1.
    pub fn create(
        inside: &Sandbox,
        ip: &Path,
        name: &str,
        subnet: Subnet,
        queues: u16,
    ) -> Result<Self> {
        Self::set_up(inside, ip, name, subnet, queues)
            .with_context(|| format!("cannot set up the TAP interface {name}"))
    }

    /// Returns its name.
    pub fn name(&self) -> &str {
        &self.interface.name
    }

    /// Returns the addresses of its two ends.
    pub fn subnet(&self) -> Subnet {
        self.subnet
    }

    /// Sets how many packets may be queued for the device. Any more are dropped before
    /// the device sees them.
    pub fn make_room(&self, packets: u32) -> Result<()> {
        let Interface { ip, name } = &self.interface;
        run(
            ip,
            &["link", "set", name, "txqueuelen", &packets.to_string()],
        )
    }

    /// Returns how many packets were dropped for lack of room.
    pub fn dropped(&self) -> Result<u64> {
        let path = ["-json", "-statistics", "link", "show", &self.interface.name];
        let mut command = Command::new(&self.interface.ip);
        command.args(path);
        let links: Value = serde_json::from_str(&output_of(command)?)?;
        links[0]["stats64"]["tx"]["dropped"]
            .as_u64()
            .with_context(|| format!("ip tells no drops: {links}"))
    }

    fn set_up(
        inside: &Sandbox,
        ip: &Path,
        name: &str,
        subnet: Subnet,
        queues: u16,
    ) -> Result<Self> {
        let mut add = vec!["tuntap", "add", "dev", name, "mode", "tap"];
        if queues > 1 {
            add.push("multi_queue");
        }
        let interface = Interface::create(inside, ip, name, &add)?;
        // The address is to be usable at once, without duplicate detection.
        fs::write(format!("/proc/sys/net/ipv6/conf/{name}/accept_dad"), "0")?;
        for family in Family::BOTH {
            let address = subnet.with_prefix(subnet.host(family));
            run(ip, &["address", "add", &address, "dev", name])?;
        }
        run(ip, &["link", "set", name, "up"])?;
        Ok(Self { interface, subnet })
    }
}

/// A bridge between TAP interfaces; dropping it removes it.
pub struct Bridge {
    _interface: Interface,
}

impl Bridge {
    /// Makes a bridge and puts `taps` on it, by the command `ip`.
    pub fn between(inside: &Sandbox, ip: &Path, name: &str, taps: &[&Tap]) -> Result<Self> {
        Self::set_up(inside, ip, name, taps)
            .with_context(|| format!("cannot set up the bridge {name}"))
    }

    fn set_up(inside: &Sandbox, ip: &Path, name: &str, taps: &[&Tap]) -> Result<Self> {
        let interface =
            Interface::create(inside, ip, name, &["link", "add", name, "type", "bridge"])?;
        for tap in taps {
            run(ip, &["link", "set", tap.name(), "master", name])?;
        }
        run(ip, &["link", "set", name, "up"])?;
        Ok(Self {
            _interface: interface,
        })
    }
}

fn run(ip: &Path, arguments: &[&str]) -> Result<()> {
    let mut command = Command::new(ip);
    command.args(arguments);
    output_of(command)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_subnets_share_an_address() {
        let mut all = Vec::new();
        for subnet in (0..16).map(Subnet::new) {
            for family in Family::BOTH {
                all.extend([subnet.host(family), subnet.guest(family)]);
            }
        }
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
