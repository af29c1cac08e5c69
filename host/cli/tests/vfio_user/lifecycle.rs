//! Starting, ending, and inspection.

use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::process::{Command, Output};
use std::rc::Rc;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};

use crate::harness::{Manatee, command, config_u32, serve, wait};
use crate::raw::{self, Raw};

fn error_of(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    let line = text.lines().find(|line| line.starts_with("error: "));
    line.unwrap_or_else(|| panic!("no error in {text}"))
        .to_owned()
}

#[test]
fn signals_remove_the_sockets_and_exit_with_success() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut manatee = Manatee::start();
        assert!(manatee.socket().metadata().unwrap().file_type().is_socket());
        let control = manatee.control().metadata().unwrap();
        assert_eq!(control.permissions().mode() & 0o777, 0o600);
        manatee.signal(signal);
        assert_eq!(manatee.wait().code(), Some(0), "{}", manatee.log());
        assert!(!manatee.socket().exists() && !manatee.control().exists());
    }
}

#[test]
fn socket_is_for_its_owner_unless_others_are_named() {
    let own = rustix::process::getegid().as_raw();
    let group = own.to_string();
    let cases: [(&[&str], u32); 4] = [
        (&[], 0o600),
        (&["--socket-mode", "0666"], 0o666),
        (&["--socket-group", &group], 0o660),
        (&["--socket-group", &group, "--socket-mode", "620"], 0o620),
    ];
    for (arguments, mode) in cases {
        let dir = Rc::new(tempfile::tempdir().unwrap());
        let served = serve(&dir.path().join("vfio.sock"));
        let mut command = Command::new("sh");
        command.args(["-c", r#"umask 0; exec "$0" "$@""#]);
        command.arg(served.get_program()).args(served.get_args());
        command.args(arguments);
        let manatee = Manatee::start_by(dir, command);
        let file = manatee.socket().metadata().unwrap();
        let found = (file.permissions().mode() & 0o7777, file.gid());
        assert_eq!(found, (mode, own), "{arguments:?}");
        assert_eq!(config_u32(&mut manatee.attach(), 0), 0x00ba_1414);
    }
}

#[test]
fn invalid_access_options_are_explained() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    for (option, value, says) in [
        ("--socket-mode", "rw", "octal"),
        ("--socket-mode", "1777", "octal"),
        ("--socket-group", "no-such-group", "number"),
    ] {
        let output = serve(&socket).args([option, value]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{option} {value}");
        assert!(error_of(&output).contains(says), "{}", error_of(&output));
    }
    assert!(!socket.exists());
}

#[test]
fn attached_vmm_does_not_keep_it_from_ending() {
    let mut manatee = Manatee::start();
    let _idle = manatee.attach();
    let mut busy = Raw::connect(&manatee.socket());
    busy.send(&raw::message(raw::RESET, 0, &[])[..8]).unwrap();
    manatee.signal(Signal::TERM);
    assert_eq!(manatee.wait().code(), Some(0), "{}", manatee.log());
    assert!(!manatee.socket().exists());
    assert!(!manatee.log().contains("leaving it"), "{}", manatee.log());
}

#[test]
fn live_socket_is_never_taken() {
    let manatee = Manatee::start();
    for _ in 0..2 {
        let late = serve(&manatee.socket()).output().unwrap();
        assert_eq!(late.status.code(), Some(1));
        let error = error_of(&late);
        assert!(
            error.contains(manatee.socket().to_str().unwrap()),
            "{error}"
        );
        assert!(error.contains("choose another"), "{error}");
    }
    assert_eq!(config_u32(&mut manatee.attach(), 0), 0x00ba_1414);
    // Not even while a VMM is attached.
    let mut client = manatee.attach();
    assert_eq!(
        serve(&manatee.socket()).output().unwrap().status.code(),
        Some(1)
    );
    assert_eq!(config_u32(&mut client, 0), 0x00ba_1414);
}

#[test]
fn stale_socket_is_replaced_and_other_files_are_not() {
    let dir = Rc::new(tempfile::tempdir().unwrap());
    drop(UnixListener::bind(dir.path().join("vfio.sock")).unwrap());
    drop(UnixListener::bind(dir.path().join("control.sock")).unwrap());
    let manatee = Manatee::start_in(dir);
    assert_eq!(config_u32(&mut manatee.attach(), 0), 0x00ba_1414);

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    let refused = serve(&file).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        error_of(&refused).contains("not a socket"),
        "{}",
        error_of(&refused)
    );
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
}

/// Opens the process that removes the sockets of a server, to wait for its end.
fn open_broker(manatee: &Manatee) -> OwnedFd {
    let id = manatee.inspect()["process"]["broker"]["id"]
        .as_i64()
        .unwrap();
    let id = Pid::from_raw(id as i32).unwrap();
    pidfd_open(id, PidfdFlags::empty()).unwrap()
}

fn wait_for_end(process: &OwnedFd) {
    let mut fds = [PollFd::new(process, PollFlags::IN)];
    assert_eq!(poll(&mut fds, None).unwrap(), 1);
}

#[test]
fn killed_server_is_followed_by_another_that_keeps_its_sockets() {
    let dir = Rc::new(tempfile::tempdir().unwrap());
    let mut manatee = Manatee::start_in(dir.clone());
    let broker = open_broker(&manatee);
    manatee.signal(Signal::KILL);
    assert_eq!(manatee.wait().code(), None);
    let next = Manatee::start_in(dir);
    wait_for_end(&broker);
    assert_eq!(config_u32(&mut next.attach(), 0), 0x00ba_1414);
    assert_eq!(next.inspect()["pci"]["identity"]["device"], "00ba");
}

#[test]
fn inspect_shows_the_live_tree() {
    let manatee = Manatee::start();
    let mut client = manatee.attach();
    let inspect = |pattern: Option<&str>| {
        let mut inspect = command();
        inspect
            .arg("inspect")
            .arg("--control")
            .arg(manatee.control())
            .args(pattern);
        inspect.output().unwrap()
    };
    let tree = manatee.inspect();
    assert_eq!(tree["pci"]["identity"]["device"], "00ba", "{tree:#}");
    assert_eq!(tree["pci"]["bus_master"], false);
    client.region_write(7, 4, &[6, 0]).unwrap();

    let part = inspect(Some("pci/bus_*"));
    assert!(part.status.success());
    let part: serde_json::Value = serde_json::from_slice(&part.stdout).unwrap();
    assert_eq!(part, serde_json::json!({ "pci": { "bus_master": true } }));

    let nothing = inspect(Some("pci/nonsense"));
    assert_eq!(nothing.status.code(), Some(7), "it does not exist");
    assert!(error_of(&nothing).contains("nothing matches `pci/nonsense`"));
    assert!(inspect(None).status.success());
}

#[test]
fn mistakes_on_the_command_line_are_explained() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let usage = |port: &str| {
        let mut child = command();
        let child = child
            .arg("serve")
            .arg("--socket")
            .arg(&socket)
            .args(["--port", port]);
        child.output().unwrap()
    };
    for (port, says) in [
        ("loopback,mac=ff:ff:ff:ff:ff:ff", "multicast"),
        ("loopback,mac=02:00", "six bytes"),
        ("loopback,mtu=1", "68 to 65521"),
        ("eth0", "tap=INTERFACE"),
    ] {
        let output = usage(port);
        assert_eq!(output.status.code(), Some(2), "{port}");
        assert!(error_of(&output).contains(says), "{}", error_of(&output));
    }
    assert!(!socket.exists());
    let nobody = command()
        .arg("inspect")
        .arg("--control")
        .arg(&socket)
        .output()
        .unwrap();
    assert_eq!(nobody.status.code(), Some(6));
    assert!(error_of(&nobody).contains(socket.to_str().unwrap()));
}

