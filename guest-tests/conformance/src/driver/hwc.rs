//! The hardware channel, as `hw_channel.c` uses it.

use alloc::format;
use alloc::vec::Vec;

use mana_wire::hwc::{InitEqIdDb, MAX_MESSAGE, TxOob, TypeData, init_data};
use mana_wire::queue::{PAGE_SIZE, Sge, eqe};
use mana_wire::smc::EstablishHwc;
use zerocopy::IntoBytes;

use super::Driver;
use super::entry::{Completion, Event};
use super::memory::QueueMemory;
use super::message::{Request, Response};
use super::ring::{Cq, Eq, Wq};
use super::wqe::Wqe;
use super::{entry, shm};
use crate::failure::{During, Failure, Outcome, check, check_eq};

/// What the device announced when the channel was established.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Announced {
    /// Event queue.
    pub eq: u32,
    /// Doorbell page.
    pub doorbell: u32,
    /// Completion queue.
    pub cq: u32,
    /// Receive queue.
    pub rq: u32,
    /// Send queue.
    pub sq: u32,
    /// Most messages at a time.
    pub depth: u32,
    /// Longest request in bytes.
    pub max_request: u32,
    /// Longest response in bytes.
    pub max_response: u32,
    /// Completion queue ids are below this.
    pub max_cqs: u32,
    /// Protection domain.
    pub pdid: u32,
    /// Memory key.
    pub mkey: u32,
    /// The kinds of initialisation data, in order.
    pub kinds: [u8; 16],
}

/// An established channel.
#[derive(Clone, Debug)]
pub struct Hwc {
    /// What the device announced.
    pub announced: Announced,
    /// Its event queue.
    pub eq: Eq,
    /// Its completion queue.
    pub cq: Cq,
    /// Its send queue.
    pub sq: Wq,
    /// Its receive queue.
    pub rq: Wq,
    /// Where requests are written.
    pub request_page: u64,
    /// Where responses are expected.
    pub response_page: u64,
    /// Events on its queue that were not completions, oldest first.
    pub events: Vec<Event>,
    message_id: u16,
}

/// Allocates pages for a channel's queues, and returns the message that names them.
///
/// # Errors
///
/// A failure if guest memory is used up.
pub fn pages(driver: &mut Driver<'_>, vector: u16) -> Outcome<EstablishHwc> {
    Ok(EstablishHwc {
        eq: driver.pages(1)?,
        cq: driver.pages(1)?,
        rq: driver.pages(1)?,
        sq: driver.pages(1)?,
        vector,
    })
}

impl Hwc {
    /// Establishes the channel in these pages and goes through the
    /// initialisation events (`mana_hwc_establish_channel`).
    ///
    /// # Errors
    ///
    /// A failure if the device does not behave as the driver expects.
    pub fn establish(driver: &mut Driver<'_>, message: &EstablishHwc) -> Outcome<Self> {
        driver
            .shm_succeed(&message.pack(), shm::establish())
            .during("establishing the hardware channel")?;
        let memory = |page| QueueMemory {
            pages: alloc::vec![page],
        };
        let mut eq = Eq::new(0, message.vector, memory(message.eq));
        driver.expect_interrupts(message.vector, 1)?;
        let events = eq.drain(driver)?;
        let announced = announced(&events)?;
        eq.id = announced.eq;
        let hwc = Self {
            announced,
            cq: Cq::new(announced.cq, memory(message.cq)),
            sq: Wq::send(announced.sq, memory(message.sq)),
            rq: Wq::receive(announced.rq, memory(message.rq)),
            request_page: driver.pages(1)?,
            response_page: driver.pages(1)?,
            eq,
            events: Vec::new(),
            message_id: 0,
        };
        hwc.eq.ring(driver, true);
        Ok(hwc)
    }

    /// Returns the OOB of a request, which names the channel's queues.
    pub fn oob(&self) -> TxOob {
        TxOob {
            reserved: [0; 2],
            vrq: 0,
            vrcq: 0,
            vscq: self.cq.id,
            vsq: self.sq.id,
        }
    }

