//! The flags of receive completions.

use device_kit::platform::RxFlags;
use mana_wire::oob::{CqeType, RxCompletionFlags as Flags};

use super::rx::next;
use crate::driver::Driver;
use crate::driver::nic::Vport;
use crate::driver::traffic::frame;
use crate::failure::{Outcome, check_eq};

super::declare! { "rx_flags":
    says_nothing_of_checksums_unless_known = "mana_en.c: mana_rx_skb",
    says_that_a_tcp_checksum_is_good = "mana_en.c: mana_rx_skb, rx_tcp_csum_succeed",
    says_that_a_tcp_checksum_is_bad = "mana.h: rx_tcp_csum_fail",
    says_that_a_udp_checksum_is_good = "mana_en.c: mana_rx_skb, rx_udp_csum_succeed",
    says_that_a_udp_checksum_is_bad = "mana.h: rx_udp_csum_fail",
    says_that_an_ip_checksum_is_good = "mana_en.c: mana_rx_skb, rx_iphdr_csum_succeed",
    says_that_an_ip_checksum_is_bad = "mana.h: rx_iphdr_csum_fail",
    says_of_each_of_many_frames_what_is_known_of_it = "mana_en.c: mana_rx_skb",
    names_no_transport_it_does_not_know = "mana.h: struct mana_rxcomp_oob",
    takes_a_tag_out = "mana_en.c: mana_rx_skb, rx_vlantag_present",
    tells_only_the_number_of_a_tag = "mana.h: rx_vlan_id",
}

/// Checks that the host's flags become these completion flags.
fn tells(driver: &mut Driver<'_>, known: RxFlags, expected: Flags) -> Outcome {
    let mut vport = driver.start_and_open()?;
    vport.post_buffer(driver, 2048)?;
    vport.arrive(driver, &frame(60), known)?;
    expect_flags(driver, &mut vport, known, expected)
}

/// Checks that the next completion has these flags.
fn expect_flags(
    driver: &mut Driver<'_>,
    vport: &mut Vport,
    known: RxFlags,
    expected: Flags,
) -> Outcome {
    let found = next(driver, vport, CqeType::RxOkay)?.receive().flags;
    check_eq(
        format_args!("flags for {known:?}, decoded {found:?}"),
        found.into_bits(),
        expected.into_bits(),
    )
}

const TCP4: RxFlags = RxFlags::IPV4.union(RxFlags::TCP);
const UDP4: RxFlags = RxFlags::IPV4.union(RxFlags::UDP);

fn says_nothing_of_checksums_unless_known(driver: &mut Driver<'_>) -> Outcome {
    tells(driver, TCP4, Flags::new())
}

fn says_that_a_tcp_checksum_is_good(driver: &mut Driver<'_>) -> Outcome {
    let known = TCP4 | RxFlags::L4_CHECKSUM_GOOD;
    tells(driver, known, Flags::new().with_tcp_csum_succeed(true))
}

fn says_that_a_tcp_checksum_is_bad(driver: &mut Driver<'_>) -> Outcome {
    let known = TCP4 | RxFlags::L4_CHECKSUM_BAD;
    tells(driver, known, Flags::new().with_tcp_csum_fail(true))
}

fn says_that_a_udp_checksum_is_good(driver: &mut Driver<'_>) -> Outcome {
    let known = UDP4 | RxFlags::L4_CHECKSUM_GOOD;
    tells(driver, known, Flags::new().with_udp_csum_succeed(true))
}

fn says_that_a_udp_checksum_is_bad(driver: &mut Driver<'_>) -> Outcome {
    let known = UDP4 | RxFlags::L4_CHECKSUM_BAD;
    tells(driver, known, Flags::new().with_udp_csum_fail(true))
}

fn says_that_an_ip_checksum_is_good(driver: &mut Driver<'_>) -> Outcome {
    let known = RxFlags::IPV4 | RxFlags::IP_CHECKSUM_GOOD;
    tells(driver, known, Flags::new().with_iphdr_csum_succeed(true))
}

fn says_that_an_ip_checksum_is_bad(driver: &mut Driver<'_>) -> Outcome {
    let known = RxFlags::IPV4 | RxFlags::IP_CHECKSUM_BAD;
    tells(driver, known, Flags::new().with_iphdr_csum_fail(true))
}

fn says_of_each_of_many_frames_what_is_known_of_it(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let good = TCP4 | RxFlags::L4_CHECKSUM_GOOD;
    let known = [TCP4, TCP4, good, good, TCP4, good];
    for _ in known {
        vport.post_buffer(driver, 128)?;
    }
    let frame = frame(60);
    let batch = known.map(|known| (&frame[..], known));
    driver.bench.receive(0, &batch);
    for known in known {
        let told = Flags::new().with_tcp_csum_succeed(known == good);
        expect_flags(driver, &mut vport, known, told)?;
    }
    Ok(())
}

fn names_no_transport_it_does_not_know(driver: &mut Driver<'_>) -> Outcome {
    let known = RxFlags::IPV6 | RxFlags::L4_CHECKSUM_GOOD;
    tells(driver, known, Flags::new())
}

/// Receives a frame with this tag, and returns the completion's flags.
fn tagged(driver: &mut Driver<'_>, tci: u16) -> Outcome<Flags> {
    let mut vport = driver.start_and_open()?;
    let plain = frame(60);
    let [high, low] = tci.to_be_bytes();
    let frame = [&plain[..12], &[0x81, 0, high, low], &plain[12..]].concat();
    let (address, _) = vport.post_buffer(driver, 2048)?;
    vport.arrive(driver, &frame, RxFlags::empty())?;
    let found = next(driver, &mut vport, CqeType::RxOkay)?.receive();
    check_eq("length", found.length, 60)?;
    check_eq("frame without its tag", driver.read(address, 60), plain)?;
    Ok(found.flags)
}

fn takes_a_tag_out(driver: &mut Driver<'_>) -> Outcome {
    let found = tagged(driver, 100)?;
    check_eq("tag present", found.vlantag_present(), true)?;
    check_eq("tag", found.vlan_id(), 100)
}

fn tells_only_the_number_of_a_tag(driver: &mut Driver<'_>) -> Outcome {
    let found = tagged(driver, 0xffff)?;
    let expected = Flags::new().with_vlantag_present(true).with_vlan_id(0xfff);
    check_eq("flags", found.into_bits(), expected.into_bits())
}
