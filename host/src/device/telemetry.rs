//! What is known of a device without its lock.
//!
//! Counters are written where they change ([`Gauges`]). The rest is published by the owner that
//! gives the device up after a change ([`Telemetry::show`]), under a lock that is only held for
//! a copy. So a reader never waits for the device, and the device never for a reader's
//! formatting.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use super::report::{Event, Recovery, SwapReport};
use crate::component::Processor;
use crate::endpoint::{Counters, Policy, Steering};
use crate::memory::RegionInfo;
use crate::pci::Function;
use crate::runtime::{Gauges, Limits, PortGauges, QueueGauges};

/// The most regions of guest memory that are listed.
pub const MAX_REGIONS: usize = 256;
/// Swaps that are remembered.
const MAX_SWAPS: usize = 1024;
/// Recoveries that are remembered.
const MAX_RECOVERIES: usize = 256;

/// The subscriber to events. It is called with the device locked, so it must neither wait nor
/// call the device.
pub type Listener = Box<dyn Fn(&Event) + Send + Sync>;

/// What is known of a device without its lock.
pub struct Telemetry {
    begun: Instant,
    gauges: Arc<Gauges>,
    attached: AtomicBool,
    view: Mutex<View>,
    history: Mutex<History>,
    listener: Option<Listener>,
}

/// The rarely changing part, as of when the device was last released.
#[derive(Clone, Debug)]
pub struct View {
    /// The component that runs.
    pub component: Arc<ComponentView>,
    /// The PCI function.
    pub function: Function,
    /// The number of regions of guest memory.
    pub region_count: usize,
    /// The first of the regions.
    pub regions: Vec<RegionInfo>,
    /// Bytes of linear memory, windows, and the mappings they are made of.
    pub linear_memory: Option<(usize, usize, usize)>,
    /// Its resource limits.
    pub limits: Limits,
    /// Whether it runs.
    pub condition: Condition,
    /// Why it is down.
    pub failure: Option<String>,
    /// Instances that failed.
    pub failures: u64,
    /// Resets that started a fresh instance because the previous one had failed.
    pub restarts: u64,
    /// The size of the last checkpoint.
    pub checkpoint_bytes: Option<usize>,
    /// Version and digest of the component that a rollback returns to.
    pub previous: Option<(String, String)>,
}

/// The component that runs.
#[derive(Debug)]
pub struct ComponentView {
    /// Where it came from.
    pub source: String,
    /// SHA-256 of its bytes.
    pub sha256: String,
    /// Its name by its own description.
    pub name: String,
    /// The version of its build.
    pub version: String,
    /// Which runtime calls it.
    pub calls: Value,
    /// The processors that it was compiled for when this program was built.
    pub precompiled: Option<Processor>,
}

/// Whether a device runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// It does.
    #[default]
    Running,
    /// Failed; a fresh instance is about to continue.
    Recovering,
    /// It is down until it is reset.
    Down,
}

impl Condition {
    /// Returns its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Recovering => "recovering",
            Self::Down => "down",
        }
    }
}

/// The device's history.
#[derive(Clone, Debug, Default)]
struct History {
    swap_count: u64,
    rollback_count: u64,
    last_pause: Duration,
    longest_pause: Duration,
    swaps: VecDeque<SwapReport>,
    recovery_count: u64,
    recoveries: VecDeque<Recovery>,
    hand_over_count: u64,
    hand_over_pause: Duration,
    longest_hand_over: Duration,
}

/// The history of a device in this process and its predecessors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Past {
    /// Replacements of the component.
    pub swaps: u64,
    /// The rollbacks among them.
    pub rollbacks: u64,
    /// The longest pause of them.
    pub longest_pause: Duration,
    /// Instances that failed.
    pub failures: u64,
    /// Failures after which a fresh instance continued.
    pub recoveries: u64,
    /// Resets that started a fresh instance because the previous one had failed.
    pub restarts: u64,
    /// Processes that handed it over.
    pub hand_overs: u64,
    /// The length of the pause of the last hand-over.
    pub hand_over_pause: Duration,
    /// The longest of these pauses.
    pub longest_hand_over: Duration,
}

