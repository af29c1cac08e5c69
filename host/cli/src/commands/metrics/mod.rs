//! `--metrics`: the device's counters, for Prometheus and other readers of OpenMetrics.
//!
//! The socket is opened before the process is confined, and served by the control plane's
//! thread, which needs no further privilege for that. A scrape neither waits for the device nor runs
//! its component.

mod collect;
mod http;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use manatee_common::listener::{Access, Listener};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::inherited::{check_address, place};

pub use collect::{Facts, Metrics, Observed};

/// The most scrapers at a time; further connections are closed.
const MAX_SCRAPERS: usize = 8;
/// The longest that a scrape may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Scrapes within this time get the same text.
const SHELF_LIFE: Duration = Duration::from_millis(50);

/// The address at which metrics are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A Unix socket, at a path.
    Path(PathBuf),
    /// A TCP socket.
    Tcp(SocketAddr),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains('/') {
            return Ok(Self::Path(text.into()));
        }
        let address = text.parse().map(Self::Tcp);
        address.map_err(|_| {
            "give an address with its port, such as 127.0.0.1:9464 or [::1]:9464, or a path with \
             a `/` in it for a Unix socket"
                .to_owned()
        })
    }
}

/// A listening socket.
#[derive(Debug)]
pub enum Socket {
    /// A Unix socket. Its file is removed when this is dropped.
    Unix(Listener),
    /// A TCP socket.
    Tcp(std::net::TcpListener),
}

impl Socket {
    /// Listens, or takes the socket of the previous process.
    ///
    /// # Errors
    ///
    /// If the path or the address is in use or invalid, or differs from the previous process'.
    pub fn open(address: &Address, left: Option<OwnedFd>) -> anyhow::Result<Self> {
        match (address, left) {
            (Address::Path(path), Some(left)) => {
                let (absolute, inode) = place(path);
                let listener = Listener::inherit(left, &absolute, inode)?;
                check_address(listener.address(), &absolute, "--metrics")?;
                Ok(Self::Unix(listener))
            }
            (Address::Tcp(address), Some(left)) => {
                let listener = std::net::TcpListener::from(left);
                let own = listener.local_addr();
                let own = own
                    .context("the descriptor that the previous process left is not a TCP socket")?;
                ensure!(
                    own.ip() == address.ip() && [0, own.port()].contains(&address.port()),
                    "the previous process listened at {own}, and --metrics is {address}: \
                     give the same, or stop the service for good and start it again"
                );
                Ok(Self::Tcp(listener))
            }
            (Address::Path(path), None) => Ok(Self::Unix(Listener::bind(path, Access::default())?)),
            (Address::Tcp(address), None) => {
                let listener = std::net::TcpListener::bind(address).with_context(|| {
                    format!("listening at {address}: choose an address of this machine whose port is free")
                })?;
                Ok(Self::Tcp(listener))
            }
        }
    }

    /// Returns a copy of it for a successor.
    ///
    /// # Errors
    ///
    /// If the process is out of descriptors.
    pub fn copy(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Unix(listener) => listener.as_fd().try_clone_to_owned(),
            Self::Tcp(listener) => listener.as_fd().try_clone_to_owned(),
        }
    }

    /// Leaves its file to a successor.
    pub fn keep_file(&self) {
        if let Self::Unix(listener) = self {
            listener.keep_file();
        }
    }

    /// Returns the path of the file that was created.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Unix(listener) => listener.path(),
            Self::Tcp(_) => None,
        }
    }

    /// Answers scrapers, until the future is dropped.
    ///
    /// # Errors
    ///
    /// If the socket can't be handed to tokio.
    pub async fn serve(&self, metrics: Metrics) -> io::Result<()> {
        let scrapers = Scrapers::new(metrics);
        match self {
            Self::Unix(listener) => {
                let listener = listener.as_fd().try_clone_to_owned()?;
                let listener = std::os::unix::net::UnixListener::from(listener);
                listener.set_nonblocking(true)?;
                let listener = UnixListener::from_std(listener)?;
                scrapers
                    .serve(async || Ok(listener.accept().await?.0))
                    .await
            }
            Self::Tcp(listener) => {
                let listener = listener.try_clone()?;
                listener.set_nonblocking(true)?;
                let listener = TcpListener::from_std(listener)?;
                scrapers
                    .serve(async || Ok(listener.accept().await?.0))
                    .await
            }
        }
    }
}

/// A bounded number of scrapers, which are disconnected when this is dropped.
struct Scrapers {
    page: Arc<Page>,
    places: Arc<Semaphore>,
    tasks: JoinSet<()>,
}

impl Scrapers {
    fn new(metrics: Metrics) -> Self {
        Self {
            page: Arc::new(Page {
                metrics,
                last: Mutex::new(None),
            }),
            places: Arc::new(Semaphore::new(MAX_SCRAPERS)),
            tasks: JoinSet::new(),
        }
    }

    async fn serve<S>(mut self, accept: impl AsyncFn() -> io::Result<S>) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        loop {
            let stream = match accept().await {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::debug!(%error, "no scraper could be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            while self.tasks.try_join_next().is_some() {}
            let Ok(place) = self.places.clone().try_acquire_owned() else {
                continue;
            };
            let page = self.page.clone();
            self.tasks.spawn(async move {
                // A slow or disconnected scraper affects no other.
                let _ = timeout(PATIENCE, http::answer(stream, || page.text())).await;
                drop(place);
            });
        }
    }
}

/// The text that scrapers get.
struct Page {
    metrics: Metrics,
    /// When it was generated last.
    last: Mutex<Option<(Instant, Arc<str>)>>,
}

impl Page {
    fn text(&self) -> Arc<str> {
        let mut last = self.last.lock();
        if let Some((made, text)) = &*last
            && made.elapsed() < SHELF_LIFE
        {
            return text.clone();
        }
        let text: Arc<str> = self.metrics.encode().into();
        *last = Some((Instant::now(), text.clone()));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_paths_or_have_ports() {
        let parse = |text: &str| text.parse::<Address>();
        assert_eq!(
            parse("./m"),
            Ok(Address::Path("./m".into())),
            "a path in this folder"
        );
        for good in ["127.0.0.1:9464", "[::1]:9464", "0.0.0.0:0"] {
            assert!(matches!(parse(good), Ok(Address::Tcp(_))), "{good}");
        }
        for bad in ["", "metrics.sock", ":9464", "9464", "localhost:9464"] {
            let error = parse(bad).unwrap_err();
            assert!(error.contains("127.0.0.1:9464"), "{bad}: {error}");
        }
    }
}
