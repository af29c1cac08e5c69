//! Taking samples: contenders alternate, so that other load on the machine affects all
//! of them.

use nix::time::{ClockId, clock_gettime};
use serde::Serialize;

/// A contender, which is measured; a run returns one sample.
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

    /// Creates a contender whose sample is the time of `act` in nanoseconds; one run calls it
    /// `times` times. It is the processor time of this thread, so that other programs do not
    /// count.
    pub fn timed(name: &str, times: u32, mut act: impl FnMut() + 'a) -> Self {
        Self::new(name, move || {
            let begun = thread_time();
            for _ in 0..times {
                act();
            }
            (thread_time() - begun) / f64::from(times)
        })
    }

    /// Adds preparation before each run, which does not count.
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

    /// Divides its samples by `units`, for example the packets of one act.
    pub fn per(self, units: f64) -> Self {
        let mut run = self.run;
        Self {
            name: self.name,
            run: Box::new(move || run() / units),
        }
    }
}

/// Returns the processor time of this thread in nanoseconds.
fn thread_time() -> f64 {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a clock that Linux has");
    time.tv_sec() as f64 * 1e9 + time.tv_nsec() as f64
}

/// The summary of a contender's samples.
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

    /// Returns the median, over the rounds, of this contender's sample divided by the
    /// other's of the same round.
    pub fn over(&self, other: &Self) -> f64 {
        self.against(other, |this, that| this / that)
    }

    /// Returns the median, over the rounds, of how much larger this contender's sample is than the
    /// other's of the same round.
    pub fn minus(&self, other: &Self) -> f64 {
        self.against(other, |this, that| this - that)
    }

    fn against(&self, other: &Self, compare: impl Fn(f64, f64) -> f64) -> f64 {
        let pairs = self.samples.iter().zip(&other.samples);
        let mut compared: Vec<f64> = pairs.map(|(this, that)| compare(*this, *that)).collect();
        compared.sort_by(f64::total_cmp);
        quantile(&compared, 0.5)
    }

    /// Returns the quantile of the samples for this share.
    pub fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.samples.clone();
        sorted.sort_by(f64::total_cmp);
        quantile(&sorted, share)
    }
}

fn quantile(sorted: &[f64], share: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * share).round() as usize]
}

/// Runs each contender once a round, in turn.
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
