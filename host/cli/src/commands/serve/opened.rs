//! Opens everything that the process needs before it is confined.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use manatee::continuity::STATE;
use manatee::endpoint::LinkWatch;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::from_keeper::FromKeeper;
use super::kept::{self, Predecessor};
use super::listed::Listed;
use super::signals::Signals;
use super::sockets::{Handed, SocketArguments, Sockets};
use super::source::Source;
use crate::commands::metrics;
use crate::commands::notify::Notifier;
use crate::commands::port::{self, Interface, PortArgument};
use crate::jail::Ids;
use crate::jail::broker::{Begin, Broker, SocketFile};

/// The files that a command line names.
pub struct Asked<'a> {
    pub sockets: &'a SocketArguments,
    pub metrics: Option<&'a metrics::Address>,
    pub ports: &'a [PortArgument],
    /// None for the one that is built in.
    pub component: Option<&'a Path>,
    pub sandbox: bool,
}

/// Everything that must be opened before the process is confined.
pub struct Opened {
    pub signals: Signals,
    /// SIGCHLD: the broker may have ended.
    pub child: Signal,
    pub sockets: Sockets,
    pub metrics: Option<metrics::Socket>,
    pub ports: port::Opened,
    /// None if no port is a TAP.
    pub watch: Option<LinkWatch>,
    /// None if it is the one that is built in.
    pub component: Option<Source>,
    /// Set if an operator swapped it in before.
    pub swapped: bool,
    pub notifier: Notifier,
    pub broker: Arc<Broker>,
    /// The device of a predecessor.
    pub predecessor: Option<Predecessor>,
    /// The names under which the service manager stores its descriptors.
    pub kept: Vec<String>,
    /// Which sockets the service manager hands over at each start.
    pub listed: Listed,
    /// The line to the keeper, and its machine code.
    pub keeper: FromKeeper,
    /// The predecessor serves, and this process waits until it has ended.
    pub waits: bool,
    /// Sockets are a predecessor's until this process has taken over.
    pub inherits: bool,
}

impl Opened {
    /// Opens everything.
    ///
    /// # Errors
    ///
    /// The file that can't be opened, and why.
    pub fn open(asked: &Asked<'_>, ids: Option<Ids>, mut handed: Handed) -> anyhow::Result<Self> {
        // Before the sockets are made, so that they are removed in any case.
        let signals = Signals::catch().context("catching signals")?;
        let child = signal(SignalKind::child()).context("catching signals")?;
        let notifier = Notifier::connect()?;
        let sandbox = asked.sandbox;
        let component = asked.component.map(Source::read).transpose()?;
        // Sockets come first: a second process must not touch the interfaces of the one
        // that serves.
        let kept = handed.kept.names();
        let sockets = asked.sockets.open(&mut handed)?;
        let metrics = asked
            .metrics
            .map(|address| metrics::Socket::open(address, handed.kept.take(kept::METRICS)));
        let metrics = metrics.transpose().context("--metrics")?;
        let mut files = sockets.files().context("the sockets")?;
        if let Some(path) = metrics.as_ref().and_then(metrics::Socket::path) {
            files.push(SocketFile::at(path).context("the socket of --metrics")?);
        }
        let begin = Begin {
            sockets: files,
            peers: peers(asked.ports).context("--port stream=")?,
            ids,
            sandbox,
            // If this process can't continue, the next one needs the files.
            waits: handed.kept.has(STATE) || handed.kept.has_live(),
        };
        let inherits = begin.waits;
        let mut keeper = handed.keeper;
        let broker = Broker::start(&begin, keeper.broker.take()).context("starting the broker")?;
        let mut ports = port::open_all(asked.ports, sockets.vfio.address(), &mut handed.kept)?;
        if !notifier.keeps_descriptors() {
            ports.queues.clear();
        }
        let taps = ports.interfaces.iter().flatten();
        let taps: Vec<_> = taps
            .filter_map(|interface| match interface {
                Interface::Tap(tap) => Some(tap.clone()),
                Interface::Stream(_) => None,
            })
            .collect();
        let watch = (!taps.is_empty()).then(|| LinkWatch::open(taps));
        let watch = watch.transpose().context("watching the TAP interfaces")?;
        let mut predecessor = handed.kept.read()?;
        let swapped = predecessor.as_mut().map(Predecessor::take_component);
        let swapped = swapped.transpose()?.flatten();
        Ok(Self {
            signals,
            child,
            sockets,
            metrics,
            ports,
            watch,
            swapped: swapped.is_some(),
            component: swapped.or(component),
            notifier,
            broker: Arc::new(broker),
            predecessor,
            kept,
            listed: handed.listed,
            keeper,
            waits: handed.waits,
            inherits,
        })
    }
}

/// Returns the sockets that ports are connected to, in their order.
fn peers(ports: &[PortArgument]) -> std::io::Result<Vec<PathBuf>> {
    let paths = ports.iter().filter_map(PortArgument::stream);
    paths.map(std::path::absolute).collect()
}
