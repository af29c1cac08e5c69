//! The command line of `manatee top`. The command `manatee` includes this file too, for its help
//! and its pages.

use std::path::PathBuf;
use std::time::Duration;

/// The shortest and the longest sampling interval, in milliseconds.
const EVERY: std::ops::RangeInclusive<u64> = 100..=3_600_000;

/// Watch devices: ports, queues, packets a second, drops, and events
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Watch devices: ports, queues, packets and bits a second, drops, and \
    events, such as replacements and failures of the component.\n\n\
    q, Esc or Ctrl-C ends it. It reads counters without taking a device's lock.",
    after_help = "Examples: all devices of a host; plain text for a script\n\n  \
        manatee top --control /run/manatee/tap0.control --control /run/manatee/tap1.control\n  \
        manatee top --control /run/manatee/tap0.control --once"
)]
pub struct Arguments {
    /// The control socket that `manatee serve` was given; repeat it for more devices
    #[arg(long, value_name = "PATH", required = true)]
    pub control: Vec<PathBuf>,

    /// Seconds between two samples
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
    pub interval: Duration,

    /// Take two samples, print plain text and end
    #[arg(long)]
    pub once: bool,
}

/// Parses a sampling interval.
///
/// # Errors
///
/// If it is not a number, or out of bounds.
pub fn interval(text: &str) -> Result<Duration, String> {
    let seconds: Option<f64> = text.parse().ok().filter(|it: &f64| it.is_finite());
    let millis = seconds.map(|seconds| (seconds * 1000.0).round());
    let (least, most) = EVERY.into_inner();
    match millis.filter(|it| (least as f64..=most as f64).contains(it)) {
        Some(millis) => Ok(Duration::from_millis(millis as u64)),
        None => Err(format!(
            "`{text}` is not a number of seconds from 0.1 to 3600"
        )),
    }
}
