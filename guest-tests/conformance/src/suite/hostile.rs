//! A malicious guest.

use device_kit::platform::{RxFlags, TxStatus};
use mana_wire::oob::CqeType;
use mana_wire::queue::{RingDoorbell, doorbell};

use crate::bench::MEMORY_SIZE;
use crate::driver::Driver;
use crate::driver::message::Request;
use crate::driver::nic::{Sizes, Vport};
use crate::driver::traffic::frame;
use crate::driver::wqe::{Wqe, sge};
use crate::failure::{Outcome, check, check_eq};

super::declare! { "hostile":
    rewriting_a_transmit_after_the_doorbell = "hostile guest: entries are read once",
    rewriting_a_buffer_after_the_doorbell = "hostile guest: entries are read once",
    rewriting_the_channels_entries = "hostile guest: entries are read once",
    rewriting_completions = "gdma_main.c: mana_gd_read_cqe",
    send_queues_full_of_ones = "hostile guest: bad input",
    send_queues_full_of_zeros = "hostile guest: bad input",
    receive_queues_full_of_ones = "hostile guest: bad input",
    receive_queues_full_of_zeros = "hostile guest: bad input",
    a_channel_full_of_ones = "hostile guest: bad input",
    a_channel_full_of_zeros = "hostile guest: bad input",
    requests_of_ones = "hostile guest: bad input",
    requests_of_zeros = "hostile guest: bad input",
    requests_of_every_length = "hostile guest: bad input, messages shorter than their header",
    doorbells_of_every_bit = "hostile guest: bad input",
    queues_that_lie_on_one_another = "hostile guest: guest memory is hostile",
    a_packet_inside_its_own_queue = "hostile guest: guest memory is hostile",
    a_buffer_over_the_completion_queue = "hostile guest: guest memory is hostile",
    a_channel_of_one_page = "hostile guest: guest memory is hostile",
    a_response_over_its_request = "hostile guest: guest memory is hostile",
    addresses_at_every_edge = "hostile guest: bad input, lengths that overflow",
}

fn rewriting_a_transmit_after_the_doorbell(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    driver.bench.plan_transmits(0, &[TxStatus::Pending; 2]);
    let address = driver.place(&frame(60))?;
    let wqe = vport.packet(&[sge(address, 60)]);
    let first = vport.tx.wq.post(driver, &wqe);
    vport.tx.wq.post(driver, &wqe);
    vport.tx.wq.memory.write(driver.bench, 0, &[0xff; 64]);
    driver.bench.finish_transmit(0, &[TxStatus::Sent; 2]);
    let completion = vport.tx.cq.expect(driver)?;
    completion.check_type(CqeType::TxOkay as u8)?;
    check_eq("WQE offset", completion.transmit().wqe_offset, first / 32)?;
    vport.tx.cq.expect(driver)?;
    vport.tx.cq.ring(driver, true);
    driver.bench.take_transmitted(0);
    vport.works(driver)
}

fn rewriting_a_buffer_after_the_doorbell(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let (address, offset) = vport.post_buffer(driver, 256)?;
    vport.rx.wq.memory.write(driver.bench, 0, &[0xff; 4096]);
    vport.arrive(driver, &frame(60), RxFlags::empty())?;
    vport.take_frame(driver, &frame(60), address, offset)
}

fn rewriting_the_channels_entries(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    let vport = driver.query_vport(0)?.vport;
    driver.with_hwc(|hwc, driver| {
        hwc.sq.memory.write(driver.bench, 0, &[0xff; 4096]);
        hwc.rq.memory.write(driver.bench, 0, &[0xff; 4096]);
        Ok(())
    })?;
    check_eq("vport", driver.query_vport(0)?.vport, vport)
}

fn rewriting_completions(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    vport.works(driver)?;
    // Consumed already: the guest's own again.
    vport.tx.cq.ring.memory.write(driver.bench, 0, &[0x1f; 64]);
    vport.works(driver)
}

/// Fills both work queues of a vport with a byte and posts everything.
fn filled(
    driver: &mut Driver<'_>,
    byte: u8,
    queue: impl Fn(&mut Vport) -> &mut crate::driver::nic::Object,
) -> Outcome {
    driver.start()?;
    let mut vport = driver.open_with(0, Sizes::LARGE)?;
    let object = queue(&mut vport);
    let whole = alloc::vec![byte; object.wq.memory.size() as usize];
    object.wq.write_bytes(driver, &whole);
    object.wq.ring(driver);
    let completions = object.cq.drain(driver)?;
    check(!completions.is_empty(), "nothing was completed")?;
    object.cq.ring(driver, true);
    driver.bench.take_transmitted(0);
    vport.works(driver)
}

fn send_queues_full_of_ones(driver: &mut Driver<'_>) -> Outcome {
    filled(driver, 0xff, |vport| &mut vport.tx)
}

fn send_queues_full_of_zeros(driver: &mut Driver<'_>) -> Outcome {
    filled(driver, 0, |vport| &mut vport.tx)
}

fn receive_queues_full_of_ones(driver: &mut Driver<'_>) -> Outcome {
    filled(driver, 0xff, |vport| &mut vport.rx)
}

fn receive_queues_full_of_zeros(driver: &mut Driver<'_>) -> Outcome {
    filled(driver, 0, |vport| &mut vport.rx)
}

