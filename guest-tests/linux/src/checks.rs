//! The single checks. Each returns text for a report, or an error that says what is
//! wrong.

use std::net::{IpAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::assets::Assets;
use crate::netns::{Family, Subnet};
use crate::process::output_of;
use crate::qemu::Vm;

/// How long a series of pings may take before it counts as lost.
const PING_WITHIN: Duration = Duration::from_secs(15);

/// The number of pings of one series.
const PINGS: u32 = 10;

/// Returns the name of the guest's interface with the address `mac`.
pub fn interface_with(vm: &mut Vm, mac: &str) -> Result<String> {
    let listed = vm.sh("cd /sys/class/net && for i in *; do echo $i $(cat $i/address); done")?;
    listed
        .lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(_, address)| *address == mac)
        .map(|(name, _)| name.to_owned())
        .with_context(|| {
            format!(
                "the guest has no interface with the address {mac}, only: {}",
                listed.replace('\n', ", ")
            )
        })
}

/// Checks that `interface` is run by the driver `driver`; returns its version line.
pub fn driver_is(vm: &mut Vm, interface: &str, driver: &str) -> Result<String> {
    let information = vm.sh(&format!("ethtool -i {interface}"))?;
    let first = information.lines().next().unwrap_or_default();
    ensure!(
        first == format!("driver: {driver}"),
        "ethtool -i {interface} says: {information}"
    );
    Ok(first.to_owned())
}

/// Gives the guest's interface the addresses of `subnet` and brings it up; may be repeated.
pub fn configure(vm: &mut Vm, interface: &str, subnet: Subnet) -> Result<()> {
    let addresses = Family::BOTH.map(|family| {
        let address = subnet.with_prefix(subnet.guest(family));
        format!("ip address replace {address} dev {interface}")
    });
    vm.sh(&format!(
        "ip link set {interface} up && {}",
        addresses.join(" && ")
    ))?;
    Ok(())
}

/// One series of pings.
#[derive(Clone, Copy)]
pub struct Ping {
    /// The payload bytes of each ping.
    pub payload: u16,
    /// Whether routers (and this host) may not fragment it.
    pub whole: bool,
}

impl Default for Ping {
    fn default() -> Self {
        Self {
            payload: 56,
            whole: false,
        }
    }
}

impl Ping {
    fn arguments(self, count: u32, to: IpAddr) -> Vec<String> {
        let mut arguments: Vec<String> = ["-n", "-q", "-i", "0.02"].map(String::from).into();
        // With `-w`, ping continues until it has this many answers, and counts those in
        // flight then as lost: right for one answer after any number of losses. With
        // `-W` it waits for the answers to exactly this many.
        let patience = if count == 1 { "-w" } else { "-W" };
        arguments.extend([
            "-c".into(),
            count.to_string(),
            patience.into(),
            PING_WITHIN.as_secs().to_string(),
        ]);
        arguments.extend(["-s".into(), self.payload.to_string()]);
        if self.whole {
            arguments.extend(["-M".into(), "do".into()]);
        }
        arguments.push(to.to_string());
        arguments
    }
}

/// Pings the guest from the host and the host from the guest, with no loss.
pub fn ping_both_ways(
    assets: &Assets,
    vm: &mut Vm,
    subnet: Subnet,
    family: Family,
    ping: Ping,
) -> Result<String> {
    let to_guest = ping.arguments(PINGS, subnet.guest(family));
    let mut command = assets.ping();
    command.args(&to_guest);
    let inward = output_of(command).and_then(|text| no_loss(&text));
    let inward = inward
        .with_context(|| format!("{family} ping of {} bytes, host to guest", ping.payload))?;
    let outward = ping_from_guest(vm, ping, subnet.host(family))?;
    Ok(format!("to the guest {inward}, from it {outward}"))
}

/// Pings some address from the guest, with no loss.
pub fn ping_from_guest(vm: &mut Vm, ping: Ping, to: IpAddr) -> Result<String> {
    let printed = vm.sh(&format!("ping {}", ping.arguments(PINGS, to).join(" ")));
    printed
        .and_then(|text| no_loss(&text))
        .with_context(|| format!("ping of {} bytes, guest to {to}", ping.payload))
}

/// Waits until the guest's first ping is answered: after a link comes up, the
/// first packets may be lost.
pub fn wait_reachable(vm: &mut Vm, subnet: Subnet) -> Result<()> {
    for family in Family::BOTH {
        let arguments = Ping::default().arguments(1, subnet.host(family));
        vm.sh(&format!("ping {}", arguments.join(" ")))
            .with_context(|| format!("no {family} packet comes through"))?;
    }
    Ok(())
}

