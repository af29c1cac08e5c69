//! The device that is served.

use manatee::component::Component;
use manatee::device::{Device, Port};
use manatee::interrupt::Interrupts;
use manatee::vfio_user::Vectors;
use manatee_control as control;

use super::bounds::BoundArguments;
use crate::commands::metrics::Observed;
use crate::commands::told;
use crate::jail::child::Code;

/// A device and the vectors that it raises.
pub struct Served {
    pub device: Device,
    pub vectors: Vectors,
}

impl Served {
    /// Makes the device. What happens to it is told, and observed.
    pub fn new(
        component: Option<Code>,
        ports: Vec<Port>,
        bounds: &BoundArguments,
        (events, observed): (control::Events, Observed),
    ) -> anyhow::Result<Self> {
        let component = match component {
            Some(code) => code.load()?,
            None => Component::embedded()?,
        };
        let description = component.describe()?;
        let (given, max) = (ports.len(), description.max_ports);
        if given > max as usize {
            anyhow::bail!("{given} ports are given, and the device has at most {max}");
        }
        let vectors = Vectors::new(description.msix_vectors);
        let interrupts = Interrupts::Vectors(Box::new(vectors.clone()));
        let device = Device::builder(&component)
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
        let digest = component.digest();
        tracing::info!(component = component.name(), sha256 = %digest, "the device is made");
        Ok(Self { device, vectors })
    }
}
