//! Sockets that the parent process bound.

use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Output};
use std::rc::Rc;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::harness::{Manatee, command, config_u32};

/// Returns a command that starts `manatee serve` as a service manager does: with descriptors from
/// 3 on, and variables that describe them.
pub fn activated(sockets: [OwnedFd; 2], names: &str, options: &[&str]) -> Command {
    let script = r#"exec 3<&0 4<&1 </dev/null >/dev/null; LISTEN_PID=$$ exec "$0" serve "$@""#;
    shell(script, sockets, options, |shell| {
        let count = names.split(':').count();
        shell.env("LISTEN_FDS", count.to_string());
        shell.env("LISTEN_FDNAMES", names);
    })
}

fn shell(
    script: &str,
    [first, second]: [OwnedFd; 2],
    options: &[&str],
    change: impl FnOnce(&mut Command),
) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", script]).arg(command().get_program());
    shell.args(["--port", "loopback"]).args(options);
    shell.stdin(first).stdout(second);
    change(&mut shell);
    shell
}

pub fn bind(dir: &Path, name: &str) -> (UnixListener, OwnedFd) {
    let listener = UnixListener::bind(dir.join(name)).unwrap();
    let handed = listener.try_clone().unwrap().into();
    (listener, handed)
}

fn null() -> OwnedFd {
    std::fs::File::open("/dev/null").unwrap().into()
}

#[test]
fn service_manager_hands_over_sockets_and_keeps_them() {
    let dir = Rc::new(tempfile::tempdir().unwrap());
    let (vfio, first) = bind(dir.path(), "vfio.sock");
    let (control, second) = bind(dir.path(), "control.sock");
    // In reverse order, since names identify them.
    let command = activated([second, first], "control:vfio", &[]);
    let mut manatee = Manatee::start_as_it_is(dir.clone(), command);
    assert_eq!(config_u32(&mut manatee.attach(), 0), 0x00ba_1414);
    assert_eq!(manatee.inspect()["pci"]["identity"]["device"], "00ba");
    manatee.signal(Signal::TERM);
    assert_eq!(manatee.wait().code(), Some(0), "{}", manatee.log());
    // The next one is served by the same sockets.
    assert!(manatee.socket().exists() && manatee.control().exists());
    let handed = |listener: &UnixListener| listener.try_clone().unwrap().into();
    let command = activated([handed(&vfio), handed(&control)], "vfio:control", &[]);
    let mut next = Manatee::start_as_it_is(dir, command);
    assert_eq!(config_u32(&mut next.attach(), 0), 0x00ba_1414);
    next.signal(Signal::KILL);
    assert_eq!(next.wait().code(), None);
    let _waiting = UnixStream::connect(next.socket()).unwrap();
    vfio.accept().unwrap();
}

#[test]
fn address_of_a_port_is_the_same_whoever_binds_the_socket() {
    let mac = |mut manatee: Manatee| {
        let mac = manatee.inspect()["ports"]["0"]["mac"].clone();
        // It removes its sockets before it ends.
        manatee.signal(Signal::TERM);
        assert_eq!(manatee.wait().code(), Some(0), "{}", manatee.log());
        mac
    };
    let dir = Rc::new(tempfile::tempdir().unwrap());
    let own = mac(Manatee::start_in(dir.clone()));
    let (_vfio, first) = bind(dir.path(), "vfio.sock");
    let (_control, second) = bind(dir.path(), "control.sock");
    let command = activated([first, second], "vfio:control", &[]);
    assert_eq!(mac(Manatee::start_as_it_is(dir, command)), own);
}

#[test]
fn descriptor_is_handed_over_by_number() {
    let dir = Rc::new(tempfile::tempdir().unwrap());
    let (_vfio, first) = bind(dir.path(), "vfio.sock");
    let control = dir.path().join("control.sock");
    let script = r#"exec 7<&0 </dev/null; exec "$0" serve --fd 7 "$@""#;
    let options = ["--control", control.to_str().unwrap()];
    let command = shell(script, [first, null()], &options, |_| ());
    let mut manatee = Manatee::start_as_it_is(dir, command);
    assert_eq!(config_u32(&mut manatee.attach(), 0), 0x00ba_1414);
    manatee.signal(Signal::TERM);
    assert_eq!(manatee.wait().code(), Some(0), "{}", manatee.log());
    assert!(manatee.socket().exists() && !control.exists());
}

/// Returns its error for descriptors that it can't serve.
fn refused(mut command: Command) -> String {
    let Output { status, stderr, .. } = command.output().unwrap();
    let text = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(1), "{text}");
    text
}

#[test]
fn what_can_not_be_served_is_named() {
    let dir: TempDir = tempfile::tempdir().unwrap();
    let (_vfio, vfio) = bind(dir.path(), "vfio.sock");
    let vfio = || vfio.try_clone().unwrap();
    let path = dir.path().join("other.sock");
    let path = path.to_str().unwrap();
    for (names, options, says) in [
        ("vfio:metrics", &[][..], "`metrics`"),
        ("vfio:vfio", &[], "two sockets"),
        (
            "vfio:control",
            &["--socket-path", path],
            "leave out --socket-path",
        ),
        ("vfio:control", &["--control", path], "leave out --control"),
        ("vfio:control", &["--socket-mode", "0666"], "SocketMode="),
    ] {
        let text = refused(activated([vfio(), vfio()], names, options));
        assert!(text.contains(says), "{text}");
    }
    let text = refused(activated([vfio(), null()], "vfio:control", &[]));
    assert!(text.contains("it is no socket"), "{text}");
    let fd = |number: &str, socket: OwnedFd| {
        let script = r#"exec 7<&0 </dev/null; exec "$0" serve "$@""#;
        refused(shell(script, [socket, null()], &["--fd", number], |_| ()))
    };
    assert!(fd("8", vfio()).contains("descriptor 8 is not open"));
    assert!(fd("1", vfio()).contains("standard streams"));
    let (connection, _other) = UnixStream::pair().unwrap();
    assert!(fd("7", connection.into()).contains("not a connection"));
    // Nothing was bound to a path.
    let name = format!("manatee-test-{}", std::process::id());
    let abstract_name = SocketAddr::from_abstract_name(name).unwrap();
    let unnamed = UnixListener::bind_addr(&abstract_name).unwrap().into();
    assert!(fd("7", unnamed).contains("port 0 needs mac="));
    let mut nowhere = command();
    nowhere.args(["serve", "--port", "loopback"]);
    assert!(refused(nowhere).contains("--socket-path"));
}

#[test]
fn management_software_learns_what_the_backend_can() {
    let output = command().args(["serve", "--print-capabilities"]).output();
    let output = output.unwrap();
    assert!(output.status.success());
    let printed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../contrib/vfio-user/50-manatee.json"
    );
    let file = std::fs::read_to_string(file).unwrap();
    let file: serde_json::Value = serde_json::from_str(&file).unwrap();
    for key in ["type", "features"] {
        assert_eq!(printed[key], file[key]);
    }
    // The program with that name needs no subcommand.
    let dir = tempfile::tempdir().unwrap();
    let name = Path::new(file["binary"].as_str().unwrap())
        .file_name()
        .unwrap();
    let backend = dir.path().join(name);
    std::os::unix::fs::symlink(command().get_program(), &backend).unwrap();
    let again = Command::new(backend)
        .arg("--print-capabilities")
        .output()
        .unwrap();
    assert_eq!(again.stdout, output.stdout);
}
