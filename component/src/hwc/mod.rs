//! The hardware channel: the queue pair over which a driver configures the
//! device, one message a work queue entry.

pub mod requests;

use alloc::boxed::Box;
use alloc::vec;

use zerocopy::{FromBytes, IntoBytes};

use crate::bnic::Nic;
use crate::gdma::cq::Completes;
use crate::gdma::queues::{Kind, MAX_CQS, Queues};
use crate::gdma::regions::DmaRegions;
use crate::gdma::wq::{Client, Entry, Fetched};
use crate::state as saved;
use device_kit::FaultCounter;
use device_kit::envelope::{RestoreError, ensure};
use device_kit::fault_counter::COUNTABLE;
use device_kit::platform::{Level, Platform};
use mana_wire::gdma::{MsgHeader, ReqHeader, RespHeader, Status};
use mana_wire::hwc::{ID_MASK, InitEqIdDb, MAX_MESSAGE, RxOob, TxOob, TypeData, init_data};
use mana_wire::queue::{QueueType, Sge, WQE_UNIT, eqe};
use mana_wire::smc::{self, EstablishHwc};
use requests::Request;

/// Messages that the one-page queues hold at a time: the completion queue
/// has 64 entries, and each message takes two.
const QUEUE_DEPTH: u32 = 32;
/// Protection domain and memory key of the channel's own queues.
const HWC_PDID: u32 = 0;
/// How long a driver waits for an answer at first, in milliseconds
/// (`HW_CHANNEL_WAIT_RESOURCE_TIMEOUT_MS`).
const DEFAULT_TIMEOUT_MS: u32 = 30_000;
const RESPONSE_HEADER: u32 = size_of::<RespHeader>() as u32;

/// What every request may need of the device.
#[derive(Debug)]
pub struct Context<'a, P> {
    /// Where the device runs.
    pub platform: &'a mut P,
    /// All queues.
    pub queues: &'a mut Queues,
    /// All DMA regions.
    pub regions: &'a mut DmaRegions,
    /// The NIC.
    pub nic: &'a mut Nic,
}

/// An established hardware channel.
#[derive(Debug)]
pub struct Hwc {
    /// What requests may look at and change.
    pub channel: Channel,
    /// Requests answered, and those among them with an error.
    pub answered: (u64, u64),
    /// Requests that could not be answered.
    pub unanswerable: FaultCounter,
    /// The last request changed the configuration.
    pub changed: bool,
    /// After a failure: a request that was answered, and that the state does
    /// not know of.
    pub replay: Option<Answered>,
    scratch: Box<Scratch>,
}

/// Where an answered request lies in the send queue, in bytes modulo 2^32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// Where its entry begins.
    pub position: u32,
    /// Where it ends.
    pub end: u32,
}

/// What the completion of a request notes if it changed the configuration: the
/// length of its entry, in units. 0 otherwise.
fn note(changed: bool, entry: &Entry) -> u32 {
    let units = entry.end.wrapping_sub(entry.position) / WQE_UNIT;
    if changed { units } else { 0 }
}

/// The channel's queues, and what was agreed over it.
#[derive(Debug)]
pub struct Channel {
    eq: u32,
    cq: u32,
    sq: u32,
    rq: u32,
    /// What the driver said it can do (`gd_drv_cap_flags1`).
    pub driver_caps: u64,
    /// How long the driver waits for an answer, in milliseconds.
    pub timeout_ms: u32,
}

#[derive(Debug)]
struct Scratch {
    sqe: Entry,
    rqe: Entry,
    request: [u8; MAX_MESSAGE as usize],
    response: [u8; MAX_MESSAGE as usize],
}

impl Channel {
    /// Posts an event on the channel's event queue; one that does not fit is
    /// counted there.
    pub fn post(&self, ctx: &mut Context<'_, impl Platform>, event_type: u8, detail: u32) {
        let _ = ctx
            .queues
            .post_event(ctx.platform, self.eq, event_type, [detail, 0, 0]);
    }

    /// Whether a queue is one of the channel's own.
    pub fn owns(&self, queue_type: QueueType, id: u32) -> bool {
        id == match queue_type {
            QueueType::Sq => self.sq,
            QueueType::Rq => self.rq,
            QueueType::Cq => self.cq,
            QueueType::Eq => self.eq,
        }
    }

