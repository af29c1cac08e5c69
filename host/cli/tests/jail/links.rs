//! Links that follow their TAPs, from inside the jail.
//!
//! Each test has a network namespace of its own; nothing leaves it.

use std::fs::File;
use std::process::Command;

use manatee_control::method::{LinkStatus, RateSetting, UpDown};
use manatee_control::{Client, ClientError, Code, LinkSetting};
use rustix::thread::UnshareFlags;
use serde_json::{Value, json};

use crate::harness;
use crate::process::{Served, is_root};

const TAP: &str = "tap-link";

/// Runs a test in a network namespace of its own. Only root may create one.
pub fn in_namespace(test: impl FnOnce() + Send) {
    if !is_root() {
        return;
    }
    let isolated = || {
        // The deprecated function is the safe one; its successor is unsafe because of another
        // flag.
        #[expect(deprecated)]
        rustix::thread::unshare(UnshareFlags::NEWNET).unwrap();
        test();
    };
    // A namespace applies to one thread, and to its children.
    let outcome = std::thread::scope(|scope| scope.spawn(isolated).join());
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    let output = output.expect("this needs `ip`: apt-get install iproute2");
    assert!(output.status.success(), "ip {arguments}: {output:?}");
}

/// Serves a loopback as port 0, and a TAP that is up as port 1.
fn serve() -> Served {
    ip(&format!("tuntap add dev {TAP} mode tap"));
    ip(&format!("link set {TAP} up"));
    Served::start(&["--port", &format!("tap={TAP}")])
}

fn tree(served: &Served) -> Value {
    let mut client = Client::connect(&served.control()).unwrap();
    client.inspect(None).unwrap()
}

/// Checks the link of port 1, as the host and as the device see it.
fn check(served: &Served, expected: &Value) {
    let tree = tree(served);
    assert_eq!(&tree["ports"]["1"]["link"], expected);
    let up = expected["state"] == "up";
    assert_eq!(tree["device"]["nic"]["vports"]["1"]["link_up"], up);
    assert_eq!(tree["device"]["nic"]["vports"]["0"]["link_up"], true);
}

fn link(state: &str, forced: Option<&str>, interface: &str, mtu: u16) -> Value {
    json!({
        "port": 1,
        "state": state,
        "forced": forced,
        "interface": interface,
        "interface_mtu": mtu,
    })
}

fn set(served: &Served, port: u32, setting: LinkSetting) -> Result<LinkStatus, ClientError> {
    Client::connect(&served.control())?.link(port, Some(setting))
}

#[test]
fn link_follows_its_tap() {
    in_namespace(|| {
        let mut served = serve();
        check(&served, &link("up", None, "up", 1500));
        ip(&format!("link set {TAP} down"));
        served.wait_for_line("the guest's link is down");
        check(&served, &link("down", None, "down", 1500));
        // A component that takes over has the same state.
        let component = served.dir().join("next.wasm");
        std::fs::write(&component, manatee_variants::NEXT).unwrap();
        served
            .swap("next.wasm", &File::open(component).unwrap())
            .unwrap();
        check(&served, &link("down", None, "down", 1500));
        ip(&format!("link set {TAP} up"));
        served.wait_for_line("the guest's link is up");
        check(&served, &link("up", None, "up", 1500));
        // The guest keeps the MTU that it got at the start.
        ip(&format!("link set {TAP} mtu 9000"));
        served.wait_for_line("the interface's MTU has changed");
        check(&served, &link("up", None, "up", 9000));
        assert_eq!(tree(&served)["ports"]["1"]["mtu"], 1500);
        ip(&format!("link delete {TAP}"));
        served.wait_for_line("the interface was deleted");
        set(&served, 1, LinkSetting::Auto).unwrap();
        check(&served, &link("down", None, "gone", 9000));
        served.signal(rustix::process::Signal::TERM);
        assert!(served.wait().success());
        let rest = served.rest_of_log();
        assert!(!rest.contains("deleted"), "it is logged once: {rest}");
    });
}

#[test]
fn tap_that_is_down_at_the_start_has_no_link() {
    in_namespace(|| {
        // It is created, and left down.
        let mut served = Served::start(&["--port", &format!("tap={TAP}")]);
        served.wait_for_line("the guest's link is down");
        check(&served, &link("down", None, "down", 1500));
        ip(&format!("link set {TAP} up"));
        served.wait_for_line("the guest's link is up");
        check(&served, &link("up", None, "up", 1500));
    });
}

