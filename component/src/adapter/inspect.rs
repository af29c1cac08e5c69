//! The adapter's state as JSON, for people to read.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use serde_json::{Map, Value, json};
use zerocopy::IntoBytes;

use super::Device;
use crate::bnic::vport::Vport;
use crate::gdma::ids::CqId;
use crate::gdma::queues::QueueRef;
use crate::state::object_handle;
use device_kit::Platform;
use device_kit::ring::Ring;
use mana_wire::bnic::Stats;

impl<P: Platform> Device<P> {
    /// Returns the state as a JSON object.
    pub(super) fn tree(&self) -> Value {
        let (regions, pages) = self.regions.usage();
        let vports = self.nic.vports.iter().enumerate();
        let vports: Map<String, Value> = vports
            .map(|(index, vport)| (format!("{index}"), inspect_vport(vport)))
            .collect();
        json!({
            "hwc": self.inspect_hwc(),
            "queues": self.inspect_queues(),
            "dma_regions": { "unused": regions, "pages_in_use": pages },
            "nic": { "registered": self.registration.is_registered(), "vports": vports },
            "faults": {
                "bad_doorbells": self.queues.bad_doorbells.count(),
                "eq_overruns": self.queues.eq_overruns.count(),
                "stray_accesses": self.stray_accesses.count(),
            },
        })
    }

    fn inspect_hwc(&self) -> Value {
        let Some(hwc) = &self.hwc else {
            return json!({ "established": false });
        };
        let [eq, cq, sq, rq] = hwc.channel.queue_numbers();
        let counters = hwc.counters();
        json!({
            "established": true,
            "eq": eq, "cq": cq, "sq": sq, "rq": rq,
            "driver_capabilities": format!("{:#x}", hwc.channel.driver_caps),
            "timeout_ms": hwc.channel.timeout_ms,
            "requests": counters.answered,
            "failed_requests": counters.failed,
            "unanswerable_requests": counters.unanswerable,
        })
    }

    fn inspect_queues(&self) -> Value {
        let mut tree = [Map::new(), Map::new(), Map::new(), Map::new()];
        self.queues.for_each(|queue_type, id, queue| {
            let map = &mut tree[queue_type.to_wire() as usize - 1];
            map.insert(format!("{id}"), inspect_queue(queue));
        });
        let [sq, rq, cq, eq] = tree;
        json!({ "sq": sq, "rq": rq, "cq": cq, "eq": eq })
    }
}

fn inspect_vport(vport: &Vport) -> Value {
    let port = &vport.port;
    let mac: Vec<String> = port.config.mac.iter().map(|b| format!("{b:02x}")).collect();
    let queue = |wq: u32, cq: CqId, object: u32| {
        let handle = format!("{:#x}", object_handle(object));
        json!({ "wq": wq, "cq": cq.0, "handle": handle })
    };
    let send = vport.send.iter().flatten();
    let send: Vec<_> = send.map(|it| queue(it.sq.0, it.cq, it.object)).collect();
    let receive = vport.receive.iter().flatten();
    let receive: Vec<_> = receive.map(|it| queue(it.rq.0, it.cq, it.object)).collect();
    json!({
        "mac": mac.join(":"),
        "mtu": port.config.mtu,
        "link_up": port.config.link_up,
        "tx_enabled": port.tx_enabled,
        "rx_enabled": port.steering.enabled,
        "rss": port.steering.rss,
        "coalesces_completions": port.steering.coalesces,
        "limit_mbps": port.clamp,
        "serial_number": port.serial_no,
        "filter_to_vtl0": port.filter_to_vtl0,
        "send_queues": send,
        "receive_queues": receive,
        "stats": inspect_stats(&port.stats.reported()),
        "faults": port.stats.faults.count(),
    })
}

fn inspect_ring(ring: &Ring) -> Value {
    let first = ring.pages().first().copied().unwrap_or_default();
    json!({ "bytes": ring.size(), "window": ring.window().is_some(), "first_page": format!("{first:#x}") })
}

fn inspect_queue(queue: QueueRef<'_>) -> Value {
    match queue {
        QueueRef::Eq(eq) => {
            let (producer, consumer) = eq.position.counts();
            json!({
                "memory": inspect_ring(&eq.ring), "vector": eq.vector, "armed": eq.is_armed,
                "posted": producer, "consumed": consumer, "lost": eq.lost.count(),
                "bad_doorbells": eq.bad_doorbells.count(),
            })
        }
        QueueRef::Cq(cq) => {
            let (producer, consumer) = cq.position.counts();
            json!({
                "memory": inspect_ring(&cq.ring), "eq": cq.eq.map(|eq| eq.0), "armed": cq.is_armed,
                "posted": producer, "consumed": consumer, "lost": cq.lost.count(),
                "bad_doorbells": cq.bad_doorbells.count(),
                "moderation": cq.moderation.map(|it| {
                    json!({ "completions": it.completions, "usec": it.usec })
                }),
            })
        }
        QueueRef::Wq(wq) => {
            let positions = wq.positions();
            json!({
                "memory": inspect_ring(&wq.ring),
                "posted": positions.producer,
                "read": positions.read,
                "completed": positions.completed,
                "malformed": wq.malformed.count(), "bad_doorbells": wq.bad_doorbells.count(),
            })
        }
    }
}

/// Names of the fields of [`Stats`], in order.
const STAT_NAMES: [&str; size_of::<Stats>() / 8] = [
    "rx_discards_nowqe",
    "rx_err_vport_disabled",
    "rx_bytes",
    "rx_ucast_pkts",
    "rx_ucast_bytes",
    "rx_bcast_pkts",
    "rx_bcast_bytes",
    "rx_mcast_pkts",
    "rx_mcast_bytes",
    "tx_err_gf_disabled",
    "tx_err_vport_disabled",
    "tx_err_inval_vport_offset",
    "tx_err_vlan_enforcement",
    "tx_err_ethtype_enforcement",
    "tx_err_sa_enforcement",
    "tx_err_sqpdid_enforcement",
    "tx_err_cqpdid_enforcement",
    "tx_err_mtu_violation",
    "tx_err_inval_oob",
    "tx_bytes",
    "tx_ucast_pkts",
    "tx_ucast_bytes",
    "tx_bcast_pkts",
    "tx_bcast_bytes",
    "tx_mcast_pkts",
    "tx_mcast_bytes",
    "tx_err_gdma",
];

fn inspect_stats(stats: &Stats) -> Value {
    let (words, _) = stats.as_bytes().as_chunks();
    let values = words.iter().copied().map(u64::from_le_bytes);
    STAT_NAMES
        .iter()
        .zip(values)
        .map(|(name, value)| ((*name).into(), value.into()))
        .collect::<Map<_, _>>()
        .into()
}
