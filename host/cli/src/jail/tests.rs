//! The jail, from inside. Since a jail can't be left, each test starts this program again,
//! which confines itself and makes one attempt.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};

use super::escape::{Stopped, WAYS, find};
use super::*;

/// The environment variable with the order for the process inside.
const ORDER: &str = "MANATEE_JAIL_TEST";
/// The answer where landlock can't restrict TCP; seccomp forbids sockets in any case.
const UNKNOWN: &str = "not restricted before Linux 6.7";

/// Runs `inside` in a process of its own, and returns what it printed last.
fn run_inside(order: &str) -> (Output, String) {
    let output = Command::new("/proc/self/exe")
        .args(["--exact", "jail::tests::inside", "--ignored", "--nocapture"])
        .env(ORDER, order)
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let answer = printed.lines().rev().find_map(|l| l.split_once("answer: "));
    let answer = answer.map_or_else(String::new, |(_, answer)| answer.to_owned());
    (output, answer)
}

#[test]
#[ignore = "the other tests run this, each in a process of its own"]
fn inside() {
    let order = std::env::var(ORDER).expect("another test runs this one");
    let answer = match order.split_once(' ') {
        Some(("landlock", way)) => {
            landlock::restrict(&Paths::default()).unwrap();
            find(way).unwrap().attempt()
        }
        Some(("serve", way)) => in_role(Role::Server, way),
        Some(("compile", way)) => in_role(Role::Compile, way),
        Some(("check", way)) => in_role(Role::Check, way),
        Some(("landlocked", "listen")) => {
            let abi = landlock::restrict(&Paths::default()).unwrap();
            match std::net::TcpListener::bind("127.0.0.1:0") {
                Ok(_) if abi < 4 => UNKNOWN.into(),
                Ok(_) => "listens".into(),
                Err(error) => error.kind().to_string(),
            }
        }
        _ => panic!("unknown order {order}"),
    };
    println!("answer: {answer}");
    std::process::exit(0);
}

fn in_role(role: Role, way: &str) -> String {
    let mut jail = Jail::new(role);
    jail.ids = resolve(None).unwrap();
    // The test harness has a thread of its own.
    jail.confine().unwrap();
    find(way).unwrap().attempt()
}

#[test]
fn a_process_with_threads_is_not_confined_in_part() {
    std::thread::scope(|scope| {
        let (end, ended) = std::sync::mpsc::channel::<()>();
        scope.spawn(move || ended.recv());
        let refused = Jail::new(Role::Server).enter();
        assert!(matches!(refused, Err(JailError::Threads(_))), "{refused:?}");
        drop(end);
    });
}

#[test]
fn every_escape_is_stopped_by_the_expected_mechanism() {
    for way in WAYS {
        let (output, answer) = run_inside(&format!("serve {}", way.name));
        if way.stopped == Stopped::Killed {
            let signal = output.status.signal();
            assert_eq!(signal, Some(libc::SIGSYS), "to {}: {output:?}", way.aim);
        } else {
            assert!(output.status.success(), "{}: {output:?}", way.name);
            assert_eq!(answer, way.expected(), "to {}", way.aim);
        }
    }
}

#[test]
fn children_are_confined_more_strictly() {
    // A child that compiles runs none of the compiled code.
    let (_, answer) = run_inside("compile write-then-execute");
    assert_eq!(answer, "EPERM by seccomp");
    for role in ["compile", "check"] {
        for way in WAYS.iter().filter(|w| w.stopped != Stopped::Documented) {
            let (output, answer) = run_inside(&format!("{role} {}", way.name));
            if way.stopped == Stopped::Killed {
                let signal = output.status.signal();
                assert_eq!(
                    signal,
                    Some(libc::SIGSYS),
                    "{role} {}: {output:?}",
                    way.name
                );
            } else {
                assert_eq!(answer, way.expected(), "{role} {}: {output:?}", way.name);
            }
        }
    }
}

#[test]
fn landlock_alone_leaves_no_path_and_no_network() {
    let (_, answer) = run_inside("landlock open");
    assert_eq!(answer, "EACCES by landlock");
    let (_, answer) = run_inside("landlocked listen");
    let denied = std::io::ErrorKind::PermissionDenied.to_string();
    assert!([&denied, UNKNOWN].contains(&&*answer), "{answer}");
}
