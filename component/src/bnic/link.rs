//! A vport's link: its speed, its transmit limit, and its counters.

use device_kit::Platform;
use device_kit::platform::Features;
use mana_wire::bnic::{
    PHY_STATS, PhyStats, QueryLinkConfigReq, QueryLinkConfigResp, QueryPhyStatsReq,
    QueryPhyStatsResp, SetBwClampReq, SetBwClampResp, tri_state,
};
use mana_wire::gdma::Status;

use super::Nic;
use crate::gdma::Context;
use crate::gdma::message::{Answer, Request};

/// Sizes of `QUERY_LINK_CONFIG`'s response, by version.
pub const LINK_CONFIG_LAYOUTS: &[usize] = &[8, size_of::<QueryLinkConfigResp>()];
/// The least size of `QUERY_PHY_STAT`'s response.
pub const PHY_STATS_LAYOUTS: &[usize] = &[size_of::<u64>()];

type Outcome = Result<(), Status>;

fn vport(nic: &Nic, handle: u64) -> Result<usize, Status> {
    nic.vport_index(handle).ok_or(Status::InvalidHandle)
}

/// Handles `QUERY_LINK_CONFIG`.
pub fn query_link_config(nic: &Nic, request: &Request<'_>, answer: &mut Answer<'_>) -> Outcome {
    let req: QueryLinkConfigReq = request.body()?;
    let port = &nic.vports[vport(nic, req.vport)?].port;
    let speed = port.config.link_speed_mbps;
    let resp = QueryLinkConfigResp {
        qos_speed_mbps: speed,
        qos_unconfigured: 0,
        reserved1: [0; 3],
        link_speed_mbps: port.clamp.unwrap_or(speed),
        reserved2: [0; 4],
    };
    answer.write(&resp);
    Ok(())
}

/// Handles `SET_BW_CLAMP`, which is unsupported where the host does not limit ports.
pub fn set_bw_clamp(
    nic: &mut Nic,
    ctx: &mut Context<'_, impl Platform>,
    request: &Request<'_>,
    answer: &mut Answer<'_>,
) -> Outcome {
    if !nic.features.contains(Features::RATE_LIMIT) {
        return Err(Status::Unsupported);
    }
    let req: SetBwClampReq = request.body()?;
    let index = vport(nic, req.vport)?;
    let port = &mut nic.vports[index].port;
    let speed = port.config.link_speed_mbps;
    let is_possible = req.link_speed_mbps > 0 && (speed == 0 || req.link_speed_mbps <= speed);
    let enable = tri_state(req.enable_clamping).map_err(|_| Status::InvalidParameter)?;
    match enable {
        Some(true) if is_possible => port.clamp = Some(req.link_speed_mbps),
        Some(true) => return Err(Status::InvalidParameter),
        Some(false) => port.clamp = None,
        None => {}
    }
    ctx.platform.limit_rate(port.index, port.clamp);
    answer.write(&SetBwClampResp {
        qos_unconfigured: 0,
        reserved: [0; 7],
    });
    Ok(())
}

/// Handles `QUERY_PHY_STAT`, about all links together. It is unsupported where the host
/// does not count.
pub fn query_phy_stats(
    nic: &Nic,
    ctx: &mut Context<'_, impl Platform>,
    request: &Request<'_>,
    answer: &mut Answer<'_>,
) -> Outcome {
    if !nic.features.contains(Features::STATISTICS) {
        return Err(Status::Unsupported);
    }
    let _: QueryPhyStatsReq = request.body()?;
    let mut stats = PhyStats::default();
    let add = |sum: &mut u64, part| *sum = sum.wrapping_add(part);
    for vport in &nic.vports {
        let link = ctx.platform.statistics(vport.port.index);
        add(&mut stats.rx_pkt_drop_phy, link.rx_dropped);
        add(&mut stats.tx_pkt_drop_phy, link.tx_dropped);
        let [rx_pkts, tx_pkts] = &mut stats.pkts[0];
        add(rx_pkts, link.rx_packets);
        add(tx_pkts, link.tx_packets);
        let [rx_bytes, tx_bytes] = &mut stats.bytes[0];
        add(rx_bytes, link.rx_bytes);
        add(tx_bytes, link.tx_bytes);
    }
    answer.write(&QueryPhyStatsResp {
        reported_stats: PHY_STATS,
        stats,
    });
    Ok(())
}

impl Nic {
    /// Sends the host the limit of each port again, for
    /// [`tell_again`](Self::tell_again).
    pub(super) fn tell_all_limits(&self, ctx: &mut Context<'_, impl Platform>) {
        if self.features.contains(Features::RATE_LIMIT) {
            for vport in &self.vports {
                let port = &vport.port;
                ctx.platform.limit_rate(port.index, port.clamp);
            }
        }
    }
}
