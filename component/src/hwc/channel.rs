//! The channel's queues, and the parameters that were agreed over it.

use alloc::vec;

use device_kit::Platform;
use mana_wire::hwc::{InitEqIdDb, MAX_MESSAGE, TypeData, init_data};
use mana_wire::queue::eqe;
use mana_wire::smc::{self, EstablishHwc};

use crate::gdma::Context;
use crate::gdma::ids::{CqId, EqId, RqId, SqId, WqId};
use crate::gdma::queue::wq::Owner;
use crate::gdma::queues::Queues;
use crate::gdma::regions::DmaRegions;
use crate::limits::{MAX_CQS, MAX_VECTORS};
use crate::state as saved;

/// Messages that the one-page queues hold at a time: the completion queue has 64
/// entries, and each message needs two.
const QUEUE_DEPTH: u32 = 32;
/// Protection domain and memory key of the channel's own queues.
const HWC_PDID: u32 = 0;
/// How long a driver waits for an answer by default, in milliseconds
/// (`HW_CHANNEL_WAIT_RESOURCE_TIMEOUT_MS`).
const DEFAULT_TIMEOUT_MS: u32 = 30_000;

/// The channel's queues, and the parameters that were agreed over it.
#[derive(Debug)]
pub struct Channel {
    /// Its event queue.
    pub eq: EqId,
    /// Its completion queue.
    pub cq: CqId,
    /// Its send queue.
    pub sq: SqId,
    /// Its receive queue.
    pub rq: RqId,
    /// The driver's capabilities (`gd_drv_cap_flags1`).
    pub driver_caps: u64,
    /// Milliseconds that the driver waits for an answer.
    pub timeout_ms: u32,
}

impl Channel {
    /// Makes the channel's queues and reports them to the driver.
    ///
    /// # Errors
    ///
    /// [`smc::SmcStatus::BadAddress`] if a page is not guest memory,
    /// [`smc::SmcStatus::BadVector`] if the vector is beyond the table.
    pub fn establish(ctx: &mut Context<'_, impl Platform>, message: &EstablishHwc) -> Self {
        let (queues, platform) = (&mut *ctx.queues, &mut *ctx.platform);
        let eq = queues.create_eq(platform, message.vector, vec![message.eq]);
        let channel = Self {
            eq,
            cq: queues.create_cq(platform, Some(eq), vec![message.cq]),
            sq: queues.create_sq(platform, vec![message.sq]),
            rq: queues.create_rq(platform, vec![message.rq]),
            driver_caps: 0,
            timeout_ms: DEFAULT_TIMEOUT_MS,
        };
        channel.own(queues);
        channel.announce(ctx);
        channel
    }

    /// Checks that a channel can be established as a driver asks.
    ///
    /// # Errors
    ///
    /// [`smc::SmcStatus::BadAddress`] if a page is not guest memory,
    /// [`smc::SmcStatus::BadVector`] if the vector is beyond the table.
    pub fn check(
        ctx: &mut Context<'_, impl Platform>,
        message: &EstablishHwc,
    ) -> Result<(), smc::SmcStatus> {
        let mut probe = [0; 8];
        let pages = [message.eq, message.cq, message.rq, message.sq];
        if pages
            .iter()
            .any(|page| ctx.platform.read(*page, &mut probe).is_err())
        {
            return Err(smc::SmcStatus::BadAddress);
        }
        if message.vector >= MAX_VECTORS {
            return Err(smc::SmcStatus::BadVector);
        }
        Ok(())
    }

    /// Continues a channel that was saved and checked; its queues exist already. Their
    /// pages are not counted, because no region was registered for them.
    pub fn resume(queues: &mut Queues, regions: &mut DmaRegions, saved: &saved::Hwc) -> Self {
        let [eq, cq, sq, rq] = saved.queues;
        let channel = Self {
            eq: EqId(eq),
            cq: CqId(cq),
            sq: SqId(sq),
            rq: RqId(rq),
            driver_caps: saved.driver_caps,
            timeout_ms: saved.timeout_ms,
        };
        channel.own(queues);
        let eq = queues.eq(channel.eq).map(|eq| &eq.ring);
        regions.release(eq.expect("the channel's queue").pages());
        let cq = queues.cq(channel.cq).map(|cq| &cq.ring);
        regions.release(cq.expect("the channel's queue").pages());
        for wq in [WqId::Sq(channel.sq), WqId::Rq(channel.rq)] {
            regions.release(queues.read(wq).wq.ring.pages());
        }
        channel
    }

    /// Makes the channel the owner of its queues.
    fn own(&self, queues: &mut Queues) {
        for wq in [WqId::Sq(self.sq), WqId::Rq(self.rq)] {
            queues.read(wq).wq.owner = Owner::Channel;
        }
        queues.cq(self.cq).expect("the channel's queue").is_used = true;
    }

    /// Returns the numbers of the event, completion, send and receive queue.
    pub fn queue_numbers(&self) -> [u32; 4] {
        [self.eq.0, self.cq.0, self.sq.0, self.rq.0]
    }

    /// Posts an event on the channel's event queue; one that does not fit is
    /// counted there.
    pub fn post(&self, ctx: &mut Context<'_, impl Platform>, event_type: u8, detail: u32) {
        let details = [detail, 0, 0];
        let _ = ctx
            .queues
            .post_event(ctx.platform, self.eq, event_type, details);
    }

    /// Posts the event queue's boot sequence (`mana_hwc_init_event_handler`).
    fn announce(&self, ctx: &mut Context<'_, impl Platform>) {
        let ids = InitEqIdDb::new()
            .with_eq_id(self.eq.0 as u16)
            .with_doorbell(0);
        self.post(ctx, eqe::HWC_INIT_EQ_ID_DB, ids.into_bits());
        let data = [
            (init_data::CQID, self.cq.0),
            (init_data::RQID, self.rq.0),
            (init_data::SQID, self.sq.0),
            (init_data::QUEUE_DEPTH, QUEUE_DEPTH),
            (init_data::MAX_REQUEST, MAX_MESSAGE),
            (init_data::MAX_RESPONSE, MAX_MESSAGE),
            (init_data::MAX_NUM_CQS, MAX_CQS as u32 + 1),
            (init_data::PDID, HWC_PDID),
            (init_data::GPA_MKEY, HWC_PDID),
        ];
        for (kind, value) in data {
            let data = TypeData::new().with_kind(kind).with_value(value);
            self.post(ctx, eqe::HWC_INIT_DATA, data.into_bits());
        }
        self.post(ctx, eqe::HWC_INIT_DONE, 0);
    }
}
