//! `manatee capture`, and the server's side of it.

mod captures;
mod pcapng;
mod ring;

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use anyhow::{Context, ensure};
use manatee_control::method::Captured;
use manatee_control::{Capture, Client, ClientError};
use tokio::runtime::{self, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

pub use captures::Captures;

/// The status of a command that a signal ended at once.
const INTERRUPTED: i32 = 130;

/// Capture the packets of a port, as pcapng
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Capture the packets of a port as they pass, as pcapng: with times in \
        nanoseconds, direction, queue, and the number that were dropped from the \
        capture.\n\n\
        Offloads are shown carried out: checksums are computed, tags inserted. A \
        packet for segmentation is shown whole. The device does not wait for the \
        capture: of packets that are not read in time, as many as fit into the ring are \
        kept.\n\n\
        It ends on SIGINT and SIGTERM, when its reader ends, and with the device.",
    after_help = "Examples:\n\n  \
        manatee capture --control /tmp/nic.control 0 -w nic0.pcapng\n  \
        manatee capture --control /tmp/nic.control 0 | tshark -r -"
)]
pub struct Arguments {
    /// The control socket that `manatee serve` was given
    #[arg(long, value_name = "PATH")]
    control: PathBuf,

    /// The number of the port: 0 is the first
    #[arg(value_name = "PORT")]
    port: u32,

    /// Where to write; `-` is the standard output
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    write: PathBuf,

    /// Keep at most this many bytes of each packet
    #[arg(long, value_name = "BYTES", default_value_t = *Capture::SNAPLEN.end(),
        value_parser = clap::value_parser!(u32).range(bounds(Capture::SNAPLEN)))]
    snaplen: u32,

    /// Keep up to this many MiB of packets that wait to be written
    #[arg(long, value_name = "MIB", default_value_t = 4,
        value_parser = clap::value_parser!(u64).range(Capture::RING_BYTES.start() >> 20..=Capture::RING_BYTES.end() >> 20))]
    ring: u64,
}

fn bounds(range: std::ops::RangeInclusive<u32>) -> std::ops::RangeInclusive<i64> {
    i64::from(*range.start())..=i64::from(*range.end())
}

/// Captures until a signal ends it, or its reader ends.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut output = Output::open(&arguments.write)?;
    let asked = Capture {
        port: arguments.port,
        snaplen: arguments.snaplen,
        ring_bytes: arguments.ring << 20,
    };
    // Before the first packet, so that the file is complete however early a signal comes.
    let signals = Signals::catch().context("catching signals")?;
    let (capturing, pipe) = Client::connect(&arguments.control)?.capture(asked)?;
    let ending = signals.end(arguments.control.clone(), capturing.capture)?;
    let mut pipe = File::from(pipe);
    let copied = io::copy(&mut pipe, &mut output.file);
    // The reader is gone: do not wait for further packets.
    drop(pipe);
    match copied {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(error).with_context(|| {
            let name = output.name;
            format!(
                "writing {name}: the capture has ended, and {name} can be read up to that point"
            )
        }),
        Ok(_) => {
            ending.say();
            Ok(())
        }
    }
}

/// The destination of packets.
struct Output {
    file: File,
    name: String,
}

impl Output {
    fn open(path: &Path) -> anyhow::Result<Self> {
        if path != Path::new("-") {
            let name = path.display().to_string();
            let file = File::create(path).with_context(|| format!("writing {name}"))?;
            return Ok(Self { file, name });
        }
        let stdout = io::stdout();
        ensure!(
            !stdout.is_terminal(),
            "packets are not for a terminal: name a file (-w FILE), or pipe them into a program \
             (| tshark -r -)"
        );
        let file = stdout.as_fd().try_clone_to_owned()?;
        Ok(Self {
            file: file.into(),
            name: "the standard output".to_owned(),
        })
    }
}

/// Signals that end a capture.
struct Signals {
    runtime: Runtime,
    interrupt: Signal,
    terminate: Signal,
}

/// How a signal ends a capture.
struct Ending {
    asked: Arc<AtomicBool>,
    outcome: Receiver<Result<Captured, ClientError>>,
}

impl Signals {
    fn catch() -> io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let entered = runtime.enter();
        let interrupt = signal(SignalKind::interrupt())?;
        let terminate = signal(SignalKind::terminate())?;
        drop(entered);
        Ok(Self {
            runtime,
            interrupt,
            terminate,
        })
    }

    /// Ends a capture at the first signal: packets captured until then are still written, unless
    /// another signal comes.
    fn end(mut self, control: PathBuf, capture: u64) -> io::Result<Ending> {
        let (told, outcome) = channel();
        let asked = Arc::new(AtomicBool::new(false));
        let asks = asked.clone();
        let wait = move || {
            self.wait();
            asks.store(true, Ordering::Release);
            let client = Client::connect(&control);
            // The client may have disconnected.
            let _ = told.send(client.and_then(|mut client| client.end_capture(capture)));
            self.wait();
            std::process::exit(INTERRUPTED);
        };
        thread::Builder::new().spawn(wait)?;
        Ok(Ending { asked, outcome })
    }

    /// Waits for a signal.
    fn wait(&mut self) {
        let Self {
            runtime,
            interrupt,
            terminate,
        } = self;
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
    }
}

impl Ending {
    /// Reports the counters of the capture, which was written completely.
    fn say(&self) {
        let asked = self.asked.load(Ordering::Acquire);
        match asked.then(|| self.outcome.recv()) {
            Some(Ok(Ok(captured))) => eprintln!(
                "{} packets captured, {} dropped because writing was too slow",
                captured.packets, captured.dropped
            ),
            Some(Ok(Err(error))) => eprintln!("the capture has ended: {error}"),
            Some(Err(_)) | None => {
                eprintln!(
                    "the capture has ended, because the device has ended or another client ended it"
                );
            }
        }
    }
}
