//! The dispatch of requests by a table. The requirements of each are checked here,
//! once.

use device_kit::Platform;
use mana_wire::gdma::{DEV_MANA, ReqHeader, Status};

use super::channel::Channel;
use crate::gdma::Context;
use crate::gdma::message::{Answer, Request};

/// The handler of requests. It is above the channel and the NIC, and knows the table.
pub trait Handler<P: Platform> {
    /// Acts on a request, and writes the body of its response into `body`, which is
    /// zeroed.
    fn handle(
        &mut self,
        channel: &mut Channel,
        ctx: &mut Context<'_, P>,
        purpose: Purpose,
        header: ReqHeader,
        message: &[u8],
        body: &mut [u8],
    ) -> Handled;
}

/// The reason to act on a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// It has to be answered.
    Answer,
    /// It was answered before a failure, but its changes were not saved. Only requests
    /// that change the configuration are acted on.
    Replay,
}

/// The outcome of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handled {
    /// The status in the response.
    pub status: Status,
    /// The version of the response.
    pub version: u16,
    /// Whether the configuration may have changed.
    pub may_have_changed: bool,
}

impl Handled {
    /// Creates the outcome of a request that was not acted on.
    pub fn refused(status: Status) -> Self {
        Self {
            status,
            version: 1,
            may_have_changed: false,
        }
    }

    /// Returns whether the response has a body.
    pub fn has_response(self) -> bool {
        matches!(self.status, Status::Success | Status::MoreEntries)
    }
}

/// Which device a request is addressed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Any device.
    Any,
    /// The NIC, registered or not.
    Nic,
    /// The NIC between `REGISTER_DEVICE` and `DEREGISTER_DEVICE`.
    RegisteredNic,
}

/// A row of the table: a request that acts on `S`.
pub struct Command<S> {
    /// Its code.
    pub code: u32,
    /// The device that it has to be addressed to.
    pub target: Target,
    /// The least size of a response's body in bytes, for each version of its layout
    /// from 1 on. The response has the newest version that the driver asks for; an
    /// older version is cut to its size.
    pub layouts: &'static [usize],
    /// Whether it may change the configuration.
    pub changes: bool,
    /// Acts on it.
    pub act: fn(&mut S, &Request<'_>, &mut Answer<'_>) -> Result<(), Status>,
}

/// The layout of a response without a body.
pub const NO_BODY: &[usize] = &[0];

/// Finds the command of a request, checks what it needs, and acts on it.
pub fn dispatch<S>(
    commands: &[Command<S>],
    scene: &mut S,
    is_registered: bool,
    purpose: Purpose,
    header: ReqHeader,
    message: &[u8],
    body: &mut [u8],
) -> Handled {
    let known = commands.iter().find(|it| it.code == header.req.msg_type);
    let Some(command) = known.filter(|it| it.changes || purpose == Purpose::Answer) else {
        // Errors of the header come first.
        let header = Request::new(header, message);
        return Handled::refused(header.err().unwrap_or(Status::Unsupported));
    };
    let mut version = 1;
    let acted = Request::new(header, message).and_then(|request| {
        command.target.check(&request, is_registered)?;
        let newest = command.layouts.len() as u16;
        let wanted = header.resp.msg_version.min(newest);
        let room = command.layouts[usize::from(wanted) - 1];
        let body = if wanted < newest {
            body.get_mut(..room)
        } else {
            Some(body).filter(|body| body.len() >= room)
        };
        let mut answer = Answer::new(body.ok_or(Status::ResponseTooSmall)?);
        (command.act)(scene, &request, &mut answer)?;
        version = wanted;
        Ok(())
    });
    Handled {
        status: acted.err().unwrap_or(Status::Success),
        version,
        may_have_changed: command.changes,
    }
}

impl Target {
    fn check(self, request: &Request<'_>, is_registered: bool) -> Result<(), Status> {
        if self != Self::Any && request.header.dev_id != DEV_MANA {
            return Err(Status::NoSuchDevice);
        }
        if self == Self::RegisteredNic && !is_registered {
            return Err(Status::InvalidState);
        }
        Ok(())
    }
}
