//! Captures of a confined process, decoded by tshark, and readers that misbehave.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};

use mana_wire::oob::CqeType;
use manatee_control::{Capture, Client, ClientError, Code};
use rustix::process::{Pid, Signal, kill_process};

use crate::guest::{Sending, receive, tcp, udp, wait_for, with_ports};
use crate::harness;
use crate::process::Served;

/// Returns tshark, set up if it is missing.
fn tshark() -> Command {
    static SETUP: Mutex<()> = Mutex::new(());
    let _only = SETUP.lock().unwrap_or_else(PoisonError::into_inner);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let setup = Command::new(root.join("scripts/setup.sh"))
        .arg("tshark")
        .stdout(Stdio::null())
        .status();
    assert!(setup.unwrap().success(), "scripts/setup.sh tshark");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), PathBuf::from);
    Command::new(target.join("tools/bin/tshark"))
}

/// Returns fields of all packets of a capture, as tshark decodes them.
fn decode(capture: &[u8], fields: &[&str]) -> Vec<String> {
    let mut command = tshark();
    command.args(["-n", "-r", "-", "-T", "fields", "-E", "separator= "]);
    for protocol in ["ip", "tcp", "udp"] {
        command
            .arg("-o")
            .arg(format!("{protocol}.check_checksum:TRUE"));
    }
    for field in fields {
        command.args(["-e", field]);
    }
    let mut tshark = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = tshark.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || input.write_all(capture).unwrap());
        tshark.wait_with_output().unwrap()
    });
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// A running `manatee capture`.
struct Capturing {
    command: Child,
    begun: Vec<u8>,
}

impl Capturing {
    fn start(served: &Served, words: &[&str]) -> Self {
        let mut command = capture(served, words);
        let mut command = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut begun = vec![0; 4];
        // The file's header is written once the port is captured.
        let out = command.stdout.as_mut().unwrap();
        out.read_exact(&mut begun).unwrap();
        Self { command, begun }
    }

    /// Ends it as Ctrl-C does. Returns the capture, and the command's messages.
    fn end(self) -> (Vec<u8>, String) {
        kill_process(Pid::from_child(&self.command), Signal::INT).unwrap();
        let output = self.command.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let words = String::from_utf8(output.stderr).unwrap();
        ([self.begun, output.stdout].concat(), words)
    }
}

fn capture(served: &Served, words: &[&str]) -> Command {
    let mut command = harness::command();
    command
        .arg("capture")
        .arg("--control")
        .arg(served.control())
        .args(words);
    command
}

fn run(served: &Served, words: &[&str]) -> Output {
    capture(served, words).output().unwrap()
}

fn asked(port: u32) -> Capture {
    Capture {
        port,
        snaplen: 2000,
        ring_bytes: 1 << 20,
    }
}

