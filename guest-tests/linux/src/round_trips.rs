//! Round trips of pings from the host to the guest, measured while something else happens.

use std::net::IpAddr;
use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::assets::Assets;

/// Pings that run; dropping them ends them.
pub struct RoundTrips(Child);

impl RoundTrips {
    /// Starts 200 pings a second to `guest`.
    ///
    /// # Errors
    ///
    /// If there is no `ping`.
    pub fn start(assets: &Assets, guest: IpAddr) -> Result<Self> {
        let mut command = assets.ping();
        command.args(["-n", "-i", "0.005", &guest.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        Ok(Self(command.spawn().context("cannot start ping")?))
    }

    /// Ends the pings. Returns the 99th percentile of the round trips, in milliseconds.
    ///
    /// # Errors
    ///
    /// If fewer than 100 were answered.
    pub fn finish(mut self) -> Result<f64> {
        kill(Pid::from_raw(self.0.id() as i32), Signal::SIGINT)?;
        let output = self.0.stdout.take().context("ping has no output")?;
        let printed = std::io::read_to_string(output)?;
        let times = printed.lines().filter_map(|line| {
            let (_, time) = line.split_once("time=")?;
            time.split_whitespace().next()?.parse::<f64>().ok()
        });
        let mut times: Vec<f64> = times.collect();
        ensure!(times.len() >= 100, "{} pings were answered", times.len());
        times.sort_by(f64::total_cmp);
        Ok(times[times.len() * 99 / 100])
    }
}

impl Drop for RoundTrips {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
