//! The side that answers.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::{Inspect, MAX_REQUEST, Request, Response, Swap, select};
use crate::check::{self, Limits};
use crate::component::{self, Component};
use crate::device::{Device, SwapOptions};
use crate::socket::{Access, BindError, BoundListener};

/// The most clients at a time; others wait.
const MAX_CLIENTS: usize = 16;
/// A client that sends or takes nothing for this long is disconnected.
const PATIENCE: Duration = Duration::from_secs(30);
/// Missed requirements that a refusal names.
const SOME: usize = 5;
/// How long to wait before accepting again when the kernel could not.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the control socket gives access to.
pub trait Commands: Send + Sync + 'static {
    /// The live tree, for people and tools.
    fn inspect(&self) -> Value;

    /// Replaces the component.
    ///
    /// # Errors
    ///
    /// Why the old one goes on, for people.
    fn swap(&self, swap: &Swap) -> Result<Value, String>;

    /// Goes back to the component before.
    ///
    /// # Errors
    ///
    /// Why the one that runs goes on, for people.
    fn rollback(&self) -> Result<Value, String>;
}

impl Commands for Device {
    fn inspect(&self) -> Value {
        Device::inspect(self)
    }

    fn swap(&self, swap: &Swap) -> Result<Value, String> {
        let name = swap.file.display().to_string();
        let component = load(swap, &name)?;
        let options = SwapOptions {
            probation: Duration::from_millis(swap.probation_ms),
        };
        let swapped = Device::swap(self, &component, options);
        let swapped = swapped.map_err(|error| error.to_string());
        if let Err(reason) = &swapped {
            tracing::warn!(component = name, reason, "a swap was refused");
        }
        Ok(swapped?.to_json())
    }

    fn rollback(&self) -> Result<Value, String> {
        let swapped = Device::rollback(self).map_err(|error| error.to_string())?;
        Ok(swapped.to_json())
    }
}

/// Compiles a candidate and, if asked to, runs the conformance suite on it:
/// on the very bytes that were read, whatever becomes of the file.
fn load(swap: &Swap, name: &str) -> Result<Component, String> {
    let bytes = component::read(&swap.file).map_err(|error| error.to_string())?;
    let component = Component::from_bytes(&bytes, name).map_err(|error| error.to_string())?;
    if swap.check {
        let mut missed = Vec::new();
        let every = check::select(&[]).map_err(|error| error.to_string())?;
        let passed = check::check(&bytes, name, &every, &Limits::default(), |verdict| {
            if verdict.missed.is_some() {
                missed.push(verdict.name);
            }
        });
        if !passed.map_err(|error| error.to_string())? {
            return Err(refusal(name, &missed));
        }
    }
    Ok(component)
}

fn refusal(name: &str, missed: &[&str]) -> String {
    let some = missed.iter().take(SOME).copied();
    let more = match missed.len().saturating_sub(SOME) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let some = some.collect::<Vec<_>>().join(", ");
    format!(
        "{name} fails the conformance suite: {some}{more}; \
         `manatee check {name}` says how, and --no-check swaps all the same"
    )
}

/// A control socket. Its file, which only the owner may use, goes when this is
/// dropped.
#[derive(Debug)]
pub struct Server {
    socket: BoundListener,
}

impl Server {
    /// Listens on `path`.
    ///
    /// # Errors
    ///
    /// [`BindError`] if the path is taken or can't be used.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let socket = BoundListener::bind(path, Access::default())?;
        Ok(Self { socket })
    }

    /// Answers requests, until the future is dropped.
    ///
    /// # Errors
    ///
    /// If the socket can't be handed to tokio.
    pub async fn serve(&self, commands: Arc<dyn Commands>) -> io::Result<()> {
        let listener = self.listener()?;
        let slots = Arc::new(Semaphore::new(MAX_CLIENTS));
        // Clients are disconnected when this is dropped.
        let mut clients = tokio::task::JoinSet::new();
        loop {
            let slot = slots.clone().acquire_owned().await;
            while clients.try_join_next().is_some() {}
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::debug!(%error, "no control connection could be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let commands = commands.clone();
            clients.spawn(async move {
                if let Err(error) = talk(stream, commands).await {
                    tracing::debug!(%error, "a control connection failed");
                }
                drop(slot);
            });
        }
    }

    fn listener(&self) -> io::Result<UnixListener> {
        use std::os::fd::AsFd;
        let listener = self.socket.as_fd().try_clone_to_owned()?;
        let listener = std::os::unix::net::UnixListener::from(listener);
        listener.set_nonblocking(true)?;
        UnixListener::from_std(listener)
    }
}

/// Answers one client until it goes.
async fn talk(stream: UnixStream, commands: Arc<dyn Commands>) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    loop {
        line.clear();
        // Room for the line feed, so that a full line can be told from a cut one.
        let mut limited = (&mut reader).take(MAX_REQUEST as u64 + 1);
        if timeout(PATIENCE, limited.read_until(b'\n', &mut line)).await?? == 0 {
            return Ok(());
        }
        let cut = line.last() != Some(&b'\n') && line.len() > MAX_REQUEST;
        let response = if cut {
            Response::Error(format!("a request has at most {MAX_REQUEST} bytes"))
        } else {
            answer(&line, commands.clone()).await
        };
        let mut text = serde_json::to_vec(&response)?;
        text.push(b'\n');
        timeout(PATIENCE, writer.write_all(&text)).await??;
        if cut {
            // The rest of the line would be taken for requests.
            return Ok(());
        }
    }
}

async fn answer(line: &[u8], commands: Arc<dyn Commands>) -> Response {
    let request = match serde_json::from_slice(line) {
        Ok(request) => request,
        Err(error) => return Response::Error(format!("not a request: {error}")),
    };
    // A command may have to wait for the device.
    match spawn_blocking(move || carry_out(request, &*commands)).await {
        Ok(Ok(value)) => Response::Ok(value),
        Ok(Err(reason)) => Response::Error(reason),
        Err(error) => Response::Error(format!("the command failed: {error}")),
    }
}

fn carry_out(request: Request, commands: &dyn Commands) -> Result<Value, String> {
    match request {
        Request::Inspect(Inspect { pattern }) => {
            let tree = commands.inspect();
            match pattern {
                Some(pattern) => select(&tree, &pattern).map_err(|error| error.to_string()),
                None => Ok(tree),
            }
        }
        Request::Swap(swap) => commands.swap(&swap),
        Request::Rollback => commands.rollback(),
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

        fn swap(&self, swap: &Swap) -> Result<Value, String> {
            Err(format!("{} is not wanted", swap.file.display()))
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
                file: "/new.wasm".into(),
                check: false,
                probation_ms: 0,
            };
            let error = client.swap(swap).unwrap_err().to_string();
            assert_eq!(error, "/new.wasm is not wanted");
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
                r#"{"swap":{"file":1}}"#,
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
    fn more_clients_than_slots_are_served_in_the_end() {
        with_server(|path| {
            let idle: Vec<_> = (0..MAX_CLIENTS)
                .map(|_| Client::connect(path).unwrap())
                .collect();
            let mut late = Client::connect(path).unwrap();
            drop(idle);
            assert_eq!(late.inspect(None).unwrap(), Fixed.inspect());
        });
    }
}
