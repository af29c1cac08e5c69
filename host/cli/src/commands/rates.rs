//! The rate limits of ports that an operator sets.

use manatee::device::{Device, RateError};
use manatee_control::method::{RateSetting, RateStatus};
use manatee_control::{Code, Rate, Refusal};
use parking_lot::Mutex;

/// The rates of a device's ports.
#[derive(Debug)]
pub struct Rates {
    device: Device,
    /// The rates set at run time, by port: 0 for no limit.
    set: Mutex<Vec<Option<u32>>>,
}

impl Rates {
    /// Sets the rates from the command line.
    ///
    /// # Errors
    ///
    /// If one is out of bounds.
    pub fn new(
        device: Device,
        given: impl Iterator<Item = Option<u32>>,
    ) -> Result<Self, RateError> {
        let mut set = Vec::new();
        for (port, mbps) in (0..).zip(given) {
            device.set_rate(port, mbps)?;
            set.push(None);
        }
        Ok(Self {
            device,
            set: Mutex::new(set),
        })
    }

    /// Returns the rates set since the process began, by port: 0 for no limit.
    pub fn noted(&self) -> Vec<Option<u32>> {
        self.set.lock().clone()
    }

    /// Restores the rates from the previous process, which take precedence over the command
    /// line.
    pub fn restore(&self, noted: &[Option<u32>]) {
        for (port, mbps) in (0..).zip(noted) {
            if let Some(mbps) = *mbps {
                // A rate that an earlier process accepted is valid here too.
                let _ = self.limit(port, Some(mbps).filter(|mbps| *mbps > 0));
            }
        }
    }

    fn limit(&self, port: u32, mbps: Option<u32>) -> Result<(), RateError> {
        let mut set = self.set.lock();
        self.device.set_rate(port, mbps)?;
        if let Some(set) = set.get_mut(port as usize) {
            *set = Some(mbps.unwrap_or(0));
        }
        Ok(())
    }

    /// Sets a port's rate if asked to, and returns its status.
    pub fn set(&self, asked: &Rate) -> Result<RateStatus, Refusal> {
        let Rate { port, set } = *asked;
        let limited = match set {
            None => Ok(()),
            Some(RateSetting::Off) => self.limit(port, None),
            Some(RateSetting::Mbps(mbps)) => self.limit(port, Some(mbps)),
        };
        limited.map_err(|error| refused(&error))?;
        let ports = self.device.totals().ports;
        let Some(shown) = ports.get(port as usize) else {
            let ports = ports.len();
            return Err(refused(&RateError::NoPort { port, ports }));
        };
        if set.is_some() {
            tracing::info!(port, mbps = shown.operator_rate_mbps, "the rate is set");
        }
        Ok(RateStatus {
            port,
            rate_mbps: shown.rate_mbps,
            operator_mbps: shown.operator_rate_mbps,
            guest_mbps: shown.guest_rate_mbps,
        })
    }
}

fn refused(error: &RateError) -> Refusal {
    let code = match error {
        RateError::NoPort { .. } => Code::NotFound,
        RateError::OutOfBounds(_) => Code::InvalidParams,
    };
    Refusal::new(code, error.to_string())
}
