//! What an embedding VMM calls: pausing, enabling, deferred doorbells, waking a queue.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mana_wire::queue::WqDoorbell;
use mana_wire::registers::DOORBELLS;
use manatee::device::SwapOptions;
use manatee::endpoint::{Queue, QueueIo, Received, RxFlags, Single, TxBatch, TxStatus};
use manatee_conformance::driver::ring::Wq;

use super::*;

/// Returns offset and value of the doorbell that announces posted WQEs.
fn doorbell(queue: &Wq) -> (u64, [u8; 8]) {
    let bits = WqDoorbell::new().with_id(queue.id).with_tail(queue.head);
    (DOORBELLS + queue.doorbell, bits.into_bits().to_le_bytes())
}

#[test]
fn a_paused_device_touches_nothing_and_continues() {
    for windows in [true, false] {
        let mut machine = Unwired(machine(windows));
        let device = machine.0.device.clone();
        let file = machine.0.memory.try_clone().unwrap();
        let mut driver = Driver::new(&mut machine);
        let mut vport = driver.start_and_open().unwrap();
        echo_again(&mut driver, &mut vport).unwrap();
        let frame = traffic::frame(100);
        let (buffer, place) = vport.post_buffer(&mut driver, 1514).unwrap();
        device.pause();
        device.pause();
        assert!(device.is_paused());
        let address = driver.place(&frame).unwrap();
        let packet = vport.packet(&[sge(address, 100)]);
        vport.tx.wq.write(&mut driver, &packet);
        let before = content(&file);
        vport.tx.wq.ring(&mut driver);
        let raised = device.inspect()["interrupts"]["raised"].clone();
        // Neither the guest, nor saving, nor a swap resumes it.
        device.config_write(COMMAND.0, &COMMAND.1);
        let saved = device.save().unwrap();
        let component = Component::embedded().unwrap();
        let probation = Duration::ZERO;
        device.swap(&component, SwapOptions { probation }).unwrap();
        assert!(device.save().unwrap() == saved, "windows={windows}");
        assert!(
            content(&file) == before,
            "windows={windows}: memory was written"
        );
        assert_eq!(device.inspect()["interrupts"]["raised"], raised);
        device.resume();
        assert!(!device.is_paused());
        vport.tx.cq.expect(&mut driver).unwrap();
        vport.tx.cq.ring(&mut driver, true);
        vport
            .take_frame(&mut driver, &frame, buffer, place)
            .unwrap();
        echo_again(&mut driver, &mut vport).unwrap();
    }
}

#[test]
fn a_reset_does_not_resume() {
    let machine = machine(true);
    machine.device.pause();
    machine.device.reset();
    assert!(machine.device.is_paused());
    machine.device.resume();
    machine.device.config_write(COMMAND.0, &COMMAND.1);
    echo(&mut Driver::new(&mut Unwired(machine))).unwrap();
}

#[test]
fn a_vmm_enables_the_device_by_call() {
    let machine = machine(true);
    let device = machine.device.clone();
    let command = || {
        let mut command = [0; 2];
        device.config_read(COMMAND.0, &mut command);
        command
    };
    device.config_write(COMMAND.0, &[0, 4]);
    device.set_memory_space(true);
    device.set_bus_master(true);
    assert_eq!(command(), [6, 4], "the other bits stay");
    device.set_bus_master(false);
    assert_eq!(command(), [2, 4]);
    device.set_memory_space(false);
    let mut version = [0; 4];
    device.bar_read(0, 0, &mut version);
    assert_eq!(version, [0xff; 4], "memory space is off");
    device.set_memory_space(true);
    device.set_bus_master(true);
    echo(&mut Driver::new(&mut Unwired(machine))).unwrap();
}

#[test]
fn the_layout_of_msix_is_that_of_its_capability() {
    let device = machine(true).device;
    let read = |offset: u64| {
        let mut bytes = [0; 4];
        device.config_read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    };
    let mut at = u64::from(read(0x34) & 0xff);
    while read(at) & 0xff != 0x11 {
        at = u64::from(read(at) >> 8 & 0xff);
        assert_ne!(at, 0, "there is no MSI-X capability");
    }
    let layout = device.msix_layout();
    assert_eq!(u32::from(layout.vectors), (read(at) >> 16 & 0x7ff) + 1);
    let place = |offset: u64| u64::from(layout.bar) | offset;
    assert_eq!(u64::from(read(at + 4)), place(layout.table));
    assert_eq!(u64::from(read(at + 8)), place(layout.pending));
}

