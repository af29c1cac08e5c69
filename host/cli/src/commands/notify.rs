//! Reports the process's status to the service manager (sd_notify(3)).

use std::env;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use manatee_common::ration::Ration;
use manatee_keeper::line::wait_for;
use parking_lot::Mutex;
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::time::{ClockId, clock_gettime};

/// The shortest interval of a watchdog; shorter ones are raised to it.
const SHORTEST: Duration = Duration::from_millis(10);

/// How long the service manager may take to read a message.
const PATIENCE: Duration = Duration::from_secs(5);

/// The connection to a service manager. It is made before the jail, which allows no new ones.
#[derive(Debug)]
pub struct Notifier {
    socket: Option<UnixDatagram>,
    /// The watchdog's interval.
    watchdog: Option<Duration>,
    /// How many descriptors it stores for the next start; 0 if none.
    keeps: usize,
    /// How many it stores now.
    stored: AtomicUsize,
    /// Bounds the log lines about a service manager that does not read.
    ration: Mutex<Ration>,
}

impl Notifier {
    /// Connects to what the variable NOTIFY_SOCKET names, if it is set.
    ///
    /// # Errors
    ///
    /// If the connection fails, or the watchdog's interval is not a number.
    pub fn connect() -> anyhow::Result<Self> {
        let Some(name) = env::var_os("NOTIFY_SOCKET") else {
            return Ok(Self {
                socket: None,
                watchdog: None,
                keeps: 0,
                stored: AtomicUsize::new(0),
                ration: Mutex::default(),
            });
        };
        let connect = || {
            let address = match name.as_bytes() {
                [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
                _ => SocketAddr::from_pathname(&name)?,
            };
            let socket = UnixDatagram::unbound()?;
            socket.connect_addr(&address)?;
            // A service manager that does not read must not block the process.
            socket.set_nonblocking(true)?;
            std::io::Result::Ok(socket)
        };
        let socket = connect().with_context(|| {
            format!(
                "the service manager's socket (NOTIFY_SOCKET) {}",
                name.display()
            )
        })?;
        Ok(Self {
            socket: Some(socket),
            watchdog: watchdog()?,
            keeps: keeps()?,
            stored: AtomicUsize::new(0),
            ration: Mutex::default(),
        })
    }

    /// Reports that a VMM can attach, with a status line for people. It is one message,
    /// since a reader that waits for readiness may not read any further. It must not get lost, even if
    /// the service manager has yet to read what was stored before: a keeper replaces a process that
    /// is never ready.
    pub fn ready(&self, status: &str) {
        if self.socket.is_some()
            && let Err(error) = self.send(&format!("READY=1\nSTATUS={status}\n"), None)
        {
            tracing::warn!("the service manager does not hear that this is ready: {error:#}");
        }
    }

    /// Reports that the configuration was reloaded.
    pub fn reloaded(&self) {
        self.tell("READY=1\n");
    }

    /// Reports the status, in a line for people.
    pub fn status(&self, status: &str) {
        self.tell(&format!("STATUS={status}\n"));
    }

    /// Reports that the configuration is being reloaded, until [`reloaded`](Self::reloaded).
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let micros = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={micros}\n"));
    }

