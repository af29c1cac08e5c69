//! The side that answers.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::net::UnixListener;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::clients::{Client, Clients};
use super::connection::{Connection, Line};
use super::{Inspect, MAX_REQUEST, Request, Response, Swap, select};
use crate::socket::{Access, AdoptError, BindError, Listener};

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
    /// that a client has open.
    ///
    /// # Errors
    ///
    /// Why the old one goes on, for people.
    fn swap(&self, swap: &Swap, component: OwnedFd) -> Result<Value, String>;

    /// Goes back to the component before.
    ///
    /// # Errors
    ///
    /// Why the one that runs goes on, for people.
    fn rollback(&self) -> Result<Value, String>;

    /// Tries to get out of the jail; what stopped it.
    ///
    /// # Errors
    ///
    /// If there is no such way.
    #[cfg(feature = "escape")]
    fn escape(&self, way: &str) -> Result<Value, String> {
        Err(format!("{way} can't be tried here"))
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
                (Response::Error(text), true)
            }
            Line::Request(line, descriptors) => {
                (answer(line, descriptors, commands.clone()).await, false)
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
    let _ = respond(&mut connection, &Response::Error(text)).await;
}

async fn respond(connection: &mut Connection, response: &Response) -> io::Result<()> {
    let mut text = serde_json::to_vec(response)?;
    text.push(b'\n');
    timeout(PATIENCE, connection.send(&text)).await?
}

async fn answer(line: Vec<u8>, descriptors: Vec<OwnedFd>, commands: Arc<dyn Commands>) -> Response {
    // A command may have to wait for the device, and so may closing what a client sent
    // for others: it could be a socket that lingers.
    let done = spawn_blocking(move || {
        let request = serde_json::from_slice(&line);
        let request = request.map_err(|error| format!("not a request: {error}"))?;
        carry_out(request, descriptors, &*commands)
    });
    match done.await {
        Ok(Ok(value)) => Response::Ok(value),
        Ok(Err(reason)) => Response::Error(reason),
        Err(error) => Response::Error(format!("the command failed: {error}")),
    }
}

