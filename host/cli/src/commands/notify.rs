//! Tells the service manager how the process is (sd_notify(3)).

use std::env;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use anyhow::Context;

/// A service manager that wants to know. It is connected to before the jail, since
/// nothing can be connected to afterwards.
#[derive(Debug)]
pub struct Notifier(Option<UnixDatagram>);

impl Notifier {
    /// Connects to what the variable NOTIFY_SOCKET names, if it is set.
    ///
    /// # Errors
    ///
    /// If it names nothing that can be connected to.
    pub fn connect() -> anyhow::Result<Self> {
        let Some(name) = env::var_os("NOTIFY_SOCKET") else {
            return Ok(Self(None));
        };
        let connect = || {
            let address = match name.as_bytes() {
                [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
                _ => SocketAddr::from_pathname(&name)?,
            };
            let socket = UnixDatagram::unbound()?;
            socket.connect_addr(&address)?;
            // Somebody who does not listen must not keep us.
            socket.set_nonblocking(true)?;
            std::io::Result::Ok(socket)
        };
        let socket = connect().with_context(|| {
            format!(
                "the service manager's socket (NOTIFY_SOCKET) {}",
                name.display()
            )
        })?;
        Ok(Self(Some(socket)))
    }

    /// Says one thing, as `READY=1`.
    pub fn tell(&self, state: &str) {
        if let Some(socket) = &self.0
            && let Err(error) = socket.send(state.as_bytes())
        {
            tracing::warn!(%error, "the status could not be reported to the service manager");
        }
    }
}