#[test]
fn doorbells_for_later_ring_before_those_that_come_after() {
    let mut machine = Unwired(machine(true));
    let device = machine.0.device.clone();
    let mut driver = Driver::new(&mut machine);
    let mut vport = driver.start_and_open().unwrap();
    let frames: Vec<_> = (0..20).map(|n| traffic::frame(100 + n)).collect();
    for pair in frames.chunks(2) {
        let mut places = Vec::new();
        for _ in pair {
            places.push(vport.post_buffer(&mut driver, 1514).unwrap());
        }
        for (frame, later) in pair.iter().zip([true, false]) {
            let address = driver.place(frame).unwrap();
            let packet = vport.packet(&[sge(address, frame.len() as u32)]);
            vport.tx.wq.write(&mut driver, &packet);
            let (offset, value) = doorbell(&vport.tx.wq);
            // The second one would overtake the first if that was not rung before it.
            if later {
                device.bar_write_later(0, offset, &value);
            } else {
                device.bar_write(0, offset, &value);
            }
        }
        for (frame, (buffer, place)) in pair.iter().zip(places) {
            vport.tx.cq.expect(&mut driver).unwrap();
            vport.take_frame(&mut driver, frame, buffer, place).unwrap();
        }
        vport.tx.cq.ring(&mut driver, true);
    }
}

/// Records the names of the threads that send.
#[derive(Clone, Default)]
struct Senders(Arc<Mutex<Vec<Option<String>>>>);

impl Queue for Senders {
    fn transmit(&mut self, _: &mut QueueIo<'_>, batch: TxBatch<'_>, to: &mut Vec<TxStatus>) {
        to.extend(batch.iter().map(|_| TxStatus::Sent));
        let name = std::thread::current().name().map(str::to_owned);
        self.0.lock().unwrap().push(name);
    }

    fn receive(&mut self, _: &mut QueueIo<'_>) -> bool {
        false
    }

    fn cancel_transmit(&mut self) {}

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

#[test]
fn a_doorbell_for_later_keeps_no_processor() {
    let senders = Senders::default();
    let endpoint = Single::new("senders", senders.clone());
    let mut machine = Unwired(machine_with(true, Box::new(endpoint)));
    let device = machine.0.device.clone();
    let mut driver = Driver::new(&mut machine);
    let mut vport = driver.start_and_open().unwrap();
    let address = driver.place(&traffic::frame(300)).unwrap();
    let packet = vport.packet(&[sge(address, 300)]);
    for later in [false, true] {
        vport.tx.wq.write(&mut driver, &packet);
        let (offset, value) = doorbell(&vport.tx.wq);
        if later {
            device.bar_write_later(0, offset, &value);
        } else {
            device.bar_write(0, offset, &value);
        }
        while device.has_work() {
            std::thread::yield_now();
        }
        vport.tx.cq.expect(&mut driver).unwrap();
        vport.tx.cq.ring(&mut driver, true);
    }
    let own = std::thread::current().name().map(str::to_owned);
    let names = senders.0.lock().unwrap().clone();
    assert_eq!(names, [own, Some("device".to_owned())]);
}

/// Has packets, but no descriptor that becomes readable.
#[derive(Clone, Default)]
struct Mailbox(Arc<Mutex<VecDeque<Vec<u8>>>>);

impl Queue for Mailbox {
    fn transmit(&mut self, _: &mut QueueIo<'_>, batch: TxBatch<'_>, to: &mut Vec<TxStatus>) {
        to.extend(batch.iter().map(|_| TxStatus::Sent));
    }

    fn receive(&mut self, io: &mut QueueIo<'_>) -> bool {
        let mut frames = self.0.lock().unwrap();
        while let Some(buffer) = io.rx.front()
            && let Some(frame) = frames.pop_front()
        {
            let address = buffer.segments().next().unwrap().address;
            io.memory.write(address, &frame).unwrap();
            let received = Received {
                length: frame.len() as u32,
                flags: RxFlags::empty(),
                vlan_tci: 0,
                hash: 0,
            };
            buffer.complete(received, io.done);
        }
        false
    }

    fn cancel_transmit(&mut self) {}

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

#[test]
fn a_queue_is_woken_by_hand() {
    let mailbox = Mailbox::default();
    let endpoint = Single::new("mailbox", mailbox.clone());
    let mut machine = Unwired(machine_with(true, Box::new(endpoint)));
    let device = machine.0.device.clone();
    let mut driver = Driver::new(&mut machine);
    let mut vport = driver.start_and_open().unwrap();
    let (buffer, place) = vport.post_buffer(&mut driver, 1514).unwrap();
    let frame = traffic::frame(200);
    mailbox.0.lock().unwrap().push_back(frame.clone());
    // A queue that does not exist is ignored.
    device.wake(0, 1);
    device.wake(1, 0);
    assert!(!mailbox.0.lock().unwrap().is_empty());
    device.wake(0, 0);
    vport
        .take_frame(&mut driver, &frame, buffer, place)
        .unwrap();
}
