//! Events of a device, and reading its state while another thread holds its lock.

use crate::component::Component;
use crate::device::{Device, Port, SwapOptions};
use crate::endpoint::Loopback;
use crate::interrupt::{Interrupts, VectorSink};

use super::*;

struct Nowhere;

impl VectorSink for Nowhere {
    fn raise(&self, _vector: u16) {}
}

/// Returns a device with one port, and the events that it reports.
fn device() -> (Device, Arc<Mutex<Vec<Event>>>) {
    let told = Arc::new(Mutex::new(Vec::new()));
    let port = Port {
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
        link_speed_mbps: 10_000,
        endpoint: Box::new(Loopback::new()),
    };
    let listener = told.clone();
    let device = Device::builder(&Component::embedded().unwrap())
        .port(port)
        .listener(move |event| listener.lock().push(event.clone()))
        .build(Interrupts::Vectors(Box::new(Nowhere)))
        .unwrap();
    (device, told)
}

#[test]
fn events_are_told_once_and_counted() {
    let (device, told) = device();
    device.attach();
    device.attach();
    let component = Component::embedded().unwrap();
    let swap = device.swap(&component, SwapOptions::default()).unwrap();
    let back = device.rollback().unwrap();
    device.detach();
    device.detach();
    let expected = [
        Event::Attached,
        Event::Swapped(swap.clone()),
        Event::Swapped(back.clone()),
        Event::Detached,
    ];
    assert_eq!(*told.lock(), expected);
    assert!(back.rollback && !swap.rollback);
    let totals = device.totals();
    assert_eq!((totals.swaps, totals.rollbacks), (2, 1));
    assert_eq!(totals.last_pause, back.pause);
    assert_eq!(totals.longest_pause, swap.pause.max(back.pause));
    assert!(!totals.attached && totals.calls > 0);
}

#[test]
fn what_others_see_is_how_the_device_is_when_it_was_given_up() {
    let (device, _) = device();
    let shown = |part: &str| device.inspect_part(part).unwrap();
    assert_eq!(shown("pci")["bus_master"], false);
    device.config_write(4, &[6, 0]);
    assert_eq!(shown("pci")["bus_master"], true);
    let memory = tempfile::tempfile().unwrap();
    memory.set_len(0x10_0000).unwrap();
    let file = Some((memory, 0));
    device.map_memory(0x1000, 0x10_0000, file, true).unwrap();
    assert_eq!(shown("memory")["regions"][0]["address"], "0x1000");
    device.set_link(0, false);
    assert!(!device.totals().ports[0].link_up);
    device.detach();
    assert_eq!(shown("memory")["region_count"], 0);
    assert_eq!(shown("pci")["bus_master"], false);
    assert!(device.inspect_part("nonsense").is_none());
}

#[test]
fn nobody_who_looks_waits_for_the_device() {
    let (device, _) = device();
    let owner = device.shared.own();
    for part in Device::PARTS {
        assert!(part == "device" || device.inspect_part(part).is_some());
    }
    assert_eq!(device.totals().condition, Condition::Running);
    drop(owner);
}
