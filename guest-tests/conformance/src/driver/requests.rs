//! Requests as Linux sends them.

use alloc::format;
use alloc::vec::Vec;

use mana_wire::bnic::NO_EQ;
use mana_wire::gdma::{
    AddPagesReq, CreateDmaRegionReq, CreateQueueReq, CreateQueueResp, DEV_MANA, DisableQueueReq,
    DmaRegionHandle, GenerateTestEqeReq, PROTOCOL_V1, RegisterDeviceResp, Status, VerifyVersionReq,
    VerifyVersionResp, cap1, code,
};
use mana_wire::hwc::MAX_MESSAGE;
use mana_wire::queue::{PAGE_SIZE, QueueType};
use zerocopy::{FromBytes, IntoBytes};

use super::memory::QueueMemory;
use super::message::{REQUEST_HEADER, Request, Response};
use super::ring::{Cq, Eq, Wq};
use super::{DOORBELL_PAGE, Driver, MEM_KEY, PDID};
use crate::failure::{During, Failure, Outcome};

/// Page addresses that fit into one message.
pub const PAGES_PER_MESSAGE: usize =
    (MAX_MESSAGE as usize - REQUEST_HEADER - size_of::<CreateDmaRegionReq>()) / 8;

/// Returns a request for a region of all of these pages; the request holds the first
/// `first` of them.
pub fn create_region(pages: &[u64], first: usize) -> Request {
    let body = CreateDmaRegionReq {
        length: pages.len() as u64 * u64::from(PAGE_SIZE),
        offset_in_page: 0,
        gdma_page_type: 0,
        page_count: pages.len() as u32,
        page_addr_list_len: first as u32,
    };
    let mut bytes = body.as_bytes().to_vec();
    bytes.extend(pages[..first].iter().flat_map(|page| page.to_le_bytes()));
    Request::of_bytes(code::CREATE_DMA_REGION, &bytes, 8)
}

/// Returns a request that adds pages to a region.
pub fn add_pages(handle: u64, pages: &[u64]) -> Request {
    let body = AddPagesReq {
        dma_region_handle: handle,
        page_addr_list_len: pages.len() as u32,
        reserved: 0,
    };
    let mut bytes = body.as_bytes().to_vec();
    bytes.extend(pages.iter().flat_map(|page| page.to_le_bytes()));
    Request::of_bytes(code::DMA_REGION_ADD_PAGES, &bytes, 0)
}

/// Returns a request that destroys a region.
pub fn destroy_region(handle: u64) -> Request {
    let body = DmaRegionHandle {
        dma_region_handle: handle,
    };
    Request::new(code::DESTROY_DMA_REGION, &body, 0)
}

/// Returns a request for a queue (as `mana_gd_create_hw_eq`).
pub fn create_queue(queue_type: QueueType, region: u64, size: u32) -> CreateQueueReq {
    CreateQueueReq {
        queue_type: queue_type.to_wire(),
        reserved1: 0,
        pdid: PDID,
        doorbell_id: DOORBELL_PAGE,
        gdma_region: region,
        reserved2: 0,
        queue_size: size,
        log2_throttle_limit: 0,
        eq_pci_msix_index: 0,
        cq_mod_ctx_id: 0,
        cq_parent_eq_id: NO_EQ,
        flags: [0; 4],
        reserved3: 0,
    }
}

/// Returns a request that destroys a queue (`mana_gd_disable_queue`).
pub fn disable_queue(queue_type: QueueType, id: u32) -> Request {
    let body = DisableQueueReq {
        queue_type: queue_type.to_wire(),
        queue_index: id,
        alloc_res_id_on_creation: 1,
    };
    Request::new(code::DISABLE_QUEUE, &body, 0)
}

