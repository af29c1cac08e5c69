//! The device under test, which is reset for each requirement.

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

/// The number of ports of this runner's device; 0 before it is configured.
static PORTS: Mutex<u32> = Mutex::new(0);

/// Runs a requirement on this runner's device if that has, or can still get, the right
/// number of ports; otherwise on the next runner's. None if there is no device left for
/// it.
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
        // Everything up to here belongs to the previous test.
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

/// The features that the device is offered.
const OFFERED: Features = Features::empty();

/// The limits of the testbed.
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
