//! Kills the process that serves a stock Linux guest with traffic, again and again.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use manatee_guest_linux::control::Control;
use manatee_guest_linux::lab::{Lab, Parts, Plan};
use manatee_guest_linux::opening::{self, finish, same_guest, talk};
use manatee_guest_linux::report::{self, Report};
use manatee_guest_linux::spread::Spread;
use manatee_guest_linux::stage::Options;
use manatee_guest_linux::traffic::{Traffic, Way};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Datagrams that arrive both ways between two kills: those of half a second, after which the keeper
/// starts the next process at once.
const BETWEEN: u64 = 256;
/// The longest time from these to the kill.
const LATER: Duration = Duration::from_millis(4);
/// The time limit for these, and for the next process to answer.
const WITHIN: Duration = Duration::from_secs(60);
/// Packets of a queue that are handed over at a time: what a death may lose each way.
const BATCH: u64 = 64;
/// Where the guest writes how a command ended.
const DONE: &str = "/tmp/configured";
/// What the guest does to its adapter while the process is killed.
const COMMANDS: [&str; 3] = [
    "ip link set {} mtu 1400; ip link set {} mtu 1500",
    "ip link set {} down; ip link set {} up",
    "ethtool -G {} rx 256 tx 256; ethtool -G {} rx 512 tx 512",
];

/// Kills the process that serves a stock Linux guest with traffic, and counts what is lost,
/// doubled and reordered.
#[derive(Parser)]
#[command(name = "kill-demo")]
struct Arguments {
    /// Number of kills under traffic
    #[arg(long, default_value_t = 200)]
    kills: usize,
    /// Number of kills while the guest configures its adapter
    #[arg(long, default_value_t = 20)]
    configurations: usize,
    /// Number of queue pairs. With several, the kernel may move a flow from one of the TAP's
    /// queues to another, and packets that wait at one that the guest does not empty are dropped: what is lost
    /// and reordered to the guest is then reported, and not required
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=4))]
    queues: u16,
    /// Seed of the moments
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    options: Options,
}

fn main() -> ExitCode {
    report::conclude("kill-demo", show(&Arguments::parse()))
}

fn show(arguments: &Arguments) -> Result<()> {
    let what = format!("{} deaths of the process", arguments.kills);
    let (options, plan) = (&arguments.options, arguments.plan());
    opening::perform(&what, options, plan, Lab::keep, |report, lab| {
        steps(report, lab, arguments)
    })
}

impl Arguments {
    fn plan(&self) -> Plan {
        Plan {
            cpus: if self.queues > 1 { 2 } else { 1 },
            queues: self.queues,
            ..Plan::ONE_PORT
        }
    }
}

fn steps(report: &Report, lab: &mut Lab, arguments: &Arguments) -> Result<()> {
    let mut moments = Moments(arguments.seed);
    opening::guest(report, lab, arguments.plan(), &[])?;
    let healthy = lab.health()?;
    report.step("swap", || {
        let next: PathBuf = lab.stage().sandbox.run_dir().join("next.wasm");
        std::fs::write(&next, manatee_variants::NEXT)?;
        let swap = lab.control(0)?.swap(&next, false)?;
        Ok(format!("{} runs, which was swapped in", swap.to))
    })?;
    let traffic = talk(report, lab)?;
    report.step("deaths", || {
        let words = die(lab, &traffic, &mut moments, arguments.kills)?;
        let version: String = lab.control(0)?.inspect("component/version")?;
        Ok(format!("{words}; {version} still runs"))
    })?;
    report.step("guest", || {
        let words = same_guest(lab, &healthy)?;
        Ok(format!("{words}; QEMU is still connected"))
    })?;
    finish(report, lab, traffic, |way| check(way, arguments))?;
    report.step("configuring", || {
        configure(lab, &mut moments, arguments.configurations)
    })?;
    report.step("end", || {
        lab.stop()?;
        Ok("the keeper and `manatee serve` ended cleanly on SIGTERM".to_owned())
    })
}

/// Kills the process under traffic.
fn die(lab: &Lab, traffic: &Traffic, moments: &mut Moments, kills: usize) -> Result<String> {
    let control = lab.control(0)?;
    let mut took = Vec::new();
    for number in 1..=kills {
        traffic.wait_for_more(BETWEEN + moments.below(BETWEEN / 8), WITHIN)?;
        let killed = moments.kill(&control);
        took.push(killed.with_context(|| format!("death {number} of {kills}"))?);
    }
    traffic.wait_for_more(BETWEEN, WITHIN)?;
    let took = Spread::of(took).context("nothing was killed")?;
    Ok(format!(
        "{kills}; from SIGKILL until the next process answers {took}"
    ))
}

/// Kills the process while the guest configures its adapter, and checks that it works afterwards.
fn configure(lab: &mut Lab, moments: &mut Moments, times: usize) -> Result<String> {
    let control = lab.control(0)?;
    for number in 0..times {
        let Parts { vm, ports, .. } = lab.parts()?;
        let command = COMMANDS[number % COMMANDS.len()].replace("{}", &ports[0].interface);
        vm.sh(&format!(
            "rm -f {DONE}; mkfifo {DONE}; ({command}; echo $?) >{DONE} 2>&1 &"
        ))?;
        moments
            .kill(&control)
            .with_context(|| format!("while the guest did: {command}"))?;
        let Parts { vm, ports, .. } = lab.parts()?;
        // It ends when the command has.
        let done = vm.sh(&format!("cat {DONE}"))?;
        let status = done.lines().last();
        ensure!(status == Some("0"), "{command}: {done}");
        let host = ports[0]
            .tap
            .subnet()
            .host(manatee_guest_linux::netns::Family::V4);
        vm.sh(&format!("ping -c 3 -i 0.2 -W 10 {host}"))
            .with_context(|| format!("after the guest did: {command}"))?;
    }
    Ok(format!(
        "{times} deaths, and the guest's network works after each"
    ))
}

/// Checks that nothing arrived twice or out of order, that no more is missing than could be in flight
/// when the process died, and that TCP delivered every byte.
fn check(way: &Way, arguments: &Arguments) -> Result<String> {
    let tally = &way.0.datagrams;
    ensure!(
        tally.doubled == 0 && tally.corrupt == 0,
        "datagrams: {tally}"
    );
    let bound = arguments.kills as u64 * BATCH;
    if arguments.queues == 1 {
        ensure!(tally.reordered == 0, "datagrams: {tally}");
        ensure!(
            tally.lost <= bound,
            "datagrams: {tally}, of which {bound} may be lost"
        );
    }
    way.check_bytes()?;
    Ok(format!("{way} (up to {bound} may be lost)"))
}

/// Moments that are chosen by a seed (splitmix64).
struct Moments(u64);

impl Moments {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) % bound
    }

    /// Kills the process that serves, a moment from now. Returns how many microseconds later the next one
    /// answers.
    fn kill(&mut self, control: &Control) -> Result<u64> {
        let before: i32 = control.inspect("process/id")?;
        let later = self.below(LATER.as_micros() as u64);
        std::thread::sleep(Duration::from_micros(later));
        kill(Pid::from_raw(before), Signal::SIGKILL)?;
        let begun = Instant::now();
        // The listening socket outlives the process: the next one answers.
        let now = loop {
            match control.inspect::<i32>("process/id") {
                Ok(now) => break now,
                // The dying process still had the connection.
                Err(error) => ensure!(begun.elapsed() < WITHIN, "{error:#}"),
            }
        };
        ensure!(now != before, "process {before} still serves");
        Ok(begun.elapsed().as_micros() as u64)
    }
}
