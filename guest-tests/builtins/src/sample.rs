//! Taking samples: contenders alternate, so that whatever else the machine does
//! meets them all.

use rustix::time::{ClockId, clock_gettime};

/// Rounds, each with a sample of every contender.
const ROUNDS: usize = 301;
/// Calls in a sample.
pub const CALLS: u64 = 1000;

/// Something to measure.
pub struct Contender {
    /// Its name in the table.
    pub name: &'static str,
    /// The nanoseconds of a call, one sample each.
    pub samples: Vec<f64>,
    call: Box<dyn FnMut(u64)>,
}

impl Contender {
    /// Makes one; `call` is given the number of the call.
    pub fn new(name: &'static str, call: impl FnMut(u64) + 'static) -> Self {
        Self {
            name,
            samples: Vec::with_capacity(ROUNDS),
            call: Box::new(call),
        }
    }

    /// Takes one: by the time that this thread has a processor, so that other programs take none
    /// of it away.
    fn sample(&mut self) -> f64 {
        let begun = thread_time();
        for call in 0..CALLS {
            (self.call)(call);
        }
        (thread_time() - begun) / CALLS as f64
    }

    /// Returns the median.
    pub fn median(&self) -> f64 {
        median(self.samples.clone())
    }

    /// Returns the median, over the rounds, of what `of` makes of this one's sample and
    /// that one's of the same round.
    pub fn against(&self, other: &Self, of: impl Fn(f64, f64) -> f64) -> f64 {
        let pairs = self.samples.iter().zip(&other.samples);
        median(pairs.map(|(this, that)| of(*this, *that)).collect())
    }
}

/// Has each contender run once a round, in turn.
pub fn alternate(contenders: &mut [Contender]) {
    // Caches, page tables and allocations settle.
    for contender in contenders.iter_mut() {
        contender.sample();
    }
    for _ in 0..ROUNDS {
        for contender in contenders.iter_mut() {
            let sample = contender.sample();
            contender.samples.push(sample);
        }
    }
}

/// Returns the nanoseconds that this thread had a processor so far.
fn thread_time() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
