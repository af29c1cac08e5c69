//! One connection of a VMM: serving it, whatever it sends, and ending it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::io::Errno;
use rustix::net::{Shutdown, sockopt};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use vfio_user::ServerBackend;

/// How a connection ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The VMM closed it.
    Closed,
    /// There was none: accepting failed.
    NotAccepted(std::io::Error),
    /// What the VMM sent made no sense, or it went in the middle of it.
    Failed(vfio_user::Error),
    /// The protocol code panicked at what the VMM sent.
    Panicked(String),
}

/// Waits for a VMM and serves it until it goes.
pub(super) fn run(server: &vfio_user::Server, backend: &mut dyn ServerBackend) -> Outcome {
    // Nothing that a panic could leave half done is used again: the crate's
    // server is read-only, and the device is detached after every session.
    let ended = catch_unwind(AssertUnwindSafe(|| server.run(backend)));
    match ended {
        Ok(Ok(())) => Outcome::Closed,
        Ok(Err(vfio_user::Error::SocketAccept(error))) => Outcome::NotAccepted(error),
        Ok(Err(error)) => Outcome::Failed(error),
        Err(panic) => Outcome::Panicked(message(&*panic)),
    }
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("no reason given").to_owned()
}

/// Ends every connection that was accepted from `listener`.
///
/// The crate keeps the connection to itself, so it is looked for among this
/// process's descriptors: it has the listener's address.
///
/// # Errors
///
/// The kernel's, where /proc is missing or `pidfd_getfd` is forbidden.
pub(super) fn hang_up(listener: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let address = rustix::net::getsockname(listener)?;
    let process = pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
    for number in open_descriptors()? {
        let fd = match pidfd_getfd(&process, number, PidfdGetfdFlags::empty()) {
            Ok(fd) => fd,
            // It was closed meanwhile.
            Err(Errno::BADF) => continue,
            Err(errno) => return Err(errno),
        };
        if is_connection(&fd) && rustix::net::getsockname(&fd) == Ok(address.clone()) {
            // It may have ended by itself, which is as good.
            let _ = rustix::net::shutdown(fd.as_fd(), Shutdown::Both);
        }
    }
    Ok(())
}

fn open_descriptors() -> rustix::io::Result<Vec<RawFd>> {
    let failed = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let entries = std::fs::read_dir("/proc/self/fd").map_err(failed)?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter_map(|name| name.parse().ok()).collect())
}

fn is_connection(fd: &OwnedFd) -> bool {
    sockopt::socket_acceptconn(fd) == Ok(false)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Result, Write};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::time::Duration;

    use vfio_user::{DmaMapFlags, DmaUnmapFlags, Server};

    use super::*;

    /// A device that panics when it is reset.
    struct Fragile;

    impl ServerBackend for Fragile {
        fn region_read(&mut self, _: u32, _: u64, _: &mut [u8]) -> Result<()> {
            Ok(())
        }
        fn region_write(&mut self, _: u32, _: u64, _: &[u8]) -> Result<()> {
            Ok(())
        }
        fn dma_map(
            &mut self,
            _: DmaMapFlags,
            _: u64,
            _: u64,
            _: u64,
            _: Option<File>,
        ) -> Result<()> {
            Ok(())
        }
        fn dma_unmap(&mut self, _: DmaUnmapFlags, _: u64, _: u64) -> Result<()> {
            Ok(())
        }
        fn reset(&mut self) -> Result<()> {
            panic!("reset is too much")
        }
        fn set_irqs(&mut self, _: u32, _: u32, _: u32, _: u32, _: Vec<File>) -> Result<()> {
            Ok(())
        }
    }

    /// A message header: command, and the size that it claims to have.
    fn header(command: u16, size: u32) -> Vec<u8> {
        let words = [u32::from(command) << 16, size, 0, 0];
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn serve(client: impl FnOnce(UnixStream, &UnixListener)) -> Outcome {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let copy = listener.try_clone().unwrap();
        let server = Server::from_owned_fd(copy.into(), true, Vec::new(), Vec::new());
        std::thread::scope(|scope| {
            let session = scope.spawn(|| run(&server, &mut Fragile));
            let stream = UnixStream::connect(&path).unwrap();
            stream
                .set_read_timeout(Some(Duration::from_secs(20)))
                .unwrap();
            client(stream, &listener);
            session.join().unwrap()
        })
    }

    #[test]
    fn panic_ends_the_session_and_says_why() {
        let outcome = serve(|mut stream, _| {
            stream.write_all(&header(13, 16)).unwrap();
            assert_eq!(stream.read(&mut [0; 16]).unwrap(), 0, "hung up");
        });
        assert!(matches!(outcome, Outcome::Panicked(reason) if reason == "reset is too much"));
    }

    #[test]
    fn version_that_is_shorter_than_its_header_only_ends_the_session() {
        let outcome = serve(|mut stream, _| {
            stream
                .write_all(&[header(1, 16), vec![0; 4]].concat())
                .unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
        });
        assert!(matches!(outcome, Outcome::Panicked(_)), "{outcome:?}");
    }

    #[test]
    fn closing_is_no_failure_and_half_a_message_is() {
        assert!(matches!(serve(|_, _| {}), Outcome::Closed));
        let outcome = serve(|mut stream, _| stream.write_all(&header(2, 48)).unwrap());
        assert!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
    }

    #[test]
    fn session_in_the_middle_of_a_message_can_be_ended() {
        let outcome = serve(|mut stream, listener| {
            // The answer shows that the connection was accepted.
            stream.write_all(&header(8, 36)).unwrap();
            stream.write_all(&[0xff; 20]).unwrap();
            stream.read_exact(&mut [0; 16]).unwrap();
            stream.write_all(&header(2, 48)).unwrap();
            hang_up(listener.as_fd()).unwrap();
            assert_eq!(stream.read(&mut [0; 16]).unwrap(), 0, "hung up");
        });
        assert!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
    }
}
