//! GDMA messages: a request, copied out of guest memory, and its answer.

use alloc::vec::Vec;

use mana_wire::gdma::{ReqHeader, Status};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A request whose header was checked.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Its header.
    pub header: ReqHeader,
    /// All of it, header included.
    pub message: &'a [u8],
}

impl<'a> Request<'a> {
    /// Checks the header against what was received.
    ///
    /// # Errors
    ///
    /// [`Status::TooShort`] if less was received than it says,
    /// [`Status::InvalidParameter`] for an unknown header, [`Status::VersionMismatch`]
    /// for version 0.
    pub fn new(header: ReqHeader, received: &'a [u8]) -> Result<Self, Status> {
        let size = header.req.msg_size as usize;
        if size < size_of::<ReqHeader>() {
            return Err(Status::TooShort);
        }
        let message = received.get(..size).ok_or(Status::TooShort)?;
        if header.req.hdr_type != 0 {
            return Err(Status::InvalidParameter);
        }
        if header.req.msg_version == 0 || header.resp.msg_version == 0 {
            return Err(Status::VersionMismatch);
        }
        Ok(Self { header, message })
    }

    /// Reads the fixed part of the body.
    ///
    /// # Errors
    ///
    /// [`Status::TooShort`] if the message is shorter.
    pub fn body<T: FromBytes>(&self) -> Result<T, Status> {
        self.body_and_rest().map(|(body, _)| body)
    }

    fn body_and_rest<T: FromBytes>(&self) -> Result<(T, &'a [u8]), Status> {
        T::read_from_prefix(&self.message[size_of::<ReqHeader>()..]).map_err(|_| Status::TooShort)
    }

    /// Reads the fixed part of the body, and the fields that later versions of the
    /// request append, None in an earlier version.
    ///
    /// # Errors
    ///
    /// [`Status::TooShort`] if the message is shorter.
    pub fn body_and_more<T: FromBytes, M: FromBytes>(
        &self,
        since: u16,
    ) -> Result<(T, Option<M>), Status> {
        let (body, rest) = self.body_and_rest()?;
        if self.header.req.msg_version < since {
            return Ok((body, None));
        }
        let more = M::read_from_prefix(rest).map_err(|_| Status::TooShort)?;
        Ok((body, Some(more.0)))
    }

    /// Reads the fixed part of the body, and the page addresses that follow it;
    /// `count` says how many.
    ///
    /// # Errors
    ///
    /// [`Status::TooShort`] if the message is shorter.
    pub fn body_and_pages<T: FromBytes>(
        &self,
        count: impl Fn(&T) -> u32,
    ) -> Result<(T, Vec<u64>), Status> {
        let (body, rest) = self.body_and_rest::<T>()?;
        let length = (count(&body) as usize)
            .checked_mul(8)
            .ok_or(Status::TooShort)?;
        let bytes = rest.get(..length).ok_or(Status::TooShort)?;
        Ok((body, words(bytes)))
    }

    /// Reads `count` words at an offset from the beginning of the message.
    ///
    /// # Errors
    ///
    /// [`Status::TooShort`] if the message is shorter.
    pub fn words_at(&self, offset: usize, count: usize) -> Result<Vec<u64>, Status> {
        let bytes = self.message.get(offset..offset + 8 * count);
        bytes.map(words).ok_or(Status::TooShort)
    }
}

fn words(bytes: &[u8]) -> Vec<u64> {
    let (words, _) = bytes.as_chunks();
    words.iter().copied().map(u64::from_le_bytes).collect()
}

/// The body of a response, zeroed, with the room that the command needs.
#[derive(Debug)]
pub struct Answer<'a> {
    body: &'a mut [u8],
}

impl<'a> Answer<'a> {
    /// Creates an answer that is written to a body.
    pub fn new(body: &'a mut [u8]) -> Self {
        Self { body }
    }

    /// Writes a response, as much of it as the driver has room for.
    pub fn write<T: IntoBytes + Immutable>(&mut self, response: &T) {
        let bytes = response.as_bytes();
        let length = bytes.len().min(self.body.len());
        self.body[..length].copy_from_slice(&bytes[..length]);
    }
}
