//! A process that is replaced while a VMM is attached.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use vfio_user::Client;

use crate::harness::{CONFIG, command, config_u16, config_u32, memfd, wait};
use crate::interrupts::{MASK, NONE, TRIGGER, UNMASK, assign, eventfd, set, taken};

/// A running `manatee keep -- serve ...` with a loopback port.
pub struct Kept {
    keeper: Child,
    dir: TempDir,
}

impl Kept {
    /// Starts it, and returns when it serves.
    pub fn start(options: &[&str]) -> Self {
        Self::start_with(options, &["--port", "loopback"])
    }

    pub fn start_with(options: &[&str], serve: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let notify = dir.path().join("notify");
        let readiness = std::os::unix::net::UnixDatagram::bind(&notify).unwrap();
        let path = |name: &str| dir.path().join(name);
        let log = std::fs::File::create(path("log")).unwrap();
        let keeper = command()
            .arg("keep")
            .arg("--control")
            .arg(path("keeper"))
            .args(options)
            .args(["--", "serve"])
            .args(serve)
            .arg("--socket-path")
            .arg(path("vfio"))
            .arg("--control")
            .arg(path("control"))
            .env("NOTIFY_SOCKET", notify)
            .stdin(Stdio::null())
            .stderr(log)
            .spawn();
        let kept = Self {
            keeper: keeper.unwrap(),
            dir,
        };
        readiness
            .set_read_timeout(Some(std::time::Duration::from_secs(120)))
            .unwrap();
        let mut text = [0; 64];
        let ready = readiness.recv(&mut text);
        assert!(
            ready.is_ok_and(|length| text[..length].starts_with(b"READY=1")),
            "{}",
            kept.log()
        );
        kept
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap()
    }

    pub fn attach(&self) -> Client {
        Client::new(&self.path("vfio")).unwrap()
    }

    pub fn inspect(&self) -> serde_json::Value {
        let mut client = manatee_control::Client::connect(&self.path("control")).unwrap();
        client.inspect(None).unwrap()
    }

    /// Returns the process that serves.
    pub fn process(&self) -> u32 {
        let tree = self.inspect();
        u32::try_from(tree["process"]["id"].as_u64().unwrap()).unwrap()
    }

    /// Swaps the next component in, whose file is removed afterwards. Returns its digest.
    pub fn swap(&self) -> serde_json::Value {
        let next = self.path("next.wasm");
        std::fs::write(&next, manatee_variants::NEXT).unwrap();
        let swapped = command()
            .args(["swap", "--no-check", "--control"])
            .arg(self.path("control"))
            .arg(&next)
            .output()
            .unwrap();
        assert!(swapped.status.success(), "{swapped:?}");
        std::fs::remove_file(&next).unwrap();
        self.inspect()["component"]["sha256"].clone()
    }

    fn upgrade(&self, options: &[&str]) -> Output {
        let mut upgrade = command();
        upgrade
            .arg("upgrade")
            .arg("--control")
            .arg(self.path("keeper"));
        upgrade.args(options).output().unwrap()
    }

    /// Replaces the process that serves. Returns the command's result.
    pub fn upgraded(&self) -> serde_json::Value {
        self.upgraded_to(&[])
    }

