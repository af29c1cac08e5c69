//! Clients of a control socket.

use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};

use super::*;
use crate::event::Event;
use crate::limits::{MAX_SUBSCRIPTIONS, PROTOCOL};
use crate::method::{
    Capture, Captured, Capturing, Counts, EndCapture, Link, LinkStatus, Log, LogLevel, Rate,
    RateStatus, Stage, SwapRequest, Swapped, Tree,
};
use crate::{ClientError, Told, select};

/// A fixed device that publishes an event with each swap.
struct Fixed(Events);

fn tree() -> Value {
    json!({ "ports": [{ "mac": "a" }], "pci": {} })
}

fn refuse<T>() -> Result<T, Refusal> {
    Err(Refusal::failed("not here"))
}

impl Commands for Fixed {
    fn inspect(&self, pattern: Option<&str>) -> Result<Tree, Refusal> {
        let found = pattern.map_or(Ok(tree()), |pattern| select(&tree(), pattern));
        let found = found.map_err(|error| Refusal::not_found(error.to_string()))?;
        Ok(serde_json::from_value(found).unwrap())
    }

    fn counters(&self) -> Counts {
        self.0.publish(Event::Attached);
        Counts::default()
    }

    fn swap(
        &self,
        swap: &SwapRequest,
        component: OwnedFd,
        progress: &mut dyn FnMut(Stage),
    ) -> Result<Swapped, Refusal> {
        progress(Stage::Compiling);
        progress(Stage::Swapping);
        let mut text = String::new();
        std::fs::File::from(component)
            .read_to_string(&mut text)
            .unwrap();
        let text = format!("{} with {text} is not wanted", swap.name);
        Err(Refusal::new(Code::Busy, text))
    }

    fn rollback(&self) -> Result<Swapped, Refusal> {
        Ok(Swapped {
            to: "0.1.0".into(),
            ..Swapped::default()
        })
    }

    fn link(&self, _link: &Link) -> Result<LinkStatus, Refusal> {
        refuse()
    }

    fn rate(&self, _rate: &Rate) -> Result<RateStatus, Refusal> {
        refuse()
    }

    fn log(&self, _log: &Log) -> Result<LogLevel, Refusal> {
        refuse()
    }

    fn capture(&self, capture: &Capture) -> Result<(Capturing, OwnedFd), Refusal> {
        let (reader, mut writer) = std::io::pipe().unwrap();
        write!(writer, "port {}", capture.port).unwrap();
        Ok((Capturing { capture: 7 }, reader.into()))
    }

