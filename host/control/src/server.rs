//! The side that answers.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::clients::{Client, Clients};
use super::connection::{Connection, Line};
use super::{
    Code, Inspect, Link, Log, MAX_REQUEST, Refusal, Request, Response, Stage, Swap, select,
};
use manatee_common::listener::{Access, AdoptError, BindError, Listener};

/// The most clients at a time; see [`Clients`].
const MAX_CLIENTS: usize = 16;
/// A client that sends or takes nothing for this long is disconnected.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long to wait before accepting again when the kernel could not.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the control socket gives access to.
pub trait Commands: Send + Sync + 'static {
    /// The live tree, for people and tools.
    fn inspect(&self) -> Value;

    /// Replaces the component by the one behind a descriptor, which may be anything
    /// that a client has open. What is being done is told to `progress`.
    ///
    /// # Errors
    ///
    /// Why the old one goes on.
    fn swap(
        &self,
        swap: &Swap,
        component: OwnedFd,
        progress: &mut dyn FnMut(Stage),
    ) -> Result<Value, Refusal>;

    /// Goes back to the component before.
    ///
    /// # Errors
    ///
    /// Why the one that runs goes on.
    fn rollback(&self) -> Result<Value, Refusal>;

    /// Shows or sets a port's link.
    ///
    /// # Errors
    ///
    /// If there is no such port, or this can't be done here.
    fn link(&self, link: &Link) -> Result<Value, Refusal> {
        let text = format!("the link of port {} can't be set here", link.port);
        Err(Refusal::not_found(text))
    }

    /// Shows or changes what is logged.
    ///
    /// # Errors
    ///
    /// If the level makes no sense, or this can't be done here.
    fn log(&self, _log: &Log) -> Result<Value, Refusal> {
        Err(Refusal::not_found("what is logged can't be changed here"))
    }

    /// Tries to get out of the jail; what stopped it.
    ///
    /// # Errors
    ///
    /// If there is no such way.
    #[cfg(feature = "escape")]
    fn escape(&self, way: &str) -> Result<Value, Refusal> {
        Err(Refusal::not_found(format!("{way} can't be tried here")))
    }
}

/// A control socket. Its file, which only the owner may use, goes when this is
/// dropped.
#[derive(Debug)]
pub struct Server {
    socket: Listener,
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

    /// Answers at a listening socket that somebody else bound, such as a service manager,
    /// and whose file they remove.
    ///
    /// # Errors
    ///
    /// [`AdoptError`] if it is no listening Unix stream socket.
    pub fn adopt(socket: OwnedFd) -> Result<Self, AdoptError> {
        let socket = Listener::adopt(socket)?;
        Ok(Self { socket })
    }

    /// The socket's file, as an absolute path; None if somebody else bound the socket.
    pub fn path(&self) -> Option<&Path> {
        self.socket.path()
    }

    /// Answers requests, until the future is dropped.
    ///
    /// # Errors
    ///
    /// If the socket can't be handed to tokio.
    pub async fn serve(&self, commands: Arc<dyn Commands>) -> io::Result<()> {
        let listener = self.listener()?;
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
            let commands = commands.clone();
            let connection = Connection::new(stream);
            clients.add(|client| async move {
                match client {
                    Some(client) => talk(connection, &client, commands).await,
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

/// Answers one client until it goes.
async fn talk(mut connection: Connection, client: &Client, commands: Arc<dyn Commands>) {
    while let Ok(Ok(line)) = timeout(PATIENCE, connection.next()).await {
        let _busy = client.begin();
        let (response, last) = match line {
            Line::End => return,
            Line::TooLong => {
                let text = format!("a request has at most {MAX_REQUEST} bytes");
                // The rest of the line would be taken for requests.
                (Response::Error(Refusal::new(Code::Malformed, text)), true)
            }
            Line::Request(line, descriptors) => {
                let commands = commands.clone();
                match answer(line, descriptors, commands, &mut connection).await {
                    Ok(response) => (response, false),
                    Err(_) => return,
                }
            }
        };
        let sent = respond(&mut connection, &response).await;
        if let Err(error) = &sent {
            tracing::debug!(%error, "a control connection failed");
        }
        if last || sent.is_err() {
            return;
        }
    }
}

/// Tells a client that all others are waiting for commands of theirs.
async fn turn_away(mut connection: Connection) {
    let text = format!("{MAX_CLIENTS} commands are under way; try again when one is over");
    let _ = respond(
        &mut connection,
        &Response::Error(Refusal::new(Code::Busy, text)),
    )
    .await;
}

async fn respond(connection: &mut Connection, response: &Response) -> io::Result<()> {
    let mut text = serde_json::to_vec(response)?;
    text.push(b'\n');
    timeout(PATIENCE, connection.send(&text)).await?
}

/// Carries out a request, and sends what is being done meanwhile. Returns the answer, or why
/// the client can't be reached any more.
async fn answer(
    line: Vec<u8>,
    descriptors: Vec<OwnedFd>,
    commands: Arc<dyn Commands>,
    connection: &mut Connection,
) -> io::Result<Response> {
    let (stages, mut told) = mpsc::unbounded_channel();
    // A command may have to wait for the device, and so may closing what a client sent
    // for others: it could be a socket that lingers.
    let done = spawn_blocking(move || {
        let request = serde_json::from_slice(&line);
        let request = request
            .map_err(|error| Refusal::new(Code::Malformed, format!("not a request: {error}")))?;
        let mut progress = |stage| {
            // Who asked may be gone.
            let _ = stages.send(stage);
        };
        carry_out(request, descriptors, &*commands, &mut progress)
    });
    while let Some(stage) = told.recv().await {
        respond(connection, &Response::Progress(stage)).await?;
    }
    Ok(match done.await {
        Ok(Ok(value)) => Response::Ok(value),
        Ok(Err(refusal)) => Response::Error(refusal),
        Err(error) => Response::Error(Refusal::failed(format!("the command failed: {error}"))),
    })
}

fn carry_out(
    request: Request,
    mut descriptors: Vec<OwnedFd>,
    commands: &dyn Commands,
    progress: &mut dyn FnMut(Stage),
) -> Result<Value, Refusal> {
    let malformed = |text: &str| Err(Refusal::new(Code::Malformed, text));
    if let Request::Swap(swap) = &request {
        let mut tell = |stage| {
            if swap.progress {
                progress(stage);
            }
        };
        return match (descriptors.pop(), descriptors.is_empty()) {
            (Some(component), true) => commands.swap(swap, component, &mut tell),
            (None, _) => malformed(
                "a swap takes the component's file as a descriptor (SCM_RIGHTS) along with \
                 the request, as `manatee swap` sends it",
            ),
            (Some(_), false) => malformed("a swap takes one descriptor"),
        };
    }
    if !descriptors.is_empty() {
        return malformed("only a swap takes a descriptor");
    }
    match request {
        Request::Inspect(Inspect { pattern }) => {
            let tree = commands.inspect();
            match pattern {
                Some(pattern) => {
                    select(&tree, &pattern).map_err(|error| Refusal::not_found(error.to_string()))
                }
                None => Ok(tree),
            }
        }
        Request::Rollback => commands.rollback(),
        Request::Link(link) => commands.link(&link),
        Request::Log(log) => commands.log(&log),
        Request::Swap(_) => malformed("a swap without a descriptor"),
        #[cfg(feature = "escape")]
        Request::Escape(way) => commands.escape(&way),
    }
}

#[cfg(test)]
mod tests;
