//! Devices with the largest number of queues.

use device_kit::Adapter;
use device_kit::adapter::{ConfigureError, PortConfig};
use device_kit::envelope::MAX_SIZE;
use device_kit::platform::Features;
use mana_wire::bnic::{CreateWqObjReq, CreateWqObjResp, NO_EQ, code};
use mana_wire::gdma::Status;
use mana_wire::queue::{PAGE_SIZE, QueueType, doorbell};
use manatee_conformance::bench::{Bench, Workshop};
use manatee_conformance::driver::Driver;
use manatee_conformance::driver::memory::QueueMemory;
use manatee_conformance::driver::message::Request;
use manatee_conformance::driver::nic::Sizes;
use manatee_conformance::driver::ring::Wq;
use manatee_conformance::driver::wqe::{Wqe, sge};
use manatee_conformance::failure::Outcome;
use manatee_conformance::native::{NativeWorkshop, World};
use manatee_device::{Device, MAX_PAIRS};

/// Queue pairs of a port.
const QUEUES: u16 = 64;
/// The longest inspection that a host accepts, in bytes.
const INSPECT_BYTES: usize = 1 << 20;

fn workshop() -> NativeWorkshop {
    NativeWorkshop {
        queues: QUEUES,
        offered: Features::all(),
        ..NativeWorkshop::default()
    }
}

#[test]
fn a_device_has_as_many_queues_as_it_can_serve() {
    let configure = |queues: &[u16]| {
        let ports = (1..).zip(queues).map(|(number, queues)| PortConfig {
            mac: [2, 0, 0, 0, 0, number],
            mtu: 1500,
            link_speed_mbps: 0,
            link_up: true,
            queues: *queues,
        });
        let ports: Vec<_> = ports.collect();
        let mut device = Device::new(World::default());
        device.configure(Features::empty(), &ports)
    };
    for good in [&[1][..], &[64], &[64, 1, 3], &[64; 16], &[1; 200]] {
        assert_eq!(configure(good), Ok(Features::empty()), "{good:?}");
    }
    let refused = Err(ConfigureError::InvalidQueues);
    for bad in [&[0][..], &[65], &[1, 0], &[u16::MAX; 3], &[64; 17]] {
        assert_eq!(configure(bad), refused, "{bad:?}");
    }
}

#[test]
fn a_device_uses_what_is_offered_and_no_more() {
    let configure = |offered| {
        let port = PortConfig {
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            link_speed_mbps: 0,
            link_up: true,
            queues: 1,
        };
        Device::new(World::default()).configure(offered, &[port])
    };
    let none = Features::empty();
    for offered in [
        Features::STEERING,
        Features::RATE_LIMIT,
        Features::MODERATION,
        none,
    ] {
        assert_eq!(configure(offered), Ok(offered));
    }
    assert_eq!(configure(Features::WINDOWS), Ok(none));
}

#[test]
fn what_was_not_offered_is_unsupported() {
    let mut bench = NativeWorkshop::default().bench(1);
    let mut driver = Driver::new(&mut bench);
    driver.start().expect("a driver that starts");
    for code in [code::SET_BW_CLAMP, code::QUERY_PHY_STAT] {
        let request = Request::of_bytes(code, &[0; 16], 512);
        let refused = driver.refuse(&request, Status::Unsupported);
        refused.expect("a request that the driver may do without");
    }
}

/// Gives a port a queue whose memory other queues use too.
fn crowd(
    driver: &mut Driver<'_>,
    vport: u64,
    queue_type: QueueType,
    memory: &QueueMemory,
) -> Outcome<CreateWqObjResp> {
    let body = CreateWqObjReq {
        vport,
        wq_type: queue_type.to_wire(),
        reserved: 0,
        wq_gdma_region: driver.region(&memory.pages)?,
        cq_gdma_region: driver.region(&memory.pages)?,
        wq_size: memory.size(),
        cq_size: memory.size(),
        cq_moderation_ctx_id: 0,
        cq_parent_qid: NO_EQ,
    };
    let size = size_of::<CreateWqObjResp>();
    driver.ask(&Request::new(code::CREATE_WQ_OBJ, &body, size))
}

/// Opens as many queues as possible, with as many buffers as fit, all in the same
/// memory.
fn fill(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let memory = driver.queue_memory(PAGE_SIZE)?;
    let room = driver.pages(1)?;
    let mut buffers = Wq::receive(0, memory.clone());
    let buffer = Wqe::receive(&[sge(room, 2048)]);
    for _ in 0..PAGE_SIZE / 32 {
        buffers.write(driver, &buffer);
    }
    for port in 0..u32::from(MAX_PAIRS / QUEUES) {
        let vport = driver.query_vport(port)?.vport;
        for number in 0..QUEUES {
            driver.create_eq(number + 1, PAGE_SIZE)?;
            crowd(driver, vport, QueueType::Sq, &memory)?;
            let made = crowd(driver, vport, QueueType::Rq, &memory)?;
            if number == 0 {
                driver.enable_rx(vport, made.wq_obj)?;
            }
            driver.ring_wq(doorbell::RQ, made.wq_id, PAGE_SIZE);
        }
    }
    Ok(())
}

#[test]
fn the_fullest_device_can_be_saved_and_inspected() {
    let mut bench = workshop().bench((MAX_PAIRS / QUEUES).into());
    let mut driver = Driver::new(&mut bench);
    fill(&mut driver).expect("room for all");
    let posted = bench.posted_buffers(0);
    assert_eq!(posted, (PAGE_SIZE / 32) as usize, "buffers of a queue");
    let state = bench.device.save();
    assert!(state.len() <= MAX_SIZE, "a state of {} bytes", state.len());
    let shown = bench.device.inspect().len();
    assert!(shown <= INSPECT_BYTES, "an inspection of {shown} bytes");
    bench.move_on();
    bench.reset();
}

/// A driver opens and closes all queues of a port repeatedly.
#[test]
fn a_thousand_pairs_come_and_go_under_traffic() {
    let mut bench = workshop().bench(1);
    for _ in 0..16 {
        let mut driver = Driver::new(&mut bench);
        driver.start().expect("a driver that starts");
        let opened = driver.open_pairs(0, QUEUES, Sizes::SMALL);
        let mut pairs = opened.expect("all queues");
        for (number, pair) in (0..).zip(&mut pairs) {
            driver.bench.on_queue(number);
            pair.works(&mut driver).expect("packets both ways");
            pair.post_buffer(&mut driver, 2048).expect("memory");
        }
        driver
            .close_pairs(&pairs)
            .expect("queues that can be destroyed");
        for number in 0..QUEUES.into() {
            driver.bench.on_queue(number);
            assert_eq!(driver.bench.posted_buffers(0), 0);
        }
        let used = driver.inspect("/dma_regions/pages_in_use").unwrap();
        assert_eq!(used, Some(0.into()));
        bench.reset();
    }
}