/// The counters of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Totals {
    /// The time since it was created.
    pub uptime: Duration,
    /// Whether a VMM is attached by vfio-user.
    pub attached: bool,
    /// Whether it runs.
    pub condition: Condition,
    /// The version of the component that runs.
    pub component_version: String,
    /// The SHA-256 of the component that runs.
    pub component_sha256: String,
    /// Replacements of the component, rollbacks included.
    pub swaps: u64,
    /// The rollbacks among them.
    pub rollbacks: u64,
    /// Instances that failed.
    pub failures: u64,
    /// Failures after which a fresh instance continued.
    pub recoveries: u64,
    /// Resets that started a fresh instance because the previous one had failed.
    pub restarts: u64,
    /// Processes that handed the device over to the next.
    pub hand_overs: u64,
    /// The length of the pause of the last hand-over.
    pub last_hand_over: Duration,
    /// The longest of these pauses.
    pub longest_hand_over: Duration,
    /// How long the guest had no device in the last replacement.
    pub last_pause: Duration,
    /// The longest of these pauses.
    pub longest_pause: Duration,
    /// Calls into the component.
    pub calls: u64,
    /// Calls that exceeded their deadline, which ended the instance.
    pub deadlines_missed: u64,
    /// Interrupts that it raised.
    pub interrupts_raised: u64,
    /// Log lines of the component that were dropped.
    pub log_lines_dropped: u64,
    /// Bytes of the component's linear memory.
    pub linear_memory_bytes: u64,
    /// Its ports.
    pub ports: Vec<PortTotals>,
}

/// The counters of a port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PortTotals {
    /// A description of its endpoint.
    pub endpoint: String,
    /// Whether the guest has a link.
    pub link_up: bool,
    /// Buffers that the guest has posted.
    pub posted_buffers: u64,
    /// The counters of its endpoint.
    pub counters: Counters,
    /// Its rate limit in Mbit/s, if it has one: the lower of the following two.
    pub rate_mbps: Option<u32>,
    /// The guest's own limit in Mbit/s.
    pub guest_rate_mbps: Option<u32>,
    /// The limit that [`Device::set_rate`](crate::device::Device::set_rate) has set, in Mbit/s.
    pub operator_rate_mbps: Option<u32>,
}

impl Telemetry {
    /// Begins with a device that was just made.
    pub fn new(gauges: Arc<Gauges>, view: View, listener: Option<Listener>) -> Self {
        Self {
            begun: Instant::now(),
            gauges,
            attached: AtomicBool::new(false),
            view: Mutex::new(view),
            history: Mutex::default(),
            listener,
        }
    }

    /// Returns the component that is shown to run.
    pub fn component(&self) -> Arc<ComponentView> {
        self.view.lock().component.clone()
    }

    /// Publishes the device's current state.
    pub fn show(&self, view: View) {
        // The old state is dropped after the lock is released.
        let _former = std::mem::replace(&mut *self.view.lock(), view);
    }

    /// Notifies the subscriber.
    pub fn tell(&self, event: &Event) {
        if let Some(listener) = &self.listener {
            listener(event);
        }
    }

    /// Notes that a VMM attached.
    pub fn attached(&self) {
        if !self.attached.swap(true, Ordering::Relaxed) {
            self.tell(&Event::Attached);
        }
    }

    /// Notes that the VMM is gone.
    pub fn detached(&self) {
        if self.attached.swap(false, Ordering::Relaxed) {
            self.tell(&Event::Detached);
        }
    }

    /// Notes a replacement.
    pub fn swapped(&self, swap: &SwapReport) {
        let mut history = self.history.lock();
        history.swap_count += 1;
        history.rollback_count += u64::from(swap.rollback);
        history.last_pause = swap.pause;
        history.longest_pause = history.longest_pause.max(swap.pause);
        remember(&mut history.swaps, swap.clone(), MAX_SWAPS);
        drop(history);
        self.tell(&Event::Swapped(swap.clone()));
    }

    /// Returns the history, as far as it is known here.
    pub fn past(&self) -> Past {
        let history = self.history.lock();
        Past {
            swaps: history.swap_count,
            rollbacks: history.rollback_count,
            longest_pause: history.longest_pause,
            failures: 0,
            recoveries: history.recovery_count,
            restarts: 0,
            hand_overs: history.hand_over_count,
            hand_over_pause: history.hand_over_pause,
            longest_hand_over: history.longest_hand_over,
        }
    }

