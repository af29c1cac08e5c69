//! The tasks that run while a device is served.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use manatee::device::Device;
use manatee::endpoint::{LinkWatch, StreamLink};
use manatee::vfio_user::Session;
use manatee_common::ration::Ration;
use manatee_control as control;
use manatee_keeper::line::{Heard, Line, Word};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::Signal;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::hand_over::Estate;
use super::keeping::Keeping;
use super::listed::Listed;
use super::served::Served;
use super::signals::{Heard as Signalled, Signals};
use super::sockets::Sockets;
use crate::commands::candidates::Candidates;
use crate::commands::links::Links;
use crate::commands::metrics::{self, Metrics};
use crate::commands::notify::Notifier;
use crate::commands::operator::Operator;
use crate::commands::rates::Rates;
use crate::jail::broker::Broker;

/// How long the session with a VMM may take to end at the end of the process.
const PATIENCE: Duration = Duration::from_secs(3);

/// Everything that serves a device.
pub struct Running {
    pub device: Served,
    pub operator: Arc<Operator>,
    pub events: control::Events,
    pub signals: Signals,
    pub child: Signal,
    pub sockets: Sockets,
    pub metrics: Option<(metrics::Socket, Metrics)>,
    pub links: Arc<Links>,
    pub rates: Arc<Rates>,
    pub watch: Option<LinkWatch>,
    pub streams: Vec<StreamPort>,
    pub notifier: Arc<Notifier>,
    pub broker: Arc<Broker>,
    /// The session with the VMM of a predecessor.
    pub session: Option<Session>,
    pub candidates: Arc<Candidates>,
    /// The queues of TAPs, for the next process.
    pub taps: Vec<(String, OwnedFd)>,
    /// Which sockets the service manager hands over by itself.
    pub listed: Listed,
    /// The line to the keeper.
    pub line: Option<Line>,
    /// What the service manager keeps while the device runs.
    pub keeping: Option<Arc<Keeping>>,
}

/// A port that is a stream.
pub struct StreamPort {
    pub link: StreamLink,
    /// The number of the peer that the broker reconnects it to; None if it can't.
    pub peer: Option<usize>,
}

/// Serves until it is asked to end.
pub async fn serve(running: Running) -> anyhow::Result<()> {
    let Running {
        device,
        operator,
        events,
        mut signals,
        mut child,
        sockets,
        metrics,
        links,
        rates,
        watch,
        streams,
        notifier,
        broker,
        session,
        candidates,
        taps,
        listed,
        line,
        keeping,
    } = running;
    let (metrics, metrics_page) = metrics.unzip();
    let Sockets { mut vfio, control } = sockets;
    if let Some(keeping) = &keeping {
        vfio = vfio.with_journal(Arc::new(keeping.live().clone()));
    }
    let address = vfio.address();
    let socket = address.map_or("a descriptor".into(), |path| path.display().to_string());
    let stopper = vfio.stopper();
    let (ended, mut has_ended) = oneshot::channel();
    let Served {
        device: served,
        vectors,
    } = device.clone();
    thread::Builder::new()
        .name("vfio-user".to_owned())
        .spawn(move || {
            ended.send(match session {
                Some(Session::Suspended(session)) => vfio.resume(session, &served, &vectors),
                Some(Session::Lost(session)) => vfio.recover(session, &served, &vectors),
                None => vfio.serve(&served, &vectors),
            })
        })
        .context("starting the vfio-user thread")?;
    tracing::info!(socket, "ready: a VMM can attach");
    notifier.ready(&format!("Serving at {socket}"));
    let line_copy = line.as_ref().map(Line::copy).transpose()?;
    let estate = Estate {
        device: &device,
        stopper: &stopper,
        control: control.as_ref(),
        metrics: metrics.as_ref(),
        links: &links,
        rates: &rates,
        candidates: &candidates,
        taps: &taps,
        listed,
        notifier: &notifier,
        broker: &broker,
        line: line_copy.as_ref(),
        keeping: keeping.as_deref(),
    };
    let alone = !streams.is_empty();
    let mut may_go_on = false;
    let follower = links.clone();
    let result = tokio::select! {
        terminated = heed(&mut signals, &notifier) => {
            may_go_on = terminated;
            Ok(())
        }
        result = &mut has_ended => result.context("the vfio-user thread panicked")?.map_err(Into::into),
        result = answer(control.as_ref(), operator, events) => result,
        result = show(metrics.as_ref(), metrics_page) => result,
        result = offer(&estate, line, alone) => result,
        result = watch_broker(&broker, &mut child) => result,
        result = follow(follower, watch) => result,
        result = follow_streams(&links, streams, &broker) => result,
        () = notifier.keep_alive(async || look_after(&device.device).await) => Ok(()),
    };
    notifier.stopping();
    tracing::info!("stopping");
    if may_go_on && notifier.keeps_descriptors() {
        match estate.leave() {
            Ok(()) => {
                broker.end();
                return result;
            }
            Err(error) => tracing::error!(
                "the device can't be left for the next process, and ends here: {error:#}"
            ),
        }
    }
    if let Some(keeping) = &keeping {
        keeping.live().end();
        if let Err(error) = broker.own_sockets() {
            tracing::warn!("the sockets' files are left behind: {error:#}");
        }
    }
    broker.end();
    if !stopper.stop(PATIENCE) {
        tracing::warn!("the session with the VMM does not end; leaving it");
    }
    result
}

