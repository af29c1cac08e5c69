//! The device that is served.

use anyhow::Context;
use manatee::component::Component;
use manatee::continuity::HandOver;
use manatee::device::{Device, Port};
use manatee::interrupt::Interrupts;
use manatee::vfio_user::{self, Session, Vectors};
use manatee_control as control;

use super::bounds::BoundArguments;
use crate::commands::metrics::Observed;
use crate::commands::told;

/// A device and the vectors that it raises. Cheap to clone; every clone is the same.
#[derive(Clone)]
pub struct Served {
    pub device: Device,
    pub vectors: Vectors,
}

impl Served {
    /// Creates the device. Its events are published and counted.
    pub fn new(
        component: &Component,
        ports: Vec<Port>,
        bounds: &BoundArguments,
        (events, observed): (control::Events, Observed),
    ) -> anyhow::Result<Self> {
        let description = component.describe()?;
        let (given, max) = (ports.len(), description.max_ports);
        if given > max as usize {
            anyhow::bail!("{given} ports are given, and the device has at most {max}");
        }
        let vectors = Vectors::new(description.msix_vectors);
        let interrupts = Interrupts::Vectors(Box::new(vectors.clone()));
        let device = Device::builder(component)
            .ports(ports)
            .limits(bounds.limits())
            .crash_policy(bounds.policy())
            .listener(move |event| {
                observed.note(event);
                if let Some(event) = told::event(event) {
                    events.publish(event);
                }
            })
            .build(interrupts)?;
        let served = Self { device, vectors };
        let digest = component.digest();
        tracing::info!(component = component.name(), sha256 = %digest, "the device is made");
        Ok(served)
    }

    /// Continues with the device of a predecessor. Returns the session with its VMM,
    /// if there was one.
    pub fn take_over(&self, hand_over: HandOver) -> anyhow::Result<Option<Session>> {
        let (build, component) = (hand_over.build().to_owned(), hand_over.component());
        let taken = vfio_user::take_over(hand_over, &self.device, &self.vectors);
        let (session, pause) = taken
            .with_context(|| format!("going on with the device that version {build} has left"))?;
        tracing::info!(
            build,
            ran = %component,
            attached = session.is_some(),
            pause_us = pause.as_micros() as u64,
            "the device of the process before this one continues"
        );
        Ok(session)
    }
}
