//! The state of watched devices, and rates from two samples.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use manatee_common::ration;
use manatee_control::method::{Counts, PortCounts};
use manatee_control::{Event, Told, text};
use serde_json::Value;

/// The number of events that are kept.
const EVENTS: usize = 100;
/// The longest foreign text that is shown, in characters.
const LONGEST: usize = 200;

/// The devices that are watched.
#[derive(Debug)]
pub struct Model {
    pub devices: Vec<Watched>,
    /// The latest events, the newest at the end.
    pub events: VecDeque<Happened>,
}

/// An event, as a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happened {
    /// Time and description.
    pub text: String,
    /// Whether it is a failure.
    pub bad: bool,
}

/// A device that is watched.
#[derive(Debug)]
pub struct Watched {
    /// Its control socket.
    pub path: PathBuf,
    /// Its last two samples, the later one at the end.
    looks: VecDeque<Look>,
    /// Why it can't be sampled.
    pub gone: Option<String>,
}

/// A sample of a device.
#[derive(Clone, Debug, Default)]
pub struct Look {
    pub counts: Counts,
    /// The queues of each port.
    pub queues: Vec<Vec<Flow>>,
}

/// The counters of a port or a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Flow {
    pub sent: u64,
    pub sent_bytes: u64,
    pub received: u64,
    pub received_bytes: u64,
    pub dropped: u64,
    /// Buffers that are posted.
    pub posted: u64,
    /// Packets that wait to be sent; unknown for a port as a whole.
    pub waiting: u64,
}

/// The rates of a port or a queue, per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    pub sent: f64,
    pub sent_bits: f64,
    pub received: f64,
    pub received_bits: f64,
    pub dropped: f64,
}

impl Model {
    /// Creates a model without samples.
    pub fn new(paths: &[PathBuf]) -> Self {
        let watched = |path: &PathBuf| Watched {
            path: path.clone(),
            looks: VecDeque::new(),
            gone: None,
        };
        Self {
            devices: paths.iter().map(watched).collect(),
            events: VecDeque::new(),
        }
    }

    /// Adds an event of a device.
    pub fn happened(&mut self, device: usize, told: &Told) {
        let name = self.devices.get(device).map(|it| name(&it.path));
        let line = clean(text::line(told).trim_end(), LONGEST);
        let text = match name {
            Some(name) if self.devices.len() > 1 => format!("{line} [{name}]"),
            _ => line,
        };
        if self.events.len() >= EVENTS {
            self.events.pop_front();
        }
        let bad = match told {
            Told::Event(stamped) => matches!(stamped.event, Event::Crashed(_) | Event::Down(_)),
            Told::Lost(_) => true,
        };
        self.events.push_back(Happened { text, bad });
    }
}

/// Cleans and truncates foreign text.
pub fn clean(text: &str, most: usize) -> String {
    ration::clean(text.as_bytes(), most)
}

/// Returns a device's name: the last part of its socket's path.
pub fn name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    clean(&name.to_string_lossy(), LONGEST)
}

impl Watched {
    /// Adds a sample.
    pub fn looked(&mut self, look: Look) {
        self.gone = None;
        // The counters of another process begin at 0.
        let restarted = |former: &Look| former.counts.uptime_ms > look.counts.uptime_ms;
        if self.now().is_some_and(restarted) {
            self.looks.clear();
        }
        if self.looks.len() >= 2 {
            self.looks.pop_front();
        }
        self.looks.push_back(look);
    }

    /// Records that it can't be sampled.
    pub fn lost(&mut self, why: &str) {
        self.looks.clear();
        self.gone = Some(clean(why, LONGEST));
    }

    /// Returns the last sample.
    pub fn now(&self) -> Option<&Look> {
        self.looks.back()
    }

    /// Returns rates from the last two samples; None until there are two.
    pub fn pace<T>(
        &self,
        of: impl Fn(&Look) -> Option<T>,
        between: impl Fn(T, T, f64) -> Pace,
    ) -> Option<Pace> {
        let [former, now] = [self.looks.front()?, self.looks.back()?];
        let millis = now.counts.uptime_ms.checked_sub(former.counts.uptime_ms)?;
        let seconds = millis as f64 / 1000.0;
        (millis > 0).then(|| Some(between(of(former)?, of(now)?, seconds)))?
    }

