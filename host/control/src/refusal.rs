//! Why a request is refused.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The reason, for programs.
    pub code: Code,
    /// The reason, for people.
    pub message: String,
}

/// The reasons that programs may want to distinguish: each has a name (`error.data.reason`) and a
/// number (`error.code`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The line is not JSON.
    ParseError,
    /// It is JSON, but no request of this protocol.
    InvalidRequest,
    /// There is no such method.
    MethodNotFound,
    /// The method does not take these parameters or descriptors.
    InvalidParams,
    /// The server has a bug.
    InternalError,
    /// Another version of the protocol is asked for.
    UnsupportedProtocol,
    /// The request is too long. The connection ends.
    TooLarge,
    /// There are too many clients or subscriptions.
    TooMany,
    /// The object of the request does not exist.
    NotFound,
    /// A candidate misses requirements of the conformance suite.
    RefusedByCheck,
    /// Another operation is under way; try again later.
    Busy,
    /// The requested state is the current one.
    AlreadySo,
    /// Any other reason.
    #[serde(other)]
    Failed,
}

impl Code {
    /// Every code.
    pub const ALL: [Self; 13] = [
        Self::ParseError,
        Self::InvalidRequest,
        Self::MethodNotFound,
        Self::InvalidParams,
        Self::InternalError,
        Self::UnsupportedProtocol,
        Self::TooLarge,
        Self::TooMany,
        Self::NotFound,
        Self::RefusedByCheck,
        Self::Busy,
        Self::AlreadySo,
        Self::Failed,
    ];

    /// Returns the number: one of JSON-RPC's, or one of those reserved for servers.
    pub const fn number(self) -> i32 {
        match self {
            Self::ParseError => -32700,
            Self::InvalidRequest => -32600,
            Self::MethodNotFound => -32601,
            Self::InvalidParams => -32602,
            Self::InternalError => -32603,
            Self::Failed => -32000,
            Self::UnsupportedProtocol => -32001,
            Self::TooLarge => -32002,
            Self::TooMany => -32003,
            Self::NotFound => -32004,
            Self::RefusedByCheck => -32005,
            Self::Busy => -32006,
            Self::AlreadySo => -32007,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

impl Refusal {
    /// Creates a refusal.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// Creates the refusal of an operation that failed.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(Code::Failed, message)
    }

    /// Creates the refusal for an object that does not exist.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Code::NotFound, message)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn numbers_are_unique_and_those_that_json_rpc_allows() {
        let numbers: BTreeSet<_> = Code::ALL.map(Code::number).into();
        assert_eq!(numbers.len(), Code::ALL.len());
        for number in numbers {
            let own = (-32099..=-32000).contains(&number);
            let standard = [-32700, -32600, -32601, -32602, -32603].contains(&number);
            assert!(own || standard, "{number}");
        }
        assert_eq!(Code::AlreadySo.to_string(), "already_so");
    }
}
