//! The metrics themselves. docs/operations.md lists them, as a test checks.

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use manatee::device::{self, Condition, Device, PortTotals, Totals};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::commands::stderr::Stderr;
use crate::jail::broker::Broker;

/// The upper bounds of the buckets of pauses, in seconds.
const PAUSES: [f64; 10] = [
    50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 5e-3, 10e-3, 50e-3, 100e-3, 1.0,
];

type Label = (&'static str, String);

/// Metrics that are updated when an event happens.
#[derive(Clone, Debug)]
pub struct Observed {
    pauses: Histogram,
    recoveries: Histogram,
}

impl Default for Observed {
    fn default() -> Self {
        Self {
            pauses: Histogram::new(PAUSES),
            recoveries: Histogram::new(PAUSES),
        }
    }
}

impl Observed {
    /// Records an event.
    pub fn note(&self, event: &device::Event) {
        match event {
            // A rollback by probation has no pause of its own.
            device::Event::Swapped(swap) if !swap.pause.is_zero() => {
                self.pauses.observe(swap.pause.as_secs_f64());
            }
            device::Event::Recovered(recovery) => {
                self.recoveries.observe(recovery.took.as_secs_f64());
            }
            _ => {}
        }
    }
}

/// The source of the metrics.
pub struct Facts {
    /// The device.
    pub device: Device,
    /// Whether the process is confined.
    pub confined: bool,
    /// The broker.
    pub broker: Arc<Broker>,
    /// The log's destination.
    pub log: Stderr,
}

/// The metrics of a process.
#[derive(Debug)]
pub struct Metrics(Registry);

impl Metrics {
    /// Registers them.
    pub fn new(facts: Facts, observed: Observed) -> Self {
        let mut registry = Registry::with_prefix("manatee");
        let build = [
            ("version", env!("CARGO_PKG_VERSION")),
            ("commit", env!("MANATEE_COMMIT")),
            ("wasmtime", env!("MANATEE_WASMTIME")),
        ];
        registry.register("build", "The program that serves", Info::new(build));
        registry.register_with_unit(
            "swap_pause",
            "Pauses of the guest's device for replacements of the component",
            Unit::Seconds,
            observed.pauses,
        );
        registry.register_with_unit(
            "recovery",
            "From a failure of the component until a fresh instance had processed every queue",
            Unit::Seconds,
            observed.recoveries,
        );
        let begun = SystemTime::now().duration_since(UNIX_EPOCH);
        registry.register_collector(Box::new(Collected {
            facts,
            begun: begun.unwrap_or_default().as_secs_f64(),
        }));
        Self(registry)
    }

    /// Writes them as OpenMetrics.
    pub fn encode(&self) -> String {
        let mut page = String::new();
        // Writing to a string never fails.
        let _ = text::encode(&mut page, &self.0);
        page
    }
}

/// Metrics that are read on request.
struct Collected {
    facts: Facts,
    /// When the process began to serve, in seconds since 1970.
    begun: f64,
}

impl fmt::Debug for Collected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collected").finish_non_exhaustive()
    }
}

impl Collector for Collected {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let totals = self.facts.device.totals();
        let mut out = Out(encoder);
        self.process(&mut out, &totals)?;
        component(&mut out, &totals)?;
        ports(&mut out, &totals.ports)
    }
}

impl Collected {
    fn process(&self, out: &mut Out<'_>, totals: &Totals) -> fmt::Result {
        let Facts {
            confined,
            broker,
            log,
            ..
        } = &self.facts;
        out.gauge(
            "start_time_seconds",
            "When the process began to serve, in seconds since 1970",
            self.begun,
        )?;
        out.gauge(
            "jail_confined",
            "Whether the process is confined",
            *confined,
        )?;
        out.gauge("broker_up", "Whether the broker runs", !broker.is_gone())?;
        out.counters(
            "log_lines_dropped",
            "Lines that were not logged: the component's beyond its share, the process's that were not read in time",
            [
                (
                    [("source", "component".to_owned())],
                    totals.log_lines_dropped,
                ),
                ([("source", "process".to_owned())], log.dropped()),
            ],
        )
    }
}

fn component(out: &mut Out<'_>, totals: &Totals) -> fmt::Result {
    let labels = [
        ("version", totals.component_version.clone()),
        ("sha256", totals.component_sha256.clone()),
    ];
    out.info("component", "The component that runs", &labels)?;
    let conditions = [Condition::Running, Condition::Recovering, Condition::Down];
    out.gauges(
        "device_state",
        "1 for the device's current state, 0 for the others",
        conditions.map(|condition| {
            let state = [("state", condition.name().to_owned())];
            (state, i64::from(condition == totals.condition))
        }),
    )?;
    out.gauge("vmm_attached", "Whether a VMM is attached", totals.attached)?;
    out.gauge(
        "linear_memory_bytes",
        "Linear memory of the component, the window arena included",
        totals.linear_memory_bytes as i64,
    )?;
    for (name, help, value) in [
        (
            "swaps",
            "Replacements of the component, rollbacks included",
            totals.swaps,
        ),
        (
            "rollbacks",
            "Replacements that returned to the previous component",
            totals.rollbacks,
        ),
        (
            "crashes",
            "Instances of the component that failed",
            totals.failures,
        ),
        (
            "recoveries",
            "Failures after which a fresh instance continued",
            totals.recoveries,
        ),
        (
            "restarts",
            "Resets that started a fresh instance because the previous one had failed",
            totals.restarts,
        ),
        ("calls", "Calls into the component", totals.calls),
        (
            "interrupts",
            "Interrupts that the device raised",
            totals.interrupts_raised,
        ),
    ] {
        out.counter(name, help, value)?;
    }
    let limit = |name: &str, value| ([("limit", name.to_owned())], value);
    out.counters(
        "limits_reached",
        "How often a limit was reached: a call's deadline, the component's share of the log",
        [
            limit("deadline", totals.deadlines_missed),
            limit("log", totals.log_lines_dropped),
        ],
    )
}