#[test]
fn packets_are_decoded_as_they_were_sent() {
    let served = Served::start(&["--port=loopback,mtu=65521", "--port=null"]);
    served.discard_log();
    with_ports(&served.socket(), 3, |driver, vports| {
        let captures = ["0", "1", "2"].map(|port| Capturing::start(&served, &[port]));
        // A checksum for the adapter to compute, and a tag to insert.
        let mut frame = udp(100);
        frame[40..42].fill(0);
        let tagged = Sending {
            oob: |oob| oob.with_is_outer_ipv4(true).with_comp_udp_csum(true),
            tag: Some(77),
            ..Sending::plain(frame)
        };
        let (small, _) = vports[0].post_buffer(driver, 2048).unwrap();
        assert_eq!(tagged.send(driver, &mut vports[0]), CqeType::TxOkay as u8);
        receive(driver, &mut vports[0], small);
        // A packet of the maximum length.
        let long = Sending::plain(udp(65_000));
        let (large, _) = vports[1].post_buffer(driver, 65_600).unwrap();
        assert_eq!(long.send(driver, &mut vports[1]), CqeType::TxOkay as u8);
        assert_eq!(receive(driver, &mut vports[1], large), long.frame);
        // A packet for segmentation, with a length of 0, as Linux passes it.
        let mut frame = tcp(6000);
        frame[16..18].fill(0);
        let cut = Sending {
            oob: |oob| {
                let oob = oob.with_is_outer_ipv4(true).with_comp_iphdr_csum(true);
                oob.with_comp_tcp_csum(true).with_trans_off(34)
            },
            cut: Some((54, 1448)),
            ..Sending::plain(frame)
        };
        assert_eq!(cut.send(driver, &mut vports[2]), CqeType::TxOkay as u8);
        let [tagged, long, cut] = captures.map(|capture| {
            let (file, words) = capture.end();
            assert!(words.contains("captured, 0 dropped"), "{words}");
            file
        });
        let about = [
            "frame.packet_flags_direction",
            "frame.interface_queue",
            "frame.len",
            "frame.cap_len",
            "vlan.id",
            "udp.checksum.status",
        ];
        let lines = ["0x00000002 0 146 146 77 1", "0x00000001 0 146 146 77 1"];
        assert_eq!(decode(&tagged, &about), lines);
        let lines = ["0x00000002 0 65042 65042  1", "0x00000001 0 65042 65042  1"];
        assert_eq!(decode(&long, &about), lines);
        let about = ["ip.len", "ip.checksum.status", "tcp.len", "frame.len"];
        assert_eq!(decode(&cut, &about), ["6040 1 6000 6054"]);
        let names = decode(&cut, &["frame.interface_name", "eth.src", "eth.dst"]);
        assert_eq!(
            names,
            ["port\\ 2\\ (null) 02:00:00:00:00:01 02:00:00:00:00:02"]
        );
    });
}

#[test]
fn times_are_exact_and_in_order_and_packets_are_cut() {
    let served = Served::start(&["--port=null"]);
    served.discard_log();
    with_ports(&served.socket(), 2, |driver, vports| {
        let capture = Capturing::start(&served, &["1", "--snaplen=60", "--ring=1"]);
        Sending::plain(udp(1000)).send_often(driver, &mut vports[1], 50);
        let (file, words) = capture.end();
        assert!(
            words.starts_with("50 packets captured, 0 dropped"),
            "{words}"
        );
        let fields = [
            "frame.time_epoch",
            "frame.len",
            "frame.cap_len",
            "udp.length",
        ];
        let lines = decode(&file, &fields);
        assert_eq!(lines.len(), 50);
        assert!(lines.is_sorted());
        assert!(lines.iter().all(|line| line.ends_with(" 1042 60 1008")));
        let fraction = |line: &String| {
            let (time, _) = line.split_once(' ').unwrap();
            time.split_once('.').unwrap().1.to_owned()
        };
        assert!(lines.iter().all(|line| fraction(line).len() == 9));
        assert!(lines.iter().any(|line| !fraction(line).ends_with("000")));
    });
}

#[test]
fn slow_reader_loses_packets_which_are_counted_and_keeps_nobody_waiting() {
    const SENT: usize = 1500;
    let served = Served::start(&["--port=null"]);
    served.discard_log();
    with_ports(&served.socket(), 2, |driver, vports| {
        let mut client = Client::connect(&served.control()).unwrap();
        let (capturing, pipe) = client.capture(asked(1)).unwrap();
        Sending::plain(udp(1400)).send_often(driver, &mut vports[1], SENT);
        let counts = || {
            let mut client = Client::connect(&served.control()).unwrap();
            let tree = client.inspect(Some("ports/1/capture/*".into())).unwrap();
            let shown = tree["ports"]["1"]["capture"].clone();
            assert_eq!(shown["capture"], capturing.capture);
            ["packets", "dropped"].map(|name| shown[name].as_u64().unwrap())
        };
        let [before, dropped] = counts();
        assert!(dropped > 0);
        // Reading makes room again.
        let (mut pipe, mut file) = (File::from(pipe), Vec::new());
        let mut sent = SENT as u64;
        while counts()[0] == before {
            let begin = file.len();
            file.resize(begin + (32 << 10), 0);
            pipe.read_exact(&mut file[begin..]).unwrap();
            Sending::plain(udp(1400)).send_often(driver, &mut vports[1], 1);
            sent += 1;
        }
        let captured = client.end_capture(capturing.capture).unwrap();
        // It is still being read.
        let busy = client.capture(asked(1)).unwrap_err();
        assert!(busy.to_string().contains("still read"), "{busy}");
        pipe.read_to_end(&mut file).unwrap();
        assert_eq!(captured.packets + captured.dropped, sent, "{captured:?}");
        let drops = decode(&file, &["frame.drop_count"]);
        assert_eq!(drops.len() as u64, captured.packets);
        let told: u64 = drops
            .iter()
            .filter_map(|count| count.parse::<u64>().ok())
            .sum();
        assert_eq!(told, captured.dropped);
    });
}

