//! The basic NIC, as `mana_en.c` uses it.

use alloc::vec::Vec;

use super::{DOORBELL_PAGE, PDID};
use mana_wire::bnic::{
    ConfigVportRxReq, ConfigVportTxReq, ConfigVportTxResp, CreateWqObjMore, CreateWqObjReq,
    CreateWqObjResp, CreateWqObjRespV2, DestroyWqObjReq, FenceRqReq, NO_EQ, QueryStatsReq,
    QueryStatsResp, QueryVportConfigReq, QueryVportConfigResp, Stats, code,
};
use mana_wire::queue::{PAGE_SIZE, QueueType};
use zerocopy::IntoBytes;

use super::Driver;
use super::memory::QueueMemory;
use super::message::{Request, Response};
use super::ring::{Cq, Eq, Wq};
use crate::failure::{During, Outcome};

/// `TRI_STATE_UNKNOWN`: leave it as it is.
pub const UNCHANGED: u32 = u32::MAX;

/// A work queue object: a send or receive queue, and its completion queue.
#[derive(Clone, Debug)]
pub struct Object {
    /// Its work queue.
    pub wq: Wq,
    /// Its completion queue.
    pub cq: Cq,
    /// Its handle.
    pub handle: u64,
    /// Type of its work queue.
    pub queue_type: QueueType,
}

impl Object {
    fn new(
        resp: &CreateWqObjResp,
        queue_type: QueueType,
        wq: QueueMemory,
        cq: QueueMemory,
    ) -> Self {
        let wq = match queue_type {
            QueueType::Rq => Wq::receive(resp.wq_id, wq),
            _ => Wq::send(resp.wq_id, wq),
        };
        Self {
            wq,
            cq: Cq::new(resp.cq_id, cq),
            handle: resp.wq_obj,
            queue_type,
        }
    }
}

/// A vport that sends and receives.
#[derive(Clone, Debug)]
pub struct Vport {
    /// Its handle.
    pub handle: u64,
    /// The bench's port.
    pub port: u32,
    /// The event queue that both completion queues report to.
    pub eq: Eq,
    /// Its send queue.
    pub tx: Object,
    /// Its receive queue.
    pub rx: Object,
    /// The vport offset in transmit OOBs.
    pub vp_offset: u16,
}

/// Sizes of a vport's queues, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Event queue.
    pub eq: u32,
    /// Send and receive queue.
    pub wq: u32,
    /// Completion queues.
    pub cq: u32,
}

impl Sizes {
    /// The smallest sizes: a page each.
    pub const SMALL: Self = Self {
        eq: PAGE_SIZE,
        wq: PAGE_SIZE,
        cq: PAGE_SIZE,
    };
    /// Room for many entries.
    pub const LARGE: Self = Self {
        eq: PAGE_SIZE,
        wq: 8 * PAGE_SIZE,
        cq: 8 * PAGE_SIZE,
    };
}

/// Returns a request to configure how a vport receives, which changes nothing.
pub fn steering(vport: u64) -> ConfigVportRxReq {
    ConfigVportRxReq {
        vport,
        num_indir_entries: 0,
        indir_tab_offset: 0,
        rx_enable: UNCHANGED,
        rss_enable: UNCHANGED,
        update_default_rxobj: 0,
        update_hashkey: 0,
        update_indir_tab: 0,
        reserved: 0,
        default_rxobj: 0,
        hashkey: [0; 40],
    }
}

/// Returns a request that destroys a work queue object (`mana_destroy_wq_obj`).
pub fn destroy_object(queue_type: QueueType, handle: u64) -> Request {
    let body = DestroyWqObjReq {
        wq_type: queue_type.to_wire(),
        reserved: 0,
        wq_obj_handle: handle,
    };
    Request::new(code::DESTROY_WQ_OBJ, &body, 0)
}

