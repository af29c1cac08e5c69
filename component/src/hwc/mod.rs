//! The hardware channel: the queue pair over which a driver configures the
//! device, one message a WQE.
//!
//! [`Hwc::process`] takes a request and a buffer for its answer, has a [`Handler`] act
//! on it, and answers. The requests are defined in the layer above: the channel does
//! not know the NIC.

use alloc::boxed::Box;

use device_kit::FaultCounter;
use device_kit::platform::{Level, Platform};
use mana_wire::gdma::{MsgHeader, ReqHeader, RespHeader, Status};
use mana_wire::hwc::{MAX_MESSAGE, RxOob};
use zerocopy::{FromBytes, IntoBytes};

use crate::gdma::Context;
use crate::gdma::ids::WqId;
use crate::gdma::journal::Record;
use crate::gdma::queue::cq::Completion;
use crate::gdma::queue::wq::{Fetched, Wqe};
use crate::gdma::queues::Queues;
use crate::gdma::regions::DmaRegions;
use crate::state as saved;
use channel::Channel;
use dispatch::{Handled, Handler, Purpose};

pub mod channel;
pub mod dispatch;
mod events;
pub mod gdma_requests;
mod message;

const RESPONSE_HEADER: u32 = size_of::<RespHeader>() as u32;

/// An established hardware channel.
#[derive(Debug)]
pub struct Hwc {
    /// The part that requests may read and change.
    pub channel: Channel,
    /// Requests answered.
    answered: u64,
    /// Requests answered with an error, which `answered` counts too.
    failed: u64,
    /// Requests that could not be answered.
    unanswerable: FaultCounter,
    /// Whether the last request may have changed the configuration.
    may_have_changed: bool,
    scratch: Box<Scratch>,
}

/// The counters, for inspection.
#[derive(Clone, Copy, Debug)]
pub struct Counters {
    /// Requests answered.
    pub answered: u64,
    /// Requests answered with an error, which `answered` counts too.
    pub failed: u64,
    /// Requests that could not be answered.
    pub unanswerable: u64,
}

/// The outcome of [`Hwc::process`].
#[derive(Clone, Copy, Debug)]
pub struct Processed {
    /// Whether there may be more requests.
    pub is_work_left: bool,
    /// The configuration may have changed.
    pub may_have_changed: bool,
}

#[derive(Debug)]
struct Scratch {
    sqe: Wqe,
    rqe: Wqe,
    request: [u8; MAX_MESSAGE as usize],
    response: [u8; MAX_MESSAGE as usize],
}

impl Hwc {
    /// Creates a channel that has answered nothing yet.
    pub fn new(channel: Channel) -> Self {
        let scratch = Scratch {
            sqe: Wqe::default(),
            rqe: Wqe::default(),
            request: [0; MAX_MESSAGE as usize],
            response: [0; MAX_MESSAGE as usize],
        };
        Self {
            channel,
            answered: 0,
            failed: 0,
            unanswerable: FaultCounter::default(),
            may_have_changed: false,
            scratch: Box::new(scratch),
        }
    }

    /// Returns the channel to be saved. A request that waits is in its send
    /// queue.
    pub fn save(&self) -> saved::Hwc {
        saved::Hwc {
            queues: self.channel.queue_numbers(),
            driver_caps: self.channel.driver_caps,
            timeout_ms: self.channel.timeout_ms,
            answered: (self.answered, self.failed),
            unanswerable: self.unanswerable.count(),
        }
    }

    /// Continues a channel that was saved and checked; its queues exist already.
    pub fn resume(queues: &mut Queues, regions: &mut DmaRegions, saved: &saved::Hwc) -> Self {
        let (answered, failed) = saved.answered;
        Self {
            answered,
            failed,
            unanswerable: FaultCounter::from_count(saved.unanswerable),
            ..Self::new(Channel::resume(queues, regions, saved))
        }
    }

    /// Returns the counters.
    pub fn counters(&self) -> Counters {
        Counters {
            answered: self.answered,
            failed: self.failed,
            unanswerable: self.unanswerable.count(),
        }
    }

    /// Answers up to `budget` requests, or up to one that may change the
    /// configuration.
    pub fn process<P: Platform>(
        &mut self,
        ctx: &mut Context<'_, P>,
        handler: &mut impl Handler<P>,
        budget: usize,
    ) -> Processed {
        self.may_have_changed = false;
        let mut left = budget;
        while left > 0 && !self.may_have_changed && self.process_one(ctx, handler) {
            left -= 1;
        }
        Processed {
            is_work_left: left == 0 || self.may_have_changed,
            may_have_changed: self.may_have_changed,
        }
    }

    /// Takes a buffer for a response, and a request. Returns false if either is
    /// missing.
    fn process_one<P: Platform>(
        &mut self,
        ctx: &mut Context<'_, P>,
        handler: &mut impl Handler<P>,
    ) -> bool {
        let (sq, rq) = (WqId::Sq(self.channel.sq), WqId::Rq(self.channel.rq));
        let wq = ctx.queues.read(rq).wq;
        match wq.fetch(ctx.platform, &mut self.scratch.rqe) {
            Fetched::Nothing => return false,
            Fetched::Wqe => {}
            Fetched::Malformed | Fetched::Unreadable | Fetched::Skipped => {
                wq.complete_to(self.scratch.rqe.end);
                self.cannot_answer(ctx.platform, "a response buffer is malformed");
                return true;
            }
        }
        let fetched = ctx
            .queues
            .read(sq)
            .fetch(ctx.platform, &mut self.scratch.sqe);
        let answer = match fetched {
            Fetched::Nothing => Err(""),
            Fetched::Wqe | Fetched::Skipped => self.answer(ctx, handler, fetched),
            Fetched::Malformed => Err("its work queue entry is malformed"),
            Fetched::Unreadable => Err("its work queue is not in guest memory"),
        };
        if fetched != Fetched::Nothing {
            self.complete_send(ctx);
        }
        match answer {
            Ok(length) => self.complete_response(ctx, length),
            Err(reason) => {
                // The buffer is used for the next request.
                ctx.queues.read(rq).wq.rewind_to(self.scratch.rqe.position);
                if fetched != Fetched::Nothing {
                    self.cannot_answer(ctx.platform, reason);
                }
            }
        }
        fetched != Fetched::Nothing
    }

