//! Clients that violate the protocol.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use crate::harness::{CONFIG, Manatee, config_u32};
use crate::raw::{self, Raw};

/// Sends `bytes` over a new connection, and waits until the server closes it.
fn throw(manatee: &Manatee, bytes: &[u8]) {
    let mut raw = Raw::connect(&manatee.socket());
    // The server may close the connection before it has read everything.
    let _ = raw.send(bytes);
    raw.finish();
}

fn still_serves(manatee: &Manatee) {
    let mut client = manatee.attach();
    assert_eq!(config_u32(&mut client, 0), 0x00ba_1414);
}

#[test]
fn bad_versions_end_their_session_only() {
    let manatee = Manatee::start();
    let version = |data: &[u8]| [raw::words(&[1 << 16]), data.to_vec()].concat();
    let cases = [
        raw::message(raw::VERSION, 0, &version(b"{}\0")),
        raw::message(raw::VERSION, 0, &version(b"")),
        raw::message(raw::VERSION, 0, &version(b"no end")),
        raw::message(raw::VERSION, 0, &version(b"{\0}\0")),
        raw::message(raw::VERSION, 0, &version(b"\xff\xfe\0")),
        raw::message(
            raw::VERSION,
            0,
            &version(br#"{"capabilities":{"max_msg_fds":-1}}"#),
        ),
        raw::claiming(0, raw::VERSION, 0, &version(b"{}\0")),
        raw::claiming(16, raw::VERSION, 0, &version(b"{}\0")),
        raw::claiming(1 << 30, raw::VERSION, 0, &version(b"{}\0")),
        raw::message(raw::VERSION, raw::NO_REPLY, &version(b"{}\0")),
    ];
    for bytes in cases {
        throw(&manatee, &bytes);
        still_serves(&manatee);
    }
}

#[test]
fn messages_may_end_anywhere() {
    let manatee = Manatee::start();
    let whole = [
        raw::message(raw::DMA_MAP, 0, &raw::dma_map(3, 0, 0x1000)),
        raw::message(
            raw::REGION_WRITE,
            0,
            &[&raw::region_access(0, 0, 8)[..], &[0; 8]].concat(),
        ),
        raw::message(raw::SET_IRQS, 0, &raw::words(&[20, 33, 2, 0, 1])),
    ];
    for bytes in whole {
        for end in 0..bytes.len() {
            throw(&manatee, &bytes[..end]);
        }
    }
    still_serves(&manatee);
}

#[test]
fn absurd_sizes_and_unknown_commands_are_refused() {
    let manatee = Manatee::start();
    let mut raw = Raw::connect(&manatee.socket());
    for command in [0, 6, 11, 12, 14, 15, u16::MAX] {
        assert!(raw.ask(command, &[]).is_err(), "command {command}");
    }
    for count in [(1 << 20) + 1, 1 << 30] {
        let access = raw::region_access(0, CONFIG, count);
        assert!(raw.ask(raw::REGION_READ, &access).is_err(), "{count} bytes");
    }
    assert!(
        raw.ask(raw::REGION_READ, &raw::region_access(0, 9, 4))
            .is_err(),
        "region 9"
    );
    let all = raw
        .ask(raw::REGION_READ, &raw::region_access(0, CONFIG, 1 << 20))
        .unwrap();
    assert_eq!(all.len(), 16 + (1 << 20));
    assert_eq!(all[16..20], [0x14, 0x14, 0xba, 0x00]);
    let none = raw
        .ask(raw::REGION_READ, &raw::region_access(0, 0, 0))
        .unwrap();
    assert_eq!(none.len(), 16);
    raw.finish();
    still_serves(&manatee);
}

#[test]
fn odd_widths_and_places_of_registers_are_harmless() {
    let manatee = Manatee::start();
    let mut client = manatee.attach();
    client.region_write(CONFIG, 4, &[6, 0]).unwrap();
    for bar in [0, 2] {
        for offset in [0, 1, 7, 0xffd, 0x1ffe, u64::from(u32::MAX), u64::MAX - 2] {
            for width in [0, 1, 2, 3, 4, 5, 8, 9, 64, 5000] {
                let mut data = vec![0; width];
                client.region_read(bar, offset, &mut data).unwrap();
                client.region_write(bar, offset, &data).unwrap();
            }
        }
    }
    assert_eq!(config_u32(&mut client, 0), 0x00ba_1414);
}

/// Sends sixty random messages with a plausible header.
#[test]
fn random_messages_leave_the_server_serving() {
    let manatee = Manatee::start();
    let mut runner = TestRunner::deterministic();
    let body = prop::collection::vec(any::<u8>(), 0..64);
    let messages = prop::collection::vec((0_u16..16, 0_u32..40, 0_u32..96, body), 1..6);
    for _ in 0..60 {
        let messages = messages.new_tree(&mut runner).unwrap().current();
        let bytes: Vec<_> = messages
            .iter()
            .flat_map(|(command, flags, size, body)| raw::claiming(*size, *command, *flags, body))
            .collect();
        throw(&manatee, &bytes);
    }
    still_serves(&manatee);
    // The log is bounded.
    assert!(manatee.log().lines().count() < 200, "{}", manatee.log());
}