    /// Reports that the process is stopping.
    pub fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=Stopping\n");
    }

    /// Feeds the watchdog at its interval, each time after `check` is done. Waits for ever without a
    /// watchdog.
    pub async fn keep_alive(&self, check: impl AsyncFn()) {
        let Some(interval) = self.watchdog else {
            return std::future::pending().await;
        };
        // At half the interval, as sd_watchdog_enabled(3) recommends.
        let mut ticks = tokio::time::interval((interval / 2).max(SHORTEST / 2));
        loop {
            ticks.tick().await;
            check().await;
            self.tell("WATCHDOG=1\n");
        }
    }

    /// Returns whether it stores descriptors for the next start.
    pub fn keeps_descriptors(&self) -> bool {
        self.keeps > 0
    }

    /// Notes how many descriptors of a predecessor it stores.
    pub fn note_stored(&self, count: usize) {
        self.stored.store(count, Ordering::Relaxed);
    }

    /// Checks that it has room for this many more descriptors: it drops others without a word.
    ///
    /// # Errors
    ///
    /// If its store is too small.
    pub fn check_room(&self, count: usize) -> anyhow::Result<()> {
        let needed = self.stored.load(Ordering::Relaxed) + count;
        ensure!(
            needed <= self.keeps,
            "{needed} descriptors are to be kept, and the service manager keeps {}: raise \
             FileDescriptorStoreMax= of the unit",
            self.keeps
        );
        Ok(())
    }

    /// Stores a descriptor there for the next start.
    ///
    /// # Errors
    ///
    /// If it has no room, or does not take it in time.
    pub fn keep(&self, name: &str, descriptor: BorrowedFd<'_>) -> anyhow::Result<()> {
        self.check_room(1)?;
        // A descriptor that hung up is stored as well: the next process has to notice.
        let text = format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0\n");
        self.send(&text, Some(descriptor))?;
        self.stored.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Removes the descriptor with a name from its store.
    pub fn forget(&self, name: &str) {
        let text = format!("FDSTOREREMOVE=1\nFDNAME={name}\n");
        match self.send(&text, None) {
            Ok(()) => {
                let fewer = |stored: usize| Some(stored.saturating_sub(1));
                let _ = self
                    .stored
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer);
            }
            Err(error) => {
                if let Some(dropped) = self.ration.lock().pass() {
                    tracing::warn!(
                        dropped,
                        "the service manager still keeps the descriptor {name}: {error:#}"
                    );
                }
            }
        }
    }

    /// Waits until it has processed all messages.
    ///
    /// # Errors
    ///
    /// If it has not in time.
    pub fn wait_until_heard(&self) -> anyhow::Result<()> {
        let (ours, theirs) = std::io::pipe()?;
        // It closes the other end when it gets to this message.
        self.send("BARRIER=1", Some(theirs.as_fd()))?;
        drop(theirs);
        let heard = wait_for(&ours, PollFlags::IN, PATIENCE)?;
        ensure!(
            heard,
            "the service manager does not confirm within {} s what it was told",
            PATIENCE.as_secs()
        );
        Ok(())
    }

    /// Sends a message that must not get lost, perhaps with a descriptor.
    fn send(&self, text: &str, descriptor: Option<BorrowedFd<'_>>) -> anyhow::Result<()> {
        let socket = self
            .socket
            .as_ref()
            .context("there is no service manager")?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = descriptor.as_ref().map(std::slice::from_ref);
        if let Some(descriptors) = descriptors {
            control.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        let parts = [IoSlice::new(text.as_bytes())];
        loop {
            match sendmsg(socket, &parts, &mut control, SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let room = wait_for(socket, PollFlags::OUT, PATIENCE)?;
                    ensure!(
                        room,
                        "the service manager has not listened for {} s",
                        PATIENCE.as_secs()
                    );
                }
                sent => {
                    sent?;
                    return Ok(());
                }
            }
        }
    }

    fn tell(&self, state: &str) {
        if let Some(socket) = &self.socket
            && let Err(error) = socket.send(state.as_bytes())
            && let Some(dropped) = self.ration.lock().pass()
        {
            tracing::warn!(dropped, %error, "the status could not be reported to the service manager");
        }
    }
}

/// Returns the number in the variable FDSTORE, by which a service manager says how many
/// descriptors it keeps.
fn keeps() -> anyhow::Result<usize> {
    let Some(text) = env::var_os("FDSTORE") else {
        return Ok(0);
    };
    let number = text.to_str().and_then(|text| text.parse().ok());
    number.with_context(|| {
        format!(
            "FDSTORE is `{}`: it is a number of descriptors",
            text.display()
        )
    })
}

/// Returns the interval in the variable WATCHDOG_USEC, if that is for this process.
fn watchdog() -> anyhow::Result<Option<Duration>> {
    let process = std::process::id().to_string();
    if env::var("WATCHDOG_PID").is_ok_and(|other| other != process) {
        return Ok(None);
    }
    let Some(text) = env::var_os("WATCHDOG_USEC") else {
        return Ok(None);
    };
    let micros = text.to_str().and_then(|text| text.parse().ok());
    let micros = micros.filter(|micros| *micros > 0);
    let micros = micros.with_context(|| {
        format!(
            "WATCHDOG_USEC is `{}`: it is a number of microseconds",
            text.display()
        )
    })?;
    Ok(Some(Duration::from_micros(micros)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_waits_until_what_came_before_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_nonblocking(true).unwrap();
        let socket = UnixDatagram::unbound().unwrap();
        socket.connect(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        while socket.send(b"STATUS=x\n").is_ok() {}
        let notifier = Notifier {
            socket: Some(socket),
            watchdog: None,
            keeps: 0,
            stored: AtomicUsize::new(0),
            ration: Mutex::default(),
        };
        let heard = std::thread::scope(|scope| {
            let telling = scope.spawn(|| notifier.ready("Serving"));
            // Until then there is no room; one that does not wait ends at once.
            for _ in 0..10_000 {
                std::thread::yield_now();
            }
            let mut heard = Vec::new();
            loop {
                let ended = telling.is_finished();
                let mut text = [0; 64];
                while let Ok(length) = manager.recv(&mut text) {
                    heard.push(text[..length].to_vec());
                }
                if ended {
                    return heard;
                }
            }
        });
        let ready = heard.iter().filter(|it| it.starts_with(b"READY=1\n"));
        assert_eq!(ready.count(), 1);
    }
}