    fn end_capture(&self, _capture: &EndCapture) -> Result<Captured, Refusal> {
        refuse()
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
            let events = Events::default();
            let commands = Arc::new(Fixed(events.clone()));
            runtime.unwrap().block_on(async {
                tokio::select! {
                    ended = server.serve(commands, events) => ended.unwrap(),
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

/// A client that writes raw lines.
struct Raw {
    stream: UnixStream,
    answers: Lines<BufReader<UnixStream>>,
}

impl Raw {
    fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        let answers = BufReader::new(stream.try_clone().unwrap()).lines();
        Self { stream, answers }
    }

    fn say(&self, line: &str) {
        writeln!(&self.stream, "{line}").unwrap();
    }

    fn hear(&mut self) -> Value {
        let line = self.answers.next().unwrap().unwrap();
        serde_json::from_str(&line).unwrap()
    }

    fn ask(&mut self, line: &str) -> Value {
        self.say(line);
        self.hear()
    }

    /// Returns the reason of a refusal.
    fn reason(&mut self, line: &str) -> String {
        let answer = self.ask(line);
        assert_eq!(answer["jsonrpc"], "2.0", "{answer}");
        answer["error"]["data"]["reason"]
            .as_str()
            .unwrap()
            .to_owned()
    }
}

fn request(id: i64, method: &str) -> String {
    json!({ "jsonrpc": "2.0", "id": id, "method": method }).to_string()
}

#[test]
fn inspect_with_and_without_pattern() {
    with_server(|path| {
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let mut client = crate::Client::connect(path).unwrap();
        assert_eq!(client.inspect(None).unwrap(), tree());
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
        let mut client = crate::Client::connect(path).unwrap();
        let swap = SwapRequest {
            name: "/new.wasm".into(),
            check: false,
            probation_ms: 0,
            progress: true,
        };
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"code").unwrap();
        io::Seek::rewind(&mut file).unwrap();
        let mut stages = vec![];
        let error = client.swap(swap, &file, |stage| stages.push(stage));
        let Err(ClientError::Refused(refusal)) = error else {
            panic!("{error:?}");
        };
        assert_eq!(refusal.message, "/new.wasm with code is not wanted");
        assert_eq!(refusal.code, Code::Busy);
        assert_eq!(stages, [Stage::Compiling, Stage::Swapping]);
        assert_eq!(client.rollback().unwrap().to, "0.1.0");
    });
}

#[test]
fn capture_brings_a_pipe() {
    with_server(|path| {
        let mut client = crate::Client::connect(path).unwrap();
        let capture = |port| Capture {
            port,
            snaplen: 64,
            ring_bytes: 1 << 20,
        };
        for port in 0..3 {
            let (capturing, pipe) = client.capture(capture(port)).unwrap();
            assert_eq!(capturing.capture, 7);
            let mut text = String::new();
            std::fs::File::from(pipe).read_to_string(&mut text).unwrap();
            assert_eq!(text, format!("port {port}"));
        }
        let error = client.end_capture(7).unwrap_err().to_string();
        assert_eq!(error, "not here");
        // A client that does not receive the descriptor still gets the answer.
        let mut raw = Raw::connect(path);
        let line = r#"{"jsonrpc":"2.0","id":1,"method":"capture","params":{"port":1}}"#;
        assert_eq!(raw.ask(line)["result"]["capture"], 7);
    });
}

#[test]
fn bad_requests_get_an_error_and_do_not_end_the_connection() {
    with_server(|path| {
        let mut raw = Raw::connect(path);
        for (bad, reason) in [
            ("", "parse_error"),
            ("{", "parse_error"),
            ("[]", "invalid_request"),
            (
                r#"{"jsonrpc":"2.0","method":"rollback"}"#,
                "invalid_request",
            ),
            (&request(1, "explode"), "method_not_found"),
            (&request(1, "swap"), "invalid_params"),
            (&request(1, "log"), "failed"),
        ] {
            assert_eq!(raw.reason(bad), reason, "{bad}");
        }
        let hello = r#"{"jsonrpc":"2.0","id":"a","method":"hello","params":{"protocol":7}}"#;
        let answer = raw.ask(hello);
        assert_eq!(answer["error"]["code"], -32001);
        assert_eq!(answer["id"], "a");
        let answer = raw.ask(&request(8, "hello"));
        assert_eq!(answer["result"]["protocol"], PROTOCOL);
        assert_eq!(answer["id"], 8);
    });
}

#[test]
fn clients_of_former_releases_are_told_so_in_their_own_way() {
    with_server(|path| {
        let mut raw = Raw::connect(path);
        for line in [r#"{"inspect":{}}"#, r#""rollback""#] {
            let answer = raw.ask(line);
            assert_eq!(answer["error"]["code"], "malformed");
            let message = answer["error"]["message"].as_str().unwrap();
            assert!(message.contains("newer than the command"), "{message}");
        }
        assert!(raw.ask(&request(1, "rollback"))["result"].is_object());
    });
}

#[test]
fn servers_of_former_releases_are_recognised() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            let answer = r#"{"error":{"code":"malformed","message":"not a request"}}"#;
            writeln!(stream, "{answer}").unwrap();
        });
        let error = crate::Client::connect(&path).unwrap_err();
        assert!(matches!(error, ClientError::Older(_)), "{error}");
    });
}

#[test]
fn endless_request_is_cut_off() {
    with_server(|path| {
        let mut stream = UnixStream::connect(path).unwrap();
        let sender = stream.try_clone().unwrap();
        let send = std::thread::spawn(move || {
            // Fails when the other side hangs up.
            while (&sender).write_all(&[b'x'; 4096]).is_ok() {}
        });
        let mut answer = Vec::new();
        // The reset that follows unread data may come instead of an end.
        let _ = stream.read_to_end(&mut answer);
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(answer["error"]["data"]["reason"], "too_large");
        assert_eq!(answer["id"], Value::Null);
        send.join().unwrap();
    });
}