    /// The event queue's boot sequence (`mana_hwc_init_event_handler`).
    fn announce(&self, ctx: &mut Context<'_, impl Platform>) {
        let ids = InitEqIdDb::new()
            .with_eq_id(self.eq as u16)
            .with_doorbell(0);
        self.post(ctx, eqe::HWC_INIT_EQ_ID_DB, ids.into_bits());
        let data = [
            (init_data::CQID, self.cq),
            (init_data::RQID, self.rq),
            (init_data::SQID, self.sq),
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

impl Hwc {
    /// Makes the channel's queues and tells the driver about them.
    ///
    /// # Errors
    ///
    /// The status to answer with; the caller clears the queues.
    pub fn establish(
        ctx: &mut Context<'_, impl Platform>,
        message: &EstablishHwc,
    ) -> Result<Self, smc::Status> {
        let mut probe = [0; 8];
        let pages = [message.eq, message.cq, message.rq, message.sq];
        if pages
            .iter()
            .any(|page| ctx.platform.read(*page, &mut probe).is_err())
        {
            return Err(smc::Status::BadAddress);
        }
        let mut create = |kind, page| {
            let created = ctx.queues.create(ctx.platform, kind, vec![page]);
            created.map_err(|_| smc::Status::BadVector)
        };
        let eq = create(Kind::Eq(message.vector), message.eq)?;
        let cq = create(Kind::Cq(Some(eq)), message.cq)?;
        let sq = create(Kind::Sq, message.sq)?;
        let rq = create(Kind::Rq, message.rq)?;
        if let Some(wq) = ctx.queues.sq(sq) {
            wq.client = Client::Hwc;
        }
        if let Some(wq) = ctx.queues.rq(rq) {
            wq.client = Client::Hwc;
        }
        let channel = Channel {
            eq,
            cq,
            sq,
            rq,
            driver_caps: 0,
            timeout_ms: DEFAULT_TIMEOUT_MS,
        };
        channel.announce(ctx);
        Ok(Self::new(channel))
    }

    fn new(channel: Channel) -> Self {
        let scratch = Scratch {
            sqe: Entry::default(),
            rqe: Entry::default(),
            request: [0; MAX_MESSAGE as usize],
            response: [0; MAX_MESSAGE as usize],
        };
        Self {
            channel,
            answered: (0, 0),
            unanswerable: FaultCounter::default(),
            changed: false,
            replay: None,
            scratch: Box::new(scratch),
        }
    }

    /// The channel, to be saved. A request that waits is in its send queue.
    pub fn save(&self) -> saved::Hwc {
        saved::Hwc {
            queues: self.queue_ids(),
            driver_caps: self.channel.driver_caps,
            timeout_ms: self.channel.timeout_ms,
            answered: self.answered,
            unanswerable: self.unanswerable.count(),
        }
    }

    /// A channel that was saved; its queues exist already. Their pages are on
    /// no account, because no region was registered for them.
    ///
    /// # Errors
    ///
    /// [`RestoreError::Malformed`].
    pub fn restore(
        queues: &mut Queues,
        regions: &mut DmaRegions,
        saved: &saved::Hwc,
    ) -> Result<Self, RestoreError> {
        let [eq, cq, sq, rq] = saved.queues;
        let reports = queues.cq(cq).is_some_and(|queue| queue.eq == Some(eq));
        ensure(reports, "a hardware channel without its queues")?;
        let absent = RestoreError::Malformed("a hardware channel without its queues");
        queues.sq(sq).ok_or(absent)?.client = Client::Hwc;
        queues.rq(rq).ok_or(absent)?.client = Client::Hwc;
        regions.release(queues.eq(eq).ok_or(absent)?.ring.pages());
        regions.release(queues.cq(cq).ok_or(absent)?.ring.pages());
        regions.release(queues.sq(sq).ok_or(absent)?.ring.pages());
        regions.release(queues.rq(rq).ok_or(absent)?.ring.pages());
        let countable = saved.answered.0.max(saved.answered.1) < COUNTABLE;
        ensure(countable, "impossible counters")?;
        let channel = Channel {
            eq,
            cq,
            sq,
            rq,
            driver_caps: saved.driver_caps,
            timeout_ms: saved.timeout_ms,
        };
        Ok(Self {
            answered: saved.answered,
            unanswerable: FaultCounter::from_count(saved.unanswerable),
            ..Self::new(channel)
        })
    }

    /// Ids of the event, completion, send and receive queue.
    pub fn queue_ids(&self) -> [u32; 4] {
        let Channel { eq, cq, sq, rq, .. } = self.channel;
        [eq, cq, sq, rq]
    }

    /// Answers up to `budget` requests, or up to one that changes the
    /// configuration. Returns true if it stopped there.
    pub fn process(&mut self, ctx: &mut Context<'_, impl Platform>, budget: usize) -> bool {
        self.changed = false;
        (0..budget).all(|_| !self.changed && self.process_one(ctx)) || self.changed
    }

    /// Acts again on the last request that was answered, if it changed
    /// something that the state does not know of, and does not answer it again.
    pub fn replay(&mut self, ctx: &mut Context<'_, impl Platform>) {
        let Some(answered) = self.replay.take() else {
            return;
        };
        let Some(sq) = ctx.queues.sq(self.channel.sq) else {
            return;
        };
        sq.rewind_to(answered.position);
        let fetched = sq.fetch(ctx.platform, &mut self.scratch.sqe);
        let same = self.scratch.sqe.end == answered.end;
        sq.rewind_to(answered.end);
        if fetched == Fetched::Entry && same {
            self.act_silently(ctx);
        }
    }

    fn act_silently(&mut self, ctx: &mut Context<'_, impl Platform>) {
        let Ok(length) = self.read_request(ctx.platform) else {
            return;
        };
        let Scratch {
            request, response, ..
        } = &mut *self.scratch;
        let message = &request[..length];
        let Ok((header, _)) = ReqHeader::read_from_prefix(message) else {
            return;
        };
        if !requests::changes(header.req.msg_type) {
            return;
        }
        response.fill(0);
        let body = &mut response[RESPONSE_HEADER as usize..];
        // How it ended was told before.
        let _ = Request::new(header, message)
            .and_then(|request| requests::handle(&mut self.channel, ctx, &request, body));
    }

    /// Takes a buffer for a response, and a request. False if either is
    /// missing.
    fn process_one(&mut self, ctx: &mut Context<'_, impl Platform>) -> bool {
        let Some(rq) = ctx.queues.rq(self.channel.rq) else {
            return false;
        };
        match rq.fetch(ctx.platform, &mut self.scratch.rqe) {
            Fetched::Nothing => return false,
            Fetched::Entry => {}
            Fetched::Malformed | Fetched::Unreadable => {
                rq.complete_to(self.scratch.rqe.end);
                self.cannot_answer(ctx, "a response buffer is malformed");
                return true;
            }
        }
        let sq_id = self.channel.sq;
        let Some((sq, caution)) = ctx.queues.sq_with_caution(sq_id) else {
            return false;
        };
        let skip = caution.is_on() && caution.attempt_next(ctx.platform, QueueType::Sq, sq_id, sq);
        let fetched = sq.fetch(ctx.platform, &mut self.scratch.sqe);
        let answer = match fetched {
            Fetched::Nothing => Err(""),
            Fetched::Entry => self.answer(ctx, skip),
            Fetched::Malformed => Err("its work queue entry is malformed"),
            Fetched::Unreadable => Err("its work queue is not in guest memory"),
        };
        if fetched != Fetched::Nothing {
            self.complete_send(ctx);
        }
        match answer {
            Ok(length) => self.complete_response(ctx, length),
            Err(reason) => {
                // The buffer serves the next request.
                if let Some(rq) = ctx.queues.rq(self.channel.rq) {
                    rq.rewind_to(self.scratch.rqe.position);
                }
                if fetched != Fetched::Nothing {
                    self.cannot_answer(ctx, reason);
                }
            }
        }
        fetched != Fetched::Nothing
    }

    /// Reads the request, acts on it unless it is to be skipped, and writes
    /// the response to its buffer. Returns the response's length in bytes.
    fn answer(
        &mut self,
        ctx: &mut Context<'_, impl Platform>,
        skip: bool,
    ) -> Result<u32, &'static str> {
        let length = self.read_request(ctx.platform)?;
        let Scratch {
            rqe,
            request,
            response,
            ..
        } = &mut *self.scratch;
        let message = &request[..length];
        let (header, _) =
            ReqHeader::read_from_prefix(message).map_err(|_| "it is shorter than its header")?;
        let capacity = total_length(rqe.sgl());
        if capacity < RESPONSE_HEADER.into() {
            return Err("its response buffer is shorter than a response header");
        }
        let wanted = header.resp.msg_size.clamp(RESPONSE_HEADER, MAX_MESSAGE);
        let length = capacity.min(wanted.into()) as u32;
        let response = &mut response[..length as usize];
        response.fill(0);
        let (head, body) = response.split_at_mut(RESPONSE_HEADER as usize);

        let outcome = if length < wanted {
            Err(Status::ResponseTooSmall)
        } else if skip {
            Err(Status::InvalidState)
        } else {
            Request::new(header, message)
                .and_then(|request| requests::handle(&mut self.channel, ctx, &request, body))
        };
        let (status, version) = match outcome {
            Ok(version) => (Status::Success, version),
            // Two of the statuses come with a response.
            Err(status @ (Status::MoreEntries | Status::Success)) => (status, 1),
            Err(status) => {
                body.fill(0);
                (status, 1)
            }
        };
        self.answered.0 += 1;
        self.changed |= requests::changes(header.req.msg_type);
        if !matches!(status, Status::Success | Status::MoreEntries) {
            self.answered.1 += 1;
            ctx.platform.log(
                Level::Debug,
                format_args!("request {:#x} failed: {status:?}", header.req.msg_type),
            );
        }
        let resp = RespHeader {
            response: MsgHeader {
                msg_version: version,
                hwc_msg_id: header.req.hwc_msg_id,
                msg_size: length,
                ..header.resp
            },
            dev_id: header.dev_id,
            activity_id: header.activity_id,
            status: status as u32,
            reserved: 0,
        };
        head.copy_from_slice(resp.as_bytes());
        scatter(
            ctx.platform,
            self.scratch.rqe.sgl(),
            &self.scratch.response[..length as usize],
        )?;
        Ok(length)
    }

    /// Copies the request out of guest memory, once. Returns its length.
    fn read_request(&mut self, platform: &mut impl Platform) -> Result<usize, &'static str> {
        let Scratch { sqe, request, .. } = &mut *self.scratch;
        let (oob, _) =
            TxOob::read_from_prefix(sqe.oob().as_bytes()).map_err(|_| "its OOB is too short")?;
        if oob.vscq & ID_MASK != self.channel.cq || oob.vsq & ID_MASK != self.channel.sq {
            return Err("its OOB names other queues");
        }
        let length = total_length(sqe.sgl());
        if length > MAX_MESSAGE.into() {
            return Err("it is longer than a message may be");
        }
        let mut rest = &mut request[..length as usize];
        for sge in sqe.sgl() {
            let (now, later) = rest.split_at_mut(sge.size as usize);
            platform
                .read(sge.address, now)
                .map_err(|_| "it is not in guest memory")?;
            rest = later;
        }
        Ok(length as usize)
    }

    fn complete_send(&mut self, ctx: &mut Context<'_, impl Platform>) {
        let Channel { cq, sq: wq, .. } = self.channel;
        let end = self.scratch.sqe.end;
        let completes = Completes {
            wq,
            is_sq: true,
            end,
            note: note(self.changed, &self.scratch.sqe),
        };
        ctx.queues.complete_sends(wq, cq, |sq, cq| {
            sq.complete_to(end);
            cq.post(ctx.platform, [0; 7], 0, completes)
        });
    }

    fn complete_response(&mut self, ctx: &mut Context<'_, impl Platform>, length: u32) {
        let Channel { cq, rq: wq, .. } = self.channel;
        let Entry { position, end, .. } = self.scratch.rqe;
        let completes = Completes {
            wq,
            is_sq: false,
            end,
            note: 0,
        };
        ctx.queues.complete_receives(wq, cq, |rq, cq| {
            rq.complete_to(end);
            let oob = RxOob {
                wqe_offset: position & (rq.ring.size() - 1),
                tx_oob_data_size: length,
                ..RxOob::default()
            };
            let mut words = [0; 7];
            words.as_mut_bytes()[..size_of::<RxOob>()].copy_from_slice(oob.as_bytes());
            cq.post(ctx.platform, words, 0, completes)
        });
    }

    fn cannot_answer(&mut self, ctx: &mut Context<'_, impl Platform>, reason: &str) {
        if self.unanswerable.hit() {
            ctx.platform.log(
                Level::Warn,
                format_args!("can't answer a request: {reason}"),
            );
        }
    }
}

fn total_length(sgl: &[Sge]) -> u64 {
    sgl.iter().map(|sge| u64::from(sge.size)).sum()
}

fn scatter(platform: &mut impl Platform, sgl: &[Sge], mut data: &[u8]) -> Result<(), &'static str> {
    for sge in sgl {
        let (now, later) = data.split_at(data.len().min(sge.size as usize));
        platform
            .write(sge.address, now)
            .map_err(|_| "its response buffer is not guest memory")?;
        data = later;
    }
    Ok(())
}
