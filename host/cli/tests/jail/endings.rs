//! How processes end, and what they leave behind.

use std::fs::File;

use rustix::process::{Pid, Signal, kill_process};

use crate::process::Served;

#[test]
fn signals_end_it_or_change_nothing_and_leave_no_socket() {
    for signal in [Signal::TERM, Signal::INT, Signal::QUIT] {
        let mut served = Served::start(&["-v"]);
        for harmless in [Signal::HUP, Signal::USR1, Signal::USR2] {
            served.signal(harmless);
            served.wait_for_line("changes nothing");
        }
        served.signal(signal);
        assert!(served.wait().success(), "{signal:?}");
        assert!(!served.socket().exists() && !served.control().exists());
    }
}

#[test]
fn one_that_is_killed_leaves_no_socket() {
    // Killed, and ended by a signal that it does not know.
    for signal in [Signal::KILL, Signal::ALARM] {
        let mut served = Served::start(&[]);
        served.signal(signal);
        assert!(!served.wait().success());
        // The log ends when the last process that may write to it has.
        served.rest_of_log();
        assert!(!served.socket().exists() && !served.control().exists());
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
    assert_eq!(told, 0, "once is enough");
}
