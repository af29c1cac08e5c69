//! The connected clients: a bounded number, of which the one that was silent for the longest is
//! disconnected for a new one.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::task::{AbortHandle, JoinSet};

/// The connected clients. They are disconnected when this is dropped.
#[derive(Debug)]
pub struct Clients {
    most: usize,
    tasks: JoinSet<()>,
    connected: VecDeque<(Arc<Client>, AbortHandle)>,
    clock: Arc<AtomicU64>,
}

/// A client.
#[derive(Debug)]
pub struct Client {
    /// How many requests and subscriptions protect it from being disconnected for another.
    busy: AtomicUsize,
    /// The time of its last request, on a clock that counts requests and clients.
    last: AtomicU64,
    clock: Arc<AtomicU64>,
}

/// Protects a client from being disconnected for another.
pub struct Busy<'a>(&'a Client);

impl Client {
    /// Protects the client while it is being answered or is a subscriber.
    pub fn begin(&self) -> Busy<'_> {
        self.busy.fetch_add(1, Ordering::Relaxed);
        self.touch();
        Busy(self)
    }

    fn touch(&self) {
        let now = self.clock.fetch_add(1, Ordering::Relaxed);
        self.last.store(now, Ordering::Relaxed);
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.touch();
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Clients {
    /// Creates room for `most` clients.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            tasks: JoinSet::new(),
            connected: VecDeque::new(),
            clock: Arc::default(),
        }
    }

    /// Runs the future that `serve` makes for a new client: it gets None if there is no room,
    /// because every other client is protected.
    pub fn add<F>(&mut self, serve: impl FnOnce(Option<Arc<Client>>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        while self.tasks.try_join_next().is_some() {}
        self.connected.retain(|(_, task)| !task.is_finished());
        if self.connected.len() >= self.most && !self.make_room() {
            self.turn_away(serve(None));
            return;
        }
        let client = Arc::new(Client {
            busy: AtomicUsize::new(0),
            last: AtomicU64::new(0),
            clock: self.clock.clone(),
        });
        client.touch();
        let task = self.tasks.spawn(serve(Some(client.clone())));
        self.connected.push_back((client, task));
    }

    /// Disconnects the client that was silent for the longest. Returns false if all are protected.
    fn make_room(&mut self) -> bool {
        let silent = self.connected.iter().enumerate();
        let silent = silent.filter(|(_, (client, _))| client.busy.load(Ordering::Relaxed) == 0);
        let first = silent.min_by_key(|(_, (client, _))| client.last.load(Ordering::Relaxed));
        let Some((index, _)) = first else {
            return false;
        };
        if let Some((_, task)) = self.connected.remove(index) {
            task.abort();
        }
        true
    }

    /// Refuses one. Refusals take no slot, and are bounded all the same.
    fn turn_away(&mut self, served: impl Future<Output = ()> + Send + 'static) {
        if self.tasks.len() < 2 * self.most {
            self.tasks.spawn(served);
        }
    }
}
