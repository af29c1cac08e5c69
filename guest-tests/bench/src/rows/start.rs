//! The time until a device is ready.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use manatee::component::Component;
use manatee::device::Device;
use manatee::endpoint::Null;
use manatee::interrupt::Interrupts;
use manatee_guest_linux::assets::beside_this_program;

use crate::machine::InterruptController;
use crate::report::{Bound, Figure};
use crate::sample::{Contender, Measured, alternate};
use crate::sandboxed::port;

const READY_WITHIN: Duration = Duration::from_secs(30);
/// Milliseconds from exec to listening.
const LISTENING: Bound = Bound::AtMost(50.0);
/// Microseconds to instantiate one.
const INSTANTIATE: Bound = Bound::AtMost(100.0);

/// Returns the milliseconds from the start of `manatee serve` until it reports that it
/// listens.
fn listening(manatee: &Path, dir: &Path) -> Result<f64> {
    let notify = dir.join("notify.sock");
    let _ = std::fs::remove_file(&notify);
    let readiness = UnixDatagram::bind(&notify).context("cannot bind the notification socket")?;
    readiness.set_read_timeout(Some(READY_WITHIN))?;
    let mut command = Command::new(manatee);
    command
        .arg("serve")
        .arg("--socket")
        .arg(dir.join("start.sock"))
        .args(["--port", "null"])
        .env("NOTIFY_SOCKET", &notify)
        .stderr(Stdio::null());
    let begun = Instant::now();
    let mut child = command.spawn().context("cannot start manatee serve")?;
    let heard = readiness.recv(&mut [0; 64]);
    let took = begun.elapsed();
    child.kill()?;
    child.wait()?;
    std::fs::remove_file(dir.join("start.sock")).ok();
    std::fs::remove_file(notify)?;
    heard.context("manatee serve does not say that it listens")?;
    Ok(took.as_secs_f64() * 1e3)
}

/// Measures the row `start`.
///
/// # Errors
///
/// If `manatee serve` does not start.
pub fn run(dir: &Path) -> Result<Vec<Figure>> {
    let manatee = beside_this_program("manatee", "bench")?;
    listening(&manatee, dir)?;
    let served = (0..21).map(|_| listening(&manatee, dir));
    let served = Measured::of("manatee serve", served.collect::<Result<_>>()?);
    let component = Component::embedded()?;
    let instantiate = || {
        let sink = Interrupts::Vectors(Box::new(InterruptController::new()));
        let ports = vec![port(0, Box::new(Null::new()))];
        let begun = Instant::now();
        let device = Device::new(&component, ports, sink).expect("a device");
        let took = begun.elapsed();
        drop(device);
        took.as_nanos() as f64 / 1e3
    };
    let compile = || {
        let begun = Instant::now();
        let bytes = manatee_component::BYTES;
        Component::from_bytes(bytes, "the component").expect("a component");
        begun.elapsed().as_secs_f64() * 1e3
    };
    let made = alternate(301, vec![Contender::new("wasm", instantiate)]);
    let compiled = alternate(5, vec![Contender::new("wasm", compile)]);
    let (soon, quick) = (served.median, made[0].median);
    Ok(vec![
        Figure::reported("start", "exec to listening", "ms", vec![served])
            .must("ms", soon, LISTENING),
        Figure::reported("start", "a device, all of it", "us", made).must("us", quick, INSTANTIATE),
        Figure::reported("start", "compile the component cold", "ms", compiled),
    ])
}
