//! Serves a stock Linux guest from a confined process, and then tries every way to
//! escape from its jail.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Parser;
use manatee_guest_linux::assets::beside_this_program;
use manatee_guest_linux::control::{Control, Swap};
use manatee_guest_linux::deadline::Deadline;
use manatee_guest_linux::lab::{Lab, Parts, Plan};
use manatee_guest_linux::netns::Family;
use manatee_guest_linux::opening::{self, unaware};
use manatee_guest_linux::process::output_of;
use manatee_guest_linux::report::{self, Report};
use manatee_guest_linux::round_trips::RoundTrips;
use manatee_guest_linux::serve::{PortArgument, Serve, Start};
use manatee_guest_linux::stage::{Options, Stage};
use manatee_guest_linux::traffic::{Outcome, Traffic};
use serde_json::Value;

const PLAN: Plan = Plan::ONE_PORT;

/// How many datagrams have to arrive both ways between two checks of the device.
const BETWEEN: u64 = 100;

/// How long these may take.
const WITHIN: Duration = Duration::from_secs(60);

/// How many datagrams the rate is measured over.
const RATE_OVER: u64 = 1000;

/// How long a component that is built to crash may take to do so.
const CRASH_WITHIN: Duration = Duration::from_secs(120);

/// The facts about confinement in a process's status.
const FIELDS: [&str; 5] = ["Uid", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp"];

/// The signal by which a filter ends a process.
const SIGSYS: i32 = 31;

/// Serves a stock Linux guest from a confined process, and tries every way to escape.
#[derive(Parser)]
#[command(name = "jail-demo")]
struct Arguments {
    /// The test build of `manatee` that tries to escape [default: `manatee-escape` next to
    /// this program]
    #[arg(long, value_name = "PATH")]
    escape: Option<PathBuf>,
    #[command(flatten)]
    options: Options,
}

fn main() -> ExitCode {
    report::conclude("jail-demo", show(&Arguments::parse()))
}

fn show(arguments: &Arguments) -> Result<()> {
    let escape = match &arguments.escape {
        Some(path) => path.clone(),
        None => beside_this_program("manatee-escape", "jail-demo")?,
    };
    let stage = Arc::new(Stage::set(&arguments.options)?);
    let kernel = &stage.kernel.release;
    let report = Report::begin(&format!(
        "A confined process that serves a stock Linux {kernel}, and every way out of it"
    ));
    let mut lab = opening::network(&report, &stage, PLAN)?;
    match steps(&report, &mut lab).and_then(|()| ways_out(&report, &mut lab, &escape)) {
        Ok(()) => {
            println!("  all of it in {}", report.total());
            Ok(())
        }
        Err(error) => Err(lab.with_evidence(error)),
    }
}

/// Runs the steps: a guest has traffic while its device is replaced, crashes, and is
/// rolled back.
fn steps(report: &Report, lab: &mut Lab) -> Result<()> {
    let dir = lab.stage().sandbox.run_dir().to_owned();
    let next = write(&dir, "next.wasm", manatee_variants::NEXT)?;
    let faulty = write(&dir, "faulty.wasm", manatee_variants::FAULTY)?;
    opening::guest(report, lab, PLAN, &[])?;
    report.step("jail", || confined(lab))?;
    let healthy = lab.health()?;
    let traffic = report.step_with("traffic", || {
        let Parts { vm, ports, .. } = lab.parts()?;
        let traffic = Traffic::start(vm, &ports[0])?;
        Ok((traffic, "datagrams and TCP, both ways at once".to_owned()))
    })?;
    let control = lab.control(0)?;
    report.step("swap", || {
        let swap = control.swap(&next, true)?;
        Ok(format!("compiled, checked and replaced: {}", words(&swap)))
    })?;
    report.step("rollback", || {
        traffic.wait_for_more(BETWEEN, WITHIN)?;
        Ok(words(&control.rollback()?))
    })?;
    let pings = || {
        let guest = lab.ports()[0].tap.subnet().guest(Family::V4);
        RoundTrips::start(&lab.stage().assets, guest)
    };
    report.step("bomb", || bomb(&control, &traffic, &dir, pings))?;
    report.step("crash", || crash(&control, &traffic, &faulty))?;
    report.step("guest", || unaware(lab, &healthy))?;
    let outcome = report.step_with("end of it", || {
        let Parts { vm, ports, .. } = lab.parts()?;
        let outcome = traffic.finish(vm, &ports[0])?;
        Ok((outcome, "both ends have told what they received".to_owned()))
    })?;
    report.step("bytes", || whole(&outcome))?;
    report.step("end", || {
        lab.stop()?;
        Ok("`manatee serve` ended cleanly on SIGTERM".to_owned())
    })
}

fn write(dir: &Path, name: &str, wasm: &[u8]) -> Result<PathBuf> {
    let path = dir.join(name);
    fs::write(&path, wasm)?;
    Ok(path)
}

fn words(swap: &Swap) -> String {
    let Swap {
        from, to, pause_us, ..
    } = swap;
    format!("{to} instead of {from}, after a pause of {pause_us} us")
}

/// Reads the kernel's status of a process of this namespace; `/proc` is that of the outer
/// namespace.
fn status_of(pid: u32) -> Result<String> {
    let here = pid.to_string();
    for entry in fs::read_dir("/proc")? {
        // Processes start and end, and not every entry is one.
        let Ok(status) = fs::read_to_string(entry?.path().join("status")) else {
            continue;
        };
        let field = |name| status.lines().find_map(|line| line.strip_prefix(name));
        let is_it = field("NSpid:").and_then(|pids| pids.split_whitespace().last()) == Some(&here);
        if is_it && field("Name:").is_some_and(|name| name.trim() == "manatee") {
            return Ok(status);
        }
    }
    anyhow::bail!("the kernel shows no process {pid}")
}

/// Checks what the kernel and `manatee inspect` report about the serving process.
fn confined(lab: &mut Lab) -> Result<String> {
    let pid = lab.serve_pids()[0];
    let status = status_of(pid)?;
    let mut shown = Vec::new();
    for name in FIELDS {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let value = line.and_then(|line| line.strip_prefix(':'));
        let value = value.with_context(|| format!("the kernel shows no {name}"))?;
        let value = value.split_whitespace().next().unwrap_or_default();
        shown.push(format!("{name} {value}"));
    }
    let expected = ["CapEff 0000000000000000", "NoNewPrivs 1", "Seccomp 2"];
    for fact in expected {
        ensure!(shown.iter().any(|s| s == fact), "no {fact} in {shown:?}");
    }
    let jail: Value = lab.control(0)?.inspect("process/jail")?;
    let abi = jail["landlock_abi"].as_i64();
    let abi = abi.context("`manatee inspect` shows no landlock")?;
    Ok(format!("{}, landlock {abi}", shown.join(", ")))
}

/// Offers a component that exhausts the compiler, and measures the traffic meanwhile.
fn bomb(
    control: &Control,
    traffic: &Traffic,
    dir: &Path,
    ping: impl Fn() -> Result<RoundTrips>,
) -> Result<String> {
    let bomb = write(dir, "bomb.wasm", &wat::parse_str(manatee_variants::bomb())?)?;
    let (begun, pings) = (Instant::now(), ping()?);
    traffic.wait_for_more(RATE_OVER, WITHIN)?;
    let before = RATE_OVER as f64 / begun.elapsed().as_secs_f64();
    let p99_before = pings.finish()?;
    let (begun, pings) = (Instant::now(), ping()?);
    let (refused, count, seconds) = thread::scope(|scope| {
        let offer = scope.spawn(|| control.swap(&bomb, false));
        let mut count = 0;
        while !offer.is_finished() {
            traffic.wait_for_more(BETWEEN, WITHIN)?;
            count += BETWEEN;
        }
        let seconds = begun.elapsed().as_secs_f64();
        let refused = offer.join().map_err(|_| anyhow!("the offer panicked"))?;
        anyhow::Ok((refused, count, seconds))
    })?;
    let p99 = pings.finish()?;
    let refused = match refused {
        Err(refused) => refused.to_string(),
        Ok(swap) => bail!("it was swapped in: {}", words(&swap)),
    };
    let words = refused
        .split_once("bomb.wasm ")
        .map(|(_, words)| words.trim());
    let words = words.filter(|words| words.starts_with("takes more than"));
    let words = words.with_context(|| format!("refused for another reason: {refused}"))?;
    Ok(format!(
        "it {words}; {before:.0} datagrams a second came both ways before, {:.0} meanwhile; \
         99 of 100 pings took at most {p99_before:.1} ms before, {p99:.1} meanwhile",
        count as f64 / seconds
    ))
}

/// Swaps to a component that crashes, and waits until the previous one is back.
fn crash(control: &Control, traffic: &Traffic, faulty: &Path) -> Result<String> {
    let before: u64 = control.inspect("runtime/failures")?;
    let swap = control.swap(faulty, false)?;
    let deadline = Deadline::after(CRASH_WITHIN);
    loop {
        traffic.wait_for_more(BETWEEN, WITHIN)?;
        let failures: u64 = control.inspect("runtime/failures")?;
        let state: String = control.inspect("runtime/state")?;
        ensure!(state == "running", "the device is {state}");
        if failures > before {
            let swaps: Vec<Value> = control.inspect("runtime/swaps")?;
            let back = swaps.iter().filter(|swap| swap["rollback"] == true).count();
            return Ok(format!(
                "{} crashed {} times; continued with a fresh instance, {back} rollbacks in all",
                swap.to,
                failures - before
            ));
        }
        ensure!(
            deadline.remaining().is_some(),
            "a component that is built to crash has not within {CRASH_WITHIN:?}"
        );
    }
}

/// Checks that TCP has retransmitted what a crash lost.
fn whole(outcome: &Outcome) -> Result<String> {
    for way in [&outcome.to_guest, &outcome.from_guest] {
        way.check_bytes()?;
    }
    Ok(format!(
        "to the guest: {}; from it: {}",
        outcome.to_guest, outcome.from_guest
    ))
}

/// An escape, as the test build lists it.
struct Way {
    name: String,
    expected: String,
    aim: String,
}

fn ways(escape: &Path) -> Result<Vec<Way>> {
    let mut command = Command::new(escape);
    command.args(["escape", "--list"]);
    let parse = |line: &str| {
        let mut fields = line.split('\t').map(str::to_owned);
        match (fields.next(), fields.next(), fields.next()) {
            (Some(name), Some(expected), Some(aim)) => Ok(Way {
                name,
                expected,
                aim,
            }),
            _ => bail!("{} lists a way as: {line}", escape.display()),
        }
    };
    output_of(command)?.lines().map(parse).collect()
}

/// Tries every escape, from inside a serving process.
fn ways_out(report: &Report, lab: &mut Lab, escape: &Path) -> Result<()> {
    println!("  what a process that serves can't do, though it tries to:");
    let ways = ways(escape)?;
    ensure!(!ways.is_empty(), "the test build knows no way out");
    let mut serve = None;
    for (number, way) in ways.iter().enumerate() {
        let mut running = match serve.take() {
            Some(running) => running,
            None => start(lab, escape, number + 1)?,
        };
        report.step(&way.name, || {
            let stopped = attempt(escape, &mut running, way)?;
            Ok(format!("{}: {stopped}", way.aim))
        })?;
        // A killed process is replaced by another.
        serve = running.check_running().is_ok().then_some(running);
    }
    serve.map_or(Ok(()), Serve::stop)
}

fn start(lab: &mut Lab, escape: &Path, number: usize) -> Result<Serve> {
    let dir = lab.stage().sandbox.run_dir().to_owned();
    let port = lab.ports().first().context("there is no port")?;
    Serve::start(&Start {
        manatee: escape,
        dir: &dir,
        number,
        component: None,
        kept: false,
        ports: &[PortArgument {
            tap: port.tap.name(),
            mac: &port.mac,
            queues: port.queues,
        }],
    })
}

/// Tries an escape, and checks that the expected mechanism stopped it.
fn attempt(escape: &Path, serve: &mut Serve, way: &Way) -> Result<String> {
    let control = Control::new(escape, serve.control());
    let mut stopped = control.escape(&way.name)?;
    if stopped == "the process ended" {
        let status = serve.wait_end()?;
        ensure!(
            status.signal() == Some(SIGSYS),
            "the process ended with {status}"
        );
        ensure!(!serve.socket().exists(), "it has left its socket behind");
        stopped = "killed by seccomp".to_owned();
    }
    ensure!(
        stopped == way.expected,
        "to {}: {stopped}, where {} was expected",
        way.aim,
        way.expected
    );
    Ok(stopped)
}
