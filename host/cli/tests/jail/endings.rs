//! How processes end, and what they leave behind.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;

use rustix::process::{Pid, Signal, kill_process};

use crate::process::Served;

#[test]
fn signals_end_it_or_change_nothing_and_leave_no_socket() {
    for signal in [Signal::TERM, Signal::INT, Signal::QUIT] {
        let mut served = Served::start(&[]);
        for (harmless, says) in [
            (Signal::HUP, "no configuration to read again"),
            (Signal::USR1, "SIGUSR1 changes nothing"),
            (Signal::USR2, "SIGUSR2 changes nothing"),
        ] {
            served.signal(harmless);
            served.wait_for_line(says);
        }
        for ignored in [
            Signal::CHILD,
            Signal::URG,
            Signal::WINCH,
            Signal::PIPE,
            Signal::CONT,
        ] {
            served.signal(ignored);
        }
        // These stop it, unless its process group is orphaned.
        for stopping in [Signal::TSTP, Signal::TTIN, Signal::TTOU] {
            served.signal(stopping);
            served.signal(Signal::CONT);
        }
        assert_eq!(served.inspect()["broker"]["running"], true);
        served.signal(signal);
        assert!(served.wait().success(), "{signal:?}");
        assert!(!served.socket().exists() && !served.control().exists());
    }
}

/// The signals without a handler that end a process, including a few real-time signals,
/// and the one that can't be caught.
const DEADLY: [i32; 19] = [
    libc::SIGKILL,
    libc::SIGALRM,
    libc::SIGVTALRM,
    libc::SIGPROF,
    libc::SIGIO,
    libc::SIGPWR,
    libc::SIGSTKFLT,
    libc::SIGXCPU,
    libc::SIGXFSZ,
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGABRT,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGSEGV,
    libc::SIGSYS,
    34,
    50,
    64,
];

#[test]
fn one_that_is_killed_leaves_no_socket() {
    for signal in DEADLY {
        let mut served = Served::start_confined();
        assert!(served.socket().exists() && served.control().exists());
        assert_eq!(served.end_by(signal).signal(), Some(signal));
        // The log ends with the last process that may write to it.
        served.rest_of_log();
        assert!(!served.socket().exists() && !served.control().exists());
    }
}

#[test]
fn every_signal_that_can_be_caught_is_tried() {
    let heard = [
        libc::SIGTERM,
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGHUP,
        libc::SIGUSR1,
        libc::SIGUSR2,
    ];
    let ignored = [
        libc::SIGCHLD,
        libc::SIGURG,
        libc::SIGWINCH,
        libc::SIGPIPE,
        libc::SIGCONT,
    ];
    let stopping = [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];
    let tried = [&heard[..], &ignored, &stopping, &DEADLY].concat();
    for signal in (1..32).filter(|signal| *signal != libc::SIGSTOP) {
        assert!(tried.contains(&signal), "{signal}");
    }
}

#[test]
fn what_somebody_else_put_there_stays() {
    let mut served = Served::start(&[]);
    std::fs::remove_file(served.socket()).unwrap();
    std::fs::write(served.socket(), "another's").unwrap();
    served.signal(Signal::KILL);
    served.wait();
    served.rest_of_log();
    assert!(served.socket().exists());
    assert!(!served.control().exists());
}

#[test]
fn without_its_broker_it_serves_on_and_refuses_swaps_by_name() {
    let mut served = Served::start(&[]);
    let broker = served.broker();
    kill_process(Pid::from_raw(broker as i32).unwrap(), Signal::KILL).unwrap();
    served.wait_for_line("the broker has ended");
    assert_eq!(served.inspect()["broker"]["running"], false);
    let component = served.dir().join("component.wasm");
    std::fs::write(&component, manatee_variants::NEXT).unwrap();
    let refused = served.swap("next.wasm", &File::open(component).unwrap());
    let refused = refused.unwrap_err();
    assert!(refused.contains(&format!("process {broker}")), "{refused}");
    let mut vmm = vfio_user::Client::new(&served.socket()).unwrap();
    let mut id = [0; 4];
    vmm.region_read(crate::harness::CONFIG, 0, &mut id).unwrap();
    assert_eq!(u32::from_le_bytes(id), 0x00ba_1414);
    served.signal(Signal::TERM);
    assert!(served.wait().success());
    let told = served.rest_of_log().matches("the broker has ended").count();
    assert_eq!(told, 0, "it is logged once");
}
