//! Guest memory, shared as VMMs do, and in invalid ways.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::fs::{MemfdFlags, SealFlags};
use vfio_user::Client;

use crate::harness::{Manatee, config_u32, memfd};
use crate::raw::{self, Raw};

const PAGE: u64 = 0x1000;
const INVAL: u32 = 22;
/// The flags for all memory at once: vfio's, and that of the crate `vfio_user`.
const ALL: [u32; 2] = [1 << 1, 1 << 2];

fn region_count(manatee: &Manatee) -> u64 {
    manatee.inspect()["memory"]["region_count"]
        .as_u64()
        .unwrap()
}

/// Checks that the device still answers.
fn assert_alive(client: &mut Client) {
    assert_eq!(config_u32(client, 0), 0x00ba_1414);
}

#[test]
fn a_region_is_unmapped_as_a_whole() {
    let manatee = Manatee::start();
    let mut client = manatee.attach();
    let memory = memfd(0x10_0000);
    client.dma_map(0, 0, 0x10_0000, memory.as_raw_fd()).unwrap();
    // This client reads a body whatever the header says, and ignores it.
    client.dma_unmap(0x1000, PAGE).unwrap();
    assert_alive(&mut client);
    assert_eq!(region_count(&manatee), 1);
    assert!(manatee.log().contains("unmap that one as a whole"));
    client.dma_unmap(0, 0x10_0000).unwrap();
    assert_eq!(region_count(&manatee), 0);
}

#[test]
fn a_refused_unmap_says_that_nothing_was_unmapped() {
    let manatee = Manatee::start();
    let mut raw = Raw::connect(&manatee.socket());
    // Without a descriptor: known, but not accessible.
    raw.ask(raw::DMA_MAP, &raw::dma_map(3, 0x10_0000, 0x10_0000))
        .unwrap();
    let refused = [
        raw::dma_unmap(0, 0x10_0000, PAGE),
        raw::dma_unmap(0, 0, PAGE),
        raw::dma_unmap(0, 0x10_0000, 0),
        raw::dma_unmap(0, u64::MAX, PAGE),
        // A dirty bitmap, which is not supported.
        raw::dma_unmap(1, 0x10_0000, 0x10_0000),
        raw::dma_unmap(ALL[0], 0, PAGE),
        raw::dma_unmap(ALL[1], 0x10_0000, 0),
    ];
    for mut unmap in refused {
        raw.send(&raw::message(raw::DMA_UNMAP, 0, &unmap)).unwrap();
        let answer = raw.whole_answer();
        unmap[16..].fill(0);
        assert_eq!(answer, (Some(INVAL), unmap));
    }
    assert_eq!(region_count(&manatee), 1);
    let whole = raw::dma_unmap(0, 0x10_0000, 0x10_0000);
    assert_eq!(raw.ask(raw::DMA_UNMAP, &whole), Ok(whole));
    assert_eq!(region_count(&manatee), 0);
    for flag in ALL {
        for page in 0..3 {
            raw.ask(raw::DMA_MAP, &raw::dma_map(3, page * PAGE, PAGE))
                .unwrap();
        }
        assert_eq!(region_count(&manatee), 3);
        let all = raw::dma_unmap(flag, 0, 0);
        assert_eq!(raw.ask(raw::DMA_UNMAP, &all), Ok(all));
        assert_eq!(region_count(&manatee), 0);
    }
}

#[test]
fn a_file_takes_one_descriptor_however_many_regions_it_has() {
    const REGIONS: u64 = 1000;
    let manatee = Manatee::start_with_descriptors(200);
    let mut client = manatee.attach();
    let memory = memfd(REGIONS * PAGE);
    for region in 0..REGIONS {
        let at = region * PAGE;
        client
            .dma_map(at, 2 * at, PAGE, memory.as_raw_fd())
            .unwrap();
    }
    assert_eq!(region_count(&manatee), REGIONS);
    assert_alive(&mut client);
}

#[test]
fn regions_are_as_many_as_the_protocol_says_and_the_session_continues() {
    const MOST: u64 = 65_535;
    let manatee = Manatee::start();
    let mut raw = Raw::connect(&manatee.socket());
    for region in 0..MOST {
        let map = raw::dma_map(1, 2 * region * PAGE, PAGE);
        raw.ask(raw::DMA_MAP, &map).unwrap();
    }
    let one_more = raw::dma_map(1, PAGE, PAGE);
    assert_eq!(raw.ask(raw::DMA_MAP, &one_more), Err(28), "no room");
    assert!(manatee.log().contains("65535 guest regions already"));
    assert_eq!(region_count(&manatee), MOST);
    raw.ask(raw::DMA_UNMAP, &raw::dma_unmap(0, 0, PAGE))
        .unwrap();
    raw.ask(raw::DMA_MAP, &one_more).unwrap();
    raw.ask(raw::DMA_UNMAP, &raw::dma_unmap(ALL[0], 0, 0))
        .unwrap();
    assert_eq!(region_count(&manatee), 0);
}

#[test]
fn what_is_no_memory_is_refused_by_name() {
    let manatee = Manatee::start();
    let mut client = manatee.attach();
    let (socket, _peer) = UnixStream::pair().unwrap();
    client.dma_map(0, 0, PAGE, socket.as_raw_fd()).unwrap();
    let log = manatee.log();
    assert!(log.contains("0x0 is a socket"), "{log}");
    assert_eq!(region_count(&manatee), 0);
    assert_alive(&mut client);
}

#[test]
fn files_that_may_shrink_are_reported_once() {
    const REPORTED: &str = "F_SEAL_SHRINK";
    let manatee = Manatee::start();
    let mut client = manatee.attach();
    let sealed: OwnedFd = {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        rustix::fs::memfd_create("sealed", flags).unwrap()
    };
    rustix::fs::ftruncate(&sealed, PAGE).unwrap();
    rustix::fs::fcntl_add_seals(&sealed, SealFlags::SHRINK).unwrap();
    client.dma_map(0, 0, PAGE, sealed.as_raw_fd()).unwrap();
    assert!(!manatee.log().contains(REPORTED));
    for page in 1..4 {
        let memory = memfd(PAGE);
        client
            .dma_map(0, page * PAGE, PAGE, memory.as_raw_fd())
            .unwrap();
    }
    assert_eq!(manatee.log().matches(REPORTED).count(), 1);
    assert_eq!(region_count(&manatee), 4);
}