#[test]
fn operator_overrides_the_interface() {
    in_namespace(|| {
        let mut served = serve();
        let down = set(&served, 1, LinkSetting::Down).unwrap();
        assert_eq!((down.state, down.port), (UpDown::Down, 1));
        check(&served, &link("down", Some("down"), "up", 1500));
        set(&served, 1, LinkSetting::Up).unwrap();
        ip(&format!("link set {TAP} down"));
        served.wait_for_line("the interface is down");
        check(&served, &link("up", Some("up"), "down", 1500));
        set(&served, 1, LinkSetting::Auto).unwrap();
        check(&served, &link("down", None, "down", 1500));
        let Err(ClientError::Refused(refusal)) = set(&served, 2, LinkSetting::Up) else {
            panic!("there is no port 2");
        };
        assert_eq!(refusal.code, Code::NotFound);
        assert!(refusal.message.contains("0 to 1"), "{refusal}");
    });
}

#[test]
fn command_shows_and_sets_a_link() {
    let served = Served::start(&[]);
    let run = |words: &[&str]| {
        let mut command = harness::command();
        command.arg("link").arg("--control").arg(served.control());
        let output = command.args(words).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        (output.status.code(), text)
    };
    let up = "port 0: up (it has no interface to follow)\n".to_owned();
    assert_eq!(run(&["0"]), (Some(0), up.clone()));
    let down = "port 0: down (set by an operator)\n".to_owned();
    assert_eq!(run(&["0", "down"]), (Some(0), down));
    let (code, text) = run(&["0", "--json"]);
    let shown: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &shown["forced"]), (Some(0), &json!("down")));
    assert_eq!(run(&["0", "auto"]), (Some(0), up));
    assert_eq!(run(&["1"]), (Some(7), String::new()));
    assert_eq!(run(&["0", "sideways"]), (Some(2), String::new()));
}

#[test]
fn command_shows_and_sets_a_rate_that_a_swap_and_a_reset_leave() {
    let served = Served::start(&[]);
    let run = |words: &[&str]| {
        let mut command = harness::command();
        command.arg("rate").arg("--control").arg(served.control());
        let output = command.args(words).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), text + &error)
    };
    let said = |text: &str| (Some(0), format!("port 0: {text}\n"));
    assert_eq!(run(&["0"]), said("no limit"));
    assert_eq!(run(&["0", "100"]), said("100 Mbit/s (set by an operator)"));
    let component = served.dir().join("next.wasm");
    std::fs::write(&component, manatee_variants::NEXT).unwrap();
    let component = File::open(component).unwrap();
    served.swap("next.wasm", &component).unwrap();
    // A VMM that attaches and detaches resets the device.
    drop(vfio_user::Client::new(&served.socket()).unwrap());
    let (code, text) = run(&["0", "--json"]);
    let shown: Value = serde_json::from_str(&text).unwrap();
    let expected = json!({
        "port": 0, "rate_mbps": 100, "operator_mbps": 100, "guest_mbps": null,
    });
    assert_eq!((code, shown), (Some(0), expected));
    assert_eq!(tree(&served)["ports"]["0"]["operator_rate_mbps"], 100);
    assert_eq!(run(&["0", "off"]), said("no limit"));
    let (code, text) = run(&["1", "100"]);
    assert!(
        code == Some(7) && text.contains("0 to 0"),
        "{code:?} {text}"
    );
    for wrong in ["0", "1000001", "x"] {
        let (code, text) = run(&["0", wrong]);
        let way_out = text.contains("`manatee link PORT down`");
        assert!(code == Some(2) && way_out, "{code:?} {text}");
    }
    // Requests of other clients are checked too.
    let mut client = Client::connect(&served.control()).unwrap();
    for wrong in [0, 1_000_001] {
        let refused = client.rate(0, Some(RateSetting::Mbps(wrong)));
        let Err(ClientError::Refused(refusal)) = refused else {
            panic!("{wrong} was accepted");
        };
        assert_eq!(refusal.code, Code::InvalidParams);
        assert!(refusal.message.contains("set no rate"), "{refusal}");
    }
}

#[test]
fn settings_of_a_port_are_shown() {
    let port = "null,mac=02:00:00:00:00:09,rate=10,spoof-check=on,vlans=1,5-9,queues=2";
    let served = Served::start(&["--port", port]);
    let tree = tree(&served);
    let shown = &tree["ports"]["1"];
    assert_eq!(shown["operator_rate_mbps"], 10);
    let policy = json!({ "spoof_check": true, "promiscuous": true, "vlans": "1,5-9" });
    assert_eq!(shown["policy"], policy);
    assert_eq!(shown["counters"]["counters"]["refused"]["source"], 0);
    assert_eq!(tree["ports"]["0"]["policy"], Value::Null, "it has none");
}
