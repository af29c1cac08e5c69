//! A Unix stream socket to a network: passt, another guest, a switch.
//!
//! The framing is QEMU's (net/stream.c): each frame follows its length, four bytes in network
//! byte order. There is no metadata, so checksums, tags and segments are made here. A frame that
//! was begun is completed as soon as there is room; one for which there is none is dropped, as
//! on a full link. When the other side disconnects, the link is down until another connected
//! socket is provided.

mod inbox;
mod link;
mod receive;
#[cfg(test)]
mod tests;
mod transmit;

pub use link::{StreamError, StreamLink};

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use super::batch::TxBatch;
use super::counters::Counters;
use super::crossing::{Route, Switch};
use super::head::Head;
use super::packet::TxStatus;
use super::queue::{Endpoint, EndpointView, Queue, QueueIo};
use super::rss::Rss;
use inbox::Inbox;
use transmit::Leaving;

/// Bytes of a frame's length.
const PREFIX_BYTES: usize = 4;
/// The longest frame that QEMU accepts (`NET_BUFSIZE`).
const MAX_FRAME: usize = 4096 + 65_536;

/// A Unix stream socket as an [`Endpoint`].
#[derive(Debug)]
pub struct Stream {
    link: StreamLink,
    switch: Switch,
    queue: Option<StreamQueue>,
}

/// The queue of a [`Stream`].
#[derive(Debug)]
pub struct StreamQueue {
    link: StreamLink,
    socket: Option<Arc<OwnedFd>>,
    /// The descriptors to wait on: the current socket, and changes of the link.
    epoll: OwnedFd,
    counters: Counters,
    route: Route,
    inbox: Inbox,
    /// The rest of a packet that was begun.
    rest: Vec<u8>,
    // What follows is kept for its allocation.
    head: Head,
    frame: Vec<u8>,
    outgoing: Vec<u8>,
    leaving: Vec<Leaving>,
}

impl Stream {
    /// Uses a connected socket, with this name for people.
    ///
    /// # Errors
    ///
    /// See [`StreamError`].
    pub fn new(name: impl Into<String>, socket: OwnedFd) -> Result<Self, StreamError> {
        let link = StreamLink::new(name.into())?;
        link.connect(socket)?;
        let (switch, mut routes) = Switch::new(1);
        let queue = StreamQueue::new(link.clone(), routes.remove(0))?;
        Ok(Self {
            link,
            switch,
            queue: Some(queue),
        })
    }

    /// Returns the link, to notice that it is lost and to connect it again.
    pub fn link(&self) -> StreamLink {
        self.link.clone()
    }
}

impl StreamQueue {
    fn new(link: StreamLink, route: Route) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let news = EventFlags::IN | EventFlags::ET;
        epoll::add(&epoll, link.news(), EventData::new_u64(0), news)?;
        Ok(Self {
            link,
            socket: None,
            epoll,
            counters: Counters::default(),
            route,
            inbox: Inbox::new(),
            rest: Vec::new(),
            head: Head::default(),
            frame: Vec::new(),
            outgoing: Vec::new(),
            leaving: Vec::new(),
        })
    }

    /// Takes the newest socket, if there is one.
    fn refresh(&mut self) {
        let Some(socket) = self.link.take() else {
            return;
        };
        self.leave_socket();
        let events = EventFlags::IN | EventFlags::ET;
        match epoll::add(&self.epoll, &socket, EventData::new_u64(1), events) {
            Ok(()) => self.socket = Some(socket),
            Err(error) => self.link.lose(&format!("it can't be waited on: {error}")),
        }
    }

    /// Gives the connection up.
    fn lose(&mut self, why: &str) {
        self.leave_socket();
        self.link.lose(why);
    }

    fn leave_socket(&mut self) {
        if let Some(socket) = self.socket.take() {
            // It fails if it was never waited on.
            let _ = epoll::delete(&self.epoll, &socket);
        }
        self.inbox.clear();
        self.rest.clear();
    }

    /// Waits for room as well, or stops that.
    fn wait_for_room(&self, wait: bool) {
        let mut events = EventFlags::IN | EventFlags::ET;
        events.set(EventFlags::OUT, wait);
        if let Some(socket) = &self.socket
            && let Err(error) = epoll::modify(&self.epoll, socket, EventData::new_u64(1), events)
        {
            tracing::debug!(stream = self.link.name(), %error, "room is not waited for");
        }
    }
}

impl Endpoint for Stream {
    fn name(&self) -> String {
        self.link.name().to_owned()
    }

    fn take_queues(&mut self) -> Vec<Box<dyn Queue>> {
        let queue = self.queue.take();
        queue
            .map(|queue| Box::new(queue) as _)
            .into_iter()
            .collect()
    }

    fn steer(&mut self, rss: Option<Arc<Rss>>) {
        self.switch.steer(rss);
    }

    fn mtu(&self) -> Option<u16> {
        None
    }

    fn checks_policy(&self) -> bool {
        true
    }

    fn inspect(&self) -> serde_json::Value {
        (self.view())()
    }

    fn view(&self) -> EndpointView {
        let link = self.link();
        Arc::new(move || {
            serde_json::json!({
                "kind": "stream",
                "peer": link.name(),
                "connected": link.is_up(),
            })
        })
    }
}

impl Queue for StreamQueue {
    fn transmit(&mut self, io: &mut QueueIo<'_>, batch: TxBatch<'_>, status: &mut Vec<TxStatus>) {
        self.refresh();
        self.send(io.memory, io.policy, batch, status);
    }

    fn receive(&mut self, io: &mut QueueIo<'_>) -> bool {
        self.refresh();
        self.finish_rest();
        self.route.refresh();
        self.take_in(io)
    }

    /// Does nothing, as nothing is ever pending: what is sent is copied.
    fn cancel_transmit(&mut self) {}

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        Some(self.epoll.as_fd())
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }
}