fn ports(out: &mut Out<'_>, ports: &[PortTotals]) -> fmt::Result {
    let each = |of: fn(&PortTotals) -> i64| {
        let ports = ports.iter().enumerate();
        ports
            .map(|(index, port)| ([("port", index.to_string())], of(port)))
            .collect::<Vec<_>>()
    };
    out.gauges(
        "link_up",
        "Whether the guest has a link",
        each(|port| port.link_up.into()),
    )?;
    out.gauges(
        "posted_buffers",
        "Buffers that the guest has posted for packets",
        each(|port| port.posted_buffers as i64),
    )?;
    out.gauges(
        "rate_limit_bits_per_second",
        "The rate limit of the port; 0 if it has none",
        each(|port| i64::from(port.rate_mbps.unwrap_or(0)) * 1_000_000),
    )?;
    let both = |of: fn(&PortTotals) -> [u64; 2]| {
        let ports = ports.iter().enumerate();
        let rows = ports.flat_map(|(index, port)| {
            let [transmit, receive] = of(port);
            [("transmit", transmit), ("receive", receive)]
                .map(|(direction, value)| (labels(index, direction), value))
        });
        rows.collect::<Vec<_>>()
    };
    out.counters(
        "packets",
        "Packets from the guest (transmit) and to it (receive)",
        both(|port| {
            [
                port.counters.transmit.packets,
                port.counters.receive.packets,
            ]
        }),
    )?;
    out.counters(
        "bytes",
        "Bytes of packets from the guest (transmit) and to it (receive)",
        both(|port| [port.counters.transmit.bytes, port.counters.receive.bytes]),
    )?;
    let drops = ports.iter().enumerate().flat_map(|(index, port)| {
        reasons(port).map(|(direction, reason, value)| {
            let [port, direction] = labels(index, direction);
            ([port, direction, ("reason", reason.to_owned())], value)
        })
    });
    out.counters(
        "dropped_packets",
        "Packets that were dropped or refused, and failed reads",
        drops.collect::<Vec<_>>(),
    )?;
    out.counters(
        "truncated_packets",
        "Packets to the guest that did not fit their buffer",
        ports.iter().enumerate().map(|(index, port)| {
            let label = [("port", index.to_string())];
            (label, port.counters.receive.truncated)
        }),
    )
}

fn labels(port: usize, direction: &str) -> [Label; 2] {
    [
        ("port", port.to_string()),
        ("direction", direction.to_owned()),
    ]
}

/// Lists the reasons for which packets were dropped, with their counts.
fn reasons(port: &PortTotals) -> [(&'static str, &'static str, u64); 13] {
    let (tx, rx) = (&port.counters.transmit, &port.counters.receive);
    let refused = &port.counters.refused;
    [
        ("transmit", "busy", tx.dropped_busy),
        ("transmit", "down", tx.dropped_down),
        ("transmit", "error", tx.dropped_error),
        ("transmit", "memory_fault", tx.memory_faults),
        ("transmit", "too_long", tx.too_long),
        ("transmit", "bad_headers", tx.bad_headers),
        ("receive", "memory_fault", rx.memory_faults),
        ("receive", "no_room", rx.dropped),
        ("receive", "error", rx.errors),
        ("transmit", "refused_source", refused.source),
        ("transmit", "refused_vlan", refused.sent_vlan),
        ("receive", "refused_destination", refused.destination),
        ("receive", "refused_vlan", refused.received_vlan),
    ]
}

/// The destination of metrics.
struct Out<'a>(DescriptorEncoder<'a>);

/// A value of a gauge.
trait Value {
    fn number(self) -> f64;
}

impl Value for bool {
    fn number(self) -> f64 {
        u8::from(self).into()
    }
}

impl Value for i64 {
    fn number(self) -> f64 {
        self as f64
    }
}

impl Value for f64 {
    fn number(self) -> f64 {
        self
    }
}

impl Out<'_> {
    fn info(&mut self, name: &str, help: &str, labels: &[Label; 2]) -> fmt::Result {
        let mut metric = self
            .0
            .encode_descriptor(name, help, None, MetricType::Info)?;
        metric.encode_info(labels)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let mut metric = self
            .0
            .encode_descriptor(name, help, None, MetricType::Counter)?;
        metric.encode_counter::<[Label; 0], _, u64>(&value, None)
    }

    fn counters<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = ([Label; N], u64)>,
    ) -> fmt::Result
    where
        [Label; N]: EncodeLabelSet,
    {
        let mut metric = self
            .0
            .encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in rows {
            let mut row = metric.encode_family(&labels)?;
            row.encode_counter::<[Label; 0], _, u64>(&value, None)?;
        }
        Ok(())
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Value) -> fmt::Result {
        let mut metric = self
            .0
            .encode_descriptor(name, help, None, MetricType::Gauge)?;
        metric.encode_gauge(&value.number())
    }

    fn gauges<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = ([Label; N], i64)>,
    ) -> fmt::Result
    where
        [Label; N]: EncodeLabelSet,
    {
        let mut metric = self
            .0
            .encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in rows {
            metric.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }
}