    /// Reads the request, has the handler act on it unless it is skipped, and writes
    /// the response to its buffer. Returns the response's length in bytes.
    fn answer<P: Platform>(
        &mut self,
        ctx: &mut Context<'_, P>,
        handler: &mut impl Handler<P>,
        fetched: Fetched,
    ) -> Result<u32, &'static str> {
        let Scratch {
            sqe,
            rqe,
            request,
            response,
        } = &mut *self.scratch;
        let length = message::read(ctx.platform, &self.channel, sqe, request)?;
        let message = &request[..length];
        let (header, _) =
            ReqHeader::read_from_prefix(message).map_err(|_| "it is shorter than its header")?;
        let capacity = message::total_length(rqe.sgl());
        if capacity < RESPONSE_HEADER.into() {
            return Err("its response buffer is shorter than a response header");
        }
        let wanted = header.resp.msg_size.clamp(RESPONSE_HEADER, MAX_MESSAGE);
        let length = capacity.min(wanted.into()) as u32;
        let response = &mut response[..length as usize];
        response.fill(0);
        let (head, body) = response.split_at_mut(RESPONSE_HEADER as usize);
        let handled = if length < wanted {
            Handled::refused(Status::ResponseTooSmall)
        } else if fetched == Fetched::Skipped {
            // It made the device fail before.
            Handled::refused(Status::InvalidState)
        } else {
            let channel = &mut self.channel;
            handler.handle(channel, ctx, Purpose::Answer, header, message, body)
        };
        if !handled.has_response() {
            body.fill(0);
        }
        self.may_have_changed |= handled.may_have_changed;
        self.answered += 1;
        if !handled.has_response() {
            self.failed += 1;
            let status = handled.status;
            ctx.platform.log(
                Level::Debug,
                format_args!("request {:#x} failed: {status:?}", header.req.msg_type),
            );
        }
        let resp = RespHeader {
            response: MsgHeader {
                msg_version: handled.version,
                hwc_msg_id: header.req.hwc_msg_id,
                msg_size: length,
                ..header.resp
            },
            dev_id: header.dev_id,
            activity_id: header.activity_id,
            status: handled.status as u32,
            reserved: 0,
        };
        head.copy_from_slice(resp.as_bytes());
        message::scatter(ctx.platform, rqe.sgl(), response)?;
        Ok(length)
    }

    /// Acts again on the request from `position` to `end`, if it is one that
    /// changes the configuration, and does not answer it again.
    pub fn replay<P: Platform>(
        &mut self,
        ctx: &mut Context<'_, P>,
        handler: &mut impl Handler<P>,
        position: u32,
        end: u32,
    ) {
        let wq = ctx.queues.read(WqId::Sq(self.channel.sq)).wq;
        let Scratch {
            sqe,
            request,
            response,
            ..
        } = &mut *self.scratch;
        wq.rewind_to(position);
        let fetched = wq.fetch(ctx.platform, sqe);
        wq.rewind_to(end);
        if fetched != Fetched::Wqe || sqe.end != end {
            return;
        }
        let Ok(length) = message::read(ctx.platform, &self.channel, sqe, request) else {
            return;
        };
        let message = &request[..length];
        if let Ok((header, _)) = ReqHeader::read_from_prefix(message) {
            response.fill(0);
            let body = &mut response[RESPONSE_HEADER as usize..];
            // Its outcome was reported before the failure.
            let _ = handler.handle(
                &mut self.channel,
                ctx,
                Purpose::Replay,
                header,
                message,
                body,
            );
        }
    }

    fn complete_send(&mut self, ctx: &mut Context<'_, impl Platform>) {
        let Wqe { position, end, .. } = self.scratch.sqe;
        let completion = Completion {
            words: [0; 7],
            rest: 0,
            record: if self.may_have_changed {
                Record::changed(position, end)
            } else {
                Record::completed(end)
            },
        };
        let (wq, cq) = (WqId::Sq(self.channel.sq), self.channel.cq);
        ctx.queues.complete(wq, cq, |sq, cq| {
            sq.complete_to(end);
            cq.post(ctx.platform, wq, &[completion], |it| *it);
        });
    }

    fn complete_response(&mut self, ctx: &mut Context<'_, impl Platform>, length: u32) {
        let Wqe { position, end, .. } = self.scratch.rqe;
        let (wq, cq) = (WqId::Rq(self.channel.rq), self.channel.cq);
        ctx.queues.complete(wq, cq, |rq, cq| {
            rq.complete_to(end);
            let oob = RxOob {
                wqe_offset: position & rq.mask(),
                tx_oob_data_size: length,
                ..RxOob::default()
            };
            let mut words = [0; 7];
            words.as_mut_bytes()[..size_of::<RxOob>()].copy_from_slice(oob.as_bytes());
            let completion = Completion {
                words,
                rest: 0,
                record: Record::completed(end),
            };
            cq.post(ctx.platform, wq, &[completion], |it| *it);
        });
    }

    fn cannot_answer(&mut self, platform: &mut impl Platform, reason: &str) {
        if self.unanswerable.hit() {
            platform.log(
                Level::Warn,
                format_args!("can't answer a request: {reason}"),
            );
        }
    }
}
