//! The shared-memory channel, as `shm_channel.c` uses it.

use alloc::format;

use mana_wire::smc::{
    APERTURE, DESTROY_HWC, ESTABLISH_HWC, EstablishHwc, HEADER, Header, REPORT_HWC_TIMEOUT,
};

use super::Driver;
use crate::failure::{Failure, Outcome, check, check_eq};

/// Returns a request to establish the hardware channel.
pub fn establish() -> Header {
    Header::new().with_msg_type(ESTABLISH_HWC)
}

/// Returns a request to destroy the hardware channel (`mana_smc_teardown_hwc`).
pub fn destroy() -> Header {
    Header::new().with_msg_type(DESTROY_HWC)
}

/// Returns a report that a request timed out.
pub fn report_timeout() -> Header {
    Header::new()
        .with_msg_type(REPORT_HWC_TIMEOUT)
        .with_msg_version(1)
}

impl Driver<'_> {
    /// Reads the aperture.
    pub fn aperture(&mut self) -> [u8; APERTURE] {
        let base = self.registers().shared_memory;
        let mut bytes = [0; APERTURE];
        for (index, word) in bytes.chunks_exact_mut(4).enumerate() {
            let value = self.bench.read_register(base + 4 * index as u64, 4) as u32;
            word.copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    /// Reads the header: the owner, and the last answer.
    pub fn shm_header(&mut self) -> Header {
        let base = self.registers().shared_memory;
        Header::from_bits(self.bench.read_register(base + HEADER as u64, 4) as u32)
    }

    /// Writes the arguments and then the header, as 32-bit words
    /// (`mana_smc_setup_hwc`); the last hands the aperture over.
    pub fn shm_write(&mut self, arguments: &[u8; HEADER], header: Header) {
        let base = self.registers().shared_memory;
        for (index, word) in arguments.as_chunks::<4>().0.iter().enumerate() {
            let value = u32::from_le_bytes(*word).into();
            self.bench.write_register(base + 4 * index as u64, 4, value);
        }
        let header = header.with_owner_is_pf(true).into_bits();
        self.bench
            .write_register(base + HEADER as u64, 4, header.into());
    }

    /// Sends a request and reads the answer (`mana_smc_read_response`). The aperture
    /// must be the driver's again, with the answer to this request. Returns its header.
    ///
    /// # Errors
    ///
    /// A failure if there is no answer, or one to another request.
    pub fn shm_call(&mut self, arguments: &[u8; HEADER], header: Header) -> Outcome<Header> {
        check(
            !self.shm_header().owner_is_pf(),
            "the shared-memory channel is the device's before a request",
        )?;
        self.shm_write(arguments, header);
        let answer = self.shm_header();
        check(
            !answer.owner_is_pf(),
            "the device did not give the shared-memory channel back",
        )?;
        check(answer.response(), "the answer is not marked as a response")?;
        check_eq("type of the answer", answer.msg_type(), header.msg_type())?;
        Ok(answer)
    }

    /// Sends a request, as [`shm_call`](Self::shm_call), that must succeed.
    ///
    /// # Errors
    ///
    /// As there, and a failure if its status is not 0.
    pub fn shm_succeed(&mut self, arguments: &[u8; HEADER], header: Header) -> Outcome {
        match self.shm_call(arguments, header)?.status() {
            0 => Ok(()),
            status => Err(Failure::new(format!(
                "shared-memory request {} failed with status {status}",
                header.msg_type()
            ))),
        }
    }

    /// Asks for a hardware channel whose queues are in these pages.
    ///
    /// # Errors
    ///
    /// As [`shm_call`](Self::shm_call).
    pub fn shm_establish(&mut self, message: &EstablishHwc) -> Outcome<Header> {
        self.shm_call(&message.pack(), establish())
    }
}
