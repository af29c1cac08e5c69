//! Bulk data over TCP between the harness and the guest.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use manatee_traffic::connections;
use sha2::{Digest, Sha256};

use crate::netns::{Family, Subnet};
use crate::qemu::Vm;

/// How long the guest may take to connect.
const CONNECT_WITHIN: Duration = Duration::from_secs(20);

/// How long either side may wait for the other during a transfer.
const STALL: Duration = Duration::from_secs(20);

/// How long a transfer may take in all.
const TRANSFER_WITHIN: Duration = Duration::from_secs(180);

/// The file that the guest keeps what it received in.
const GUEST_FILE: &str = "/tmp/received";

/// A transfer in one direction.
pub struct Transfer {
    /// The number of bytes.
    pub bytes: usize,
    /// The time it took, including the connection's end.
    pub took: Duration,
}

impl std::fmt::Display for Transfer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rate = self.bytes as f64 * 8.0 / 1e6 / self.took.as_secs_f64();
        write!(f, "{}, {rate:.0} Mbit/s", size(self.bytes))
    }
}

fn size(bytes: usize) -> String {
    match bytes >> 20 {
        0 => format!("{bytes} B"),
        mebibytes => format!("{mebibytes} MiB"),
    }
}

/// Sends `bytes` random bytes to the guest and back again, and compares the SHA-256
/// sums at both ends in each direction. The guest makes both connections.
pub fn there_and_back(
    vm: &mut Vm,
    subnet: Subnet,
    family: Family,
    bytes: usize,
) -> Result<(Transfer, Transfer)> {
    let data = random(bytes)?;
    let sum = hex(&Sha256::digest(&data));
    let there = to_guest(vm, subnet, family, &data).context("TCP to the guest")?;
    let in_guest = vm.sh_within(&format!("sha256sum {GUEST_FILE}"), TRANSFER_WITHIN)?;
    same(
        "the guest received",
        in_guest.split_whitespace().next(),
        &sum,
    )?;
    let (back, received) = from_guest(vm, subnet, family, bytes).context("TCP from the guest")?;
    same("the guest sent", Some(&received), &sum)?;
    vm.sh(&format!("rm {GUEST_FILE}"))?;
    Ok((there, back))
}

fn to_guest(vm: &mut Vm, subnet: Subnet, family: Family, data: &[u8]) -> Result<Transfer> {
    let took = with_guest(
        vm,
        subnet,
        family,
        |host, port| format!("nc.openbsd -N {host} {port} </dev/null >{GUEST_FILE}"),
        |mut stream| {
            stream.write_all(data).context("cannot send to the guest")?;
            stream.shutdown(std::net::Shutdown::Write)?;
            // The guest closes its end when it has everything.
            std::io::copy(&mut stream, &mut std::io::sink())
                .context("the guest did not close the connection")?;
            Ok(())
        },
    )?
    .1;
    Ok(Transfer {
        bytes: data.len(),
        took,
    })
}

fn from_guest(
    vm: &mut Vm,
    subnet: Subnet,
    family: Family,
    bytes: usize,
) -> Result<(Transfer, String)> {
    let (sum, took) = with_guest(
        vm,
        subnet,
        family,
        |host, port| format!("nc.openbsd -N {host} {port} <{GUEST_FILE}"),
        |stream| receive(stream, bytes),
    )?;
    Ok((Transfer { bytes, took }, sum))
}

/// Receives everything up to the end and returns its sum.
fn receive(mut stream: TcpStream, expected: usize) -> Result<String> {
    let mut sum = Sha256::new();
    let mut chunk = vec![0; 256 * 1024];
    let mut received = 0;
    loop {
        let count = stream
            .read(&mut chunk)
            .context("cannot receive from the guest")?;
        if count == 0 {
            break;
        }
        received += count;
        sum.update(&chunk[..count]);
    }
    if received != expected {
        bail!("{received} bytes came, not {expected}");
    }
    Ok(hex(&sum.finalize()))
}

/// Has the guest connect with the command that `connect` returns for the host's address
/// and port, while `talk` handles the other end.
fn with_guest<T: Send>(
    vm: &mut Vm,
    subnet: Subnet,
    family: Family,
    connect: impl FnOnce(std::net::IpAddr, u16) -> String,
    talk: impl FnOnce(TcpStream) -> Result<T> + Send,
) -> Result<(T, Duration)> {
    let listener = TcpListener::bind(SocketAddr::new(subnet.host(family), 0))
        .context("cannot listen on the TAP")?;
    let address = listener.local_addr()?;
    thread::scope(|scope| {
        let host = scope.spawn(move || {
            let stream = accept(&listener)?;
            let begun = Instant::now();
            Ok::<_, anyhow::Error>((talk(stream)?, begun.elapsed()))
        });
        let guest = vm.sh_within(&connect(address.ip(), address.port()), TRANSFER_WITHIN);
        let host = host
            .join()
            .map_err(|_| anyhow!("the host's end panicked"))?;
        match (guest, host) {
            (Ok(_), host) => host,
            (Err(guest), Ok(_)) => Err(guest),
            (Err(guest), Err(host)) => Err(guest.context(format!("on the host: {host:#}"))),
        }
    })
}

fn accept(listener: &TcpListener) -> Result<TcpStream> {
    let stream = connections::accept(listener, CONNECT_WITHIN)?;
    stream.set_read_timeout(Some(STALL))?;
    stream.set_write_timeout(Some(STALL))?;
    Ok(stream)
}

fn random(bytes: usize) -> Result<Vec<u8>> {
    let mut data = vec![0; bytes];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut data))
        .context("cannot read random bytes")?;
    Ok(data)
}

fn same(what: &str, found: Option<&str>, wanted: &str) -> Result<()> {
    let found = found.unwrap_or_default();
    if found != wanted {
        bail!("what {what} has another SHA-256 sum: {found}, not {wanted}");
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
