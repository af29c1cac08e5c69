//! The stock-Linux tests: whether the device works for an unmodified driver, and
//! keeps working whatever the guest does.
//!
//! Options and output are libtest's. Tests that leave the guest as they found it
//! share one; after a failure the next test gets a fresh one.

use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Parser;
use libtest_mimic::{Arguments, Failed, Trial};
use manatee_guest_linux::checks::{self, Ping};
use manatee_guest_linux::lab::{Device, Lab, Parts, Plan};
use manatee_guest_linux::netns::{Bridge, Family};
use manatee_guest_linux::qemu::Vm;
use manatee_guest_linux::stage::{Options, Stage};
use manatee_guest_linux::tcp;

/// The usual guest.
const ONE_PORT: Plan = Plan {
    device: Device::Manatee,
    ports: 1,
    apart: false,
    cpus: 1,
    queues: 1,
};

/// A device with two interfaces.
const TWO_PORTS: Plan = Plan {
    ports: 2,
    ..ONE_PORT
};

/// Checks the device against a stock Linux guest.
#[derive(Parser)]
#[command(name = "guest-tests")]
struct CommandLine {
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    libtest: Arguments,
}

type Test = fn(&Tests) -> Result<()>;

/// Every test. Those that share a guest are adjacent, so that it boots once.
const TESTS: &[(&str, Test)] = &[
    (
        "harness_works_with_virtio_net",
        harness_works_with_virtio_net,
    ),
    (
        "sigterm_ends_an_idle_serve_and_removes_its_socket",
        sigterm_ends_an_idle_serve,
    ),
    (
        "interface_has_its_mac_and_driver",
        interface_has_its_mac_and_driver,
    ),
    ("ping_sizes", ping_sizes),
    ("udp_sizes", udp_sizes),
    ("tcp_with_offloads_off_and_on", tcp_with_offloads_off_and_on),
    ("statistics_count", statistics_count),
    ("module_reloads_five_times", module_reloads_five_times),
    (
        "function_is_reset_between_two_drivers",
        function_is_reset_between_two_drivers,
    ),
    (
        "link_goes_down_and_up_twenty_times",
        link_goes_down_and_up_twenty_times,
    ),
    ("guest_reboots", guest_reboots),
    (
        "guest_crashes_and_boots_again",
        guest_crashes_and_boots_again,
    ),
    (
        "vmm_is_killed_and_another_connects",
        vmm_is_killed_and_another_connects,
    ),
    ("two_ports", two_ports),
    ("vlan_between_two_ports", vlan_between_two_ports),
    ("two_processors", two_processors),
    ("two_queues", two_queues),
    (
        "memory_map_changes_under_traffic",
        memory_map_changes_under_traffic,
    ),
];

