//! docs/control.md: runs its examples, and checks that it covers the whole protocol.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IoSlice, IoSliceMut, Lines, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStdout, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use manatee_control::envelope::Notice;
use manatee_control::{Call, Code, EventKind, LinkSetting};
use manatee_kit::hostile::{Hostile, VERSIONS};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde_json::{Value, json};
use vfio_user::Client;

use crate::harness;
use crate::process::Served;

const DOCUMENT: &str = include_str!("../../../../docs/control.md");
/// In an example, stands for a value that differs each time.
const ANYTHING: &str = "…";
/// The longest that a message may take, in a debug build on a busy machine.
const DEADLINE: Duration = Duration::from_secs(120);

/// Returns the lines of all examples of a kind.
fn examples(kind: &str) -> Vec<&'static str> {
    let fence = format!("```{kind}");
    let mut inside = false;
    let mut lines = Vec::new();
    for line in DOCUMENT.lines() {
        match line {
            "```" => inside = false,
            _ if line.starts_with("```") => inside = line == fence,
            _ if inside => lines.push(line),
            _ => {}
        }
    }
    assert!(!lines.is_empty(), "{fence}");
    lines
}

/// Returns whether a message matches an example.
fn is_as(found: &Value, shown: &Value) -> bool {
    match (found, shown) {
        (_, Value::String(text)) if text == ANYTHING => true,
        (Value::Object(found), Value::Object(shown)) => {
            found.len() == shown.len()
                && shown
                    .iter()
                    .all(|(name, shown)| found.get(name).is_some_and(|found| is_as(found, shown)))
        }
        (Value::Array(found), Value::Array(shown)) => {
            found.len() == shown.len() && found.iter().zip(shown).all(|(a, b)| is_as(a, b))
        }
        (found, shown) => found == shown,
    }
}

/// A reader that keeps the descriptors that are passed with the data.
struct Keeping {
    stream: UnixStream,
    descriptors: Vec<OwnedFd>,
}

impl Read for Keeping {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(buffer)];
        let received = recvmsg(&self.stream, &mut parts, &mut control, RecvFlags::empty())?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
            }
        }
        Ok(received.bytes)
    }
}

/// The client of the examples, and its environment.
struct Play {
    stream: UnixStream,
    messages: BufReader<Keeping>,
    served: Served,
    vmm: Option<Client>,
    descriptor: Option<File>,
    /// Whether messages that are not shown are skipped.
    skips: bool,
}

impl Play {
    fn begin(served: Served) -> Self {
        let stream = UnixStream::connect(served.control()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let messages = BufReader::new(Keeping {
            stream: stream.try_clone().unwrap(),
            descriptors: Vec::new(),
        });
        Self {
            stream,
            messages,
            served,
            vmm: None,
            descriptor: None,
            skips: false,
        }
    }

    fn play(&mut self, line: &str) {
        if let Some(request) = line.strip_prefix("-> ") {
            return self.send(request);
        }
        match line.strip_prefix("<- ") {
            Some(ANYTHING) => self.skips = true,
            Some(shown) => self.expect(&serde_json::from_str(shown).unwrap()),
            None => self.stage(line),
        }
    }

    fn send(&mut self, request: &str) {
        let line = format!("{request}\n");
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let file = self.descriptor.take();
        let descriptors: Vec<_> = file.iter().map(AsFd::as_fd).collect();
        if !descriptors.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(&descriptors));
        }
        let parts = [IoSlice::new(line.as_bytes())];
        let sent = sendmsg(&self.stream, &parts, &mut control, SendFlags::empty()).unwrap();
        self.stream.write_all(&line.as_bytes()[sent..]).unwrap();
    }

    fn expect(&mut self, shown: &Value) {
        loop {
            let mut line = String::new();
            self.messages.read_line(&mut line).unwrap();
            let found: Value = serde_json::from_str(&line).unwrap();
            if is_as(&found, shown) {
                self.skips = false;
                return;
            }
            assert!(self.skips, "{found} is not as {shown}");
        }
    }

    fn stage(&mut self, direction: &str) {
        match direction {
            "(a VMM attaches)" => self.vmm = Some(Client::new(&self.served.socket()).unwrap()),
            "(the VMM goes)" => self.vmm = None,
            "(with the descriptor of another version's file)" => {
                let path = self.served.dir().join("next.wasm");
                std::fs::write(&path, manatee_variants::NEXT).unwrap();
                self.descriptor = Some(File::open(path).unwrap());
            }
            "(the component fails)" => self.fail(1),
            "(the component fails 600 times more, and nobody reads)" => self.fail(600),
            "(the component fails, and so does every fresh instance)" => self.fail(1001),
            other => panic!("unknown stage direction {other}"),
        }
    }

    /// Makes the component of [`crashing`] fail.
    fn fail(&mut self, times: usize) {
        let vmm = self.vmm.as_mut().unwrap();
        for _ in 0..times {
            vmm.region_write(0, 0x40, &[0; 4]).unwrap();
        }
        // Wait until the last one was carried out.
        vmm.region_read(0, 0, &mut [0; 4]).unwrap();
    }
}

