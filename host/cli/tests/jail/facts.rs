//! The kernel's view of confined processes.

use std::path::PathBuf;

use crate::process::{ORDINARY, Served, is_root, status, threads};

/// Checks that every thread of a process has a filter and no privileges except `capabilities`.
fn check_confined(process: u32, capabilities: &str) {
    let threads = threads(process);
    assert!(!threads.is_empty());
    for thread in threads {
        let field = |name| status(&thread, name);
        assert_eq!(field("NoNewPrivs"), "1", "{thread:?}");
        assert_eq!(field("Seccomp"), "2", "{thread:?}");
        for set in ["CapEff", "CapPrm"] {
            assert_eq!(field(set), capabilities, "{set} of {thread:?}");
        }
        for set in ["CapInh", "CapAmb"] {
            assert_eq!(field(set), NONE, "{set} of {thread:?}");
        }
    }
}

const NONE: &str = "0000000000000000";
/// CAP_DAC_OVERRIDE and CAP_FOWNER: any user may own a folder of sockets.
const OTHERS_FILES: &str = "000000000000000a";

#[test]
fn every_thread_is_confined_and_inspect_shows_it() {
    let served = Served::start(&[]);
    check_confined(served.pid(), NONE);
    assert!(threads(served.pid()).len() > 1, "it has started threads");
    let shown = served.inspect();
    let jail = &shown["jail"];
    assert_eq!(jail["no_new_privs"], true);
    assert_eq!(jail["seccomp"], "filter");
    assert_eq!(jail["capabilities"], "0x0");
    assert_eq!(jail["core_limit"], 0);
    assert!(jail["landlock_abi"].as_i64().unwrap() >= 1);
    assert_eq!(shown["broker"]["running"], true);
    let broker = served.broker();
    check_confined(broker, if is_root() { OTHERS_FILES } else { NONE });
    if is_root() {
        for process in [served.pid(), broker] {
            let process = PathBuf::from(format!("/proc/{process}"));
            let nobody = ["65534"; 4].join("\t");
            assert_eq!(status(&process, "Uid"), nobody);
            assert_eq!(status(&process, "Gid"), nobody);
            assert_eq!(status(&process, "Groups"), "");
            assert_eq!(status(&process, "CapBnd"), NONE);
        }
    }
}

#[test]
fn an_ordinary_user_is_confined_too() {
    let user = is_root().then_some(ORDINARY);
    let served = Served::start_as(user, &[]);
    check_confined(served.pid(), NONE);
    check_confined(served.broker(), NONE);
    if let Some(user) = user {
        assert_eq!(served.inspect()["jail"]["user"], user);
    }
}

#[test]
fn root_can_stay_root_without_its_privileges() {
    if !is_root() {
        // For other users `--user root` is an error: see the command's own tests.
        return;
    }
    let served = Served::start(&["--user", "root"]);
    check_confined(served.pid(), NONE);
    assert_eq!(served.inspect()["jail"]["user"], 0);
    let other = Served::start(&["--user", "12345:54321"]);
    let jail = &other.inspect()["jail"];
    assert_eq!([&jail["user"], &jail["group"]], [12345, 54321]);
}

#[test]
fn without_a_sandbox_it_says_so() {
    let mut served = Served::start(&["--no-sandbox"]);
    let line = served.wait_for_line("NOT CONFINED");
    assert!(line.contains("WARN"), "{line}");
    assert!(served.inspect()["jail"].is_null());
    let process = PathBuf::from(format!("/proc/{}", served.pid()));
    assert_eq!(status(&process, "Seccomp"), "0");
}
