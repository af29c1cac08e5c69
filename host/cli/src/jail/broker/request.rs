//! The requests to the broker, and its answers.

use std::path::{Path, PathBuf};

use manatee::component::Digest;
use serde::{Deserialize, Serialize};

use crate::jail::child::Job;
use crate::jail::user::Ids;

/// The hidden command that runs as a broker.
pub const COMMAND: &str = "jail-broker";

/// The broker's configuration, which it receives first.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Begin {
    /// The sockets to remove.
    pub sockets: Vec<SocketFile>,
    /// The sockets to reconnect to on request.
    pub peers: Vec<PathBuf>,
    /// The user to become.
    pub ids: Option<Ids>,
    /// Whether it and its children are confined.
    pub sandbox: bool,
    /// Whether the sockets belong to another process until [`Request::Own`].
    pub waits: bool,
}

/// The file of a socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketFile {
    pub path: PathBuf,
    pub device: u64,
    pub inode: u64,
}

impl SocketFile {
    /// Records the socket that is at `path` now.
    ///
    /// # Errors
    ///
    /// If a system call fails.
    pub fn at(path: &Path) -> std::io::Result<Self> {
        use std::os::unix::fs::MetadataExt;
        let file = path.symlink_metadata()?;
        Ok(Self {
            path: std::path::absolute(path)?,
            device: file.dev(),
            inode: file.ino(),
        })
    }

    /// Returns the folder that it is in.
    pub fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("/"))
    }
}

/// A request to the broker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// The configuration, which comes first.
    Begin(Begin),
    /// Start a child; a sealed file is attached. The digest is the file's.
    Start { job: Job, digest: [u8; 32] },
    /// Keep the files of sockets, which another process has now.
    Leave,
    /// Remove the files of sockets at the end: the previous process has handed them over.
    Own,
    /// Connect to the peer with this index.
    Connect(usize),
}

impl Request {
    /// Returns the request for a child that does `job` on the file with this digest.
    pub fn start(job: Job, digest: Digest) -> Self {
        Self::Start {
            job,
            digest: digest.0,
        }
    }
}

/// An answer of the broker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// Done. A child's answer is attached as a sealed file, a connection as a socket.
    Done,
    /// It failed; the reason is for people.
    Refused(String),
}
