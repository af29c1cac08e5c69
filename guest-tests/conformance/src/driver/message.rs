//! Messages of the hardware channel.

use alloc::format;
use alloc::vec::Vec;
use core::fmt;

use mana_wire::gdma::{DEV_HWC, DEV_MANA, DevId, MsgHeader, ReqHeader, RespHeader, Status};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::failure::{Failure, Outcome, check_eq};

/// Length of a request's header.
pub const REQUEST_HEADER: usize = size_of::<ReqHeader>();
/// Length of a response's header.
pub const RESPONSE_HEADER: usize = size_of::<RespHeader>();

/// A request, which a requirement may corrupt before it is sent.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its header; `msg_size` and `hwc_msg_id` are filled in by the driver if
    /// they are zero.
    pub header: ReqHeader,
    /// The body.
    pub body: Vec<u8>,
}

impl Request {
    /// Creates a request of version 1 whose response has a body of `response` bytes.
    pub fn new<T: IntoBytes + Immutable>(code: u32, body: &T, response: usize) -> Self {
        Self::of_bytes(code, body.as_bytes(), response)
    }

    /// Creates a request of version 1 with a body of any bytes.
    pub fn of_bytes(code: u32, body: &[u8], response: usize) -> Self {
        let message = |msg_size| MsgHeader {
            msg_type: code,
            msg_version: 1,
            msg_size,
            ..MsgHeader::default()
        };
        let dev_id = if code >> 16 == 0 { DEV_HWC } else { DEV_MANA };
        Self {
            header: ReqHeader {
                req: message(0),
                resp: message((RESPONSE_HEADER + response) as u32),
                dev_id,
                activity_id: 0,
            },
            body: body.to_vec(),
        }
    }

    /// Sets the device that it is addressed to.
    #[must_use]
    pub fn to(mut self, dev_id: DevId) -> Self {
        self.header.dev_id = dev_id;
        self
    }

    /// Sets the versions of request and response.
    #[must_use]
    pub fn versions(mut self, request: u16, response: u16) -> Self {
        self.header.req.msg_version = request;
        self.header.resp.msg_version = response;
        self
    }

    /// Returns the bytes that are sent.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut header = self.header;
        if header.req.msg_size == 0 {
            header.req.msg_size = (REQUEST_HEADER + self.body.len()) as u32;
        }
        [header.as_bytes(), &self.body].concat()
    }
}

/// A response.
#[derive(Clone, Debug)]
pub struct Response {
    /// Its header.
    pub header: RespHeader,
    /// The body, up to the length in the completion.
    pub body: Vec<u8>,
}

impl Response {
    /// Decodes a response.
    ///
    /// # Errors
    ///
    /// A failure if it is shorter than its header, or its header has another length.
    pub fn from_bytes(bytes: &[u8]) -> Outcome<Self> {
        let (header, body) = RespHeader::read_from_prefix(bytes).map_err(|_| {
            Failure::new(format!("a response of {} bytes has no header", bytes.len()))
        })?;
        check_eq(
            "msg_size of a response",
            header.response.msg_size as usize,
            bytes.len(),
        )?;
        Ok(Self {
            header,
            body: body.to_vec(),
        })
    }

    /// Returns its status, by name.
    pub fn status(&self) -> StatusName {
        StatusName(self.header.status)
    }

    /// Checks that the request ended with this status.
    ///
    /// # Errors
    ///
    /// A failure if it ended with another one.
    pub fn expect(self, status: Status) -> Outcome<Self> {
        let what = format!("status of request {:#x}", self.header.response.msg_type);
        check_eq(what, self.status(), StatusName(status as u32))?;
        Ok(self)
    }

    /// Returns the body.
    ///
    /// # Errors
    ///
    /// A failure if the response is too short.
    pub fn parse<T: FromBytes>(&self) -> Outcome<T> {
        let (body, _) = T::read_from_prefix(&self.body).map_err(|_| {
            Failure::new(format!(
                "the response to {:#x} has a body of {} bytes, too short for {}",
                self.header.response.msg_type,
                self.body.len(),
                size_of::<T>()
            ))
        })?;
        Ok(body)
    }
}

/// A status, shown by name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct StatusName(pub u32);

impl fmt::Debug for StatusName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = [
            Status::Success,
            Status::MoreEntries,
            Status::Busy,
            Status::TooShort,
            Status::InvalidHandle,
            Status::InvalidParameter,
            Status::ResponseTooSmall,
            Status::VersionMismatch,
            Status::NoResources,
            Status::NoSuchDevice,
            Status::InvalidAddress,
            Status::InvalidState,
            Status::Unsupported,
        ];
        match known.into_iter().find(|status| *status as u32 == self.0) {
            Some(status) => write!(f, "{status:?} ({:#x})", self.0),
            None => write!(f, "status {:#x}", self.0),
        }
    }
}
