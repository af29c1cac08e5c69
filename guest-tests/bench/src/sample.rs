//! Taking samples: contenders alternate, so that whatever else the machine
//! does meets them all.

use nix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// Something to measure; a run returns one sample.
pub struct Contender<'a> {
    /// Its name in the table.
    pub name: String,
    run: Box<dyn FnMut() -> f64 + 'a>,
}

impl<'a> Contender<'a> {
    /// Creates a contender; `run` returns a sample, in the unit of the figure.
    pub fn new(name: &str, run: impl FnMut() -> f64 + 'a) -> Self {
        Self {
            name: name.to_owned(),
            run: Box::new(run),
        }
    }

    /// Creates a contender whose sample is the time of `act` in nanoseconds, of which one run does
    /// `times`: the time that this thread has a processor, so that other
    /// programs take none of it away.
    pub fn timed(name: &str, times: u32, mut act: impl FnMut() + 'a) -> Self {
        Self::new(name, move || {
            let begun = thread_time();
            for _ in 0..times {
                act();
            }
            (thread_time() - begun) / f64::from(times)
        })
    }

    /// Does something that does not count before each run.
    pub fn after(self, mut prepare: impl FnMut() + 'a) -> Self {
        let mut run = self.run;
        Self {
            name: self.name,
            run: Box::new(move || {
                prepare();
                run()
            }),
        }
    }

    /// Divides its samples by `units`: the packets of
    /// one act, say.
    pub fn per(self, units: f64) -> Self {
        let mut run = self.run;
        Self {
            name: self.name,
            run: Box::new(move || run() / units),
        }
    }
}

/// Returns the nanoseconds that this thread had a processor so far.
fn thread_time() -> f64 {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a clock that Linux has");
    time.tv_sec() as f64 * 1e9 + time.tv_nsec() as f64
}

/// What a contender's samples say.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// The contender.
    pub name: String,
    /// Median.
    pub median: f64,
    /// First and third quartile.
    pub quartiles: (f64, f64),
    #[serde(skip)]
    samples: Vec<f64>,
}

impl Measured {
    /// Creates a measurement of samples, at least one.
    pub fn of(name: &str, samples: Vec<f64>) -> Self {
        let mut sorted = samples.clone();
        sorted.sort_by(f64::total_cmp);
        Self {
            name: name.to_owned(),
            median: quantile(&sorted, 0.5),
            quartiles: (quantile(&sorted, 0.25), quantile(&sorted, 0.75)),
            samples,
        }
    }

    /// Creates a measurement of a single sample.
    pub fn once(name: &str, value: f64) -> Self {
        Self::of(name, vec![value])
    }

    /// Returns the median, over the rounds, of this one's sample divided by that
    /// one's of the same round.
    pub fn over(&self, other: &Self) -> f64 {
        let pairs = self.samples.iter().zip(&other.samples);
        let mut ratios: Vec<f64> = pairs.map(|(this, that)| this / that).collect();
        ratios.sort_by(f64::total_cmp);
        quantile(&ratios, 0.5)
    }

    /// Returns the sample that this share of all samples does not exceed.
    pub fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.samples.clone();
        sorted.sort_by(f64::total_cmp);
        quantile(&sorted, share)
    }
}

fn quantile(sorted: &[f64], share: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * share).round() as usize]
}

/// Has each contender run once a round, in turn.
pub fn alternate(rounds: usize, mut contenders: Vec<Contender<'_>>) -> Vec<Measured> {
    // Caches, page tables and allocations settle.
    for contender in &mut contenders {
        (contender.run)();
    }
    let mut samples = vec![Vec::with_capacity(rounds); contenders.len()];
    for _ in 0..rounds {
        for (contender, samples) in contenders.iter_mut().zip(&mut samples) {
            samples.push((contender.run)());
        }
    }
    let named = contenders.iter().zip(samples);
    named
        .map(|(contender, samples)| Measured::of(&contender.name, samples))
        .collect()
}
