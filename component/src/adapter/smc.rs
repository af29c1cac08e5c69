//! The shared-memory channel: the 32 bytes of BAR 0 through which a driver
//! establishes and destroys the hardware channel.

use mana_wire::smc::{APERTURE, HEADER, Header, SmcStatus};

/// Newest version of `ESTABLISH_HWC` and `DESTROY_HWC`.
const HWC_VERSION: u8 = 0;
/// The only version of `REPORT_HWC_TIMEOUT`.
const REPORT_VERSION: u8 = 1;

/// The aperture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Smc {
    bytes: [u8; APERTURE],
}

impl Smc {
    /// Reads up to 8 bytes at an offset; bytes beyond the end are zero.
    pub fn read(&self, offset: usize, width: usize) -> u64 {
        let mut value = [0; 8];
        for (to, from) in value
            .iter_mut()
            .zip(self.bytes.iter().skip(offset).take(width))
        {
            *to = *from;
        }
        u64::from_le_bytes(value)
    }

    /// Writes up to 8 bytes at an offset. Returns the header if the write handed the
    /// aperture to the device.
    pub fn write(&mut self, offset: usize, width: usize, value: u64) -> Option<Header> {
        let places = self.bytes.iter_mut().skip(offset).take(width);
        for (to, from) in places.zip(value.to_le_bytes()) {
            *to = from;
        }
        (offset + width >= APERTURE).then(|| self.header())
    }

    /// Creates the aperture from saved bytes.
    pub fn from_bytes(bytes: [u8; APERTURE]) -> Self {
        Self { bytes }
    }

    /// Returns the whole aperture.
    pub fn bytes(&self) -> &[u8; APERTURE] {
        &self.bytes
    }

    /// Hands the aperture back to the driver with an answer.
    pub fn respond(&mut self, request: Header, status: SmcStatus) {
        let response = request
            .with_response(true)
            .with_msg_version(request.msg_version().min(newest(request.msg_type())))
            .with_status(status as u8)
            .with_owner_is_pf(false);
        self.bytes[HEADER..].copy_from_slice(&response.into_bits().to_le_bytes());
    }

    fn header(&self) -> Header {
        let mut bits = [0; 4];
        bits.copy_from_slice(&self.bytes[HEADER..]);
        Header::from_bits(u32::from_le_bytes(bits))
    }
}

/// Returns the newest version of a message that this device knows. A newer request is
/// acted on as this version, and the answer says so.
fn newest(msg_type: u8) -> u8 {
    match msg_type {
        mana_wire::smc::REPORT_HWC_TIMEOUT => REPORT_VERSION,
        _ => HWC_VERSION,
    }
}

/// Checks that this device acts on a request.
///
/// # Errors
///
/// The status of the answer, if the header is not a request, or of an unknown type or
/// version.
pub fn check(header: Header) -> Result<(), SmcStatus> {
    use mana_wire::smc::{DESTROY_HWC, ESTABLISH_HWC, REPORT_HWC_TIMEOUT};
    if header.response() {
        return Err(SmcStatus::NotARequest);
    }
    match header.msg_type() {
        ESTABLISH_HWC | DESTROY_HWC => Ok(()),
        REPORT_HWC_TIMEOUT if header.msg_version() < REPORT_VERSION => {
            Err(SmcStatus::UnsupportedVersion)
        }
        REPORT_HWC_TIMEOUT => Ok(()),
        _ => Err(SmcStatus::UnknownType),
    }
}
