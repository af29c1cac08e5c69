//! Notifications to the service manager.

use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{self, command};

/// The longest that any step may take, in a debug build on a busy machine.
const DEADLINE: Duration = Duration::from_secs(120);

/// A `manatee serve` whose service manager is this test.
struct Service {
    child: Child,
    manager: UnixDatagram,
    _dir: tempfile::TempDir,
}

impl Service {
    fn start(change: impl FnOnce(&mut Command)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let manager = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        manager.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut command = harness::serve(&dir.path().join("vfio.sock"));
        command.env("NOTIFY_SOCKET", dir.path().join("notify"));
        change(&mut command);
        let child = command.spawn().unwrap();
        Self {
            child,
            manager,
            _dir: dir,
        }
    }

    /// Returns the next notification.
    fn hear(&self) -> String {
        let mut text = [0; 256];
        let length = self.manager.recv(&mut text).unwrap();
        String::from_utf8(text[..length].to_vec()).unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn service_manager_is_notified_of_start_reload_and_end() {
    let service = Service::start(|_| ());
    let ready = service.hear();
    assert!(ready.starts_with("READY=1\nSTATUS=Serving at /"), "{ready}");
    service.signal(Signal::HUP);
    let reloading = service.hear();
    let time = reloading
        .strip_prefix("RELOADING=1\nMONOTONIC_USEC=")
        .unwrap();
    assert!(time.trim_end().parse::<u64>().unwrap() > 0);
    assert_eq!(service.hear(), "READY=1\n");
    service.signal(Signal::TERM);
    assert_eq!(service.hear(), "STOPPING=1\nSTATUS=Stopping\n");
}

#[test]
fn watchdog_is_fed_for_as_long_as_it_serves() {
    let service = Service::start(|command| {
        command.env("WATCHDOG_USEC", "20000");
    });
    assert!(service.hear().starts_with("READY=1\nSTATUS="));
    for _ in 0..10 {
        assert_eq!(service.hear(), "WATCHDOG=1\n");
    }
    // It is meant for another process.
    let service = Service::start(|command| {
        command
            .env("WATCHDOG_USEC", "20000")
            .env("WATCHDOG_PID", "1");
    });
    assert!(service.hear().starts_with("READY=1\nSTATUS="));
    service.signal(Signal::TERM);
    assert!(service.hear().starts_with("STOPPING=1"));
}

#[test]
fn interval_that_is_no_number_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let manager = UnixDatagram::bind(dir.path().join("notify")).unwrap();
    let output = command()
        .args(["serve", "--port", "loopback", "--socket-path"])
        .arg(dir.path().join("s"))
        .env("NOTIFY_SOCKET", dir.path().join("notify"))
        .env("WATCHDOG_USEC", "often")
        .output()
        .unwrap();
    drop(manager);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("WATCHDOG_USEC is `often`"), "{text}");
}
