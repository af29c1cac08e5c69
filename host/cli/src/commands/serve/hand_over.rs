//! Leaves the device with the service manager for the next process.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use manatee::vfio_user::{self, Stopper};
use manatee_control as control;

use super::kept::{self, Notes, full_name};
use super::served::Served;
use crate::commands::candidates::Candidates;
use crate::commands::links::Links;
use crate::commands::notify::Notifier;
use crate::commands::rates::Rates;
use crate::jail::broker::Broker;

/// How long the session with a VMM may take to come to the end of a message.
const PATIENCE: Duration = Duration::from_secs(3);

/// What is handed over.
pub struct Estate<'a> {
    pub device: &'a Served,
    pub stopper: &'a Stopper,
    pub control: Option<&'a control::Server>,
    pub links: &'a Links,
    pub rates: &'a Rates,
    pub candidates: &'a Candidates,
    /// The queues of TAPs, by their names.
    pub taps: Vec<(String, OwnedFd)>,
    /// Whether the service manager hands the listening sockets over by itself.
    pub listed: Listed,
    pub notifier: &'a Notifier,
    pub broker: &'a Arc<Broker>,
}

/// Which listening sockets the service manager hands over by itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Listed {
    pub vfio: bool,
    pub control: bool,
}

impl Estate<'_> {
    /// Leaves all of it with the service manager. The guest stands still from now on.
    ///
    /// # Errors
    ///
    /// Why nobody can continue with it.
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
        let given = vfio_user::give_away(device, vectors, handed.session);
        let mut hand_over = given?;
        if !self.listed.vfio {
            hand_over.add(kept::VFIO, handed.listener);
        }
        let control = self.control.filter(|_| !self.listed.control);
        if let Some(control) = control {
            hand_over.add(kept::CONTROL, control.hand_over()?);
        }
        for (name, queue) in self.taps {
            hand_over.add(name, queue);
        }
        let mut notes = Notes {
            links: self.links.forced(),
            rates: self.rates.noted(),
            component: None,
        };
        if let Some((swapped, wasm)) = self.candidates.running(device.component().digest())? {
            notes.component = Some(swapped);
            hand_over.add(kept::COMPONENT, wasm);
        }
        hand_over.set_notes(serde_json::to_vec(&notes)?);
        let descriptors = hand_over.into_descriptors()?;
        let count = descriptors.len();
        self.notifier.check_room(count)?;
        // The state is the last of them: without it, the others are of no use to anybody.
        for (name, descriptor) in descriptors {
            let kept = self.notifier.keep(&full_name(&name), &descriptor);
            kept.with_context(|| format!("leaving the descriptor {name}"))?;
        }
        self.notifier
            .wait_until_heard()
            .context("leaving the device")?;
        self.broker.leave_sockets();
        tracing::info!(
            descriptors = count,
            attached,
            "the device is left with the service manager for the next process"
        );
        Ok(())
    }
}
