//! Packets through a vport.

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use device_kit::platform::RxFlags;
use mana_wire::oob::{CqeType, LONG_FORMAT, SHORT_FORMAT, TxLongOob, TxShortOob};
use mana_wire::queue::{Sge, WQE_UNIT};

use super::Driver;
use super::nic::Vport;
use super::wqe::{Wqe, sge};
use crate::bench::Transmitted;
use crate::failure::{Failure, Outcome, check_eq};

/// Returns a frame of this length from port 0's neighbour, with bytes that reveal a
/// misplaced one.
pub fn frame(length: usize) -> Vec<u8> {
    numbered_frame(length, 0)
}

/// Returns a frame, as [`frame`], with a number in it.
pub fn numbered_frame(length: usize, number: u8) -> Vec<u8> {
    let addresses = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 99, 0x88, 0xb5, number];
    let fill = (addresses.len()..).map(|i| (i * 7 + i / 251) as u8 ^ number);
    addresses.into_iter().chain(fill).take(length).collect()
}

/// Returns a short OOB of 8 bytes.
pub fn short(oob: TxShortOob) -> [u8; 8] {
    oob.with_pkt_fmt(SHORT_FORMAT).into_bits().to_le_bytes()
}

/// Returns a long OOB of 24 bytes.
pub fn long(oob: TxShortOob, long: TxLongOob) -> [u8; 24] {
    let mut bytes = [0; 24];
    let first = oob.with_pkt_fmt(LONG_FORMAT).into_bits();
    bytes[..8].copy_from_slice(&first.to_le_bytes());
    bytes[8..16].copy_from_slice(&long.into_bits().to_le_bytes());
    bytes
}

impl Vport {
    /// Returns the OOB of a packet without offloads (`mana_start_xmit`).
    pub fn oob(&self) -> TxShortOob {
        TxShortOob::new()
            .with_vcq_num(self.tx.cq.id)
            .with_vsq_frame((self.tx.wq.id >> 10 & 0x3fff) as u16)
            .with_short_vp_offset(self.vp_offset as u8)
    }

    /// Returns a packet of these SGEs with a short OOB and no offloads.
    pub fn packet(&self, sgl: &[Sge]) -> Wqe {
        Wqe::new(&short(self.oob()), sgl)
    }

    /// Posts a packet and returns its completion, which must be the next one.
    ///
    /// # Errors
    ///
    /// A failure if it does not.
    pub fn transmit(&mut self, driver: &mut Driver<'_>, wqe: &Wqe) -> Outcome<CqeOf> {
        let offset = self.tx.wq.post(driver, wqe);
        let completion = self.tx.cq.expect(driver)?;
        self.tx.cq.ring(driver, true);
        let found = completion.transmit();
        let what = format!("queue of {completion:?}");
        check_eq(what, (found.is_sq, found.wq), (true, self.tx.wq.id))?;
        let what = format!("WQE offset of {completion:?}");
        check_eq(what, found.wqe_offset, offset / WQE_UNIT)?;
        check_eq("client type of a completion", found.client_type, 1)?;
        Ok(CqeOf(found.cqe_type.0))
    }

    /// Transmits a frame from one buffer, which must arrive at the port.
    ///
    /// # Errors
    ///
    /// A failure if it does not.
    pub fn send(&mut self, driver: &mut Driver<'_>, frame: &[u8]) -> Outcome<Transmitted> {
        let address = driver.place(frame)?;
        let wqe = self.packet(&[sge(address, frame.len() as u32)]);
        let sent = self.send_wqe(driver, &wqe)?;
        check_eq("frame at the port", &sent.frame[..], frame)?;
        Ok(sent)
    }