    pub fn upgraded_to(&self, options: &[&str]) -> serde_json::Value {
        let output = self.upgrade(&[options, &["--json"]].concat());
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}\n{}", self.log());
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Returns why an upgrade to a program is refused.
    pub fn refused(&self, program: &Path) -> String {
        let output = self.upgrade(&["--program", program.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = kill_process(Pid::from_child(&self.keeper), Signal::TERM);
        let _ = self.keeper.wait();
        if std::thread::panicking() {
            eprintln!("--- log ---\n{}", self.log());
        }
    }
}

/// Attaches a VMM that has shared memory and set interrupts up.
pub fn attached(kept: &Kept) -> (Client, Vec<OwnedFd>) {
    let mut client = kept.attach();
    let memory = memfd(2 << 20);
    client.dma_map(0, 0, 1 << 20, memory.as_raw_fd()).unwrap();
    client
        .dma_map(1 << 20, 1 << 32, 1 << 20, memory.as_raw_fd())
        .unwrap();
    // Memory space and bus master.
    client.region_write(CONFIG, 4, &[6, 0]).unwrap();
    let fds: Vec<_> = (0..3).map(|_| eventfd()).collect();
    assign(&mut client, 0, &fds.iter().collect::<Vec<_>>());
    set(&mut client, NONE | MASK, 1, 1);
    set(&mut client, NONE | TRIGGER, 1, 1);
    (client, fds)
}

#[test]
fn vmm_does_not_notice_that_another_process_serves_it() {
    let kept = Kept::start(&[]);
    let (mut client, fds) = attached(&kept);
    let before = kept.inspect();
    for number in 1..=3 {
        let process = kept.process();
        assert_eq!(kept.upgraded()["rehearsed"], true);
        assert_ne!(kept.process(), process);
        let tree = kept.inspect();
        assert_eq!(tree["memory"], before["memory"]);
        assert_eq!(tree["runtime"]["hand_over_count"], number);
        assert_eq!(config_u32(&mut client, 0), 0x00ba_1414);
        assert_eq!(config_u16(&mut client, 4), 6);
        set(&mut client, NONE | TRIGGER, 0, 3);
        let counts: Vec<_> = fds.iter().map(taken).collect();
        assert_eq!(counts, [1, 0, 1], "the masked one is pending");
    }
    set(&mut client, NONE | UNMASK, 1, 1);
    assert_eq!(taken(&fds[1]), 1, "since before the first upgrade");
    client.reset().unwrap();
    drop(client);
    // The next VMM is served at the same socket.
    assert_eq!(config_u32(&mut kept.attach(), 0), 0x00ba_1414);
}

#[test]
fn requests_that_wait_are_answered_by_the_next_process() {
    let kept = Kept::start(&[]);
    let (mut client, _fds) = attached(&kept);
    // Some arrive while no process serves.
    let socket = kept.path("keeper");
    let upgrades = std::thread::spawn(move || {
        for _ in 0..3 {
            let output = command()
                .arg("upgrade")
                .arg("--control")
                .arg(&socket)
                .output();
            assert!(output.unwrap().status.success());
        }
    });
    let mut requests = 0_u64;
    while !upgrades.is_finished() {
        client
            .region_write(CONFIG, 0x3c, &[requests as u8])
            .unwrap();
        let mut line = [0];
        client.region_read(CONFIG, 0x3c, &mut line).unwrap();
        assert_eq!(line, [requests as u8]);
        requests += 1;
    }
    upgrades.join().unwrap();
    assert!(requests > 3);
    assert_eq!(kept.inspect()["runtime"]["hand_over_count"], 3);
}

#[test]
fn terminated_process_is_followed_by_another() {
    let kept = Kept::start(&[]);
    let (mut client, _fds) = attached(&kept);
    let process = kept.process();
    let pid = Pid::from_raw(process.cast_signed()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    // The old process answers if it has not received the signal yet.
    while client.region_read(CONFIG, 0, &mut [0; 4]).is_ok() {
        if std::fs::metadata(format!("/proc/{process}")).is_err() {
            break;
        }
    }
    assert_eq!(config_u16(&mut client, 4), 6);
    assert_ne!(kept.process(), process);
}

/// Kills the process that serves.
pub fn kill_served(kept: &Kept) -> u32 {
    let process = kept.process();
    let pid = Pid::from_raw(process.cast_signed()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    process
}

#[test]
fn killed_process_is_followed_by_one_that_continues() {
    let mut kept = Kept::start(&["--tries", "3"]);
    let (mut client, fds) = attached(&kept);
    for _ in 0..3 {
        let process = kill_served(&kept);
        // The client waits for its answer, as if nothing had happened.
        assert_eq!(config_u16(&mut client, 4), 6);
        assert_ne!(kept.process(), process);
        // What may have been raised meanwhile was.
        assert_eq!(taken(&fds[0]), 1);
        set(&mut client, NONE | TRIGGER, 0, 1);
        assert_eq!(taken(&fds[0]), 1);
        assert_eq!(kept.inspect()["memory"]["region_count"], 2);
    }
    kill_served(&kept);
    assert_eq!(wait(&mut kept.keeper).code(), Some(1));
    assert!(kept.log().contains("failed as well"), "{}", kept.log());
}

#[test]
fn what_an_operator_has_set_outlives_the_process() {
    let kept = Kept::start(&[]);
    let (mut client, _fds) = attached(&kept);
    let run = |arguments: &[&str]| {
        let mut run = command();
        run.args(arguments)
            .arg("--control")
            .arg(kept.path("control"));
        let output = run.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    run(&["link", "0", "down"]);
    let rate = run(&["rate", "0", "500"]);
    assert!(rate.contains("500"), "{rate}");
    kill_served(&kept);
    assert_eq!(config_u16(&mut client, 4), 6);
    assert_eq!(kept.inspect()["ports"]["0"]["link"]["state"], "down");
    assert_eq!(run(&["rate", "0"]), rate);
}

#[test]
fn vmm_that_went_while_nobody_served_is_followed_by_another() {
    let kept = Kept::start(&[]);
    let (client, _fds) = attached(&kept);
    kill_served(&kept);
    drop(client);
    let (mut next, _fds) = attached(&kept);
    assert_eq!(config_u16(&mut next, 4), 6);
}

#[test]
fn program_that_is_no_manatee_is_refused_and_the_old_one_continues() {
    let kept = Kept::start(&[]);
    let (mut client, _fds) = attached(&kept);
    let process = kept.process();
    assert!(
        kept.refused(Path::new("/bin/true"))
            .contains("is not a manatee")
    );
    let future = script(
        &kept,
        "future",
        r#"echo '{"version":"9","hand_over":{"writes":9,"reads":0}}'"#,
    );
    assert!(
        kept.refused(&future)
            .contains("reads states up to version 0")
    );
    assert_eq!(kept.process(), process);
    assert_eq!(config_u16(&mut client, 4), 6);
}

#[test]
fn program_that_can_not_continue_is_replaced_by_the_old_one() {
    let kept = Kept::start(&[]);
    let (mut client, fds) = attached(&kept);
    let process = kept.process();
    let body = r#"case $1 in hand-over-facts) echo '{"version":"9","hand_over":{"writes":2,"reads":2}}';; *) exit 7;; esac"#;
    let broken = script(&kept, "broken", body);
    let text = kept.refused(&broken);
    assert!(text.contains("version 9 can't continue"), "{text}");
    assert!(text.contains("exit status: 7"), "{text}");
    assert_ne!(kept.process(), process, "the old program runs again");
    assert_eq!(config_u16(&mut client, 4), 6);
    set(&mut client, NONE | TRIGGER, 0, 1);
    assert_eq!(taken(&fds[0]), 1);
}

#[test]
fn of_two_upgrades_at_once_the_second_waits_or_is_refused() {
    let kept = Kept::start(&[]);
    let (mut client, _fds) = attached(&kept);
    let outputs = std::thread::scope(|scope| {
        let both = [0, 1].map(|_| scope.spawn(|| kept.upgrade(&[])));
        both.map(|upgrade| upgrade.join().unwrap())
    });
    let done = outputs.iter().filter(|output| output.status.success());
    let done = done.count() as u64;
    assert!(done > 0);
    for output in outputs.iter().filter(|output| !output.status.success()) {
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("another upgrade is under way"), "{text}");
    }
    assert_eq!(kept.inspect()["runtime"]["hand_over_count"], done);
    assert_eq!(config_u16(&mut client, 4), 6);
}

/// Writes an executable script.
pub fn script(kept: &Kept, name: &str, body: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = kept.path(name);
    std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path
}

#[test]
fn component_that_was_swapped_in_goes_on() {
    let kept = Kept::start(&[]);
    let running = kept.swap();
    for _ in 0..2 {
        kept.upgraded();
        assert_eq!(kept.inspect()["component"]["sha256"], running);
    }
}

#[test]
fn keeper_ends_and_removes_its_files() {
    let mut kept = Kept::start(&[]);
    let mut client = kept.attach();
    assert_eq!(config_u32(&mut client, 0), 0x00ba_1414);
    kept.upgraded();
    kill_process(Pid::from_child(&kept.keeper), Signal::TERM).unwrap();
    assert_eq!(wait(&mut kept.keeper).code(), Some(0), "{}", kept.log());
    for name in ["vfio", "control", "keeper"] {
        assert!(!kept.path(name).exists(), "{name}");
    }
}

#[test]
fn only_serve_is_kept() {
    let output = command().args(["keep", "--", "inspect"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("only `serve` can be kept"), "{text}");
    let mut upgrade = Command::new(command().get_program());
    let output = upgrade.args(["upgrade", "--control", "/no/such"]).output();
    let text = String::from_utf8(output.unwrap().stderr).unwrap();
    assert!(text.contains("no keeper listens at /no/such"), "{text}");
}
