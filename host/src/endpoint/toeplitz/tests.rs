//! Microsoft's published values: "Verifying the RSS hash calculation"
//! (learn.microsoft.com, windows-hardware/drivers/network).

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

/// The key of the published values.
pub const KEY: [u8; KEY_BYTES] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0,
    0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c,
    0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
];

/// An endpoint of a connection: address and port.
type End = (&'static str, u16);

/// Destination, source, the hash of the addresses, and that with the ports.
pub const IPV4: [(End, End, u32, u32); 5] = [
    (
        ("161.142.100.80", 1766),
        ("66.9.149.187", 2794),
        0x323e_8fc2,
        0x51cc_c178,
    ),
    (
        ("65.69.140.83", 4739),
        ("199.92.111.2", 14230),
        0xd718_262a,
        0xc626_b0ea,
    ),
    (
        ("12.22.207.184", 38024),
        ("24.19.198.95", 12898),
        0xd2d0_a5de,
        0x5c2b_394a,
    ),
    (
        ("209.142.163.6", 2217),
        ("38.27.205.30", 48228),
        0x8298_9176,
        0xafc7_327f,
    ),
    (
        ("202.188.127.2", 1303),
        ("153.39.163.191", 44251),
        0x5d18_09c5,
        0x10e8_28a2,
    ),
];

/// The same for IPv6.
pub const IPV6: [(End, End, u32, u32); 3] = [
    (
        ("3ffe:2501:200:3::1", 1766),
        ("3ffe:2501:200:1fff::7", 2794),
        0x2cc1_8cd5,
        0x4020_7d3d,
    ),
    (
        ("ff02::1", 4739),
        ("3ffe:501:8::260:97ff:fe40:efab", 14230),
        0x0f0c_461c,
        0xdde5_1bbf,
    ),
    (
        ("fe80::200:f8ff:fe21:67cf", 38024),
        ("3ffe:1900:4545:3:200:f8ff:fe21:67cf", 44251),
        0x4b61_e985,
        0x02d1_feef,
    ),
];

fn ports(source: u16, destination: u16) -> Vec<u8> {
    [source.to_be_bytes(), destination.to_be_bytes()].concat()
}

#[test]
fn published_values_of_ipv4() {
    let toeplitz = Toeplitz::new(&KEY);
    for (destination, source, of_addresses, with_ports) in IPV4 {
        let octets = |end: End| end.0.parse::<Ipv4Addr>().unwrap().octets();
        let addresses = [octets(source), octets(destination)].concat();
        assert_eq!(toeplitz.hash(&addresses, &[]), of_addresses, "{source:?}");
        let ports = ports(source.1, destination.1);
        assert_eq!(toeplitz.hash(&addresses, &ports), with_ports, "{source:?}");
    }
}

#[test]
fn published_values_of_ipv6() {
    let toeplitz = Toeplitz::new(&KEY);
    for (destination, source, of_addresses, with_ports) in IPV6 {
        let octets = |end: End| end.0.parse::<Ipv6Addr>().unwrap().octets();
        let addresses = [octets(source), octets(destination)].concat();
        assert_eq!(toeplitz.hash(&addresses, &[]), of_addresses, "{source:?}");
        let ports = ports(source.1, destination.1);
        assert_eq!(toeplitz.hash(&addresses, &ports), with_ports, "{source:?}");
    }
}

/// Returns the hash by its definition, bit by bit.
fn by_definition(key: &[u8; KEY_BYTES], input: &[u8]) -> u32 {
    let bit = |bytes: &[u8], at: usize| bytes[at / 8] >> (7 - at % 8) & 1 != 0;
    let mut hash = 0;
    for at in (0..input.len() * 8).filter(|at| bit(input, *at)) {
        let window = (at..at + 32).fold(0, |all, at| all << 1 | u32::from(bit(key, at)));
        hash ^= window;
    }
    hash
}

proptest! {
    #[test]
    fn any_key_and_input_hash_as_defined(
        key in prop::array::uniform32(any::<u8>()),
        rest in prop::array::uniform8(any::<u8>()),
        input in prop::collection::vec(any::<u8>(), 0..=MAX_INPUT),
        cut in 0..=MAX_INPUT,
    ) {
        let key: [u8; KEY_BYTES] = [&key[..], &rest].concat().try_into().unwrap();
        let (first, second) = input.split_at(cut.min(input.len()));
        let hash = Toeplitz::new(&key).hash(first, second);
        prop_assert_eq!(hash, by_definition(&key, &input));
    }
}