#[test]
fn silent_clients_give_way_to_others() {
    with_server(|path| {
        let silent: Vec<_> = (0..MAX_CLIENTS)
            .map(|_| UnixStream::connect(path).unwrap())
            .collect();
        let mut late = crate::Client::connect(path).unwrap();
        assert_eq!(late.inspect(None).unwrap(), tree());
        // The one that was silent for the longest is the one that has gone.
        assert_eq!((&silent[0]).read(&mut [0]).unwrap(), 0);
        let last = &silent[MAX_CLIENTS - 1];
        writeln!(&*last, "{}", request(1, "hello")).unwrap();
        assert_eq!((&*last).read(&mut [0]).unwrap(), 1);
    });
}

#[test]
fn a_swap_takes_a_descriptor_and_nothing_else_does() {
    with_server(|path| {
        let mut raw = Raw::connect(path);
        let swap = r#"{"jsonrpc":"2.0","id":1,"method":"swap","params":{"name":"a"}}"#;
        let answer = raw.ask(swap);
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.contains("SCM_RIGHTS"), "{message}");
        for (line, count, expected) in [
            (swap, 2, "takes one descriptor"),
            (&*request(2, "rollback"), 1, "only `swap`"),
            ("{", 1, "no JSON"),
        ] {
            send_with(&raw.stream, line, count);
            let answer = raw.hear();
            let message = answer["error"]["message"].as_str().unwrap();
            assert!(message.contains(expected), "{message}");
        }
    });
}

/// Sends a line with `count` descriptors.
fn send_with(stream: &UnixStream, line: &str, count: usize) {
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

#[test]
fn subscribers_are_told_in_order_and_among_their_answers() {
    with_server(|path| {
        let mut subscriber = crate::Client::connect(path).unwrap();
        subscriber.subscribe(None).unwrap();
        let mut other = crate::Client::connect(path).unwrap();
        for number in 1..=3 {
            other.counters().unwrap();
            let Told::Event(event) = subscriber.follow().unwrap() else {
                panic!("nothing was lost");
            };
            assert_eq!((event.number, event.event), (number, Event::Attached));
        }
        // Its own request causes the next one.
        subscriber.counters().unwrap();
        let told = subscriber.follow().unwrap();
        assert!(
            matches!(told, Told::Event(ref event) if event.number == 4),
            "{told:?}"
        );
    });
}

#[test]
fn subscriptions_end_on_request_and_with_bad_words_nothing_begins() {
    with_server(|path| {
        let mut raw = Raw::connect(path);
        for params in [r#"{"events":[]}"#, r#"{"events":["tea"]}"#] {
            let line =
                format!(r#"{{"jsonrpc":"2.0","id":1,"method":"subscribe","params":{params}}}"#);
            assert_eq!(raw.reason(&line), "invalid_params");
        }
        let answer = raw.ask(&request(1, "subscribe"));
        assert_eq!(answer["result"]["subscription"], 1);
        let end = r#"{"jsonrpc":"2.0","id":2,"method":"unsubscribe","params":{"subscription":1}}"#;
        assert_eq!(raw.ask(end)["result"], json!({}));
        assert_eq!(raw.reason(end), "not_found");
        // No event comes before this answer.
        assert!(raw.ask(&request(3, "counters"))["result"].is_object());
        assert!(raw.ask(&request(4, "rollback"))["result"].is_object());
    });
}

#[test]
fn subscribers_stay_and_are_bounded_and_the_last_client_is_turned_away() {
    with_server(|path| {
        let mut subscribers: Vec<_> = (0..MAX_SUBSCRIPTIONS)
            .map(|_| {
                let mut client = crate::Client::connect(path).unwrap();
                client.subscribe(None).unwrap();
                client
            })
            .collect();
        let mut other = crate::Client::connect(path).unwrap();
        let Err(ClientError::Refused(refusal)) = other.subscribe(None) else {
            panic!("there are too many subscriptions");
        };
        assert_eq!(refusal.code, Code::TooMany);
        // Silent clients are disconnected, subscribers are not.
        for _ in 0..2 * MAX_CLIENTS {
            crate::Client::connect(path).unwrap().counters().unwrap();
        }
        let told = subscribers[0].follow().unwrap();
        assert!(
            matches!(told, Told::Event(ref event) if event.number == 1),
            "{told:?}"
        );
    });
}
