//! Taking samples: contenders alternate, so that other load on the machine affects all
//! of them.

use rustix::time::{ClockId, clock_gettime};

/// Rounds, each with a sample of every contender.
const ROUNDS: usize = 301;
/// Calls in a sample.
pub const CALLS: u64 = 1000;

/// A contender, which is measured.
pub struct Contender {
    /// Its name in the table.
    pub name: &'static str,
    /// The nanoseconds of a call, one sample each.
    pub samples: Vec<f64>,
    call: Box<dyn FnMut(u64)>,
}

impl Contender {
    /// Creates a contender; `call` gets the number of the call.
    pub fn new(name: &'static str, call: impl FnMut(u64) + 'static) -> Self {
        Self {
            name,
            samples: Vec::with_capacity(ROUNDS),
            call: Box::new(call),
        }
    }

    /// Takes a sample, by the processor time of this thread, so that other programs do not
    /// count.
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

    /// Returns the median, over the rounds, of `of` applied to this contender's and the
    /// other's samples of the same round.
    pub fn against(&self, other: &Self, of: impl Fn(f64, f64) -> f64) -> f64 {
        let pairs = self.samples.iter().zip(&other.samples);
        median(pairs.map(|(this, that)| of(*this, *that)).collect())
    }
}

/// Runs each contender once a round, in turn.
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

/// Returns the processor time of this thread in nanoseconds.
fn thread_time() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
