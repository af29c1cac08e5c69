//! A stock guest's network with this device, and with QEMU's own adapters: all three in
//! the same machine, each on a TAP of its own.

use anyhow::{Context, Result};
use manatee_guest_linux::checks;
use manatee_guest_linux::netns::{Family, Subnet, Tap};
use manatee_guest_linux::process::Process;
use manatee_guest_linux::qemu::{Machine, Nic, Vm};
use manatee_guest_linux::serve::{PortArgument, Serve, Start};
use manatee_guest_linux::stage::Stage;
use std::time::Duration;

use crate::report::{Bound, Figure};
use crate::sample::Measured;

const ROUNDS: usize = 7;
const SECONDS: u32 = 2;
/// How long one run may take.
const WITHIN: Duration = Duration::from_secs(30);

/// At least as good as the better of the other adapters.
const THROUGHPUT: Bound = Bound::AtLeast(1.0);
const ROUND_TRIP: Bound = Bound::AtMost(1.0);

/// The adapters, with the modules that their drivers are in.
const ADAPTERS: [(&str, &[&str]); 3] = [
    ("manatee", &["mana"]),
    ("virtio-net-pci", &["virtio_pci", "virtio_net"]),
    ("vmxnet3", &["vmxnet3"]),
];

/// The kinds of traffic.
#[derive(Clone, Copy, Debug)]
enum Traffic {
    Tcp { inward: bool },
    Udp { inward: bool },
    Ping,
}

const TRAFFIC: [(Traffic, &str, &str); 5] = [
    (Traffic::Tcp { inward: false }, "TCP out", "Mbit/s"),
    (Traffic::Tcp { inward: true }, "TCP in", "Mbit/s"),
    (
        Traffic::Udp { inward: false },
        "UDP out, 64 bytes",
        "packets/s",
    ),
    (
        Traffic::Udp { inward: true },
        "UDP in, 64 bytes",
        "packets/s",
    ),
    (Traffic::Ping, "ping round trip", "us"),
];

/// The machine, and everything that it needs.
struct Lab {
    vm: Vm,
    _server: Process,
    _serve: Serve,
    taps: Vec<Tap>,
}

fn mac(number: usize) -> String {
    format!("02:6d:61:6e:62:{number:02x}")
}

impl Lab {
    fn start(stage: &Stage) -> Result<Self> {
        let dir = stage.sandbox.run_dir();
        let taps = (0..ADAPTERS.len()).map(|number| {
            let name = format!("guest{number}");
            Tap::create(
                &stage.sandbox,
                &stage.assets.ip(),
                &name,
                Subnet::new(number as u8),
                1,
            )
        });
        let taps: Vec<Tap> = taps.collect::<Result<_>>()?;
        let port = PortArgument {
            tap: taps[0].name(),
            mac: &mac(0),
            queues: 1,
        };
        let serve = Serve::start(&Start {
            manatee: &stage.manatee,
            dir,
            number: 0,
            component: None,
            kept: false,
            ports: &[port],
        })?;
        let on = |number: usize| (taps[number].name().to_owned(), mac(number));
        let ((virtio, virtio_mac), (vmxnet, vmxnet_mac)) = (on(1), on(2));
        let nics = [
            Nic::VfioUser {
                socket: serve.socket().to_owned(),
            },
            Nic::VirtioNet {
                tap: virtio,
                mac: virtio_mac,
            },
            Nic::Vmxnet3 {
                tap: vmxnet,
                mac: vmxnet_mac,
            },
        ];
        let machine = Machine {
            qemu: &stage.assets.qemu(),
            kernel: &stage.kernel.image,
            initramfs: &stage.initramfs,
            cpus: 1,
            nics: &nics,
        };
        let mut vm = Vm::start(&machine, dir)?;
        vm.wait_for_boot()?;
        for (number, (_, modules)) in ADAPTERS.iter().enumerate() {
            for module in *modules {
                vm.sh(&format!("modprobe {module}"))?;
            }
            let interface = checks::interface_with(&mut vm, &mac(number))?;
            checks::configure(&mut vm, &interface, taps[number].subnet())?;
            checks::wait_reachable(&mut vm, taps[number].subnet())?;
        }
        let mut server = stage.assets.iperf3();
        server.arg("--server");
        Ok(Self {
            vm,
            _server: Process::spawn("iperf3", server)?,
            _serve: serve,
            taps,
        })
    }