impl Driver<'_> {
    /// Returns the configuration of a vport (`mana_query_vport_cfg`).
    ///
    /// # Errors
    ///
    /// A failure if the device does not behave as the driver expects.
    pub fn query_vport(&mut self, index: u32) -> Outcome<QueryVportConfigResp> {
        let body = QueryVportConfigReq { vport_index: index };
        let size = size_of::<QueryVportConfigResp>();
        self.ask(&Request::new(code::QUERY_VPORT_CONFIG, &body, size))
    }

    /// Lets a vport transmit (`mana_cfg_vport`).
    ///
    /// # Errors
    ///
    /// A failure if the device does not behave as the driver expects.
    pub fn configure_tx(&mut self, vport: u64) -> Outcome<ConfigVportTxResp> {
        let body = ConfigVportTxReq {
            vport,
            pdid: PDID,
            doorbell_pageid: DOORBELL_PAGE,
        };
        let size = size_of::<ConfigVportTxResp>();
        self.ask(&Request::new(code::CONFIG_VPORT_TX, &body, size))
    }

    /// Makes the memory and regions that a work queue object needs.
    ///
    /// # Errors
    ///
    /// A failure if the device does not behave as the driver expects.
    pub fn prepare_object(
        &mut self,
        vport: u64,
        queue_type: QueueType,
        eq: Option<u32>,
        sizes: Sizes,
    ) -> Outcome<(CreateWqObjReq, QueueMemory, QueueMemory)> {
        let wq = self.queue_memory(sizes.wq)?;
        let cq = self.queue_memory(sizes.cq)?;
        let body = CreateWqObjReq {
            vport,
            wq_type: queue_type.to_wire(),
            reserved: 0,
            wq_gdma_region: self.region(&wq.pages)?,
            cq_gdma_region: self.region(&cq.pages)?,
            wq_size: wq.size(),
            cq_size: cq.size(),
            cq_moderation_ctx_id: 0,
            cq_parent_qid: eq.unwrap_or(NO_EQ),
        };
        Ok((body, wq, cq))
    }

    /// Makes a work queue object (`mana_create_wq_obj`).
    ///
    /// # Errors
    ///
    /// A failure if the device does not behave as the driver expects.
    pub fn create_object(
        &mut self,
        vport: u64,
        queue_type: QueueType,
        eq: Option<u32>,
        sizes: Sizes,
    ) -> Outcome<Object> {
        let (body, wq, cq) = self.prepare_object(vport, queue_type, eq, sizes)?;
        let size = size_of::<CreateWqObjResp>();
        let resp = self
            .ask(&Request::new(code::CREATE_WQ_OBJ, &body, size))
            .during("creating a work queue object")?;
        Ok(Object::new(&resp, queue_type, wq, cq))
    }

    /// Makes a work queue object with the fields of version 3, as Linux does since it
    /// moderates interrupts. Returns it with the whole response.
    ///
    /// # Errors
    ///
    /// A failure if the device does not behave as the driver expects.
    pub fn create_moderated(
        &mut self,
        vport: u64,
        queue_type: QueueType,
        eq: Option<u32>,
        more: CreateWqObjMore,
    ) -> Outcome<(Object, CreateWqObjRespV2)> {
        let (body, wq, cq) = self.prepare_object(vport, queue_type, eq, Sizes::SMALL)?;
        let bytes = [body.as_bytes(), more.as_bytes()].concat();
        let size = size_of::<CreateWqObjRespV2>();
        let request = Request::of_bytes(code::CREATE_WQ_OBJ, &bytes, size).versions(3, 2);
        let resp: CreateWqObjRespV2 = self
            .ask(&request)
            .during("creating a moderated work queue object")?;
        Ok((Object::new(&resp.first, queue_type, wq, cq), resp))
    }

    /// Destroys a work queue object.
    ///
    /// # Errors
    ///
    /// A failure if the device does not behave as the driver expects.
    pub fn destroy_object(&mut self, object: &Object) -> Outcome {
        let request = destroy_object(object.queue_type, object.handle);
        self.succeed(&request).map(|_| ())
    }

    /// Configures how a vport receives (`mana_cfg_vport_steering`).
    ///
    /// # Errors
    ///
    /// A failure if there is no answer.
    pub fn steer(&mut self, body: &ConfigVportRxReq) -> Outcome<Response> {
        self.call(&Request::new(code::CONFIG_VPORT_RX, body, 0))
    }

    /// Lets a vport receive into an object.
    ///
    /// # Errors
    ///
    /// A failure if the device does not behave as the driver expects.
    pub fn enable_rx(&mut self, vport: u64, object: u64) -> Outcome {
        let body = ConfigVportRxReq {
            rx_enable: 1,
            rss_enable: 0,
            update_default_rxobj: 1,
            default_rxobj: object,
            ..steering(vport)
        };
        let request = Request::new(code::CONFIG_VPORT_RX, &body, 0);
        self.succeed(&request)
            .map(|_| ())
            .during("enabling receive")
    }

    /// Stops a vport from receiving.
    ///
    /// # Errors
    ///
    /// A failure if the device does not behave as the driver expects.
    pub fn disable_rx(&mut self, vport: u64) -> Outcome {
        let body = ConfigVportRxReq {
            rx_enable: 0,
            ..steering(vport)
        };
        let request = Request::new(code::CONFIG_VPORT_RX, &body, 0);
        self.succeed(&request)
            .map(|_| ())
            .during("disabling receive")
    }

    /// Asks for a fence (`mana_fence_rq`).
    ///
    /// # Errors
    ///
    /// A failure if there is no answer.
    pub fn fence(&mut self, object: u64) -> Outcome<Response> {
        let body = FenceRqReq {
            wq_obj_handle: object,
        };
        self.call(&Request::new(code::FENCE_RQ, &body, 0))
    }

    /// Reads every counter (`mana_query_gf_stats`).
    ///
    /// # Errors
    ///
    /// A failure if the device does not behave as the driver expects.
    pub fn stats(&mut self) -> Outcome<Stats> {
        let body = QueryStatsReq {
            req_stats: u64::MAX,
        };
        let size = size_of::<QueryStatsResp>();
        let resp: QueryStatsResp = self.ask(&Request::new(code::QUERY_STATS, &body, size))?;
        Ok(resp.stats)
    }

    /// Returns a vport that sends and receives, with small queues, on the vector of
    /// its index and 1. The device is started.
    ///
    /// # Errors
    ///
    /// A failure if the device does not behave as the driver expects.
    pub fn open(&mut self, port: u32) -> Outcome<Vport> {
        self.open_with(port, Sizes::SMALL)
    }

    /// Returns a vport as [`open`](Self::open) does, with queues of these sizes (`mana_open`).
    ///
    /// # Errors
    ///
    /// A failure if the device does not behave as the driver expects.
    pub fn open_with(&mut self, port: u32, sizes: Sizes) -> Outcome<Vport> {
        let eq = self.create_eq(port as u16 + 1, sizes.eq)?;
        eq.ring(self, true);
        let handle = self.query_vport(port)?.vport;
        let vp_offset = self.configure_tx(handle)?.tx_vport_offset;
        let tx = self.create_object(handle, QueueType::Sq, Some(eq.id), sizes)?;
        let rx = self.create_object(handle, QueueType::Rq, Some(eq.id), sizes)?;
        self.enable(port, eq, (tx, rx), vp_offset, handle)
    }

    /// As [`open`](Self::open), with these limits for the send and the receive queue's
    /// interrupts.
    ///
    /// # Errors
    ///
    /// A failure if the device does not behave as the driver expects.
    pub fn open_moderated(
        &mut self,
        port: u32,
        tx: CreateWqObjMore,
        rx: CreateWqObjMore,
    ) -> Outcome<Vport> {
        let eq = self.create_eq(port as u16 + 1, Sizes::SMALL.eq)?;
        eq.ring(self, true);
        let handle = self.query_vport(port)?.vport;
        let vp_offset = self.configure_tx(handle)?.tx_vport_offset;
        let (tx, _) = self.create_moderated(handle, QueueType::Sq, Some(eq.id), tx)?;
        let (rx, _) = self.create_moderated(handle, QueueType::Rq, Some(eq.id), rx)?;
        self.enable(port, eq, (tx, rx), vp_offset, handle)
    }

    /// Arms the queues of a vport and lets it receive.
    fn enable(
        &mut self,
        port: u32,
        mut eq: Eq,
        (tx, rx): (Object, Object),
        vp_offset: u16,
        handle: u64,
    ) -> Outcome<Vport> {
        tx.cq.ring(self, true);
        rx.cq.ring(self, true);
        self.enable_rx(handle, rx.handle)?;
        eq.drain(self)?;
        Ok(Vport {
            handle,
            port,
            eq,
            tx,
            rx,
            vp_offset,
        })
    }

    /// Destroys everything of a vport (`mana_detach`).
    ///
    /// # Errors
    ///
    /// A failure if the device does not behave as the driver expects.
    pub fn close(&mut self, vport: &Vport) -> Outcome {
        self.disable_rx(vport.handle)?;
        self.destroy_object(&vport.rx)?;
        self.destroy_object(&vport.tx)?;
        self.destroy_queue(QueueType::Eq, vport.eq.id)
    }

    /// Returns a started device with one open vport.
    ///
    /// # Errors
    ///
    /// A failure if the device does not behave as the driver expects.
    pub fn start_and_open(&mut self) -> Outcome<Vport> {
        self.start()?;
        self.open(0)
    }

    /// Returns a started device with open vports on each of the first ports.
    ///
    /// # Errors
    ///
    /// A failure if the device does not behave as the driver expects.
    pub fn start_and_open_all(&mut self, ports: u32) -> Outcome<Vec<Vport>> {
        self.start()?;
        (0..ports).map(|port| self.open(port)).collect()
    }
}
