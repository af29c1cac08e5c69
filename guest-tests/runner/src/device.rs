//! The device under test, made as new for each requirement.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use device_kit::bindings::manatee::device::types::{Features, Link, LinkState};
use manatee_conformance::suite::Requirement;
use spin::Mutex;

use crate::bench::WasmBench;
use crate::bindings::manatee::device::device::{self, Bounds, PortConfig};
use crate::bindings::manatee::testbed::{control, elsewhere};
use crate::report::Outcome;

/// The ports that this runner's device was given; 0 before.
static PORTS: Mutex<u32> = Mutex::new(0);

/// Tries a requirement, on this runner's device if that has, or can still be
/// given, the right number of ports; else elsewhere. None if there is no
/// device for it any more.
pub fn attempt(requirement: &Requirement) -> Option<Outcome> {
    let ports = &mut *PORTS.lock();
    if *ports == 0 {
        control::start(requirement.ports, QUEUES, OFFERED);
        let configured = device::configure(OFFERED, BOUNDS, &configs(requirement.ports));
        if let Err(error) = configured {
            let count = requirement.ports;
            return Some(Err(format!("configuring {count} ports: {error}")));
        }
        *ports = requirement.ports;
    } else if *ports == requirement.ports {
        for port in 0..*ports {
            device::link_changed(port, link(true));
        }
        device::reset();
        // What the device did up to here was about the test before.
        control::start(*ports, QUEUES, OFFERED);
    } else {
        return elsewhere::attempt(requirement.name);
    }
    Some(on_this(requirement))
}

fn on_this(requirement: &Requirement) -> Outcome {
    let mut bench = WasmBench::default();
    let outcome = requirement.run_on(&mut bench);
    let outcome = outcome.and_then(|()| bench.check());
    outcome.map_err(|failure| {
        let mut text = failure.to_string();
        let log = control::take_log();
        if !log.is_empty() {
            text += "\n  the device's log:";
        }
        for line in log {
            text += "\n    ";
            text += &String::from_utf8_lossy(&line);
        }
        text
    })
}

/// Returns a port's link, up or down.
pub fn link(up: bool) -> Link {
    Link {
        state: if up { LinkState::Up } else { LinkState::Down },
        speed_mbps: 10_000,
        mtu: 1500,
    }
}

/// Queue pairs of a port.
const QUEUES: u16 = 1;

/// What the device is offered.
const OFFERED: Features = Features::empty();

/// What the testbed takes.
const BOUNDS: Bounds = Bounds {
    arena_bytes: 0,
    windows: 0,
    window_pages: 0,
    copy_bytes: 1 << 20,
    packets: 4096,
    segments: 65_536,
    buffers: 4096,
    state_bytes: 1 << 20,
    inspect_bytes: 1 << 20,
    line_bytes: 1024,
};

/// Returns the ports of a bench, as the suite knows them.
fn configs(count: u32) -> Vec<PortConfig> {
    let config = |port: u32| PortConfig {
        mac: u64::from_le_bytes([2, 0, 0, 0, 0, port as u8, 0, 0]),
        link: link(true),
        queues: QUEUES,
    };
    (0..count).map(config).collect()
}
