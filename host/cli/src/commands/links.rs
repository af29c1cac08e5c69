//! The links of ports: as their TAPs are, or as an operator says.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use manatee::device::Device;
use manatee::endpoint::{InterfaceState, LinkWatch, TapLink};
use manatee_control::method::{LinkStatus, UpDown};
use manatee_control::{Event, Events, Link, LinkSetting, Refusal};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::told;

/// The links of a device's ports.
pub struct Links {
    device: Device,
    events: Events,
    ports: Mutex<Vec<PortLink>>,
}

struct PortLink {
    /// None if the port is no TAP.
    tap: Option<TapLink>,
    /// What an operator wants, whatever the TAP does.
    forced: Option<bool>,
    /// What the device was told.
    told: bool,
}

impl PortLink {
    fn up(&self) -> bool {
        let tap = self.tap.as_ref().map(TapLink::state);
        let own = tap.is_none_or(|state| state == InterfaceState::Up);
        self.forced.unwrap_or(own)
    }

    fn status(&self, port: u32) -> LinkStatus {
        let interface = self.tap.as_ref().map(|tap| match tap.state() {
            InterfaceState::Up => "up",
            InterfaceState::Down => "down",
            InterfaceState::Gone => "gone",
        });
        LinkStatus {
            port,
            state: told::link(self.up()),
            forced: self.forced.map(told::link),
            interface: interface.map(str::to_owned),
            interface_mtu: self.tap.as_ref().map(|tap| tap.mtu().into()),
        }
    }
}

impl Links {
    /// Returns the links of a device, by port.
    pub fn new(device: Device, taps: Vec<Option<TapLink>>, events: Events) -> Self {
        let port = |tap| PortLink {
            tap,
            forced: None,
            told: true,
        };
        Self {
            device,
            events,
            ports: Mutex::new(taps.into_iter().map(port).collect()),
        }
    }

    /// Returns what an operator has set each to.
    pub fn forced(&self) -> Vec<Option<bool>> {
        self.ports.lock().iter().map(|port| port.forced).collect()
    }

    /// Continues with what an operator has set, and with what the device was told, in a
    /// process before this one.
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

    /// Tells the device of links that have changed.
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

    /// Sets a port's link, or just says how it is.
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

    /// Has links follow their TAPs, for ever.
    ///
    /// # Errors
    ///
    /// What the kernel says, if it can't be heard any more.
    pub async fn watch(self: Arc<Self>, mut watch: LinkWatch) -> io::Result<()> {
        let descriptor: OwnedFd = std::os::fd::AsFd::as_fd(&watch).try_clone_to_owned()?;
        // Its successor is unsafe, because of types whose descriptor changes; this one's
        // does not.
        #[expect(deprecated)]
        let news = AsyncFd::with_interest(descriptor, Interest::READABLE)?;
        loop {
            let mut ready = news.readable().await?;
            match watch.note()? {
                None => ready.clear_ready(),
                Some(false) => {}
                Some(true) => {
                    let links = self.clone();
                    // The device may have to be waited for.
                    tokio::task::spawn_blocking(move || links.follow()).await?;
                }
            }
        }
    }
}