fn main() -> ExitCode {
    let CommandLine {
        options,
        mut libtest,
    } = CommandLine::parse();
    // The tests share the machine's cores and one guest.
    libtest.test_threads.get_or_insert(1);
    if libtest.list {
        let names = TESTS.iter().map(|(name, _)| Trial::test(*name, || Ok(())));
        return libtest_mimic::run(&libtest, names.collect()).exit_code();
    }
    let tests = match Stage::set(&options) {
        Ok(stage) => Arc::new(Tests::new(stage)),
        Err(error) => {
            eprintln!("guest-tests: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let trials = TESTS.iter().map(|&(name, test)| {
        let tests = Arc::clone(&tests);
        Trial::test(name, move || {
            test(&tests).map_err(|error| Failed::from(format!("{error:#}")))
        })
    });
    libtest_mimic::run(&libtest, trials.collect()).exit_code()
}

/// The state that tests share.
struct Tests {
    stage: Arc<Stage>,
    lab: Mutex<Option<(Plan, Lab)>>,
}

impl Tests {
    fn new(stage: Stage) -> Self {
        Self {
            stage: Arc::new(stage),
            lab: Mutex::new(None),
        }
    }

    /// Runs `test` in a guest of `plan`, reusing the last test's guest if it has the
    /// same plan.
    fn in_guest(&self, plan: Plan, test: impl FnOnce(&mut Lab) -> Result<()>) -> Result<()> {
        let mut slot = self.slot();
        let mut lab = match slot.take() {
            Some((last, lab)) if last == plan => lab,
            other => {
                drop(other);
                Lab::start(&self.stage, plan)?
            }
        };
        test(&mut lab).map_err(|error| lab.with_evidence(error))?;
        *slot = Some((plan, lab));
        Ok(())
    }

    /// Runs `test` after taking down the last test's guest.
    fn without_guest(&self, test: impl FnOnce(&Arc<Stage>) -> Result<()>) -> Result<()> {
        let mut slot = self.slot();
        *slot = None;
        test(&self.stage)
    }

    fn slot(&self) -> MutexGuard<'_, Option<(Plan, Lab)>> {
        // A test that panics has removed its guest from the slot, which took it down.
        self.lab.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Loads the driver if necessary, and checks whether the network works.
fn bring_up(lab: &mut Lab) -> Result<()> {
    lab.load_driver()?;
    lab.configure()?;
    lab.network_works()
}

/// Runs without the device, to distinguish a fault of the harness from one of the
/// device.
fn harness_works_with_virtio_net(tests: &Tests) -> Result<()> {
    let plan = Plan {
        device: Device::VirtioNet,
        ..ONE_PORT
    };
    tests.in_guest(plan, |lab| {
        lab.network_works()?;
        let Parts { vm, ports, .. } = lab.parts()?;
        checks::driver_is(vm, &ports[0].interface, plan.device.driver())?;
        checks::udp_echo(vm, ports[0].tap.subnet(), Family::V4, &[1, 1472])
    })
}

fn sigterm_ends_an_idle_serve(tests: &Tests) -> Result<()> {
    tests.without_guest(|stage| {
        let mut lab = Lab::new(stage, TWO_PORTS)?;
        lab.start_serve()?;
        lab.stop()
    })
}

fn interface_has_its_mac_and_driver(tests: &Tests) -> Result<()> {
    tests.in_guest(ONE_PORT, |lab| {
        let Parts { vm, ports, .. } = lab.parts()?;
        let interface = checks::interface_with(vm, &ports[0].mac)?;
        checks::driver_is(vm, &interface, ONE_PORT.device.driver())?;
        lab.network_works()
    })
}

/// Payloads from 0 to a full frame that may not be fragmented, and beyond.
fn ping_sizes(tests: &Tests) -> Result<()> {
    let whole = |payload| Ping {
        payload,
        whole: true,
    };
    tests.in_guest(ONE_PORT, |lab| {
        let Parts { vm, ports, assets } = lab.parts()?;
        let subnet = ports[0].tap.subnet();
        for ping in [0, 1, 2, 17, 18, 19, 999, 1471, 1472].map(whole) {
            checks::ping_both_ways(assets, vm, subnet, Family::V4, ping)?;
        }
        for ping in [0, 1, 1452].map(whole) {
            checks::ping_both_ways(assets, vm, subnet, Family::V6, ping)?;
        }
        let fragmented = Ping {
            payload: 20_001,
            whole: false,
        };
        checks::ping_both_ways(assets, vm, subnet, Family::V4, fragmented).map(drop)
    })
}

fn udp_sizes(tests: &Tests) -> Result<()> {
    tests.in_guest(ONE_PORT, |lab| {
        let Parts { vm, ports, .. } = lab.parts()?;
        for family in Family::BOTH {
            checks::udp_echo(
                vm,
                ports[0].tap.subnet(),
                family,
                &[1, 17, 1000, 1472, 4000],
            )?;
        }
        Ok(())
    })
}

/// Checksums and segmentation are done by the driver, or by the device.
fn tcp_with_offloads_off_and_on(tests: &Tests) -> Result<()> {
    tests.in_guest(ONE_PORT, |lab| {
        let Parts { vm, ports, .. } = lab.parts()?;
        let (interface, subnet) = (&ports[0].interface, ports[0].tap.subnet());
        for state in ["off", "on"] {
            vm.sh(&format!(
                "ethtool -K {interface} tx {state} sg {state} tso {state} rx {state} gro {state}"
            ))?;
            for family in Family::BOTH {
                tcp::there_and_back(vm, subnet, family, 4 << 20)
                    .with_context(|| format!("{family} with offloads {state}"))?;
                checks::udp_echo(vm, subnet, family, &[1000])
                    .with_context(|| format!("{family} with offloads {state}"))?;
            }
        }
        Ok(())
    })
}

/// Every packet counter has to be above 0, including the hardware's (`hc_`) where the
/// driver reads them.
fn statistics_count(tests: &Tests) -> Result<()> {
    tests.in_guest(ONE_PORT, |lab| {
        lab.network_works()?;
        let Parts { vm, ports, .. } = lab.parts()?;
        let counters = checks::statistics(vm, &ports[0].interface)?;
        let of = |name: &str| {
            counters
                .iter()
                .find(|(counter, _)| counter == name)
                .map(|(_, value)| *value)
        };
        let mut wanted = vec!["tx_0_packets", "tx_0_bytes", "rx_0_packets", "rx_0_bytes"];
        if counters.iter().any(|(name, _)| name.starts_with("hc_")) {
            wanted.extend([
                "hc_tx_bytes",
                "hc_tx_ucast_pkts",
                "hc_rx_bytes",
                "hc_rx_ucast_pkts",
            ]);
        }
        for name in wanted {
            let value =
                of(name).with_context(|| format!("no counter {name} among {counters:?}"))?;
            ensure!(value > 0, "{name} is 0 after traffic; all: {counters:?}");
        }
        Ok(())
    })
}

fn module_reloads_five_times(tests: &Tests) -> Result<()> {
    tests.in_guest(ONE_PORT, |lab| {
        for round in 1..=5 {
            reload(lab).with_context(|| format!("round {round}"))?;
        }
        Ok(())
    })
}

fn reload(lab: &mut Lab) -> Result<()> {
    let Parts { vm, ports, .. } = lab.parts()?;
    vm.sh(&format!("rmmod {}", ONE_PORT.device.driver()))?;
    if checks::interface_with(vm, &ports[0].mac).is_ok() {
        bail!("the interface is still there without its driver");
    }
    bring_up(lab)
}

/// The kernel offers a reset of a function that has a function-level reset, and nothing
/// else here would offer one.
fn function_is_reset_between_two_drivers(tests: &Tests) -> Result<()> {
    tests.in_guest(ONE_PORT, |lab| {
        let Parts { vm, ports, .. } = lab.parts()?;
        let device = format!("/sys/class/net/{}/device", ports[0].interface);
        let function = vm.sh(&format!("basename $(readlink -f {device})"))?;
        let function = function.trim();
        let methods = vm.sh(&format!("cat /sys/bus/pci/devices/{function}/reset_method"))?;
        ensure!(
            methods.split_whitespace().any(|method| method == "flr"),
            "the kernel resets {function} by: {methods}"
        );
        // The driver is not notified of a reset, so it is unbound meanwhile; it leaves
        // the hardware channel established, which the reset has to undo.
        vm.sh(&format!(
            "echo {function} >/sys/bus/pci/devices/{function}/driver/unbind && \
             echo 1 >/sys/bus/pci/devices/{function}/reset && \
             echo {function} >/sys/bus/pci/drivers/mana/bind"
        ))?;
        bring_up(lab)
    })
}

fn link_goes_down_and_up_twenty_times(tests: &Tests) -> Result<()> {
    tests.in_guest(ONE_PORT, |lab| {
        for round in 1..=20 {
            bounce(lab).with_context(|| format!("round {round}"))?;
        }
        lab.network_works()
    })
}

fn bounce(lab: &mut Lab) -> Result<()> {
    let Parts { vm, ports, .. } = lab.parts()?;
    vm.sh(&format!("ip link set {} down", ports[0].interface))?;
    lab.configure()?;
    let Parts { vm, ports, assets } = lab.parts()?;
    for family in Family::BOTH {
        checks::ping_both_ways(assets, vm, ports[0].tap.subnet(), family, Ping::default())?;
    }
    Ok(())
}

fn guest_reboots(tests: &Tests) -> Result<()> {
    tests.in_guest(ONE_PORT, |lab| {
        lab.parts()?.vm.reboot()?;
        bring_up(lab)
    })
}

/// The driver can't shut the device down.
fn guest_crashes_and_boots_again(tests: &Tests) -> Result<()> {
    tests.in_guest(ONE_PORT, |lab| {
        lab.parts()?.vm.crash()?;
        bring_up(lab)
    })
}

/// Nor can QEMU.
fn vmm_is_killed_and_another_connects(tests: &Tests) -> Result<()> {
    tests.in_guest(ONE_PORT, |lab| {
        lab.kill_vm();
        lab.check_serve()?;
        lab.start_vm()?;
        bring_up(lab)
    })
}

fn two_ports(tests: &Tests) -> Result<()> {
    tests.in_guest(TWO_PORTS, |lab| {
        let Parts { vm, ports, .. } = lab.parts()?;
        ensure!(
            ports[0].interface != ports[1].interface,
            "both ports are one interface"
        );
        for port in ports {
            checks::driver_is(vm, &port.interface, TWO_PORTS.device.driver())?;
        }
        lab.network_works()
    })
}

/// Tagged frames leave by one port, cross a bridge on the host, and arrive at the
/// other. The bridge only has to forward the tags.
fn vlan_between_two_ports(tests: &Tests) -> Result<()> {
    tests.in_guest(TWO_PORTS, |lab| {
        let stage = Arc::clone(lab.stage());
        let Parts { vm, ports, .. } = lab.parts()?;
        let [one, two] = ports else {
            return Err(anyhow!("not two ports"));
        };
        let _bridge = Bridge::between(&stage.sandbox, &stage.assets.ip(), "br0", &[&one.tap, &two.tap])?;
        vm.sh(&format!(
            "modprobe 8021q && ip netns add peer \
             && ip link add link {} name near type vlan id 7 && ip address add 198.51.100.1/24 dev near \
             && ip link set near up \
             && ip link add link {} name far type vlan id 7 && ip link set far netns peer \
             && ip -n peer address add 198.51.100.2/24 dev far && ip -n peer link set far up",
            one.interface, two.interface
        ))?;
        let far_end = "198.51.100.2".parse().context("not an address")?;
        for payload in [1, 1472] {
            let ping = Ping { payload, whole: true };
            checks::ping_from_guest(vm, ping, far_end)?;
        }
        vm.sh("ip link delete near && ip -n peer link delete far && ip netns delete peer")?;
        Ok(())
    })
}

/// A Linux guest creates more queues, and uses them from both processors.
fn two_processors(tests: &Tests) -> Result<()> {
    tests.in_guest(
        Plan {
            cpus: 2,
            ..ONE_PORT
        },
        |lab| {
            lab.network_works()?;
            let Parts { vm, ports, .. } = lab.parts()?;
            let online = vm.sh("nproc")?;
            ensure!(
                online.trim() == "2",
                "the guest has {} processors",
                online.trim()
            );
            tcp::there_and_back(vm, ports[0].tap.subnet(), Family::V4, 16 << 20).map(drop)
        },
    )
}

/// A port of two queues: the guest uses both, steers by its table, and changes their
/// number while it is up.
fn two_queues(tests: &Tests) -> Result<()> {
    /// Connections, each of which the table steers to one queue of the two.
    const FLOWS: usize = 12;
    let plan = Plan {
        cpus: 2,
        queues: 2,
        ..ONE_PORT
    };
    tests.in_guest(plan, |lab| {
        lab.network_works()?;
        let Parts { vm, ports, .. } = lab.parts()?;
        let (name, subnet) = (ports[0].interface.clone(), ports[0].tap.subnet());
        let channels = |vm: &mut Vm, wanted: &str| {
            let shown = vm.sh(&format!("ethtool -l {name}"))?;
            let combined = |line: &&str| line.starts_with("Combined:");
            let combined = shown.lines().filter(combined).map(|line| &line[9..]);
            let combined: Vec<_> = combined.map(str::trim).collect();
            ensure!(combined == ["2", wanted], "not 2 and {wanted}: {shown}");
            Ok(())
        };
        let received = |vm: &mut Vm, queue: usize| -> Result<u64> {
            let counter = format!("rx_{queue}_packets");
            let shown = vm.sh(&format!("ethtool -S {name}"))?;
            let line = shown.lines().find(|line| line.contains(&counter));
            let count = line.and_then(|line| line.split(':').nth(1));
            let count = count.with_context(|| format!("no {counter}: {shown}"))?;
            Ok(count.trim().parse()?)
        };
        let flows = |vm: &mut Vm| {
            let each = |_| tcp::there_and_back(vm, subnet, Family::V4, 64 << 10).map(drop);
            (0..FLOWS).try_for_each(each)
        };
        channels(vm, "2")?;
        flows(vm)?;
        for queue in 0..2 {
            ensure!(received(vm, queue)? > 0, "queue {queue} received nothing");
        }
        // All to the first queue, by the table, and to both again.
        vm.sh(&format!("ethtool -X {name} equal 1"))?;
        let before = received(vm, 1)?;
        flows(vm)?;
        let after = received(vm, 1)?;
        ensure!(after == before, "steered away, and {before} became {after}");
        vm.sh(&format!("ethtool -X {name} equal 2"))?;
        flows(vm)?;
        ensure!(received(vm, 1)? > after, "not steered back");
        // A user's table has to match the number of queues, so restore the driver's
        // own.
        vm.sh(&format!("ethtool -X {name} default"))?;
        for count in ["1", "2", "1", "2"] {
            vm.sh(&format!("ethtool -L {name} combined {count}"))?;
            channels(vm, count)?;
            flows(vm)?;
        }
        let failures: u64 = lab.control(0)?.inspect("runtime/failures")?;
        ensure!(failures == 0, "the component failed {failures} times");
        Ok(())
    })
}

/// A chipset's registers decide the layout of low memory. When one changes, QEMU revokes
/// guest memory from the device while its rings are in use, and gives it back.
fn memory_map_changes_under_traffic(tests: &Tests) -> Result<()> {
    /// PAM0 of q35's memory controller.
    const CHANGES: &str = "cd /sys/bus/pci/devices/0000:00:00.0 && \
        for round in $(seq 40); do for value in '\\060' '\\020'; do \
        printf $value | dd of=config bs=1 seek=144 conv=notrunc 2>/dev/null || exit 1; \
        done; done && echo changed";
    tests.in_guest(
        Plan {
            cpus: 2,
            ..ONE_PORT
        },
        |lab| {
            lab.network_works()?;
            let Parts { vm, ports, .. } = lab.parts()?;
            let subnet = ports[0].tap.subnet();
            vm.sh(&format!("({CHANGES}) >/tmp/changes 2>&1 &"))?;
            for _ in 0..3 {
                tcp::there_and_back(vm, subnet, Family::V4, 16 << 20)?;
            }
            let changes =
                vm.sh("while [ ! -s /tmp/changes ]; do sleep 1; done; cat /tmp/changes")?;
            ensure!(
                changes.trim() == "changed",
                "the registers did not change: {changes}"
            );
            tcp::there_and_back(vm, subnet, Family::V4, 1 << 20)?;
            let failures: u64 = lab.control(0)?.inspect("runtime/failures")?;
            ensure!(
                failures == 0,
                "the device's component failed {failures} times"
            );
            Ok(())
        },
    )
}