#[test]
fn describe_names_the_device() {
    let text = command().arg("describe").output().unwrap();
    assert!(text.status.success());
    assert!(String::from_utf8_lossy(&text.stdout).contains("1414:00ba"));
    let json = command().args(["describe", "--json"]).output().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["pci"]["vendor"], "1414");
    assert_eq!(json["metadata"]["licences"], "MIT");
    let digest = manatee::component::Digest::of(manatee_component::BYTES);
    assert_eq!(json["sha256"], digest.to_string());
    let imports = json["imports"].as_array().unwrap();
    let ours = |name: &serde_json::Value| name.as_str().unwrap().starts_with("manatee:device/");
    assert!(
        !imports.is_empty() && imports.iter().all(ours),
        "{imports:?}"
    );

    let file = tempfile::NamedTempFile::new().unwrap();
    let not_wasm = command().arg("describe").arg(file.path()).output().unwrap();
    assert_eq!(not_wasm.status.code(), Some(1));
    assert!(error_of(&not_wasm).contains(file.path().to_str().unwrap()));
}

#[test]
fn too_many_ports_leave_no_socket_behind() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let mut child = serve(&socket);
    child
        .args(["--port", "null"].repeat(5000))
        .stderr(std::process::Stdio::piped());
    let mut child = child.spawn().unwrap();
    assert_eq!(wait(&mut child).code(), Some(1));
    assert!(!socket.exists());
}