#[test]
fn one_captures_a_port_at_a_time_until_nobody_reads() {
    let more = ["--port=null"; 5];
    let served = Served::start(&more);
    served.discard_log();
    let mut client = Client::connect(&served.control()).unwrap();
    let mut refused = |asked| match client.capture(asked) {
        Err(ClientError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    };
    let first = Capturing::start(&served, &["0"]);
    let busy = run(&served, &["0"]);
    assert_eq!(busy.status.code(), Some(4), "{busy:?}");
    assert!(String::from_utf8_lossy(&busy.stderr).contains("captured already"));
    let others = ["1", "2", "3"].map(|port| Capturing::start(&served, &[port]));
    assert_eq!(refused(asked(4)).code, Code::TooMany);
    assert_eq!(run(&served, &["9"]).status.code(), Some(4));
    drop(others.map(Capturing::end));
    let nothing = run(&served, &["9"]);
    assert_eq!(nothing.status.code(), Some(7), "{nothing:?}");
    assert!(String::from_utf8_lossy(&nothing.stderr).contains("the device has 0 to 5"));
    for (snaplen, ring_bytes) in [(13, 1 << 20), (262_145, 1 << 20), (64, 0), (64, u64::MAX)] {
        let port = 4;
        let asked = Capture {
            port,
            snaplen,
            ring_bytes,
        };
        assert_eq!(refused(asked).code, Code::InvalidParams, "{asked:?}");
    }
    for wrong in ["--snaplen=13", "--ring=0", "--ring=65"] {
        assert_eq!(run(&served, &["4", wrong]).status.code(), Some(2));
    }
    // The reader is killed.
    let Capturing { mut command, .. } = first;
    command.kill().unwrap();
    command.wait().unwrap();
    let mut client = Client::connect(&served.control()).unwrap();
    let (_, pipe) = wait_for(|| client.capture(asked(0)).ok());
    drop(pipe);
    let (again, pipe) = wait_for(|| client.capture(asked(0)).ok());
    client.end_capture(again.capture).unwrap();
    drop(pipe);
    wait_for(|| client.capture(asked(0)).ok());
    let gone = client.end_capture(again.capture).unwrap_err();
    assert!(gone.to_string().contains("it has ended"), "{gone}");
}

#[test]
fn full_disks_and_closed_pipes_end_a_capture() {
    let served = Served::start(&["--port=null"]);
    served.discard_log();
    let full = run(&served, &["0", "-w", "/dev/full"]);
    assert_eq!(full.status.code(), Some(1));
    let words = String::from_utf8(full.stderr).unwrap();
    assert!(
        words.contains("writing /dev/full: the capture has ended"),
        "{words}"
    );
    assert!(words.contains("No space left"), "{words}");
    let nowhere = run(&served, &["0", "-w", "/nonexistent/file"]);
    assert_eq!(nowhere.status.code(), Some(1));
    with_ports(&served.socket(), 2, |driver, vports| {
        let mut closed = Capturing::start(&served, &["1"]);
        drop(closed.command.stdout.take());
        // The next packet detects it.
        wait_for(|| {
            Sending::plain(udp(10)).send_often(driver, &mut vports[1], 1);
            closed.command.try_wait().unwrap()
        });
        let output = closed.command.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
    });
}

#[test]
fn capture_outlives_its_device() {
    let mut served = Served::start(&[]);
    let capture = Capturing::start(&served, &["0"]);
    served.signal(Signal::TERM);
    assert!(served.wait().success());
    let output = capture.command.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let words = String::from_utf8(output.stderr).unwrap();
    assert!(words.contains("the capture has ended"), "{words}");
    assert!(decode(&[capture.begun, output.stdout].concat(), &["frame.len"]).is_empty());
}
