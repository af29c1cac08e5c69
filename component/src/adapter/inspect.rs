//! The adapter's state for people.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use serde_json::{Map, Value, json};
use zerocopy::IntoBytes;

use super::Device;
use crate::bnic::Vport;
use crate::gdma::queues::QueueRef;
use device_kit::platform::Platform;
use device_kit::ring::Ring;
use mana_wire::bnic::Stats;
use mana_wire::queue::QueueType;

impl<P: Platform> Device<P> {
    /// Returns the state as a JSON object.
    pub(super) fn tree(&self) -> Value {
        let (regions, pages) = self.regions.usage();
        let vports = self.nic.vports.iter().enumerate();
        let vports: Map<String, Value> = vports
            .map(|(index, vport)| (format!("{index}"), self.vport(index, vport)))
            .collect();
        json!({
            "hwc": self.inspect_hwc(),
            "queues": self.inspect_queues(),
            "dma_regions": { "unused": regions, "pages_in_use": pages },
            "nic": { "registered": self.nic.registered, "vports": vports },
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
        let [eq, cq, sq, rq] = hwc.queue_ids();
        json!({
            "established": true,
            "eq": eq, "cq": cq, "sq": sq, "rq": rq,
            "driver_capabilities": format!("{:#x}", hwc.channel.driver_caps),
            "timeout_ms": hwc.channel.timeout_ms,
            "requests": hwc.answered.0,
            "failed_requests": hwc.answered.1,
            "unanswerable_requests": hwc.unanswerable.count(),
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

    fn vport(&self, index: usize, vport: &Vport) -> Value {
        let mac: Vec<String> = vport
            .config
            .mac
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        let of_type = |queue_type: QueueType| {
            let own = self.nic.objects().filter(|(_, o)| o.vport == index);
            let own = own.filter(|(_, o)| o.queue_type() == queue_type);
            own.map(
                |(handle, o)| json!({ "wq": o.wq, "cq": o.cq, "handle": format!("{handle:#x}") }),
            )
            .collect::<Vec<_>>()
        };
        json!({
            "mac": mac.join(":"),
            "mtu": vport.config.mtu,
            "link_up": vport.config.link_up,
            "tx_enabled": vport.tx_enabled,
            "rx_enabled": vport.steering.enabled,
            "rss": vport.steering.rss,
            "serial_number": vport.serial_no,
            "filter_to_vtl0": vport.filter_to_vtl0,
            "send_queues": of_type(QueueType::Sq),
            "receive_queues": of_type(QueueType::Rq),
            "stats": inspect_stats(&vport.reported_stats()),
            "faults": vport.faults.count(),
        })
    }
}

fn inspect_ring(ring: &Ring) -> Value {
    let first = ring.pages().first().copied().unwrap_or_default();
    json!({ "bytes": ring.size(), "window": ring.has_window(), "first_page": format!("{first:#x}") })
}

fn inspect_queue(queue: QueueRef<'_>) -> Value {
    match queue {
        QueueRef::Eq(eq) => {
            let (head, tail) = eq.position.counts();
            json!({
                "memory": inspect_ring(&eq.ring), "vector": eq.vector, "armed": eq.armed,
                "head": head, "tail": tail, "lost": eq.lost.count(),
                "bad_doorbells": eq.bad_doorbells.count(),
            })
        }
        QueueRef::Cq(cq) => {
            let (head, tail) = cq.position.counts();
            json!({
                "memory": inspect_ring(&cq.ring), "eq": cq.eq, "armed": cq.armed,
                "head": head, "tail": tail, "lost": cq.lost.count(),
                "bad_doorbells": cq.bad_doorbells.count(),
            })
        }
        QueueRef::Wq(wq) => {
            let (posted, read, completed) = wq.positions();
            json!({
                "memory": inspect_ring(&wq.ring),
                "posted": posted, "read": read, "completed": completed,
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
