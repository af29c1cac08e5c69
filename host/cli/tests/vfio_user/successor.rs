//! A successor that is started while its predecessor serves.

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{command, config_u16};
use crate::interrupts::{NONE, TRIGGER, set, taken};
use crate::restart::{Kept, attached, script};

#[test]
fn program_that_can_not_rehearse_leaves_the_old_one_serving() {
    let kept = Kept::start(&[]);
    let (mut client, fds) = attached(&kept);
    let process = kept.process();
    let facts = r#"echo '{"version":"9","hand_over":{"writes":2,"reads":2,"stands_by":true}}'"#;
    let body = format!("case $1 in hand-over-facts) {facts};; *) exit 7;; esac");
    let text = kept.refused(&script(&kept, "broken", &body));
    assert!(text.contains("version 9 can't take over"), "{text}");
    assert!(text.contains("exit status: 7"), "{text}");
    // A successor with other options reports itself why it can't take over.
    let own = command().get_program().to_owned();
    let body = format!(
        "case $1 in hand-over-facts) {facts};; *) exec {} serve --port null --port null \
         --socket-path {} --control {};; esac",
        own.display(),
        kept.path("vfio").display(),
        kept.path("control").display()
    );
    let text = kept.refused(&script(&kept, "other", &body));
    assert!(
        text.contains("a device with 1 ports, and this one has 2"),
        "{text}"
    );
    assert_eq!(kept.process(), process, "it never stopped serving");
    assert_eq!(kept.inspect()["runtime"]["hand_over_count"], 0);
    set(&mut client, NONE | TRIGGER, 0, 1);
    assert_eq!(taken(&fds[0]), 1);
    assert!(kept.path("vfio").exists() && kept.path("control").exists());
    assert_eq!(kept.upgraded()["rehearsed"], true);
    assert_eq!(config_u16(&mut client, 4), 6);
}

#[test]
fn program_that_dies_in_its_probation_is_followed_by_the_one_before() {
    let kept = Kept::start(&[]);
    let own = std::fs::canonicalize(command().get_program()).unwrap();
    let copy = kept.path("manatee-copy");
    std::fs::copy(&own, &copy).unwrap();
    let program = || std::fs::read_link(format!("/proc/{}/exe", kept.process())).unwrap();
    assert_eq!(program(), own);
    kept.upgraded_to(&["--program", copy.to_str().unwrap()]);
    assert_eq!(program(), copy);
    let process = kept.process();
    let pid = Pid::from_raw(process.cast_signed()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    while std::fs::metadata(format!("/proc/{process}")).is_ok()
        || manatee_control::Client::connect(&kept.path("control")).is_err()
    {
        std::thread::yield_now();
    }
    assert_eq!(program(), own, "{}", kept.log());
    assert!(kept.log().contains("is started again"), "{}", kept.log());
}

#[test]
fn metrics_are_at_the_same_address_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("metrics");
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    for place in [path.to_str().unwrap(), &address] {
        let kept = Kept::start_with(&[], &["--port", "loopback", "--metrics", place]);
        for _ in 0..2 {
            assert_eq!(kept.upgraded()["rehearsed"], true);
            let connected = match place.contains('/') {
                true => std::os::unix::net::UnixStream::connect(place).map(|_| ()),
                false => std::net::TcpStream::connect(place).map(|_| ()),
            };
            connected.unwrap();
        }
    }
    assert!(!path.exists(), "the last one has removed it");
}

#[test]
fn stream_has_one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("stream");
    let peer = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let port = format!("stream={}", path.display());
    let kept = Kept::start_with(&[], &["--port", &port]);
    let first = peer.accept().unwrap().0;
    let upgraded = kept.upgraded();
    assert_eq!(upgraded["rehearsed"], false);
    assert_eq!(upgraded["handed_over"], true);
    let mut rest = Vec::new();
    std::io::Read::read_to_end(&mut &first, &mut rest).unwrap();
    peer.accept().unwrap();
}