    /// Transmits a packet, which must arrive at the port.
    ///
    /// # Errors
    ///
    /// A failure if it does not.
    pub fn send_wqe(&mut self, driver: &mut Driver<'_>, wqe: &Wqe) -> Outcome<Transmitted> {
        self.transmit(driver, wqe)?.expect(CqeType::TxOkay)?;
        let mut sent = driver.bench.take_transmitted(self.port);
        check_eq("packets at the port", sent.len(), 1)?;
        Ok(sent.remove(0))
    }

    /// Transmits a packet that must fail with this type of completion, and not arrive.
    ///
    /// # Errors
    ///
    /// A failure if it does not.
    pub fn fail(&mut self, driver: &mut Driver<'_>, wqe: &Wqe, how: CqeType) -> Outcome {
        self.transmit(driver, wqe)?.expect(how)?;
        let sent = driver.bench.take_transmitted(self.port).len();
        check_eq("packets at the port", sent, 0)
    }

    /// Posts a receive buffer of one SGE. Returns its address, and its offset in the
    /// queue.
    ///
    /// # Errors
    ///
    /// A failure if guest memory is used up.
    pub fn post_buffer(&mut self, driver: &mut Driver<'_>, length: u32) -> Outcome<(u64, u32)> {
        let address = driver.place(&vec![0xee; length as usize])?;
        let offset = self
            .rx
            .wq
            .post(driver, &Wqe::receive(&[sge(address, length)]));
        Ok((address, offset))
    }

    /// Has a frame arrive at the port.
    ///
    /// # Errors
    ///
    /// A failure if there is no buffer for it.
    pub fn arrive(&self, driver: &mut Driver<'_>, frame: &[u8], flags: RxFlags) -> Outcome {
        let found = driver.bench.receive(self.port, &[(frame, flags)]);
        check_eq("frames that found a buffer", found, 1)
    }

    /// Posts a buffer, lets a frame arrive, and checks that the driver finds
    /// it there.
    ///
    /// # Errors
    ///
    /// A failure if it does not.
    pub fn receive(&mut self, driver: &mut Driver<'_>, frame: &[u8]) -> Outcome {
        let (address, offset) = self.post_buffer(driver, 2048)?;
        self.arrive(driver, frame, RxFlags::empty())?;
        self.take_frame(driver, frame, address, offset)
    }

    /// Consumes the next completion, which must be of this frame in this buffer.
    ///
    /// # Errors
    ///
    /// A failure if it is not.
    pub fn take_frame(
        &mut self,
        driver: &mut Driver<'_>,
        frame: &[u8],
        address: u64,
        offset: u32,
    ) -> Outcome {
        let completion = self.rx.cq.expect(driver)?;
        self.rx.cq.ring(driver, true);
        completion.check_type(CqeType::RxOkay as u8)?;
        let found = completion.receive();
        let what = format!("queue of {completion:?}");
        check_eq(what, (found.is_sq, found.wq), (false, self.rx.wq.id))?;
        let what = format!("length in {completion:?}");
        check_eq(what, usize::from(found.length), frame.len())?;
        let what = format!("WQE offset of {completion:?}");
        check_eq(what, found.wqe_offset, offset)?;
        let bytes = driver.read(address, frame.len());
        check_eq("received frame", &bytes[..], frame)
    }

    /// Checks that packets go both ways.
    ///
    /// # Errors
    ///
    /// A failure if they do not.
    pub fn works(&mut self, driver: &mut Driver<'_>) -> Outcome {
        self.send(driver, &frame(60))?;
        self.receive(driver, &frame(61))
    }
}

/// The type of a transmit completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct CqeOf(pub u8);

impl CqeOf {
    /// Checks that it is this one.
    ///
    /// # Errors
    ///
    /// A failure if it is another one.
    pub fn expect(self, expected: CqeType) -> Outcome {
        let name = super::entry::CqeName;
        if self.0 == expected as u8 {
            return Ok(());
        }
        let (found, expected) = (name(self.0), name(expected as u8));
        Err(Failure::new(format!(
            "type of a transmit completion\n  expected: {expected:?}\n     found: {found:?}"
        )))
    }
}