fn carry_out(
    request: Request,
    mut descriptors: Vec<OwnedFd>,
    commands: &dyn Commands,
) -> Result<Value, String> {
    if let Request::Swap(swap) = &request {
        return match (descriptors.pop(), descriptors.is_empty()) {
            (Some(component), true) => commands.swap(swap, component),
            (None, _) => Err(
                "a swap takes the component's file as a descriptor (SCM_RIGHTS) along with \
                 the request, as `manatee swap` sends it"
                    .to_owned(),
            ),
            (Some(_), false) => Err("a swap takes one descriptor".to_owned()),
        };
    }
    if !descriptors.is_empty() {
        return Err("only a swap takes a descriptor".to_owned());
    }
    match request {
        Request::Inspect(Inspect { pattern }) => {
            let tree = commands.inspect();
            match pattern {
                Some(pattern) => select(&tree, &pattern).map_err(|error| error.to_string()),
                None => Ok(tree),
            }
        }
        Request::Rollback => commands.rollback(),
        Request::Swap(_) => Err("a swap without a descriptor".to_owned()),
        #[cfg(feature = "escape")]
        Request::Escape(way) => commands.escape(&way),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, Read, Write};
    use std::os::unix::fs::PermissionsExt;

    use serde_json::json;

    use super::super::Client;
    use super::*;

    struct Fixed;

    impl Commands for Fixed {
        fn inspect(&self) -> Value {
            json!({ "ports": [{ "mac": "a" }], "pci": {} })
        }

        fn swap(&self, swap: &Swap, component: OwnedFd) -> Result<Value, String> {
            let mut text = String::new();
            std::fs::File::from(component)
                .read_to_string(&mut text)
                .unwrap();
            Err(format!("{} with {text} is not wanted", swap.name))
        }

        fn rollback(&self) -> Result<Value, String> {
            Ok(json!({ "to": "0.1.0" }))
        }
    }

    /// Runs `client` against a server on a path.
    fn with_server(client: impl FnOnce(&Path) + Send) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control");
        let server = Server::bind(&path).unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build();
                runtime.unwrap().block_on(async {
                    tokio::select! {
                        ended = server.serve(Arc::new(Fixed)) => ended.unwrap(),
                        _ = stopped => {}
                    }
                });
            });
            // Moved in, so that the server ends even if the client panics.
            let stop = stop;
            client(&path);
            drop(stop);
        });
        drop(server);
        assert!(!path.exists());
    }

    #[test]
    fn inspect_with_and_without_pattern() {
        with_server(|path| {
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
            let mut client = Client::connect(path).unwrap();
            assert_eq!(client.inspect(None).unwrap(), Fixed.inspect());
            let part = client.inspect(Some("ports/0/mac".into())).unwrap();
            assert_eq!(part, json!({ "ports": { "0": { "mac": "a" } } }));
            let error = client
                .inspect(Some("nothing".into()))
                .unwrap_err()
                .to_string();
            assert!(error.contains("nothing matches `nothing`"), "{error}");
        });
    }

    #[test]
    fn swap_and_rollback_are_carried_out() {
        with_server(|path| {
            let mut client = Client::connect(path).unwrap();
            let swap = Swap {
                name: "/new.wasm".into(),
                check: false,
                probation_ms: 0,
            };
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(b"code").unwrap();
            io::Seek::rewind(&mut file).unwrap();
            let error = client.swap(swap, &file).unwrap_err().to_string();
            assert_eq!(error, "/new.wasm with code is not wanted");
            assert_eq!(client.rollback().unwrap(), json!({ "to": "0.1.0" }));
        });
    }

    #[test]
    fn bad_requests_get_an_error_and_do_not_end_the_connection() {
        with_server(|path| {
            let stream = std::os::unix::net::UnixStream::connect(path).unwrap();
            let mut answers = io::BufReader::new(stream.try_clone().unwrap()).lines();
            for bad in [
                "",
                "{",
                "[]",
                r#"{"explode":{}}"#,
                r#"{"swap":{"name":1}}"#,
                r#"{"inspect":{"patern":1}}"#,
                "\u{1}",
            ] {
                writeln!(&stream, "{bad}").unwrap();
                let answer = answers.next().unwrap().unwrap();
                assert!(answer.starts_with(r#"{"error":"not a request"#), "{answer}");
            }
            writeln!(&stream, r#"{{"inspect":{{}}}}"#).unwrap();
            assert!(answers.next().unwrap().unwrap().starts_with(r#"{"ok":"#));
        });
    }

    #[test]
    fn endless_request_is_cut_off() {
        with_server(|path| {
            let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
            let sender = stream.try_clone().unwrap();
            let send = std::thread::spawn(move || {
                // Fails when the other side hangs up.
                while (&sender).write_all(&[b'x'; 4096]).is_ok() {}
            });
            let mut answer = Vec::new();
            // The reset that follows unread data may come instead of an end.
            let _ = stream.read_to_end(&mut answer);
            assert!(answer.starts_with(br#"{"error":"a request has at most"#));
            send.join().unwrap();
        });
    }

    #[test]
    fn silent_clients_give_way_to_others() {
        with_server(|path| {
            let silent: Vec<_> = (0..MAX_CLIENTS)
                .map(|_| std::os::unix::net::UnixStream::connect(path).unwrap())
                .collect();
            let mut late = Client::connect(path).unwrap();
            assert_eq!(late.inspect(None).unwrap(), Fixed.inspect());
            // The one that was silent for the longest is the one that has gone.
            assert_eq!((&silent[0]).read(&mut [0]).unwrap(), 0);
            let last = &silent[MAX_CLIENTS - 1];
            writeln!(&*last, r#"{{"inspect":{{}}}}"#).unwrap();
            assert_eq!((&*last).read(&mut [0]).unwrap(), 1);
        });
    }

    #[test]
    fn a_swap_takes_a_descriptor_and_nothing_else_does() {
        with_server(|path| {
            let stream = std::os::unix::net::UnixStream::connect(path).unwrap();
            let mut answers = io::BufReader::new(stream.try_clone().unwrap()).lines();
            let swap = r#"{"swap":{"name":"a","check":false,"probation-ms":0}}"#;
            writeln!(&stream, "{swap}").unwrap();
            let answer = answers.next().unwrap().unwrap();
            assert!(answer.contains("as a descriptor"), "{answer}");
            for (request, count, expected) in [
                (swap, 2, "takes one descriptor"),
                ("\"rollback\"", 1, "only a swap"),
            ] {
                send_with(&stream, request, count);
                let answer = answers.next().unwrap().unwrap();
                assert!(answer.contains(expected), "{answer}");
            }
        });
    }

    /// Sends a line with so many descriptors of its own.
    fn send_with(stream: &std::os::unix::net::UnixStream, line: &str, count: usize) {
        use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
        let descriptors = vec![stream.as_fd(); count];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
        let line = format!("{line}\n");
        let parts = [io::IoSlice::new(line.as_bytes())];
        let sent = sendmsg(stream, &parts, &mut control, SendFlags::empty()).unwrap();
        assert_eq!(sent, line.len());
    }
}
