//! Leaves the device with the service manager for the next process.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use manatee::continuity::{self, HandOver};
use manatee::vfio_user::{self, Stopper};
use manatee_control as control;
use manatee_keeper::line::{Line, Word};

use super::keeping::Keeping;
use super::kept::{self, Notes, full_name};
use super::listed::Listed;
use super::served::Served;
use crate::commands::candidates::Candidates;
use crate::commands::links::Links;
use crate::commands::metrics;
use crate::commands::notify::Notifier;
use crate::commands::rates::Rates;
use crate::jail::broker::Broker;

/// How long the session with a VMM may take to come to the end of a message.
const PATIENCE: Duration = Duration::from_secs(3);

/// The state and descriptors that are handed over.
pub struct Estate<'a> {
    pub device: &'a Served,
    pub stopper: &'a Stopper,
    pub control: Option<&'a control::Server>,
    pub metrics: Option<&'a metrics::Socket>,
    pub links: &'a Links,
    pub rates: &'a Rates,
    pub candidates: &'a Candidates,
    /// The queues of TAPs, by their names.
    pub taps: &'a [(String, OwnedFd)],
    /// Whether the service manager hands the listening sockets over by itself.
    pub listed: Listed,
    pub notifier: &'a Notifier,
    pub broker: &'a Arc<Broker>,
    /// The line to the keeper.
    pub line: Option<&'a Line>,
    /// What the service manager keeps while the device runs.
    pub keeping: Option<&'a Keeping>,
}

impl Estate<'_> {
    /// Leaves all of it with the service manager. The device is paused from now on.
    ///
    /// # Errors
    ///
    /// Why no successor can take over.
    pub fn leave(self) -> anyhow::Result<()> {
        let Served { device, vectors } = self.device;
        let handed = self.stopper.hand_over(PATIENCE);
        let handed = handed.with_context(|| {
            format!(
                "the session with the VMM is busy for more than {} s",
                PATIENCE.as_secs()
            )
        })?;
        let attached = handed.session.is_some();
        let mut given = vfio_user::give_away(device, vectors, handed.session)?;
        self.complete(&mut given, handed.listener)?;
        let descriptors = given.into_descriptors()?;
        let count = descriptors.len();
        self.notifier.check_room(count)?;
        // The state is the last of them: without it, the others are useless.
        for (name, descriptor) in descriptors {
            if self.keeping.is_some() && kept::is_open(&name) {
                continue;
            }
            let kept = self.notifier.keep(&full_name(&name), descriptor.as_fd());
            kept.with_context(|| format!("leaving the descriptor {name}"))?;
        }
        self.notifier
            .wait_until_heard()
            .context("leaving the device")?;
        if let Some(keeping) = self.keeping {
            keeping.live().end();
        }
        if let Some(control) = self.control {
            control.hand_over()?;
        }
        if let Some(metrics) = self.metrics {
            metrics.keep_file();
        }
        self.broker.leave_sockets();
        tracing::info!(
            descriptors = count,
            attached,
            "the device is left with the service manager for the next process"
        );
        if let Some(line) = self.line {
            // Ending takes a while. A keeper that misses this waits for the end.
            let _ = line.say(Word::Left, &[]);
        }
        Ok(())
    }

    /// Adds the descriptors that are not the library's.
    fn complete(&self, hand_over: &mut HandOver, listener: OwnedFd) -> anyhow::Result<()> {
        if !self.listed.vfio {
            hand_over.add(kept::VFIO, listener);
        }
        let control = self.control.filter(|_| !self.listed.control);
        if let Some(control) = control {
            hand_over.add(kept::CONTROL, control.copy()?);
        }
        if let Some(metrics) = self.metrics {
            hand_over.add(kept::METRICS, metrics.copy()?);
        }
        for (name, queue) in self.taps {
            hand_over.add(name, queue.try_clone()?);
        }
        let mut notes = Notes {
            links: self.links.forced(),
            rates: self.rates.noted(),
            ..Notes::default()
        };
        let running = self.device.device.component().digest();
        if let Some((swapped, wasm)) = self.candidates.running(running)? {
            notes.component = Some(swapped);
            hand_over.add(kept::COMPONENT, wasm);
        }
        hand_over.set_notes(serde_json::to_vec(&notes)?);
        Ok(())
    }

    /// Offers copies of all of it, for a successor to rehearse with.
    fn offer(&self) -> anyhow::Result<Vec<(String, OwnedFd)>> {
        let mut offer = continuity::offer(&self.device.device)?;
        self.complete(&mut offer, self.stopper.listener()?)?;
        let descriptors = offer.into_descriptors()?.into_iter();
        let named = descriptors.map(|(name, descriptor)| (full_name(&name), descriptor));
        Ok(named.collect())
    }

    /// Offers this process's descriptors to the keeper over the line, or reports why it can't.
    pub fn answer(&self, line: &Line, alone: bool) -> std::io::Result<()> {
        if alone {
            let reason = "one of its ports is a stream, which has two ends only".to_owned();
            return line.say(Word::Alone { reason }, &[]);
        }
        match self.offer() {
            Ok(offered) => {
                let named = offered.iter().map(|(name, fd)| (&**name, fd.as_fd()));
                line.say(Word::Offered, &named.collect::<Vec<_>>())
            }
            Err(error) => {
                let reason = format!("{error:#}");
                line.say(Word::Refused { reason }, &[])
            }
        }
    }
}