/// What a guest would notice if its device had failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// How often the link went up or down.
    carrier_changes: String,
    /// The kernel's warnings about drivers, devices and stalled queues.
    warnings: String,
}

/// Returns the health of a guest and its interface.
pub fn health(vm: &mut Vm, interface: &str) -> Result<Health> {
    let carrier_changes = vm.sh(&format!("cat /sys/class/net/{interface}/carrier_changes"))?;
    let warnings = vm.sh("dmesg | grep -iE 'warning|watchdog|reset|oops|bug:|hung' || true")?;
    Ok(Health {
        carrier_changes,
        warnings,
    })
}

/// Reads ping's summary: as many answers as requests, each once.
fn no_loss(printed: &str) -> Result<String> {
    let summary = printed
        .lines()
        .find(|line| line.contains("packets transmitted"))
        .with_context(|| format!("ping printed no summary: {printed}"))?;
    let mut counts = summary
        .split(", ")
        .filter_map(|part| part.split(' ').next()?.parse::<u32>().ok());
    let (sent, received) = (counts.next(), counts.next());
    ensure!(
        sent.is_some_and(|sent| sent > 0) && sent == received && !summary.contains('+'),
        "{summary}"
    );
    let rtt = printed
        .lines()
        .find_map(|line| line.strip_prefix("rtt min/avg/max/mdev = "));
    let average = rtt
        .and_then(|rtt| rtt.split('/').nth(1))
        .map(|average| format!(", {average} ms"));
    Ok(format!(
        "{}/{}{}",
        received.unwrap_or(0),
        sent.unwrap_or(0),
        average.unwrap_or_default()
    ))
}

/// Has the guest send datagrams to the host, which sends each back.
pub fn udp_echo(vm: &mut Vm, subnet: Subnet, family: Family, sizes: &[usize]) -> Result<()> {
    let socket =
        UdpSocket::bind((subnet.host(family), 0)).context("cannot bind a UDP socket on the TAP")?;
    socket.set_read_timeout(Some(PING_WITHIN))?;
    let port = socket.local_addr()?.port();
    let host = subnet.host(family);
    for &size in sizes {
        vm.sh(&format!("head -c {size} /dev/urandom >/tmp/datagram"))?;
        // -W 1 ends nc with the first datagram that arrives.
        let talk = format!(
            "nc.openbsd -u -W 1 -w 10 {host} {port} </tmp/datagram >/tmp/echo; cmp /tmp/datagram /tmp/echo"
        );
        let echoed = thread::scope(|scope| {
            let host = scope.spawn(|| echo_once(&socket));
            let guest = vm.sh(&talk);
            let host = host
                .join()
                .map_err(|_| anyhow!("the host's end panicked"))?;
            guest?;
            host
        });
        let length = echoed.with_context(|| format!("{family} datagram of {size} bytes"))?;
        ensure!(
            length == size,
            "a datagram of {size} bytes came as {length}"
        );
    }
    Ok(())
}

fn echo_once(socket: &UdpSocket) -> Result<usize> {
    let mut datagram = vec![0; 65536];
    let (length, from) = socket
        .recv_from(&mut datagram)
        .context("no datagram came to the host")?;
    socket.send_to(&datagram[..length], from)?;
    Ok(length)
}

/// Returns the guest's statistics of `interface`, as `ethtool -S` lists them.
pub fn statistics(vm: &mut Vm, interface: &str) -> Result<Vec<(String, u64)>> {
    let listed = vm.sh(&format!("ethtool -S {interface}"))?;
    let counters: Vec<(String, u64)> = listed
        .lines()
        .filter_map(|line| line.trim().split_once(": "))
        .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
        .collect();
    if counters.is_empty() {
        bail!("ethtool -S {interface} lists no counters: {listed}");
    }
    Ok(counters)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(line: &str) -> Result<String> {
        no_loss(&format!(
            "PING x\n\n{line}\nrtt min/avg/max/mdev = 0.1/0.25/0.5/0.1 ms\n"
        ))
    }

    #[test]
    fn only_a_series_without_loss_passes() {
        let words =
            summary("10 packets transmitted, 10 received, 0% packet loss, time 9ms").unwrap();
        assert_eq!(words, "10/10, 0.25 ms");
        assert!(summary("10 packets transmitted, 9 received, 10% packet loss, time 9ms").is_err());
        assert!(summary("0 packets transmitted, 0 received, time 9ms").is_err());
        assert!(
            summary("10 packets transmitted, 10 received, +1 duplicates, 0% packet loss, time 9ms")
                .is_err()
        );
        assert!(summary("").is_err());
    }
}
