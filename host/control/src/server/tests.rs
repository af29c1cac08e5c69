//! Clients of a control socket.

use std::io::{BufRead, Read, Write};
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use super::super::{Client, ClientError};
use super::*;

struct Fixed;

impl Commands for Fixed {
    fn inspect(&self) -> Value {
        json!({ "ports": [{ "mac": "a" }], "pci": {} })
    }

    fn swap(
        &self,
        swap: &Swap,
        component: OwnedFd,
        progress: &mut dyn FnMut(Stage),
    ) -> Result<Value, Refusal> {
        progress(Stage::Compiling);
        progress(Stage::Swapping);
        let mut text = String::new();
        std::fs::File::from(component)
            .read_to_string(&mut text)
            .unwrap();
        let text = format!("{} with {text} is not wanted", swap.name);
        Err(Refusal::new(Code::Busy, text))
    }

    fn rollback(&self) -> Result<Value, Refusal> {
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
            r#"{"link":{"port":-1}}"#,
            r#"{"link":{"port":0,"set":"sideways"}}"#,
            r#"{"log":{"level":1}}"#,
            "\u{1}",
        ] {
            writeln!(&stream, "{bad}").unwrap();
            let answer = answers.next().unwrap().unwrap();
            assert!(
                answer.starts_with(r#"{"error":{"code":"malformed","message":"not a request"#),
                "{answer}"
            );
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
        assert!(
            answer.starts_with(br#"{"error":{"code":"malformed","message":"a request has at most"#)
        );
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
        let swap = r#"{"swap":{"name":"a","check":false,"probation_ms":0}}"#;
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
