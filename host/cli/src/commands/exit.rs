//! The statuses with which the command ends. docs/operations.md lists them.

use std::process::ExitCode;

use manatee_control::{ClientError, Code};

/// A component misses requirements of the conformance suite.
pub const REFUSED_BY_CHECK: u8 = 3;
/// Another operation is in progress.
const BUSY: u8 = 4;
/// There is nothing to do.
const ALREADY_SO: u8 = 5;
/// No process answers on the control socket.
const NOBODY: u8 = 6;
/// The object of the command does not exist.
const NOT_FOUND: u8 = 7;
/// The process that serves is of another release.
const OTHER_RELEASE: u8 = 8;

/// Returns the status for an error.
pub fn status(error: &anyhow::Error) -> ExitCode {
    match error.downcast_ref() {
        Some(ClientError::Refused(refusal)) => match refusal.code {
            Code::RefusedByCheck => REFUSED_BY_CHECK.into(),
            Code::Busy | Code::TooMany => BUSY.into(),
            Code::AlreadySo => ALREADY_SO.into(),
            Code::NotFound => NOT_FOUND.into(),
            Code::UnsupportedProtocol | Code::MethodNotFound => OTHER_RELEASE.into(),
            _ => ExitCode::FAILURE,
        },
        Some(ClientError::Older(_)) => OTHER_RELEASE.into(),
        Some(ClientError::Connect { .. }) => NOBODY.into(),
        _ => ExitCode::FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use manatee_control::Refusal;

    use super::*;

    #[test]
    fn errors_that_scripts_care_about_have_statuses_of_their_own() {
        let refused = |code| ClientError::Refused(Refusal::new(code, "no")).into();
        let nobody = ClientError::Connect {
            path: PathBuf::new(),
            source: std::io::ErrorKind::NotFound.into(),
        };
        for (error, expected) in [
            (refused(Code::RefusedByCheck), 3),
            (refused(Code::Busy), 4),
            (refused(Code::AlreadySo), 5),
            (nobody.into(), 6),
            (refused(Code::TooMany), 4),
            (refused(Code::NotFound), 7),
            (refused(Code::UnsupportedProtocol), 8),
            (refused(Code::MethodNotFound), 8),
            (ClientError::Older(PathBuf::new()).into(), 8),
            (refused(Code::Failed), 1),
            (anyhow::anyhow!("any other"), 1),
        ] {
            assert_eq!(status(&error), ExitCode::from(expected), "{error}");
        }
    }
}