/// Returns the version request of a driver with these capabilities
/// (`mana_gd_verify_vf_version`).
pub fn verify_version(capabilities: u64) -> VerifyVersionReq {
    let mut os_ver_str = [[0; 128]; 4];
    os_ver_str[0][..5].copy_from_slice(b"Linux");
    VerifyVersionReq {
        protocol_ver_min: PROTOCOL_V1,
        protocol_ver_max: PROTOCOL_V1,
        drv_cap_flags: [capabilities, 0, 0, 0],
        drv_ver: 0,
        os_type: 0x10,
        reserved: 0,
        os_ver: [0; 4],
        reserved2: 0,
        os_ver_str,
    }
}

impl Driver<'_> {
    /// Sends a request that must succeed.
    ///
    /// # Errors
    ///
    /// A failure if it does not.
    pub fn succeed(&mut self, request: &Request) -> Outcome<Response> {
        self.call(request)?.expect(Status::Success)
    }

    /// Sends a request that must succeed, and returns the body of its response.
    ///
    /// # Errors
    ///
    /// A failure if it does not.
    pub fn ask<T: FromBytes>(&mut self, request: &Request) -> Outcome<T> {
        self.succeed(request)?.parse()
    }

    /// Sends a request that must fail with this status.
    ///
    /// # Errors
    ///
    /// A failure if it does not.
    pub fn refuse(&mut self, request: &Request, status: Status) -> Outcome {
        self.call(request)?.expect(status).map(|_| ())
    }

    /// Does everything up to a registered device (`mana_gd_probe`), with all
    /// capabilities.
    ///
    /// # Errors
    ///
    /// A failure if the device does not behave as the driver expects.
    pub fn start(&mut self) -> Outcome<RegisterDeviceResp> {
        self.start_with(cap1::HWC_TIMEOUT_RECONFIG | cap1::HW_VPORT_LINK_AWARE)
    }

    /// Does what [`start`](Self::start) does, with these capabilities.
    ///
    /// # Errors
    ///
    /// A failure if the device does not behave as the driver expects.
    pub fn start_with(&mut self, capabilities: u64) -> Outcome<RegisterDeviceResp> {
        self.establish()?;
        self.verify_version(capabilities)?;
        self.register()
    }

    /// Agrees on a version.
    ///
    /// # Errors
    ///
    /// A failure if the device does not behave as the driver expects.
    pub fn verify_version(&mut self, capabilities: u64) -> Outcome<VerifyVersionResp> {
        let body = verify_version(capabilities);
        self.ask(&Request::new(code::VERIFY_VF_DRIVER_VERSION, &body, 40))
            .during("agreeing on a version")
    }

    /// Registers the NIC (`mana_gd_register_device`).
    ///
    /// # Errors
    ///
    /// A failure if the device does not behave as the driver expects.
    pub fn register(&mut self) -> Outcome<RegisterDeviceResp> {
        let resources: RegisterDeviceResp = self
            .ask(&Request::new(code::REGISTER_DEVICE, &(), 12).to(DEV_MANA))
            .during("registering the device")?;
        let known = (PDID, MEM_KEY, DOORBELL_PAGE);
        let given = (resources.pdid, resources.gpa_mkey, resources.db_id);
        if given != known {
            let text = format!("resources {given:?}, where this driver uses {known:?}");
            return Err(Failure::new(text));
        }
        Ok(resources)
    }

    /// Deregisters the NIC (`mana_gd_deregister_device`).
    ///
    /// # Errors
    ///
    /// A failure if the device does not behave as the driver expects.
    pub fn deregister(&mut self) -> Outcome {
        self.succeed(&Request::new(code::DEREGISTER_DEVICE, &(), 0).to(DEV_MANA))
            .map(|_| ())
            .during("taking the device back")
    }

    /// Registers a region of whole pages (`mana_gd_create_dma_region`), in as many
    /// messages as needed. Returns its handle.
    ///
    /// # Errors
    ///
    /// A failure if the device does not behave as the driver expects.
    pub fn region(&mut self, pages: &[u64]) -> Outcome<u64> {
        let first = pages.len().min(PAGES_PER_MESSAGE);
        let status = |left: usize| {
            if left == 0 {
                Status::Success
            } else {
                Status::MoreEntries
            }
        };
        let response = self.call(&create_region(pages, first))?;
        let response = response.expect(status(pages.len() - first))?;
        let handle = response.parse::<DmaRegionHandle>()?.dma_region_handle;
        let mut rest = &pages[first..];
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(PAGES_PER_MESSAGE));
            self.call(&add_pages(handle, now))?
                .expect(status(later.len()))?;
            rest = later;
        }
        Ok(handle)
    }

    /// Makes a queue of memory; returns its id.
    ///
    /// # Errors
    ///
    /// A failure if the device does not behave as the driver expects.
    pub fn queue(&mut self, mut body: CreateQueueReq, memory: &QueueMemory) -> Outcome<u32> {
        body.gdma_region = self.region(&memory.pages)?;
        body.queue_size = memory.size();
        let request = Request::new(code::CREATE_QUEUE, &body, 4).to(DEV_MANA);
        let response: CreateQueueResp = self.ask(&request).during("creating a queue")?;
        Ok(response.queue_index)
    }

    /// Makes an event queue (`mana_gd_create_eq`), without the test.
    ///
    /// # Errors
    ///
    /// A failure if the device does not behave as the driver expects.
    pub fn create_eq(&mut self, vector: u16, size: u32) -> Outcome<Eq> {
        let memory = self.queue_memory(size)?;
        let mut body = create_queue(QueueType::Eq, 0, size);
        body.eq_pci_msix_index = vector.into();
        let id = self.queue(body, &memory)?;
        Ok(Eq::new(id, vector, memory))
    }

    /// Makes a completion queue by itself, with or without an event queue.
    ///
    /// # Errors
    ///
    /// A failure if the device does not behave as the driver expects.
    pub fn create_cq(&mut self, eq: Option<&Eq>, size: u32) -> Outcome<Cq> {
        let memory = self.queue_memory(size)?;
        let mut body = create_queue(QueueType::Cq, 0, size);
        body.cq_parent_eq_id = eq.map_or(NO_EQ, |eq| eq.id);
        let id = self.queue(body, &memory)?;
        Ok(Cq::new(id, memory))
    }

    /// Makes a work queue that belongs to no object.
    ///
    /// # Errors
    ///
    /// A failure if the device does not behave as the driver expects.
    pub fn create_wq(&mut self, queue_type: QueueType, size: u32) -> Outcome<Wq> {
        let memory = self.queue_memory(size)?;
        let id = self.queue(create_queue(queue_type, 0, size), &memory)?;
        Ok(match queue_type {
            QueueType::Rq => Wq::receive(id, memory),
            _ => Wq::send(id, memory),
        })
    }

    /// Asks for an event on an event queue (`mana_gd_test_eq`).
    ///
    /// # Errors
    ///
    /// A failure if there is no answer.
    pub fn test_eq(&mut self, id: u32) -> Outcome<Response> {
        let body = GenerateTestEqeReq { queue_index: id };
        self.call(&Request::new(code::GENERATE_TEST_EQE, &body, 0))
    }

    /// Destroys a queue.
    ///
    /// # Errors
    ///
    /// A failure if the device does not behave as the driver expects.
    pub fn destroy_queue(&mut self, queue_type: QueueType, id: u32) -> Outcome {
        self.succeed(&disable_queue(queue_type, id)).map(|_| ())
    }

    /// Returns page addresses that are guest memory, in order.
    ///
    /// # Errors
    ///
    /// A failure if guest memory is used up.
    pub fn page_list(&mut self, count: usize) -> Outcome<Vec<u64>> {
        Ok(self.queue_memory(count as u32 * PAGE_SIZE)?.pages)
    }
}
