//! Transmits that were read from a send queue.

use mana_wire::oob::CqeType;

use crate::bnic::ledger::Run;

/// The state of a transmit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Bytes of the packet.
    pub length: u32,
    /// Its kind of completion.
    pub completion: Outcome,
}

/// A transmit's kind of completion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The completion's type; None while it is pending.
    pub cqe_type: Option<CqeType>,
    /// Whether the completion is suppressed on success.
    pub suppress: bool,
}

/// A WQE that was read from a send queue.
#[derive(Clone, Copy, Debug, Default)]
pub struct Taken {
    /// Where it begins.
    pub position: u32,
    /// Where it ends, which is also the packet's id, so that a packet's status shows
    /// how far the queue had got.
    pub end: u32,
    /// Bytes of the packet.
    pub length: u32,
    /// Whether the packet is handed over, and the host reports its status.
    pub is_handed_over: bool,
    /// Its kind of completion.
    pub outcome: Outcome,
}

impl Outcome {
    /// Creates the outcome of a sent packet, which holds unless the host reports another.
    pub const fn sent(suppress: bool) -> Self {
        Self {
            cqe_type: Some(CqeType::TxOkay),
            suppress,
        }
    }

    /// Creates the outcome of a packet that was not sent.
    pub const fn failed(cqe_type: CqeType) -> Self {
        Self {
            cqe_type: Some(cqe_type),
            suppress: false,
        }
    }

    /// Returns the type of the completion to post, if any.
    pub fn posted(self) -> Option<CqeType> {
        let is_silent = self.suppress && self.cqe_type == Some(CqeType::TxOkay);
        self.cqe_type.filter(|_| !is_silent)
    }
}

impl Taken {
    /// Returns the first WQE of a run.
    pub fn of(run: Run<Transmit>) -> Self {
        Self {
            position: run.position,
            end: run.first_end(),
            length: run.known.length,
            is_handed_over: false,
            outcome: run.known.completion,
        }
    }

    /// Returns the WQE as a run of one.
    pub fn run(&self) -> Run<Transmit> {
        let known = Transmit {
            length: self.length,
            completion: self.outcome,
        };
        Run::of_one(self.position, self.end, known)
    }
}