    fn measure(&mut self, number: usize, traffic: Traffic) -> Result<f64> {
        let host = self.taps[number].subnet().host(Family::V4);
        let reverse = |inward: bool| if inward { "--reverse" } else { "" };
        let client = format!("iperf3 --client {host} --time {SECONDS} --interval 0 --json");
        match traffic {
            Traffic::Tcp { inward } => {
                let printed = self.run(&format!("{client} {}", reverse(inward)))?;
                Ok(number_at(&printed, "/end/sum_received/bits_per_second")? / 1e6)
            }
            Traffic::Udp { inward } => {
                let datagrams = format!("--udp --bitrate 0 --length 64 {}", reverse(inward));
                let before = self.datagrams()?;
                let printed = self.run(&format!("{client} {datagrams}"))?;
                if inward {
                    let received = self.datagrams()? - before;
                    return Ok(received as f64 / f64::from(SECONDS));
                }
                let of = |name: &str| number_at(&printed, &format!("/end/sum/{name}"));
                Ok((of("packets")? - of("lost_packets")?) / of("seconds")?)
            }
            Traffic::Ping => {
                let printed = self.run(&format!("ping -n -q -c 400 -i 0.002 {host}"))?;
                let times = printed.split("rtt min/avg/max/mdev = ").nth(1);
                let average = times.and_then(|times| times.split('/').nth(1));
                let average = average.with_context(|| format!("ping printed {printed}"))?;
                Ok(average.parse::<f64>()? * 1e3)
            }
        }
    }

    /// Returns how many datagrams the guest's sockets have received. The guest's kernel
    /// counts them; an iperf3 that is not scheduled counts datagrams as received that
    /// it never saw.
    fn datagrams(&mut self) -> Result<u64> {
        let counters = self.run("grep Udp: /proc/net/snmp")?;
        let mut lines = counters.lines().map(str::split_whitespace);
        let named = lines.next().zip(lines.next());
        let count = named.and_then(|(names, counts)| {
            let mut named = names.zip(counts);
            named.find_map(|(name, count)| (name == "InDatagrams").then_some(count))
        });
        let count = count.with_context(|| format!("no InDatagrams in {counters}"))?;
        Ok(count.parse()?)
    }

    fn run(&mut self, command: &str) -> Result<String> {
        self.vm.sh_within(command, WITHIN)
    }
}

fn number_at(printed: &str, place: &str) -> Result<f64> {
    let tree: serde_json::Value =
        serde_json::from_str(printed).with_context(|| format!("iperf3 printed {printed}"))?;
    let value = tree.pointer(place).and_then(serde_json::Value::as_f64);
    value.with_context(|| format!("iperf3 says nothing at {place}: {printed}"))
}

/// Measures the row `guest`.
///
/// # Errors
///
/// If the guest does not boot, or its network does not work.
pub fn run(stage: &Stage) -> Result<Vec<Figure>> {
    let mut lab = Lab::start(stage)?;
    let mut figures = Vec::new();
    for (traffic, what, unit) in TRAFFIC {
        let mut samples = vec![Vec::new(); ADAPTERS.len()];
        for _ in 0..ROUNDS {
            for (number, samples) in samples.iter_mut().enumerate() {
                let sample = lab.measure(number, traffic);
                samples.push(sample.with_context(|| format!("{what}, {}", ADAPTERS[number].0))?);
            }
        }
        let named = ADAPTERS.iter().zip(samples);
        let measured: Vec<Measured> = named
            .map(|((name, _), samples)| Measured::of(name, samples))
            .collect();
        let others = measured[1..].iter().map(|other| other.median);
        let (better, bound) = match traffic {
            Traffic::Ping => (others.fold(f64::INFINITY, f64::min), ROUND_TRIP),
            _ => (others.fold(0.0, f64::max), THROUGHPUT),
        };
        let ratio = measured[0].median / better;
        let figure = Figure::reported("guest", what, unit, measured);
        figures.push(figure.must("of the better of the others", ratio, bound));
    }
    Ok(figures)
}