    /// Returns an SGE of the channel.
    pub fn sge(&self, address: u64, size: u32) -> Sge {
        Sge {
            address,
            mem_key: self.announced.mkey,
            size,
        }
    }

    /// Posts a buffer for a response (`mana_hwc_post_rx_wqe`).
    pub fn post_response(&mut self, driver: &mut Driver<'_>, sgl: &[Sge]) -> u32 {
        self.rq.post(driver, &Wqe::receive(sgl))
    }

    /// Posts a request (`mana_hwc_post_tx_wqe`), and rings the doorbell.
    pub fn post_request(&mut self, driver: &mut Driver<'_>, sgl: &[Sge]) -> u32 {
        let wqe = Wqe::new(self.oob().as_bytes(), sgl);
        self.sq.post(driver, &wqe)
    }

    /// Sends a message of any bytes in `request_page`, with one response buffer of a
    /// page, and waits for the response.
    ///
    /// # Errors
    ///
    /// A failure if there is no response.
    pub fn exchange(&mut self, driver: &mut Driver<'_>, message: &[u8]) -> Outcome<Response> {
        driver.bench.write_memory(self.request_page, message);
        let response = self.sge(self.response_page, PAGE_SIZE);
        let offset = self.post_response(driver, &[response]);
        let request = self.sge(self.request_page, message.len() as u32);
        self.post_request(driver, &[request]);
        let completions = self.wait(driver)?;
        let [sent, received] = completions[..] else {
            return Err(Failure::new(format!(
                "expected a completion each of SQ and RQ, found {completions:#?}"
            )));
        };
        self.check_sent(&sent)?;
        self.response(driver, &received, offset)
    }

    /// Checks that a completion is that of a request.
    ///
    /// # Errors
    ///
    /// A failure if it does not.
    pub fn check_sent(&self, completion: &Completion) -> Outcome {
        check_eq(
            format!("queue of {completion:?}"),
            (completion.is_sq, completion.wq),
            (true, self.sq.id),
        )
    }

    /// Returns the response that a completion announces, in the buffer of the WQE at
    /// `offset` of the receive queue (`mana_hwc_rx_event_handler`).
    ///
    /// # Errors
    ///
    /// A failure if the completion names another queue or WQE, or the response is
    /// malformed.
    pub fn response(
        &self,
        driver: &mut Driver<'_>,
        completion: &Completion,
        offset: u32,
    ) -> Outcome<Response> {
        let what = format!("queue of {completion:?}");
        check_eq(what, (completion.is_sq, completion.wq), (false, self.rq.id))?;
        let oob = completion.channel();
        check_eq("WQE offset of a response", oob.wqe_offset, offset)?;
        check(
            oob.tx_oob_data_size <= MAX_MESSAGE,
            format!("a response of {} bytes", oob.tx_oob_data_size),
        )?;
        let bytes = driver.read(self.response_page, oob.tx_oob_data_size as usize);
        Response::from_bytes(&bytes)
    }

    /// Waits for the interrupt, consumes events and completions, and arms again
    /// (`mana_hwc_comp_event`).
    ///
    /// # Errors
    ///
    /// A failure if there is no interrupt, or no completion with it.
    pub fn wait(&mut self, driver: &mut Driver<'_>) -> Outcome<Vec<Completion>> {
        driver
            .expect_interrupts(self.eq.vector, 1)
            .during("waiting for a response")?;
        self.poll(driver)
    }

    /// Returns the responses that are there, without an interrupt.
    ///
    /// # Errors
    ///
    /// A failure if the queue has overflowed.
    pub fn poll(&mut self, driver: &mut Driver<'_>) -> Outcome<Vec<Completion>> {
        let mut completions = Vec::new();
        for event in self.eq.drain(driver)? {
            if event.event_type != eqe::COMPLETION {
                self.events.push(event);
                continue;
            }
            check_eq(
                format!("completion queue of {event:?}"),
                event.details[0],
                self.cq.id,
            )?;
            completions.extend(self.cq.drain(driver)?);
            self.cq.ring(driver, true);
        }
        self.eq.ring(driver, true);
        Ok(completions)
    }

