//! `manatee rate`.

use std::path::PathBuf;
use std::str::FromStr;

use manatee::device::MAX_RATE_MBPS;
use manatee_control::Client;
use manatee_control::method::{RateSetting, RateStatus};

/// Show or set a port's rate limit
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Show or set a port's rate limit for packets from the guest, in Mbit/s.\n\n\
    Packets beyond that wait, up to 1024 a queue; further ones are dropped. What the guest \
    receives is not limited. The limit stays until it is set again, also \
    when the component or the process is replaced; `rate=` of --port sets the first one.",
    after_help = "Example: limit the first port to 100 Mbit/s, and remove the limit\n\n  \
        manatee rate --control /tmp/nic.control 0 100\n  \
        manatee rate --control /tmp/nic.control 0 off"
)]
pub struct Arguments {
    /// The control socket that `manatee serve` was given
    #[arg(long, value_name = "PATH")]
    control: PathBuf,

    /// The number of the port: 0 is the first
    #[arg(value_name = "PORT")]
    port: u32,

    /// The limit to set: Mbit/s, or `off`; without it the limit is only shown
    #[arg(value_name = "MBITS|off")]
    rate: Option<Limit>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A parsed rate in Mbit/s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit(Option<u32>);

/// A text that is not a rate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "rate `{0}` is not a number of Mbit/s from 1 to {MAX_RATE_MBPS}, or `off`; to block all \
    traffic, use `manatee link PORT down`"
)]
pub struct InvalidRate(String);

impl Limit {
    /// Returns it; None if there is no limit.
    pub fn mbps(self) -> Option<u32> {
        self.0
    }
}

impl FromStr for Limit {
    type Err = InvalidRate;

    fn from_str(text: &str) -> Result<Self, InvalidRate> {
        if text == "off" {
            return Ok(Self(None));
        }
        let mbps = text.parse().ok();
        match mbps.filter(|mbps| (1..=MAX_RATE_MBPS).contains(mbps)) {
            Some(mbps) => Ok(Self(Some(mbps))),
            None => Err(InvalidRate(text.to_owned())),
        }
    }
}

pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let setting = arguments.rate.map(|limit| match limit.mbps() {
        Some(mbps) => RateSetting::Mbps(mbps),
        None => RateSetting::Off,
    });
    let rate = Client::connect(&arguments.control)?.rate(arguments.port, setting)?;
    if arguments.json {
        return super::output::print(&format!("{}\n", serde_json::to_string(&rate)?));
    }
    super::output::print(&as_text(&rate))
}

fn as_text(rate: &RateStatus) -> String {
    let RateStatus {
        port,
        rate_mbps,
        operator_mbps,
        guest_mbps,
    } = rate;
    let Some(mbps) = rate_mbps else {
        return format!("port {port}: no limit\n");
    };
    let why = match (operator_mbps, guest_mbps) {
        (Some(_), Some(guest)) => format!("set by an operator; the guest set {guest}"),
        (Some(_), None) => "set by an operator".to_owned(),
        (None, _) => "set by the guest".to_owned(),
    };
    format!("port {port}: {mbps} Mbit/s ({why})\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_numbers_within_bounds_or_off() {
        assert_eq!("off".parse(), Ok(Limit(None)));
        assert_eq!("1".parse(), Ok(Limit(Some(1))));
        assert_eq!("1000000".parse(), Ok(Limit(Some(1_000_000))));
        for wrong in ["0", "1000001", "-1", "4294967297", "fast", "", "1.5", "10M"] {
            let error = wrong.parse::<Limit>().unwrap_err().to_string();
            assert!(error.contains(&format!("`{wrong}`")), "{error}");
            assert!(error.ends_with("`manatee link PORT down`"), "{error}");
        }
    }

    #[test]
    fn text_says_who_limits_it() {
        let mut rate = RateStatus::default();
        assert_eq!(as_text(&rate), "port 0: no limit\n");
        rate.guest_mbps = Some(900);
        rate.rate_mbps = Some(900);
        assert_eq!(as_text(&rate), "port 0: 900 Mbit/s (set by the guest)\n");
        rate.operator_mbps = Some(100);
        rate.rate_mbps = Some(100);
        let both = "port 0: 100 Mbit/s (set by an operator; the guest set 900)\n";
        assert_eq!(as_text(&rate), both);
    }
}
