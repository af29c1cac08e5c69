//! Why a server gave up.

use std::io;

use crate::no_session::NoSession;

/// Why [`Server::serve`](crate::Server::serve) ended with an error.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// No server could have left this session.
    #[error("the session can't be continued: {0}")]
    Session(#[from] NoSession),
    /// The socket can't be used any more.
    #[error("waiting for a VMM failed")]
    Accept(#[source] io::Error),
}
