//! The sockets of `manatee serve`: made here, or handed over.

use std::os::fd::{OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use manatee::vfio_user;
use manatee_control as control;
use manatee_keeper::line::{Line, STANDBY};
use manatee_keeper::names::KEEPER;

use super::access::AccessArguments;
use super::from_keeper::FromKeeper;
use super::kept::{self, Kept};
use super::listed::Listed;
use crate::commands::inherited::{self, check_address, place};
use crate::jail::broker::SocketFile;

/// The service manager's name of the vfio-user socket (`FileDescriptorName=`).
const VFIO: &str = "vfio";
/// Its name of the control socket.
const CONTROL: &str = "control";

/// The sockets to serve at.
#[derive(Debug, clap::Args)]
pub struct SocketArguments {
    /// The vfio-user socket to make, for the VMM to connect to
    #[arg(long, alias = "socket", value_name = "PATH")]
    socket_path: Option<PathBuf>,

    /// The vfio-user socket, as a descriptor that is open and listens already
    #[arg(long, value_name = "N", conflicts_with_all = ["socket_path", "socket_mode", "socket_group"])]
    fd: Option<RawFd>,

    /// A control socket to make, by which `manatee inspect`, `swap`, `rollback` and others
    /// reach this process while it serves. Whoever may open it, which is the user who runs
    /// this, may replace the device
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,

    #[command(flatten)]
    access: AccessArguments,
}

/// Sockets that were handed over.
#[derive(Debug, Default)]
pub struct Handed {
    vfio: Option<OwnedFd>,
    control: Option<OwnedFd>,
    /// Which of them the service manager hands over at each start.
    pub listed: Listed,
    /// The state that a predecessor has left, or offers.
    pub kept: Kept,
    /// Lines and machine code.
    pub keeper: FromKeeper,
    /// The predecessor serves, and this process waits until it has ended.
    pub waits: bool,
}

/// The sockets.
#[derive(Debug)]
pub struct Sockets {
    pub vfio: vfio_user::Server,
    pub control: Option<control::Server>,
}

impl SocketArguments {
    /// Takes the sockets that were handed over. Comes before anything is opened.
    pub fn take(&self) -> anyhow::Result<Handed> {
        let by_keeper = std::env::var_os(KEEPER).is_some();
        let (keeper, listed) = FromKeeper::sort(inherited::listed()?, by_keeper);
        let mut handed = Handed::sort(listed)?;
        handed.waits = keeper.line.is_some() && std::env::var_os(STANDBY).is_some();
        handed.keeper = keeper;
        if let Some(number) = self.fd.filter(|_| !handed.kept.has(kept::VFIO)) {
            ensure!(
                handed.vfio.is_none(),
                "the service manager hands over a vfio-user socket: leave out --fd"
            );
            handed.vfio = Some(inherited::take(number).context("--fd")?);
        }
        self.check(&handed)?;
        Ok(handed)
    }

    fn check(&self, handed: &Handed) -> anyhow::Result<()> {
        if handed.vfio.is_some() {
            ensure!(
                self.socket_path.is_none(),
                "the service manager hands over a vfio-user socket: leave out --socket-path"
            );
            ensure!(
                !self.access.is_given(),
                "the service manager hands over a vfio-user socket, whose permissions are its own \
                 (SocketMode=, SocketGroup=): leave out --socket-mode and --socket-group"
            );
        } else if self.socket_path.is_none() && !handed.kept.has(kept::VFIO) {
            bail!(
                "where is a VMM to connect? Give --socket-path PATH, or --fd N with a socket that \
                 listens already; a service manager may hand one over named `{VFIO}`"
            );
        }
        ensure!(
            handed.control.is_none() || self.control.is_none(),
            "the service manager hands over a control socket: leave out --control"
        );
        Ok(())
    }

    /// Opens the sockets. From then on a VMM can connect.
    pub fn open(&self, handed: &mut Handed) -> anyhow::Result<Sockets> {
        let given = handed.vfio.take();
        let vfio = match (given, handed.kept.take(kept::VFIO), &self.socket_path) {
            (Some(socket), ..) | (None, Some(socket), None) => vfio_user::Server::adopt(socket)
                .context("the vfio-user socket that was handed over")?,
            (None, Some(socket), Some(path)) => self.inherit_vfio(socket, path)?,
            (None, None, Some(path)) => vfio_user::Server::bind_for(path, self.access.access())
                .context("the vfio-user socket")?,
            (None, None, None) => bail!("there is no vfio-user socket"),
        };
        let given = handed.control.take();
        let control = match (given, handed.kept.take(kept::CONTROL), &self.control) {
            (Some(socket), ..) => Some(
                control::Server::adopt(socket)
                    .context("the control socket that was handed over")?,
            ),
            (None, Some(socket), Some(path)) => Some(Self::inherit_control(socket, path)?),
            (None, None, Some(path)) => {
                Some(control::Server::bind(path).context("the control socket")?)
            }
            (None, _, None) => None,
        };
        Ok(Sockets { vfio, control })
    }

    /// Serves at the socket that a predecessor has bound to this path.
    fn inherit_vfio(&self, socket: OwnedFd, path: &Path) -> anyhow::Result<vfio_user::Server> {
        let (absolute, inode) = place(path);
        let server = vfio_user::Server::inherit(socket, &absolute, inode);
        let server = server.context("the vfio-user socket of the process before this one")?;
        check_address(server.address(), &absolute, "--socket-path")?;
        Ok(server)
    }

    fn inherit_control(socket: OwnedFd, path: &Path) -> anyhow::Result<control::Server> {
        let (absolute, inode) = place(path);
        let server = control::Server::inherit(socket, &absolute, inode);
        let server = server.context("the control socket of the process before this one")?;
        check_address(server.address(), &absolute, "--control")?;
        Ok(server)
    }
}

impl Handed {
    /// Returns a copy of the line to the keeper, if there is one.
    pub fn copy_line(&self) -> Option<Line> {
        self.keeper.line.as_ref()?.copy().ok()
    }

    /// Sorts them by their names. A single one may have any name.
    fn sort(listed: Vec<(String, OwnedFd)>) -> anyhow::Result<Self> {
        let (kept, listed) = Kept::sort(listed);
        let mut handed = Self {
            kept,
            ..Self::default()
        };
        let single = listed.len() == 1;
        for (name, socket) in listed {
            let place = match &*name {
                VFIO => &mut handed.vfio,
                CONTROL => &mut handed.control,
                _ if single => &mut handed.vfio,
                _ => bail!(
                    "the service manager hands over a socket named `{}`: name it `{VFIO}` or \
                     `{CONTROL}` (FileDescriptorName=)",
                    name.escape_debug()
                ),
            };
            if place.replace(socket).is_some() {
                bail!("the service manager hands over two sockets named `{name}`: there is one");
            }
        }
        handed.listed = Listed {
            vfio: handed.vfio.is_some(),
            control: handed.control.is_some(),
        };
        Ok(handed)
    }
}

impl Sockets {
    /// Returns the files that were made here, to be removed at the end.
    pub fn files(&self) -> std::io::Result<Vec<SocketFile>> {
        let control = self.control.as_ref().and_then(control::Server::path);
        let paths = [self.vfio.path(), control];
        let files = paths.into_iter().flatten();
        files.map(SocketFile::at).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sort(names: &[&str]) -> Result<Handed, String> {
        let named = |name: &&str| ((*name).to_owned(), tempfile::tempfile().unwrap().into());
        Handed::sort(names.iter().map(named).collect()).map_err(|error| error.to_string())
    }

    #[test]
    fn handed_sockets_are_told_apart_by_name() {
        let both = sort(&["control", "vfio"]).unwrap();
        assert!(both.vfio.is_some() && both.control.is_some());
        let single = sort(&["manatee.socket"]).unwrap();
        assert!(single.vfio.is_some() && single.control.is_none());
        let control = sort(&["control"]).unwrap();
        assert!(control.vfio.is_none() && control.control.is_some());
        assert!(
            sort(&["vfio", "metrics"])
                .unwrap_err()
                .contains("`metrics`")
        );
        assert!(sort(&["vfio", "vfio"]).unwrap_err().contains("two sockets"));
    }
}