    /// Returns the rates of a port.
    pub fn port(&self, port: usize) -> Option<Pace> {
        self.pace(
            |look| look.counts.ports.get(port).map(Flow::of_port),
            Flow::until,
        )
    }

    /// Returns the rates of a queue.
    pub fn queue(&self, port: usize, queue: usize) -> Option<Pace> {
        let of = |look: &Look| look.queues.get(port)?.get(queue).copied();
        self.pace(of, Flow::until)
    }

    /// Returns the rate of calls into the component.
    pub fn calls(&self) -> Option<f64> {
        let [former, now] = [&self.looks.front()?.counts, &self.looks.back()?.counts];
        let millis = now
            .uptime_ms
            .checked_sub(former.uptime_ms)
            .filter(|it| *it > 0)?;
        Some(now.calls.saturating_sub(former.calls) as f64 * 1000.0 / millis as f64)
    }
}

impl Flow {
    /// Returns the counters of a port.
    pub fn of_port(port: &PortCounts) -> Self {
        let (sent, received, refused) = (&port.transmit, &port.receive, &port.refused);
        Self {
            sent: sent.packets,
            sent_bytes: sent.bytes,
            received: received.packets,
            received_bytes: received.bytes,
            dropped: [
                sent.dropped_busy,
                sent.dropped_down,
                sent.dropped_error,
                sent.memory_faults,
                sent.too_long,
                sent.bad_headers,
                received.memory_faults,
                received.dropped,
                received.errors,
                refused.source,
                refused.sent_vlan,
                refused.destination,
                refused.received_vlan,
            ]
            .iter()
            .sum(),
            posted: port.posted_buffers,
            waiting: 0,
        }
    }

    /// Returns the counters of a queue from its part of `inspect`.
    fn of_queue(shown: &Value) -> Self {
        let number = |value: &Value| value.as_u64().unwrap_or(0);
        let (sent, received) = (
            &shown["counters"]["transmit"],
            &shown["counters"]["receive"],
        );
        let refused = shown["counters"]["refused"].as_object();
        let refused: u64 = refused
            .into_iter()
            .flatten()
            .map(|(_, it)| number(it))
            .sum();
        let dropped = [
            "dropped_busy",
            "dropped_down",
            "dropped_error",
            "memory_faults",
            "too_long",
            "bad_headers",
        ];
        let lost = ["memory_faults", "dropped", "errors"];
        let dropped: u64 = dropped.iter().map(|name| number(&sent[name])).sum();
        let lost: u64 = lost.iter().map(|name| number(&received[name])).sum();
        Self {
            sent: number(&sent["packets"]),
            sent_bytes: number(&sent["bytes"]),
            received: number(&received["packets"]),
            received_bytes: number(&received["bytes"]),
            dropped: dropped + lost + refused,
            posted: number(&shown["posted_buffers"]),
            waiting: number(&shown["pending_transmits"]),
        }
    }

    /// Returns the queues of each port from `inspect`.
    pub fn queues(tree: &Value) -> Vec<Vec<Self>> {
        let port = |index: usize| tree["ports"].get(index.to_string());
        let queues = |port: &Value| {
            let queues = port["queues"].as_array().into_iter().flatten();
            queues.map(Self::of_queue).collect()
        };
        (0..).map_while(port).map(queues).collect()
    }

    fn until(self, later: Self, seconds: f64) -> Pace {
        let each = |before: u64, after: u64| after.saturating_sub(before) as f64 / seconds;
        Pace {
            sent: each(self.sent, later.sent),
            sent_bits: 8.0 * each(self.sent_bytes, later.sent_bytes),
            received: each(self.received, later.received),
            received_bits: 8.0 * each(self.received_bytes, later.received_bytes),
            dropped: each(self.dropped, later.dropped),
        }
    }
}
