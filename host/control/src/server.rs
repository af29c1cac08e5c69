//! The server of the protocol.

mod methods;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use manatee_common::listener::{Access, AdoptError, BindError, Listener};
use serde::Serialize;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use methods::{Outcome, carry_out, close, greet, invalid, value};

use crate::clients::{Client, Clients};
use crate::commands::Commands;
use crate::connection::{Connection, Line};
use crate::envelope::{Id, Message, Notice, Progress, Request};
use crate::event::EventKind;
use crate::former;
use crate::limits::{MAX_CLIENTS, MAX_REQUEST};
use crate::method::{Call, Subscribed, Unsubscribed};
use crate::pace::Pace;
use crate::refusal::{Code, Refusal};
use crate::subscriptions::{Events, Subscriptions};

/// A client that sends or reads nothing for this long is disconnected, unless it is a
/// subscriber that reads its notifications.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long to wait after a failed accept before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A control socket. Its file, which only the owner may use, is removed when this is dropped.
#[derive(Debug)]
pub struct Server {
    socket: Listener,
}

/// The state that all clients share.
#[derive(Clone)]
struct Shared {
    commands: Arc<dyn Commands>,
    events: Events,
    pace: Arc<Pace>,
}

impl Server {
    /// Listens on `path`.
    ///
    /// # Errors
    ///
    /// [`BindError`] if the path is taken or can't be used.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let socket = Listener::bind(path, Access::default())?;
        Ok(Self { socket })
    }

    /// Serves on a listening socket that another process bound, such as a service manager, and
    /// whose file that removes.
    ///
    /// # Errors
    ///
    /// [`AdoptError`] if it is no listening Unix stream socket.
    pub fn adopt(socket: OwnedFd) -> Result<Self, AdoptError> {
        let socket = Listener::adopt(socket)?;
        Ok(Self { socket })
    }

    /// Serves on a socket as [`adopt`](Self::adopt) does, and removes its file at the end: an
    /// earlier process bound it to this absolute path, where the file has this device and inode.
    ///
    /// # Errors
    ///
    /// The same as for [`adopt`](Self::adopt).
    pub fn inherit(socket: OwnedFd, path: &Path, inode: (u64, u64)) -> Result<Self, AdoptError> {
        let socket = Listener::inherit(socket, path, inode)?;
        Ok(Self { socket })
    }

    /// Returns the socket for another process, and leaves its file in place.
    ///
    /// # Errors
    ///
    /// If the process is out of descriptors.
    pub fn hand_over(&self) -> io::Result<OwnedFd> {
        let socket = self.copy()?;
        self.socket.keep_file();
        Ok(socket)
    }

    /// Returns a copy of the socket, for a process that prepares to continue.
    ///
    /// # Errors
    ///
    /// If the process is out of descriptors.
    pub fn copy(&self) -> io::Result<OwnedFd> {
        std::os::fd::AsFd::as_fd(&self.socket).try_clone_to_owned()
    }

    /// Returns the path that the socket was bound to by any process; None if it has none.
    pub fn address(&self) -> Option<&Path> {
        self.socket.address()
    }

    /// Returns the socket's file, as an absolute path; None if another process bound the socket.
    pub fn path(&self) -> Option<&Path> {
        self.socket.path()
    }

    /// Answers requests, and notifies subscribers of events, until the future is dropped.
    ///
    /// # Errors
    ///
    /// If the socket can't be registered with tokio.
    pub async fn serve(&self, commands: Arc<dyn Commands>, events: Events) -> io::Result<()> {
        let listener = self.listener()?;
        let shared = Shared {
            commands,
            events,
            pace: Arc::default(),
        };
        // They are disconnected when this is dropped.
        let mut clients = Clients::new(MAX_CLIENTS);
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::debug!(%error, "no control connection could be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let shared = shared.clone();
            let connection = Connection::new(stream);
            clients.add(|client| async move {
                match client {
                    Some(client) => Session::new(connection, shared).run(&client).await,
                    None => turn_away(connection).await,
                }
            });
        }
    }

    fn listener(&self) -> io::Result<UnixListener> {
        let listener = self.socket.as_fd().try_clone_to_owned()?;
        let listener = std::os::unix::net::UnixListener::from(listener);
        listener.set_nonblocking(true)?;
        UnixListener::from_std(listener)
    }
}

/// Refuses a client because no other can be disconnected for it.
async fn turn_away(mut connection: Connection) {
    let text = format!(
        "{MAX_CLIENTS} clients wait for an answer or are subscribers; try again when one is done"
    );
    let refusal = Message::refusal(None, Refusal::new(Code::TooMany, text));
    let _ = send(&mut connection, &refusal).await;
}

async fn send(connection: &mut Connection, message: &impl Serialize) -> io::Result<()> {
    send_with(connection, message, None).await
}

async fn send_with(
    connection: &mut Connection,
    message: &impl Serialize,
    descriptor: Option<OwnedFd>,
) -> io::Result<()> {
    let mut text = serde_json::to_vec(message)?;
    text.push(b'\n');
    timeout(PATIENCE, connection.send(&text, descriptor)).await?
}