    /// Returns an id for the next message.
    pub fn next_id(&mut self) -> u16 {
        self.message_id = (self.message_id + 1) % 32;
        self.message_id
    }
}

fn announced(events: &[Event]) -> Outcome<Announced> {
    let mut found = Announced::default();
    let [first, data @ .., last] = events else {
        return Err(Failure::new(format!(
            "expected the events of a new channel, found {events:#?}"
        )));
    };
    let is = |event: &entry::Event, event_type| {
        check_eq(format!("type of {event:?}"), event.event_type, event_type)
    };
    is(first, eqe::HWC_INIT_EQ_ID_DB)?;
    let ids = InitEqIdDb::from_bits(first.details[0]);
    (found.eq, found.doorbell) = (ids.eq_id().into(), ids.doorbell().into());
    for (index, event) in data.iter().enumerate() {
        is(event, eqe::HWC_INIT_DATA)?;
        let data = TypeData::from_bits(event.details[0]);
        if let Some(kind) = found.kinds.get_mut(index) {
            *kind = data.kind();
        }
        let place = match data.kind() {
            init_data::CQID => &mut found.cq,
            init_data::RQID => &mut found.rq,
            init_data::SQID => &mut found.sq,
            init_data::QUEUE_DEPTH => &mut found.depth,
            init_data::MAX_REQUEST => &mut found.max_request,
            init_data::MAX_RESPONSE => &mut found.max_response,
            init_data::MAX_NUM_CQS => &mut found.max_cqs,
            init_data::PDID => &mut found.pdid,
            init_data::GPA_MKEY => &mut found.mkey,
            _ => continue,
        };
        *place = data.value();
    }
    is(last, eqe::HWC_INIT_DONE)?;
    Ok(found)
}

impl Driver<'_> {
    /// Establishes the hardware channel on vector 0, as Linux does.
    ///
    /// # Errors
    ///
    /// A failure if the device does not behave as the driver expects.
    pub fn establish(&mut self) -> Outcome {
        let message = pages(self, 0)?;
        self.hwc = Some(Hwc::establish(self, &message)?);
        Ok(())
    }

    /// Calls `act` with the channel and this driver.
    ///
    /// # Errors
    ///
    /// A failure if there is no channel, or that of `act`.
    pub fn with_hwc<T>(
        &mut self,
        act: impl FnOnce(&mut Hwc, &mut Driver<'_>) -> Outcome<T>,
    ) -> Outcome<T> {
        let hwc = self.hwc.take();
        let mut hwc = hwc.ok_or_else(|| Failure::new("there is no hardware channel"))?;
        let outcome = act(&mut hwc, self);
        self.hwc = Some(hwc);
        outcome
    }

    /// Sends a request and waits for its response (`mana_hwc_send_request`), which has
    /// the same type, id, device and activity.
    ///
    /// # Errors
    ///
    /// A failure if there is none, or it answers another request.
    pub fn call(&mut self, request: &Request) -> Outcome<Response> {
        let code = request.header.req.msg_type;
        let mut request = request.clone();
        let id = self.with_hwc(|hwc, _| Ok(hwc.next_id()))?;
        request.header.req.hwc_msg_id = id;
        request.header.resp.hwc_msg_id = id;
        request.header.activity_id = 0x1000_0000 | u32::from(id);
        let message = request.to_bytes();
        let response = self
            .with_hwc(|hwc, driver| hwc.exchange(driver, &message))
            .during(format!("request {code:#x}"))?;
        let found = response.header;
        check_eq("hwc_msg_id of a response", found.response.hwc_msg_id, id)?;
        check_eq("msg_type of a response", found.response.msg_type, code)?;
        check_eq("dev_id of a response", found.dev_id, request.header.dev_id)?;
        let activity = request.header.activity_id;
        check_eq("activity_id of a response", found.activity_id, activity)?;
        Ok(response)
    }
}
