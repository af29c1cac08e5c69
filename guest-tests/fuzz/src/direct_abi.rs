//! Both ways to call a component, with the same memory image and the same results: they
//! have to agree on whether the instance survives, and on what the guest sees.
//!
//! One component serves for all inputs: it reads 64 KiB of guest memory to the beginning
//! of its own, which say what to do: which import to call with which parameters, or
//! where a result is.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;
use std::time::Duration;

use manatee::component::Component;
use manatee::device::{CrashPolicy, Device, Limits, Port};
use manatee::endpoint::Loopback;
use manatee::interrupt::{Interrupts, VectorSink};
use rustix::fs::{MemfdFlags, memfd_create};

use manatee_kit::hostile::{Hostile, VERSIONS};

/// Guest memory of a device, in bytes.
pub const MEMORY: u64 = 1 << 20;
/// Where the image is in guest memory, and where in the component's.
pub const IMAGE: u64 = 0x8_0000;
const TO: u32 = 0x4000;
/// Bytes of an image.
const SIZE: usize = 0x4000;
/// Calls of an input.
const CALLS: usize = 16;

/// A device with guest memory.
pub struct Machine {
    /// The device.
    pub device: Device,
    /// The guest's memory.
    pub memory: File,
}

struct Nowhere;

impl VectorSink for Nowhere {
    fn raise(&self, _vector: u16) {}
}

/// Makes a device with one loopback port.
pub fn machine(component: &Component, direct: bool, windows: bool) -> Machine {
    let port = Port {
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
        link_speed_mbps: 10_000,
        endpoint: Box::new(Loopback::new()),
    };
    let limits = Limits {
        direct,
        windows,
        deadline: Duration::from_secs(10),
        ..Limits::default()
    };
    let sink = Interrupts::Vectors(Box::new(Nowhere));
    let policy = CrashPolicy::default();
    let device = Device::builder(component)
        .port(port)
        .limits(limits)
        .crash_policy(policy)
        .build(sink);
    let device = device.expect("the component behaves so far");
    let memory = File::from(memfd_create("guest", MemfdFlags::CLOEXEC).expect("a memfd"));
    memory.set_len(MEMORY).expect("it can grow");
    let file = memory.try_clone().expect("a descriptor");
    let mapped = device.map_memory(0, MEMORY, Some((file, 0)), true);
    mapped.expect("it can be mapped");
    device.config_write(4, &6_u16.to_le_bytes());
    Machine { device, memory }
}

/// Calls, by the number in the image's first byte, with its words as parameters. The
/// address of an empty list of statuses is irrelevant, and differs: it becomes 0.
const IMPORTS: [&str; 12] = [
    "W64 W32 W32 call $read",
    "W64 W32 W32 W32 call $write",
    "W32 W32 W32 W32 W32 call $map-window-with-access",
    "W32 call $unmap-window",
    "W32 W32 call $raise",
    "W32 W32 W32 W32 W32 W32 W32 call $transmit
     i32.const 0x4038 i32.load i32.load offset=4 i32.eqz if
         i32.const 0x4038 i32.load i32.const 0 i32.store end",
    "W32 W32 W32 W32 W32 W32 call $post-receive drop",
    "W32 W32 call $cancel-receive",
    "W32 W32 call $cancel-transmit",
    "call $changed",
    "W64 call $attempt",
    "W32 W32 W32 call $log",
];

/// Makes a call with parameters from the image.
fn call(import: &str) -> String {
    let mut at = TO + 8;
    let words = import.split(' ').map(|word| match word {
        "W32" | "W64" => {
            let ty = if word == "W32" { "i32" } else { "i64" };
            let text = format!("i32.const {at} {ty}.load");
            at += 8;
            text
        }
        _ => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Returns the component, which uses windows if it has an arena.
pub(crate) fn component(arena: bool) -> &'static Component {
    static COMPONENTS: [OnceLock<Component>; 2] = [OnceLock::new(), OnceLock::new()];
    COMPONENTS[usize::from(arena)].get_or_init(|| {
        let mut body = format!(
            "i64.const {IMAGE} i32.const {SIZE} i32.const 1280 call $read
             i32.const {TO} i32.const 1284 i32.load i32.const {SIZE} memory.copy\n"
        );
        for (number, import) in IMPORTS.iter().enumerate() {
            body.push_str(&format!(
                "i32.const {TO} i32.load8_u i32.const {number} i32.eq if {} end\n",
                call(import)
            ));
        }
        // The image gives the address of results, and that of memory for lists.
        let result = format!("i32.const {} i32.load", TO + 0x70);
        let hostile = Hostile::new(VERSIONS[VERSIONS.len() - 1]);
        let hostile = if arena { hostile.arena() } else { hostile };
        let hostile = hostile
            .fields("(global $armed (mut i32) (i32.const 0))")
            .realloc(format!(
                "i32.const {} i32.load8_u i32.const 1 i32.and
                 global.get $armed i32.and
                 if (result i32) i32.const {} i32.load else i32.const 0x20000 end",
                TO + 1,
                TO + 0x78
            ))
            .export(
                "write-register",
                format!(
                    "i32.const 0 global.set $armed {body}
                     i32.const 1 global.set $armed
                     i32.const {TO} i32.load8_u i32.const 1 i32.and"
                ),
            )
            .export("save", &result[..])
            .export("inspect", &result[..])
            .export("read-register", format!("i32.const {TO} i64.load"));
        hostile.load().expect("the component loads")
    })
}

/// Runs an input both ways.
pub fn run(data: &[u8]) {
    // The component model has no windows, so that neither has an arena here.
    let machines = [true, false].map(|direct| machine(component(false), direct, false));
    let calls = data.chunks(0x80).take(CALLS);
    for (index, image) in calls.enumerate() {
        let outcomes = machines.each_ref().map(|machine| step(machine, image));
        let [direct, model] = outcomes;
        assert_eq!(direct, model, "call {index} of {data:02x?}");
    }
}

/// The observable outcome of a call.
#[derive(Debug, PartialEq)]
struct Outcome {
    failed: bool,
    read: u64,
    saved: Option<Vec<u8>>,
    posted: serde_json::Value,
    raised: serde_json::Value,
    memory: Vec<u8>,
}

pub(crate) fn poke(machine: &Machine, image: &[u8]) {
    let mut padded = [0; 0x80];
    padded[..image.len()].copy_from_slice(image);
    // Numbers are calls, and addresses are near the interesting ones.
    padded[0] %= IMPORTS.len() as u8;
    let written = machine.memory.write_all_at(&padded, IMAGE);
    written.expect("guest memory can be written");
    machine.device.bar_write(0, 0, &[0; 8]);
}

fn step(machine: &Machine, image: &[u8]) -> Outcome {
    poke(machine, image);
    let mut read = [0; 8];
    machine.device.bar_read(0, 0, &mut read);
    let saved = match image.get(1) {
        Some(how) if how & 2 != 0 => machine.device.save().ok(),
        _ => None,
    };
    let tree = machine.device.inspect();
    let mut memory = vec![0; 0x8000];
    let found = machine.memory.read_exact_at(&mut memory, 0);
    found.expect("guest memory can be read");
    Outcome {
        failed: machine.device.failure().is_some(),
        read: u64::from_le_bytes(read),
        saved,
        posted: tree["ports"]["0"]["posted_buffers"].clone(),
        raised: tree["runtime"]["interrupts_raised"].clone(),
        memory,
    }
}