/// The session of a connected client.
struct Session {
    connection: Connection,
    subscriptions: Subscriptions,
    shared: Shared,
}

/// The next step of a session.
enum Step {
    Line(Line),
    Notice(Notice),
}

impl Session {
    fn new(connection: Connection, shared: Shared) -> Self {
        Self {
            connection,
            subscriptions: shared.events.connection(),
            shared,
        }
    }

    /// Serves the client until it disconnects.
    async fn run(mut self, client: &Client) {
        let mut subscribed = None;
        while let Some(step) = self.next().await {
            let _busy = client.begin();
            if let Err(error) = self.take(step).await {
                tracing::debug!(%error, "a control connection failed");
                return;
            }
            // A subscriber is silent by nature, so it is not disconnected for that.
            subscribed = (!self.subscriptions.is_empty())
                .then(|| subscribed.take().unwrap_or_else(|| client.begin()));
        }
    }

    /// Waits for a request, or an event for a subscriber. None if the client is gone.
    async fn next(&mut self) -> Option<Step> {
        let Self {
            connection,
            subscriptions,
            ..
        } = self;
        if subscriptions.is_empty() {
            let line = timeout(PATIENCE, connection.next()).await.ok()?;
            return line.ok().map(Step::Line);
        }
        tokio::select! {
            line = connection.next() => line.ok().map(Step::Line),
            notice = subscriptions.next() => Some(Step::Notice(notice)),
        }
    }

    /// Carries a step out. Fails if the session is over.
    async fn take(&mut self, step: Step) -> io::Result<()> {
        match step {
            Step::Notice(notice) => {
                send(&mut self.connection, &Message::notification(notice)).await
            }
            Step::Line(Line::Request(line, descriptors)) => self.answer(&line, descriptors).await,
            Step::Line(Line::End) => Err(io::ErrorKind::UnexpectedEof.into()),
            Step::Line(Line::TooLong) => {
                let text = format!("a request has at most {MAX_REQUEST} bytes");
                let refusal = Message::refusal(None, Refusal::new(Code::TooLarge, text));
                send(&mut self.connection, &refusal).await?;
                // The rest of the line would be mistaken for requests.
                Err(io::ErrorKind::InvalidData.into())
            }
        }
    }

    async fn answer(&mut self, line: &[u8], descriptors: Vec<OwnedFd>) -> io::Result<()> {
        self.shared.pace.turn().await;
        let Request { id, call, .. } = match Request::read(line) {
            Ok(request) => request,
            Err((id, refusal)) => {
                close(descriptors);
                if let Some(former) = former::answer(line) {
                    return send(&mut self.connection, &former).await;
                }
                return send(&mut self.connection, &Message::refusal(id, refusal)).await;
            }
        };
        let outcome = match call {
            call if !descriptors.is_empty() && !matches!(call, Call::Swap(_)) => {
                close(descriptors);
                invalid("only `swap` takes a descriptor")
            }
            Call::Hello(hello) => greet(&hello),
            Call::Subscribe(subscribe) => self.subscribe(subscribe.events),
            Call::Unsubscribe(unsubscribe) => {
                let removed = self.subscriptions.remove(unsubscribe.subscription);
                removed.and_then(|()| value(Unsubscribed {}))
            }
            call => self.carry_out(&id, call, descriptors).await?,
        };
        let (message, descriptor) = match outcome {
            Ok(Outcome { result, descriptor }) => (Message::answer(id, result), descriptor),
            Err(refusal) => (Message::refusal(Some(id), refusal), None),
        };
        send_with(&mut self.connection, &message, descriptor).await
    }

    fn subscribe(&mut self, kinds: Option<Vec<EventKind>>) -> Result<Outcome, Refusal> {
        if kinds.as_ref().is_some_and(Vec::is_empty) {
            return invalid("`events` is empty: name some, or leave it out for all");
        }
        let subscription = self.subscriptions.add(kinds)?;
        value(Subscribed { subscription })
    }

    /// Carries out a request that may take long, and sends its stages meanwhile. Fails if the client
    /// can't be reached any more.
    async fn carry_out(
        &mut self,
        id: &Id,
        call: Call,
        descriptors: Vec<OwnedFd>,
    ) -> io::Result<Result<Outcome, Refusal>> {
        let (stages, mut told) = mpsc::unbounded_channel();
        let commands = self.shared.commands.clone();
        // A command may have to wait for the device.
        let done = spawn_blocking(move || {
            let mut progress = |stage| {
                // The client may be gone.
                let _ = stages.send(stage);
            };
            carry_out(call, descriptors, &*commands, &mut progress)
        });
        while let Some(stage) = told.recv().await {
            let id = id.clone();
            let notice = Notice::Progress(Progress { id, stage });
            send(&mut self.connection, &Message::notification(notice)).await?;
        }
        Ok(done.await.unwrap_or_else(|error| {
            let text = format!("the command failed: {error}");
            Err(Refusal::new(Code::InternalError, text))
        }))
    }
}

#[cfg(test)]
mod tests;