/// Fills the channel's queues with a byte; afterwards a new channel works.
fn channel_of(driver: &mut Driver<'_>, byte: u8) -> Outcome {
    driver.start()?;
    driver.with_hwc(|hwc, driver| {
        hwc.rq.write_bytes(driver, &[byte; 2048]);
        hwc.sq.write_bytes(driver, &[byte; 2048]);
        hwc.rq.ring(driver);
        hwc.sq.ring(driver);
        Ok(())
    })?;
    driver.shm_succeed(&[0; 28], crate::driver::shm::destroy())?;
    driver.take_all_interrupts();
    driver.start_and_open()?.works(driver)
}

fn a_channel_full_of_ones(driver: &mut Driver<'_>) -> Outcome {
    channel_of(driver, 0xff)
}

fn a_channel_full_of_zeros(driver: &mut Driver<'_>) -> Outcome {
    channel_of(driver, 0)
}

fn codes() -> impl Iterator<Item = u32> {
    (0..90).chain(0x20000..0x2000e).chain(0x27800..0x27805)
}

/// Sends every request with a body of this byte; the vport works before and after.
fn requests_of(driver: &mut Driver<'_>, byte: u8) -> Outcome {
    let mut vport = driver.start_and_open()?;
    for code in codes().filter(|code| *code != 5) {
        let request = Request::of_bytes(code, &[byte; 1000], 1000);
        driver.call(&request)?;
    }
    vport.works(driver)
}

fn requests_of_ones(driver: &mut Driver<'_>) -> Outcome {
    requests_of(driver, 0xff)
}

fn requests_of_zeros(driver: &mut Driver<'_>) -> Outcome {
    requests_of(driver, 0)
}

fn requests_of_every_length(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    for code in codes().filter(|code| *code != 5) {
        for length in (0..96).step_by(5) {
            driver.call(&Request::of_bytes(code, &alloc::vec![0x7f; length], length))?;
        }
    }
    vport.works(driver)
}

fn doorbells_of_every_bit(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let bells = [doorbell::SQ, doorbell::RQ, doorbell::CQ, doorbell::EQ];
    for offset in bells {
        // Ids beyond those of the driver's queues, or impossible positions.
        for bit in 4..24 {
            driver.doorbell(offset, 1 << bit);
        }
        for id in 0..8 {
            let bits = RingDoorbell::new().with_id(id).with_tail(0x7fff_ffe1);
            driver.doorbell(offset, bits.into_bits());
        }
    }
    vport.works(driver)
}

fn queues_that_lie_on_one_another(driver: &mut Driver<'_>) -> Outcome {
    use crate::driver::requests::create_queue;
    use mana_wire::gdma::code;
    use mana_wire::queue::QueueType;
    let mut vport = driver.start_and_open()?;
    let pages = driver.page_list(1)?;
    let mut eqs = alloc::vec::Vec::new();
    for _ in 0..2 {
        let region = driver.region(&pages)?;
        let mut body = create_queue(QueueType::Eq, region, 4096);
        body.eq_pci_msix_index = 9;
        let id: u32 = driver.ask(&Request::new(code::CREATE_QUEUE, &body, 4))?;
        eqs.push(id);
    }
    for id in eqs {
        driver.test_eq(id)?;
    }
    vport.works(driver)
}

fn a_packet_inside_its_own_queue(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let page = vport.tx.wq.memory.pages[0];
    let wqe = vport.packet(&[sge(page, 1514)]);
    let sent = vport.send_wqe(driver, &wqe)?;
    check_eq("bytes", sent.frame.len(), 1514)?;
    vport.works(driver)
}

fn a_buffer_over_the_completion_queue(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let page = vport.rx.cq.ring.memory.pages[0];
    let wqe = Wqe::receive(&[sge(page, 4096)]);
    vport.rx.wq.post(driver, &wqe);
    vport.arrive(driver, &[0xff; 1514], RxFlags::empty())?;
    driver.bench.reset();
    driver.take_all_interrupts();
    driver.start_and_open()?.works(driver)
}

fn a_channel_of_one_page(driver: &mut Driver<'_>) -> Outcome {
    let page = driver.pages(1)?;
    let message = mana_wire::smc::EstablishHwc {
        eq: page,
        cq: page,
        rq: page,
        sq: page,
        vector: 0,
    };
    driver.shm_establish(&message)?;
    driver.shm_succeed(&[0; 28], crate::driver::shm::destroy())?;
    driver.take_all_interrupts();
    driver.start_and_open()?.works(driver)
}

fn a_response_over_its_request(driver: &mut Driver<'_>) -> Outcome {
    driver.start()?;
    driver.with_hwc(|hwc, _| {
        hwc.response_page = hwc.request_page;
        Ok(())
    })?;
    for _ in 0..5 {
        driver.query_vport(1)?;
    }
    Ok(())
}

fn addresses_at_every_edge(driver: &mut Driver<'_>) -> Outcome {
    let mut vport = driver.start_and_open()?;
    let edges = [MEMORY_SIZE - 1, MEMORY_SIZE, 1 << 32, 1 << 63, u64::MAX];
    for address in edges {
        let wqe = vport.packet(&[sge(address, 60)]);
        vport.fail(driver, &wqe, CqeType::TxGdmaError)?;
        let wqe = Wqe::receive(&[sge(address, u32::MAX), sge(address, u32::MAX)]);
        vport.rx.wq.post(driver, &wqe);
        driver.bench.receive(0, &[(&frame(60), RxFlags::empty())]);
        let completion = vport.rx.cq.expect(driver)?;
        completion.check_type(CqeType::RxTruncated as u8)?;
    }
    vport.works(driver)
}