/// Handles signals until one asks to end. Returns whether another process may continue.
async fn heed(signals: &mut Signals, notifier: &Notifier) -> bool {
    let mut ration = Ration::default();
    loop {
        match signals.next().await {
            Signalled::Terminate => return true,
            Signalled::End => return false,
            Signalled::Reload => {
                notifier.reloading();
                if let Some(dropped) = ration.pass() {
                    tracing::info!(dropped, "SIGHUP: there is no configuration to read again");
                }
                notifier.reloaded();
            }
            Signalled::Nothing(name) => {
                if let Some(dropped) = ration.pass() {
                    tracing::info!(dropped, "{name} changes nothing");
                }
            }
        }
    }
}

/// Waits until the device's lock was free: a process whose device hangs is not well.
async fn look_after(device: &Device) {
    let device = device.clone();
    // The result does not matter.
    let _ = tokio::task::spawn_blocking(move || device.has_work()).await;
}

/// Answers control requests for ever; waits for ever if there is no socket.
async fn answer(
    control: Option<&control::Server>,
    operator: Arc<Operator>,
    events: control::Events,
) -> anyhow::Result<()> {
    match control {
        Some(control) => Ok(control.serve(operator, events).await?),
        None => std::future::pending().await,
    }
}

/// Serves metrics until the future is dropped; only waits if there is no listener.
async fn show(socket: Option<&metrics::Socket>, metrics: Option<Metrics>) -> anyhow::Result<()> {
    match socket.zip(metrics) {
        Some((socket, metrics)) => Ok(socket.serve(metrics).await?),
        None => std::future::pending().await,
    }
}

/// Offers a keeper what a successor needs whenever it asks for that, for ever.
async fn offer(estate: &Estate<'_>, line: Option<Line>, alone: bool) -> anyhow::Result<()> {
    let Some(mut line) = line else {
        return std::future::pending().await;
    };
    let descriptor: OwnedFd = line.as_fd().try_clone_to_owned()?;
    // Its successor is unsafe, because of types whose descriptor changes; this one's
    // does not.
    #[expect(deprecated)]
    let news = AsyncFd::with_interest(descriptor, Interest::READABLE)?;
    loop {
        let mut ready = news.readable().await?;
        match line.listen() {
            Ok(Heard::Nothing) => ready.clear_ready(),
            Ok(Heard::Said(Word::Offer, _)) => {
                if let Err(error) = estate.answer(&line, alone) {
                    tracing::warn!(%error, "the keeper does not hear what this process offers");
                }
            }
            Ok(Heard::Said(..)) => {}
            Ok(Heard::Closed) | Err(_) => {
                tracing::error!(
                    "the keeper is gone: the device continues, and nobody follows this process"
                );
                return std::future::pending().await;
            }
        }
    }
}

/// Makes links follow their TAPs, as long as the kernel reports them.
async fn follow(links: Arc<Links>, watch: Option<LinkWatch>) -> anyhow::Result<()> {
    if let Some(watch) = watch
        && let Err(error) = links.watch(watch).await
    {
        tracing::error!(%error, "links do not follow their TAPs any more");
    }
    std::future::pending().await
}

/// Makes links follow streams, which are reconnected when their other side is back.
async fn follow_streams(
    links: &Arc<Links>,
    streams: Vec<StreamPort>,
    broker: &Arc<Broker>,
) -> anyhow::Result<()> {
    let mut followed = JoinSet::new();
    for StreamPort { link, peer } in streams {
        let connect = peer.map(|peer| {
            let broker = broker.clone();
            move || broker.connect(peer)
        });
        followed.spawn(links.clone().follow_stream(link, connect));
    }
    while let Some(ended) = followed.join_next().await {
        if let Err(error) = ended? {
            tracing::error!(%error, "a link does not follow its stream any more");
        }
    }
    std::future::pending().await
}

/// Logs an unexpected end of the broker. The device continues.
async fn watch_broker(broker: &Broker, child: &mut Signal) -> anyhow::Result<()> {
    while !broker.has_ended() {
        child.recv().await;
    }
    tracing::error!(
        process = broker.pid(),
        "the broker has ended: the device continues, its component can't be replaced any more, \
         and the sockets' files will be left behind"
    );
    std::future::pending().await
}
