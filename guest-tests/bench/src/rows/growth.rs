//! The cost of a packet as queues, segments and guest memory grow.

use anyhow::Result;
use manatee::component::Component;
use manatee::device::Limits;
use manatee::endpoint::{Endpoint, Null};
use manatee_conformance::driver::nic::Sizes;

use super::device::BATCH;
use crate::driver::{Layout, PACKETS, SMALL, Thin};
use crate::machine::Machine;
use crate::native::Native;
use crate::report::{Bound, Figure};
use crate::sample::{Contender, Measured, alternate};
use crate::sandboxed::Sandboxed;

const ROUNDS: usize = 101;
const TIMES: u32 = 64;
/// The largest growth that counts as flat, or as linear.
const FLAT: Bound = Bound::AtMost(1.25);

fn endpoints(ports: u32) -> Vec<Box<dyn Endpoint>> {
    let null = |_| Box::new(Null::new()) as Box<dyn Endpoint>;
    (0..ports).map(null).collect()
}

fn thin(ports: u32, sizes: Sizes, layout: Layout, ram: u64) -> Result<Thin<Sandboxed>> {
    let component = Component::embedded()?;
    let machine = Sandboxed::new(&component, endpoints(ports), ram, Limits::default())?;
    Thin::new(machine, ports, sizes, layout)
}

fn native(ports: u32, layout: Layout) -> Result<Thin<Native>> {
    let machine = Native::new(endpoints(ports), layout.ram())?;
    Thin::new(machine, ports, SMALL, layout)
}

/// Returns a contender that rings a doorbell for each port in turn.
fn contender<'a, M: Machine>(name: &str, thin: &'a mut Thin<M>) -> Contender<'a> {
    let mut port = 0;
    Contender::timed(name, TIMES, move || {
        thin.post_packets(port, BATCH);
        thin.ring_send(port);
        thin.take_sent(port, BATCH);
        port = (port + 1) % thin.ports();
    })
    .per(BATCH.into())
}

fn measure(thins: Vec<(String, Thin<Sandboxed>)>) -> Vec<Measured> {
    let mut thins = thins;
    let contenders = thins.iter_mut().map(|(name, thin)| contender(name, thin));
    alternate(ROUNDS, contenders.collect())
}

/// Measures the row `growth`.
///
/// # Errors
///
/// If a device can't be made.
pub fn run() -> Result<Vec<Figure>> {
    Ok(vec![queues()?, memory()?, segments()?])
}

fn queues() -> Result<Figure> {
    let layout = Layout::of(64);
    let counts = [1, 4, 16, 64];
    let thins = counts.map(|count| {
        let name = format!("{count} pairs of queues");
        Ok((name, thin(count, SMALL, layout, layout.ram())?))
    });
    let mut thins: Vec<_> = thins.into_iter().collect::<Result<_>>()?;
    // The cost of accessing this much memory, without a sandbox.
    let (mut one, mut many) = (native(1, layout)?, native(64, layout)?);
    let mut contenders: Vec<_> = thins
        .iter_mut()
        .map(|(name, thin)| contender(name, thin))
        .collect();
    contenders.push(contender("1 pair, native", &mut one));
    contenders.push(contender("64 pairs, native", &mut many));
    let measured = alternate(ROUNDS, contenders);
    let growth = measured[3].over(&measured[0]);
    let figure = Figure::reported("growth", "queues, each in turn", "ns/packet", measured);
    Ok(figure.must("64 pairs / 1 pair", growth, FLAT))
}

fn memory() -> Result<Figure> {
    let sizes = [(1, "0.5 GiB"), (8, "4 GiB"), (128, "64 GiB")];
    let thins = sizes.map(|(halves, name)| {
        let size = halves << 29;
        let mut layout = Layout::of(64);
        // From one end to the other.
        layout.packets.1 = (size - layout.packets.0) / PACKETS / 4096 * 4096;
        Ok((name.to_owned(), thin(1, Sizes::LARGE, layout, size)?))
    });
    let measured = measure(thins.into_iter().collect::<Result<_>>()?);
    let growth = measured[2].over(&measured[0]);
    let figure = Figure::reported("growth", "guest memory", "ns/packet", measured);
    Ok(figure.must("64 GiB / 0.5 GiB", growth, FLAT))
}

fn segments() -> Result<Figure> {
    let counts = [1, 2, 4, 8, 16, 30];
    let thins = counts.map(|count| {
        let mut layout = Layout::of(64);
        layout.segments = (count, 32);
        Ok((
            format!("{count} segments"),
            thin(1, Sizes::LARGE, layout, layout.ram())?,
        ))
    });
    let measured = measure(thins.into_iter().collect::<Result<_>>()?);
    let slope = |from: usize, to: usize| {
        let more = f64::from(counts[to] - counts[from]);
        (measured[to].median - measured[from].median) / more
    };
    let bend = slope(4, 5) / slope(0, 4);
    let figure = Figure::reported("growth", "segments of a packet", "ns/packet", measured);
    Ok(figure.must("a segment's cost, 16 to 30 / 1 to 16", bend, FLAT))
}