    /// Continues an earlier history.
    pub fn continue_from(&self, past: Past) {
        let mut history = self.history.lock();
        history.swap_count = past.swaps;
        history.rollback_count = past.rollbacks;
        history.longest_pause = past.longest_pause;
        history.recovery_count = past.recoveries;
        history.hand_over_count = past.hand_overs;
        history.hand_over_pause = past.hand_over_pause;
        history.longest_hand_over = past.longest_hand_over;
    }

    /// Records that the device was taken over from another process, and for how long it was paused.
    pub fn handed_over(&self, pause: Duration) {
        let mut history = self.history.lock();
        history.hand_over_count = history.hand_over_count.saturating_add(1);
        history.hand_over_pause = pause;
        history.longest_hand_over = history.longest_hand_over.max(pause);
    }

    /// Notes a recovery.
    pub fn recovered(&self, recovery: Recovery) {
        let mut history = self.history.lock();
        history.recovery_count += 1;
        remember(&mut history.recoveries, recovery.clone(), MAX_RECOVERIES);
        drop(history);
        self.tell(&Event::Recovered(recovery));
    }

    /// Returns the device's counters.
    pub fn totals(&self) -> Totals {
        let view = self.view.lock();
        let (component, condition) = (view.component.clone(), view.condition);
        let (failures, restarts) = (view.failures, view.restarts);
        let linear_memory = view.linear_memory.map_or(0, |(bytes, ..)| bytes as u64);
        drop(view);
        let ports = self.gauges.ports.iter().map(|port| port_totals(port));
        let history = self.history.lock();
        Totals {
            uptime: self.begun.elapsed(),
            attached: self.attached.load(Ordering::Relaxed),
            condition,
            component_version: component.version.clone(),
            component_sha256: component.sha256.clone(),
            swaps: history.swap_count,
            rollbacks: history.rollback_count,
            failures,
            recoveries: history.recovery_count,
            restarts,
            hand_overs: history.hand_over_count,
            last_hand_over: history.hand_over_pause,
            longest_hand_over: history.longest_hand_over,
            last_pause: history.last_pause,
            longest_pause: history.longest_pause,
            calls: self.gauges.calls.get(),
            deadlines_missed: self.gauges.deadlines_missed.get(),
            interrupts_raised: self.gauges.interrupts_raised.get(),
            log_lines_dropped: self.gauges.log_lines_dropped.get(),
            linear_memory_bytes: linear_memory,
            ports: ports.collect(),
        }
    }

    /// Returns a part of the live tree; None if it is not known here.
    pub fn inspect(&self, part: &str) -> Option<Value> {
        let view = || self.view.lock().clone();
        Some(match part {
            "component" => inspect_component(&self.component()),
            "memory" => inspect_memory(&view()),
            "pci" => view().function.inspect(),
            "ports" => self.inspect_ports(),
            "runtime" => self.inspect_runtime(&view()),
            _ => return None,
        })
    }

    fn inspect_ports(&self) -> Value {
        let ports = self.gauges.ports.iter().enumerate();
        let ports: Map<_, _> = ports
            .map(|(index, port)| (index.to_string(), inspect_port(port)))
            .collect();
        Value::Object(ports)
    }

    fn inspect_runtime(&self, view: &View) -> Value {
        let history = self.history.lock().clone();
        let linear_memory = view.linear_memory.map(|(bytes, windows, mappings)| {
            json!({ "bytes": bytes, "windows": windows, "mappings": mappings })
        });
        let (previous, previous_digest) = view.previous.clone().unzip();
        json!({
            "linear_memory": linear_memory,
            "limits": {
                "memory_bytes": view.limits.memory,
                "deadline_ms": view.limits.deadline.as_millis() as u64,
                "windows": view.limits.windows,
            },
            "state": view.condition.name(),
            "failure": view.failure,
            "failures": view.failures,
            "restarts": view.restarts,
            "recovery_count": history.recovery_count,
            "recoveries": history.recoveries.iter().map(Recovery::to_json).collect::<Vec<_>>(),
            "checkpoint_bytes": view.checkpoint_bytes,
            "swap_count": history.swap_count,
            "swaps": history.swaps.iter().map(SwapReport::to_json).collect::<Vec<_>>(),
            "hand_over_count": history.hand_over_count,
            "hand_over_pause_us": history.hand_over_pause.as_micros() as u64,
            "longest_hand_over_us": history.longest_hand_over.as_micros() as u64,
            "previous_version": previous,
            "previous_sha256": previous_digest,
            "calls": self.gauges.calls.get(),
            "deadlines_missed": self.gauges.deadlines_missed.get(),
            "interrupts_raised": self.gauges.interrupts_raised.get(),
            "log_lines_dropped": self.gauges.log_lines_dropped.get(),
        })
    }
}

