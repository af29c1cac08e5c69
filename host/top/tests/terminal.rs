//! `manatee top`, as text and on a terminal, with a mock device.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

use manatee_control::method::{
    Captured, Capturing, Counts, LinkStatus, LogLevel, PortCounts, RateStatus, Swapped, Tree,
};
use manatee_control::{
    Capture, Commands, EndCapture, Events, Link, Log, Rate, Refusal, Server, Stage, SwapRequest,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

const PROGRAM: &str = env!("CARGO_BIN_EXE_manatee-top");

/// A mock device that has only counters.
struct MadeUp;

fn no<T>() -> Result<T, Refusal> {
    Err(Refusal::failed("this is a mock".to_owned()))
}

impl Commands for MadeUp {
    fn inspect(&self, pattern: Option<&str>) -> Result<Tree, Refusal> {
        assert_eq!(
            pattern,
            Some("ports/*/queues"),
            "only what is shown is requested"
        );
        let queue = json!({ "posted_buffers": 7 });
        let queues = json!({ "queues": [queue, queue] });
        let tree = json!({ "ports": { "0": { "queues": [queue] }, "1": queues } });
        Ok(Tree(tree.as_object().cloned().unwrap()))
    }

    fn counters(&self) -> Counts {
        let port = |port, endpoint: &str, rate_mbps| PortCounts {
            port,
            endpoint: endpoint.to_owned(),
            rate_mbps,
            ..PortCounts::default()
        };
        Counts {
            state: "running".to_owned(),
            ports: vec![port(0, "loopback", None), port(1, "null", Some(5))],
            ..Counts::default()
        }
    }

    fn swap(
        &self,
        _: &SwapRequest,
        _: OwnedFd,
        _: &mut dyn FnMut(Stage),
    ) -> Result<Swapped, Refusal> {
        no()
    }

    fn rollback(&self) -> Result<Swapped, Refusal> {
        no()
    }

    fn link(&self, _: &Link) -> Result<LinkStatus, Refusal> {
        no()
    }

    fn rate(&self, _: &Rate) -> Result<RateStatus, Refusal> {
        no()
    }

    fn log(&self, _: &Log) -> Result<LogLevel, Refusal> {
        no()
    }

    fn capture(&self, _: &Capture) -> Result<(Capturing, OwnedFd), Refusal> {
        no()
    }

    fn end_capture(&self, _: &EndCapture) -> Result<Captured, Refusal> {
        no()
    }
}

/// Runs a test while the mock device is served at a path.
fn with_device(test: impl FnOnce(&Path) + Send) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.sock");
    let server = Server::bind(&path).unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(async {
                tokio::select! {
                    ended = server.serve(Arc::new(MadeUp), Events::default()) => ended.unwrap(),
                    _ = stopped => {}
                }
            });
        });
        // Moved in, so that the server ends even if the test panics.
        let stop = stop;
        test(&path);
        drop(stop);
    });
}

/// Returns the program that watches it.
fn top(control: &Path) -> Command {
    let mut top = Command::new(PROGRAM);
    top.arg("--control").arg(control);
    top
}

/// The sequences that switch to a terminal's alternate screen, and back.
const ENTER: &str = "\u{1b}[?1049h";
const LEAVE: &str = "\u{1b}[?1049l";
const SHOW_CURSOR: &str = "\u{1b}[?25h";

#[test]
fn output_for_scripts_is_plain_text() {
    with_device(|control| {
        let output = top(control).args(["--once", "--interval", "0.1"]).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert!(
            lines[0].starts_with("control.sock  running  no VMM"),
            "{text}"
        );
        assert!(lines[2].starts_with("0    up   loopback"), "{text}");
        assert!(lines[3].starts_with("1    up   null <5M"), "{text}");
        assert!(lines[5].starts_with("  queue 1"), "{text}");
        assert_eq!(lines.len(), 6);
        assert!(!text.contains('\u{1b}'));
    });
}

#[test]
fn without_a_terminal_or_a_device_it_says_what_to_do() {
    with_device(|control| {
        let output = top(control).stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains("`manatee top --once`"), "{error}");
    });
    let nobody = top(Path::new("/nonexistent/control")).output().unwrap();
    assert_eq!(nobody.status.code(), Some(6));
    let error = String::from_utf8(nobody.stderr).unwrap();
    assert!(error.contains("is `manatee serve --control"), "{error}");
}

/// `manatee top` on a pseudo-terminal, which `script` creates.
struct OnTerminal {
    script: Child,
    keys: ChildStdin,
    screen: ChildStdout,
    shown: String,
}

impl OnTerminal {
    fn start(control: &Path) -> Self {
        // Its exit status and the terminal's settings are printed after it.
        let line = format!(
            "stty rows 24 cols 80; sh -c 'echo pid=$$.; exec {PROGRAM} --control {}'; \
             echo status=$?.; stty -a; echo over",
            control.display()
        );
        let mut script = Command::new("script")
            .args(["--quiet", "--flush", "--command", &line, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this needs `script`: apt-get install bsdutils");
        Self {
            keys: script.stdin.take().unwrap(),
            screen: script.stdout.take().unwrap(),
            script,
            shown: String::new(),
        }
    }

    /// Reads until a text is shown.
    fn wait_for(&mut self, text: &str) {
        let mut bytes = [0; 4096];
        while !self.shown.contains(text) {
            let count = self.screen.read(&mut bytes).unwrap();
            assert!(count > 0, "{text} is not in {}", self.shown);
            let more = String::from_utf8_lossy(&bytes[..count]);
            self.shown.push_str(&more);
        }
    }

    /// Returns the number behind a word.
    fn number(&self, word: &str) -> i32 {
        let (_, rest) = self.shown.split_once(word).unwrap();
        rest.split_once('.').unwrap().0.parse().unwrap()
    }

    /// Waits for the end, after which the terminal is as it was.
    fn ended(mut self, status: i32) {
        self.wait_for("over");
        assert!(self.script.wait().unwrap().success());
        assert_eq!(self.number("status="), status, "{}", self.shown);
        let (screen, after) = self.shown.split_once("status=").unwrap();
        let entered = screen.rfind(ENTER).unwrap();
        assert!(screen[entered..].contains(LEAVE), "{screen}");
        assert!(screen[entered..].contains(SHOW_CURSOR), "{screen}");
        let modes: Vec<_> = after.split_whitespace().collect();
        for mode in ["icanon", "echo", "isig", "opost"] {
            assert!(modes.contains(&mode), "{mode} is not set: {after}");
        }
    }
}

#[test]
fn the_terminal_is_left_as_it_was_whatever_ends_it() {
    with_device(|control| {
        for key in [&b"q"[..], b"\x03", b"\x1b"] {
            let mut top = OnTerminal::start(control);
            top.wait_for("loopback");
            top.keys.write_all(key).unwrap();
            top.ended(0);
        }
        for signal in [
            Signal::HUP,
            Signal::INT,
            Signal::QUIT,
            Signal::TERM,
            Signal::USR1,
            Signal::USR2,
            Signal::ALARM,
            Signal::XCPU,
            Signal::SYS,
        ] {
            let mut top = OnTerminal::start(control);
            top.wait_for("loopback");
            let process = Pid::from_raw(top.number("pid=")).unwrap();
            kill_process(process, signal).unwrap();
            top.ended(128 + signal.as_raw());
        }
    });
}
