//! A port that is a Unix stream socket, in a confined process.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};

use mana_wire::oob::CqeType;
use manatee_conformance::driver::Driver;
use manatee_conformance::driver::nic::Vport;
use manatee_control::Client;
use serde_json::Value;

use crate::guest::{Sending, receive, udp, wait_for, with_ports};
use crate::harness;
use crate::process::Served;

fn read(peer: &mut UnixStream) -> Vec<u8> {
    let mut length = [0; 4];
    peer.read_exact(&mut length).unwrap();
    let mut frame = vec![0; u32::from_be_bytes(length) as usize];
    peer.read_exact(&mut frame).unwrap();
    frame
}

fn write(peer: &mut UnixStream, frame: &[u8]) {
    peer.write_all(&(frame.len() as u32).to_be_bytes()).unwrap();
    peer.write_all(frame).unwrap();
}

/// Checks that frames pass both ways.
fn passes(driver: &mut Driver<'_>, vport: &mut Vport, peer: &mut UnixStream) {
    let (address, _) = vport.post_buffer(driver, 2048).unwrap();
    // The adapter has computed the checksum before the frame arrives.
    let whole = udp(100);
    let mut frame = whole.clone();
    frame[40..42].fill(0);
    let packet = Sending {
        oob: |oob| oob.with_is_outer_ipv4(true).with_comp_udp_csum(true),
        ..Sending::plain(frame)
    };
    assert_eq!(packet.send(driver, vport), CqeType::TxOkay as u8);
    assert_eq!(read(peer), whole);
    write(peer, &whole);
    assert_eq!(receive(driver, vport, address), whole);
}

fn port(served: &Served) -> Value {
    let mut client = Client::connect(&served.control()).unwrap();
    client.inspect(Some("ports/1/**".into())).unwrap()["ports"]["1"].clone()
}

fn accept(listener: &UnixListener) -> UnixStream {
    listener.accept().unwrap().0
}

#[test]
fn stream_is_connected_again_when_its_other_side_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("peer");
    let listener = UnixListener::bind(&path).unwrap();
    // The tests' frames are not addressed to the guest.
    let option = format!("--port=stream={},promiscuous=on", path.display());
    let mut served = Served::start(&[&option]);
    let mut peer = accept(&listener);
    with_ports(&served.socket(), 2, |driver, vports| {
        passes(driver, &mut vports[1], &mut peer);
        for _ in 0..2 {
            std::fs::remove_file(&path).unwrap();
            drop(peer);
            let line = served.wait_for_line("the peer has disconnected");
            assert!(line.contains("peer"), "{line}");
            served.wait_for_line("the guest's link is down");
            let shown = port(&served);
            assert_eq!(shown["link"]["state"], "down", "{shown}");
            assert_eq!(shown["counters"]["connected"], false, "{shown}");
            let listener = UnixListener::bind(&path).unwrap();
            peer = accept(&listener);
            served.wait_for_line("the guest's link is up");
            assert_eq!(port(&served)["link"]["interface"], "up");
            passes(driver, &mut vports[1], &mut peer);
        }
    });
    served.discard_log();
}

/// Serves a stream that is inherited as descriptor 9, which the test itself does not use.
fn serve_handed(dir: &Path, port: &str, socket: UnixStream) -> (std::process::Child, String) {
    let mut shell = Command::new("sh");
    shell
        .arg("-c")
        .arg("exec 9<&0 0</dev/null; exec \"$@\"")
        .arg("sh")
        .arg(env!("CARGO_BIN_EXE_manatee"))
        .args(["serve", "--port", port, "--socket-path"])
        .arg(dir.join("vfio.sock"))
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(socket)))
        .stderr(Stdio::piped());
    let mut child = shell.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    let mut log = String::new();
    while lines.read_line(&mut log).unwrap() > 0 && !log.contains("ready") {}
    std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
    (child, log)
}

#[test]
fn socket_that_is_handed_over_is_served_and_others_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (own, mut peer) = UnixStream::pair().unwrap();
    let (mut child, log) = serve_handed(dir.path(), "fd=9,type=stream,promiscuous=on", own);
    assert!(log.contains("ready"), "{log}");
    with_ports(&dir.path().join("vfio.sock"), 1, |driver, vports| {
        passes(driver, &mut vports[0], &mut peer);
    });
    child.kill().unwrap();
    child.wait().unwrap();
    let (own, _peer) = UnixStream::pair().unwrap();
    let (mut child, log) = serve_handed(dir.path(), "fd=9", own);
    assert!(!child.wait().unwrap().success());
    assert!(
        log.contains("descriptor 9: it is no queue of a TAP"),
        "{log}"
    );
    for (port, words) in [
        ("fd=77,type=stream", "descriptor 77 is not open"),
        ("stream=/nonexistent/s", "nobody answers at /nonexistent/s"),
    ] {
        let socket = dir.path().join("other.sock");
        let mut command = harness::command();
        command.args(["serve", "--port", port, "--socket-path"]);
        let output = command.arg(socket).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let log = String::from_utf8(output.stderr).unwrap();
        assert!(log.contains(words), "{log}");
    }
}

#[test]
fn two_guests_talk_over_a_pair_of_sockets() {
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let (one, other) = UnixStream::pair().unwrap();
    let [mut first, mut second] = [(&dirs[0], one), (&dirs[1], other)].map(|(dir, socket)| {
        let (child, log) = serve_handed(dir.path(), "fd=9,type=stream,promiscuous=on", socket);
        assert!(log.contains("ready"), "{log}");
        child
    });
    let [left, right] = dirs.each_ref().map(|dir| dir.path().join("vfio.sock"));
    with_ports(&left, 1, |driver, vports| {
        with_ports(&right, 1, |other, others| {
            let (address, _) = others[0].post_buffer(other, 2048).unwrap();
            let frame = udp(700);
            Sending::plain(frame.clone()).send_often(driver, &mut vports[0], 1);
            assert_eq!(receive(other, &mut others[0], address), frame);
        });
    });
    for child in [&mut first, &mut second] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    wait_for(|| std::fs::metadata(&left).is_err().then_some(()));
}