impl std::fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Telemetry").finish_non_exhaustive()
    }
}

fn remember<T>(history: &mut VecDeque<T>, latest: T, most: usize) {
    if history.len() >= most {
        history.pop_front();
    }
    history.push_back(latest);
}

fn port_totals(port: &PortGauges) -> PortTotals {
    let settings = port.settings.lock();
    let (rate, guest, operator) = (
        settings.rate_mbps,
        settings.guest_rate_mbps,
        settings.operator_rate_mbps,
    );
    drop(settings);
    PortTotals {
        rate_mbps: rate,
        guest_rate_mbps: guest,
        operator_rate_mbps: operator,
        endpoint: port.endpoint.clone(),
        link_up: port.link_up.load(Ordering::Relaxed),
        posted_buffers: port.sum(|queue| &queue.posted_buffers),
        counters: port.counters(),
    }
}

fn inspect_component(component: &ComponentView) -> Value {
    let ComponentView {
        source,
        sha256,
        name,
        version,
        calls,
        precompiled,
    } = component;
    json!({
        "source": source,
        "sha256": sha256,
        "name": name,
        "version": version,
        "calls": calls,
        "precompiled": precompiled.map(|processor| processor.to_string()),
    })
}

fn inspect_memory(view: &View) -> Value {
    json!({
        "region_count": view.region_count,
        "regions": view.regions.iter().map(inspect_region).collect::<Vec<_>>(),
    })
}

fn inspect_port(port: &PortGauges) -> Value {
    let mut endpoint = (port.view)();
    if let Some(endpoint) = endpoint.as_object_mut() {
        endpoint.insert("counters".to_owned(), json!(port.counters()));
    }
    let settings = port.settings.lock().clone();
    let queues = port.queues.iter().map(|queue| inspect_queue(queue));
    json!({
        "mac": port.mac,
        "mtu": port.mtu,
        "endpoint": port.endpoint,
        "posted_buffers": port.sum(|queue| &queue.posted_buffers),
        "counters": endpoint,
        "rate_limit_mbps": settings.rate_mbps,
        "operator_rate_mbps": settings.operator_rate_mbps,
        "policy": port.policy.as_ref().map(inspect_policy),
        "steering": settings.steering.as_ref().map(inspect_steering),
        "queues": queues.collect::<Vec<_>>(),
    })
}

fn inspect_queue(queue: &QueueGauges) -> Value {
    json!({
        "posted_buffers": queue.posted_buffers.get(),
        "pending_transmits": queue.pending_transmits.get(),
        "handed_over": queue.handed_over(),
        "counters": queue.counters(),
    })
}

fn inspect_policy(policy: &Policy) -> Value {
    json!({
        "spoof_check": policy.spoof_check,
        "promiscuous": policy.promiscuous,
        "vlans": policy.vlans.as_ref().map(ToString::to_string),
    })
}

/// Shows how packets are steered; the key stays secret.
fn inspect_steering(steering: &Steering) -> Value {
    let names = steering.hash_types.iter_names();
    let names: Vec<String> = names.map(|(name, _)| name.to_lowercase()).collect();
    json!({
        "hash_types": names,
        "table": steering.table,
        "default_queue": steering.default_queue,
    })
}

fn inspect_region(region: &RegionInfo) -> Value {
    json!({
        "address": format!("{:#x}", region.range.start),
        "size": region.range.end - region.range.start,
        "reachable": region.reachable,
        "writable": region.writable,
        "page_size": region.page_size,
        "windows": region.windows,
    })
}

#[cfg(test)]
mod tests;
