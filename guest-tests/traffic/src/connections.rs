//! The connections between the two ends, all of them made by the guest.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};

use crate::datagrams;

/// The port of either protocol at both ends.
const PORT: u16 = 7000;

/// How long a connection may stall, with a device's pauses and TCP's retransmissions,
/// before it counts as broken.
const STALL: Duration = Duration::from_secs(60);

/// The bytes that a TCP connection may have in flight: few enough for the queues in
/// between, so that they displace no datagram.
const WINDOW: usize = 256 << 10;

/// The purpose of a TCP connection, which is its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Control = b'c' as isize,
    ToHost = b'h' as isize,
    ToGuest = b'g' as isize,
}

impl Purpose {
    const ALL: [Self; 3] = [Self::Control, Self::ToHost, Self::ToGuest];
}

/// One end's sockets.
#[derive(Debug)]
pub struct Connections {
    /// The control connection between the two ends.
    pub control: TcpStream,
    /// For the bytes sent.
    pub outgoing: TcpStream,
    /// For the bytes received.
    pub incoming: TcpStream,
    /// The datagram socket, connected to the other end.
    pub datagrams: UdpSocket,
}

impl Connections {
    /// Connects the guest's end.
    pub fn to_host(own: IpAddr, host: IpAddr) -> Result<Self> {
        let datagrams = datagram_socket(own, host)?;
        let [control, outgoing, incoming] = Purpose::ALL.map(|purpose| {
            connect(host, purpose).with_context(|| format!("cannot connect to {host}"))
        });
        Ok(Self {
            control: control?,
            outgoing: outgoing?,
            incoming: incoming?,
            datagrams,
        })
    }

    /// Accepts the host's end, once the guest has connected.
    pub fn from_guest(listener: &Listener, within: Duration) -> Result<Self> {
        let mut streams = [None, None, None];
        for _ in Purpose::ALL {
            let mut stream = accept(&listener.tcp, within)?;
            prepare(&stream)?;
            let mut first = [0];
            stream
                .read_exact(&mut first)
                .context("a connection of the guest says nothing")?;
            let place = Purpose::ALL
                .iter()
                .position(|purpose| *purpose as u8 == first[0]);
            let place = place.context("a connection is not the guest's")?;
            streams[place] = Some(stream);
        }
        let [Some(control), Some(incoming), Some(outgoing)] = streams else {
            bail!("the guest has made one connection twice");
        };
        Ok(Self {
            control,
            outgoing,
            incoming,
            datagrams: listener.datagrams.try_clone()?,
        })
    }
}

/// The host's listener, which the guest connects to.
#[derive(Debug)]
pub struct Listener {
    tcp: TcpListener,
    datagrams: UdpSocket,
}

impl Listener {
    /// Listens at the host's address `own` for the guest at `guest`.
    pub fn bind(own: IpAddr, guest: IpAddr) -> Result<Self> {
        Ok(Self {
            tcp: TcpListener::bind((own, PORT))
                .with_context(|| format!("cannot listen at {own}"))?,
            datagrams: datagram_socket(own, guest)?,
        })
    }
}

/// Waits for a connection.
pub fn accept(listener: &TcpListener, within: Duration) -> Result<TcpStream> {
    let deadline = Instant::now() + within;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).context("too long a wait")?;
        let mut waiting = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        match poll(&mut waiting, timeout) {
            Err(nix::errno::Errno::EINTR) => {}
            Ok(0) => bail!("the guest did not connect within {within:?}"),
            Ok(_) => break,
            Err(error) => return Err(error).context("cannot wait for the guest"),
        }
    }
    let accepted = listener.accept();
    Ok(accepted.context("cannot accept the guest's connection")?.0)
}

fn connect(host: IpAddr, purpose: Purpose) -> Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(host, PORT), STALL)?;
    prepare(&stream)?;
    stream.write_all(&[purpose as u8])?;
    Ok(stream)
}

fn prepare(stream: &TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(STALL))?;
    stream.set_write_timeout(Some(STALL))?;
    setsockopt(stream, sockopt::RcvBuf, &WINDOW).context("cannot size a receive buffer")
}

fn datagram_socket(own: IpAddr, other: IpAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((own, PORT))
        .with_context(|| format!("cannot bind a datagram socket to {own}"))?;
    socket.connect((other, PORT))?;
    datagrams::prepare(&socket)?;
    Ok(socket)
}
