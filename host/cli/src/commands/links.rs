//! The links of ports, which follow their TAPs and streams unless an operator sets them.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use manatee::device::Device;
use manatee::endpoint::{InterfaceState, LinkWatch, StreamLink};
use manatee_control::method::{LinkStatus, UpDown};
use manatee_control::{Event, Events, Link, LinkSetting, Refusal};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::port::Interface;
use super::told;

/// The pause between attempts to reconnect a stream.
const RETRY: Duration = Duration::from_secs(1);

/// The links of a device's ports.
pub struct Links {
    device: Device,
    events: Events,
    ports: Mutex<Vec<PortLink>>,
}

struct PortLink {
    /// None if the port has nothing to follow.
    interface: Option<Interface>,
    /// The operator's setting, which overrides the interface.
    forced: Option<bool>,
    /// The last state reported to the device.
    told: bool,
}

impl PortLink {
    fn up(&self) -> bool {
        let interface = self.interface.as_ref().map(Interface::state);
        let own = interface.is_none_or(|state| state == InterfaceState::Up);
        self.forced.unwrap_or(own)
    }

    fn status(&self, port: u32) -> LinkStatus {
        let interface = self.interface.as_ref().map(|own| match own.state() {
            InterfaceState::Up => "up",
            InterfaceState::Down => "down",
            InterfaceState::Gone => "gone",
        });
        LinkStatus {
            port,
            state: told::link(self.up()),
            forced: self.forced.map(told::link),
            interface: interface.map(str::to_owned),
            interface_mtu: self
                .interface
                .as_ref()
                .and_then(Interface::mtu)
                .map(u32::from),
        }
    }
}

impl Links {
    /// Returns the links of a device, by port.
    pub fn new(device: Device, interfaces: Vec<Option<Interface>>, events: Events) -> Self {
        let port = |interface| PortLink {
            interface,
            forced: None,
            told: true,
        };
        Self {
            device,
            events,
            ports: Mutex::new(interfaces.into_iter().map(port).collect()),
        }
    }

    /// Returns the operator's setting of each port.
    pub fn forced(&self) -> Vec<Option<bool>> {
        self.ports.lock().iter().map(|port| port.forced).collect()
    }

    /// Restores the operator's settings, and the states reported to the device, from the previous
    /// process.
    pub fn restore(&self, forced: &[Option<bool>]) {
        let totals = self.device.totals();
        let mut ports = self.ports.lock();
        for (port, forced) in ports.iter_mut().zip(forced) {
            port.forced = *forced;
        }
        for (port, past) in ports.iter_mut().zip(&totals.ports) {
            port.told = past.link_up;
        }
        self.tell(&mut ports);
    }

    /// Reports links that have changed to the device.
    pub fn follow(&self) {
        self.tell(&mut self.ports.lock());
    }

    fn tell(&self, ports: &mut [PortLink]) {
        for (index, port) in (0..).zip(ports) {
            let up = port.up();
            if std::mem::replace(&mut port.told, up) != up {
                self.device.set_link(index, up);
                let word = match told::link(up) {
                    UpDown::Up => "up",
                    UpDown::Down => "down",
                };
                tracing::info!(port = index, "the guest's link is {word}");
                self.events.publish(Event::Link(port.status(index)));
            }
        }
    }

    /// Sets a port's link if asked to, and returns its status.
    pub fn set(&self, asked: &Link) -> Result<LinkStatus, Refusal> {
        let Link { port, set } = *asked;
        let mut ports = self.ports.lock();
        let count = ports.len();
        let Some(link) = ports.get_mut(port as usize) else {
            let text = format!("there is no port {port}: the device has 0 to {}", count - 1);
            return Err(Refusal::not_found(text));
        };
        if let Some(setting) = set {
            link.forced = match setting {
                LinkSetting::Up => Some(true),
                LinkSetting::Down => Some(false),
                LinkSetting::Auto => None,
            };
        }
        let shown = link.status(port);
        self.tell(&mut ports);
        Ok(shown)
    }

    /// Adds them to a device's tree.
    pub fn inspect(&self, tree: &mut Value) {
        for (index, port) in (0..).zip(self.ports.lock().iter()) {
            if let Some(shown) = tree["ports"].get_mut(index.to_string()) {
                shown["link"] = json!(port.status(index));
            }
        }
    }

    /// Makes links follow their TAPs, until the future is dropped.
    ///
    /// # Errors
    ///
    /// If the kernel's reports can't be read any more.
    pub async fn watch(self: Arc<Self>, mut watch: LinkWatch) -> io::Result<()> {
        let descriptor: OwnedFd = watch.as_fd().try_clone_to_owned()?;
        // The successor of this function is unsafe, because of types whose descriptor changes;
        // this one's does not.
        #[expect(deprecated)]
        let news = AsyncFd::with_interest(descriptor, Interest::READABLE)?;
        loop {
            let mut ready = news.readable().await?;
            match watch.note()? {
                None => ready.clear_ready(),
                Some(false) => {}
                Some(true) => {
                    self.clone().follow_now().await?;
                }
            }
        }
    }

    /// Makes links follow a stream, for ever: a link is down while its peer is disconnected, and
    /// `connect`, if given, reconnects it.
    ///
    /// # Errors
    ///
    /// If waiting fails.
    pub async fn follow_stream<C>(
        self: Arc<Self>,
        stream: StreamLink,
        connect: Option<C>,
    ) -> io::Result<()>
    where
        C: Fn() -> anyhow::Result<OwnedFd> + Clone + Send + 'static,
    {
        let descriptor = stream.as_fd().try_clone_to_owned()?;
        #[expect(deprecated)]
        let lost = AsyncFd::with_interest(descriptor, Interest::READABLE)?;
        loop {
            lost.readable().await?.clear_ready();
            stream.note();
            if stream.is_up() {
                continue;
            }
            self.clone().follow_now().await?;
            let Some(connect) = &connect else {
                tracing::error!(
                    stream = stream.name(),
                    "a socket that was handed over can't be reconnected: restart `manatee \
                    serve` with another"
                );
                continue;
            };
            while let Err(error) = reconnect(&stream, connect.clone()).await? {
                tracing::debug!(
                    stream = stream.name(),
                    error,
                    "the peer does not accept connections yet"
                );
                tokio::time::sleep(RETRY).await;
            }
            tracing::info!(
                stream = stream.name(),
                "the peer is connected again: the link is up"
            );
            self.clone().follow_now().await?;
        }
    }

    /// Reports links that have changed to the device, on a thread that may block on its lock.
    async fn follow_now(self: Arc<Self>) -> io::Result<()> {
        tokio::task::spawn_blocking(move || self.follow()).await?;
        Ok(())
    }
}

/// Reconnects a stream. The error is for people.
async fn reconnect(
    stream: &StreamLink,
    connect: impl Fn() -> anyhow::Result<OwnedFd> + Send + 'static,
) -> io::Result<Result<(), String>> {
    let connected = tokio::task::spawn_blocking(connect).await?;
    Ok(connected
        .and_then(|socket| Ok(stream.connect(socket)?))
        .map_err(|error| error.to_string()))
}