/// Serves a component that fails on request, with a VMM attached and a checkpoint.
fn crashing() -> Play {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("crashes.wasm");
    let body = "call $changed local.get 3 i64.eqz if unreachable end i32.const 0";
    let component = Hostile::new(VERSIONS[1]).export("write-register", body);
    std::fs::write(&path, component.bytes()).unwrap();
    let path = path.to_str().unwrap();
    let served = Served::start(&["--recoveries=1000", "--last-tries=0", "--component", path]);
    served.discard_log();
    let mut vmm = Client::new(&served.socket()).unwrap();
    vmm.region_write(harness::CONFIG, 4, &[6, 0]).unwrap();
    vmm.region_write(0, 0x40, &[1, 0, 0, 0]).unwrap();
    let mut play = Play::begin(served);
    play.vmm = Some(vmm);
    play
}

#[test]
fn examples_are_what_happens() {
    let served = Served::start(&[]);
    served.discard_log();
    let mut play = Play::begin(served);
    for line in examples("jsonrpc") {
        play.play(line);
    }
    let mut play = crashing();
    for line in examples("jsonrpc crashing") {
        play.play(line);
    }
}

#[test]
fn everything_is_named_and_has_an_example() {
    let lines = [examples("jsonrpc"), examples("jsonrpc crashing")].concat();
    let has = |direction: &str, field: &str, name: &str| {
        let part = format!("\"{field}\":\"{name}\"");
        let mut lines = lines.iter();
        assert!(
            lines.any(|line| line.starts_with(direction) && line.contains(&part)),
            "no example has {part}"
        );
    };
    let named = |name: &str, row: String| {
        assert!(DOCUMENT.contains(&row), "{name} has no row `{row}`");
    };
    for method in Call::METHODS {
        has("->", "method", method);
        assert!(DOCUMENT.contains(&format!("`{method}`")), "{method}");
    }
    for method in Notice::METHODS {
        has("<-", "method", method);
        named(method, format!("| `{method}` |"));
    }
    for kind in EventKind::ALL {
        let name = json!(kind);
        let name = name.as_str().unwrap();
        has("<-", "event", name);
        named(name, format!("| `{name}` |"));
    }
    for code in Code::ALL {
        let row = format!("| {} | `{code}` |", code.number());
        named("an error", row);
    }
}

/// A running `manatee events`, and its output.
struct Following {
    command: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Following {
    fn start(served: &Served, words: &[&str]) -> Self {
        let mut command = harness::command();
        command
            .arg("events")
            .arg("--control")
            .arg(served.control())
            .args(words)
            .stdout(Stdio::piped());
        let mut command = command.spawn().unwrap();
        let lines = BufReader::new(command.stdout.take().unwrap()).lines();
        Self { command, lines }
    }

    fn next(&mut self) -> String {
        self.lines.next().unwrap().unwrap()
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.command.kill();
        let _ = self.command.wait();
    }
}

/// Sets a flag when it is dropped, also when a test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn events_are_printed_as_they_happen() {
    let served = Served::start(&[]);
    served.discard_log();
    let mut text = Following::start(&served, &["link"]);
    let mut objects = Following::start(&served, &["--json"]);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _over = Over(&over);
        // It is not visible when both have subscribed: the link changes until both are notified.
        scope.spawn(|| {
            let mut client = manatee_control::Client::connect(&served.control()).unwrap();
            while !over.load(Ordering::Relaxed) {
                client.link(0, Some(LinkSetting::Down)).unwrap();
                client.link(0, Some(LinkSetting::Auto)).unwrap();
            }
        });
        let line = text.next();
        assert!(line.contains(" link: port 0 is "), "{line}");
        let event: Value = serde_json::from_str(&objects.next()).unwrap();
        assert_eq!(event["event"], "link");
        assert_eq!(event["port"], 0);
        assert!(event["time_ms"].is_u64(), "{event}");
    });
}

#[test]
fn inspecting_the_hosts_part_does_not_wait_for_the_device() {
    // A component that never returns from a register write.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("slow.wasm");
    let component = Hostile::new(VERSIONS[1]).export("write-register", "loop br 0 end i32.const 0");
    std::fs::write(&path, component.bytes()).unwrap();
    let path = path.to_str().unwrap();
    let served = Served::start(&["--deadline=60000", "--recoveries=0", "--component", path]);
    served.discard_log();
    let mut vmm = Client::new(&served.socket()).unwrap();
    vmm.region_write(harness::CONFIG, 4, &[6, 0]).unwrap();
    // The write is acknowledged at once, and holds the device's lock for a minute.
    vmm.region_write(0, 0x40, &[0; 4]).unwrap();
    let mut control = manatee_control::Client::connect(&served.control()).unwrap();
    for part in [
        "component",
        "memory/**",
        "p*",
        "ports/0/counters",
        "process",
        "runtime",
    ] {
        let shown = control.inspect(Some(part.to_owned())).unwrap();
        assert_eq!(shown["device"], Value::Null, "{part}");
    }
    assert_eq!(control.counters().unwrap().state, "running");
    // If the request had waited for the device, the component would have failed meanwhile.
    let runtime = control.inspect(Some("runtime/failures".into())).unwrap();
    assert_eq!(runtime["runtime"]["failures"], 0);
}
