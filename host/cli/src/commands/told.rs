//! Converts the library's reports about a device to types of the control protocol.

use std::time::Duration;

use manatee::device::{self, PortTotals, Totals};
use manatee::endpoint::{RefusedCounters, RxCounters, TxCounters};
use manatee_control::Event;
use manatee_control::event::{Crash, Reason, Recovery};
use manatee_control::method::{
    Counts, PortCounts, RefusedCounts, RxCounts, Swapped, TxCounts, UpDown,
};

/// Converts an event. None if this build's protocol has no such event.
pub fn event(event: &device::Event) -> Option<Event> {
    Some(match event {
        device::Event::Attached => Event::Attached,
        device::Event::Detached => Event::Detached,
        device::Event::Swapped(swap) if swap.rollback => Event::RolledBack(swapped(swap)),
        device::Event::Swapped(swap) => Event::Swapped(swapped(swap)),
        device::Event::Crashed { failures, reason } => Event::Crashed(Crash {
            failures: *failures,
            reason: reason.clone(),
        }),
        device::Event::Recovered(recovery) => Event::Recovered(Recovery {
            reason: recovery.reason.clone(),
            took_us: micros(recovery.took),
            lost_transmits: recovery.lost_transmits,
            lost_receives: recovery.lost_receives,
            skipped: recovery.skipped as u64,
            asked_for_reset: recovery.asked_for_reset,
        }),
        device::Event::Down { reason } => Event::Down(Reason {
            reason: reason.clone(),
        }),
        _ => return None,
    })
}

/// Converts a replacement.
pub fn swapped(swap: &device::SwapReport) -> Swapped {
    Swapped {
        from: swap.from.clone(),
        from_sha256: swap.from_digest.to_string(),
        to: swap.to.clone(),
        to_sha256: swap.to_digest.to_string(),
        pause_us: micros(swap.pause),
        state_bytes: swap.state_bytes as u64,
        rollback: swap.rollback,
    }
}

/// Converts the state of a link.
pub fn link(up: bool) -> UpDown {
    if up { UpDown::Up } else { UpDown::Down }
}

/// Converts counters.
pub fn counts(totals: Totals) -> Counts {
    Counts {
        uptime_ms: totals.uptime.as_millis() as u64,
        attached: totals.attached,
        state: totals.condition.name().to_owned(),
        component_version: totals.component_version,
        component_sha256: totals.component_sha256,
        swaps: totals.swaps,
        rollbacks: totals.rollbacks,
        failures: totals.failures,
        recoveries: totals.recoveries,
        restarts: totals.restarts,
        last_pause_us: micros(totals.last_pause),
        longest_pause_us: micros(totals.longest_pause),
        calls: totals.calls,
        deadlines_missed: totals.deadlines_missed,
        interrupts_raised: totals.interrupts_raised,
        log_lines_dropped: totals.log_lines_dropped,
        ports: (0..).zip(totals.ports).map(port_counts).collect(),
    }
}

fn port_counts((port, totals): (u32, PortTotals)) -> PortCounts {
    PortCounts {
        port,
        endpoint: totals.endpoint,
        link: link(totals.link_up),
        posted_buffers: totals.posted_buffers,
        transmit: tx_counts(&totals.counters.transmit),
        receive: rx_counts(&totals.counters.receive),
        refused: refused_counts(&totals.counters.refused),
        rate_mbps: totals.rate_mbps,
    }
}

fn refused_counts(counters: &RefusedCounters) -> RefusedCounts {
    RefusedCounts {
        source: counters.source,
        sent_vlan: counters.sent_vlan,
        destination: counters.destination,
        received_vlan: counters.received_vlan,
    }
}

fn tx_counts(counters: &TxCounters) -> TxCounts {
    TxCounts {
        packets: counters.packets,
        bytes: counters.bytes,
        dropped_busy: counters.dropped_busy,
        dropped_down: counters.dropped_down,
        dropped_error: counters.dropped_error,
        memory_faults: counters.memory_faults,
        too_long: counters.too_long,
        bad_headers: counters.bad_headers,
    }
}

fn rx_counts(counters: &RxCounters) -> RxCounts {
    RxCounts {
        packets: counters.packets,
        bytes: counters.bytes,
        truncated: counters.truncated,
        memory_faults: counters.memory_faults,
        dropped: counters.dropped,
        errors: counters.errors,
    }
}

fn micros(time: Duration) -> u64 {
    time.as_micros() as u64
}
