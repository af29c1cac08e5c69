//! `manatee serve`.

mod access;
mod bounds;
mod from_keeper;
mod hand_over;
pub mod keeping;
pub mod kept;
mod listed;
mod opened;
mod running;
mod served;
mod signals;
mod sockets;
mod source;
mod standby;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use manatee::component::Component;
use manatee::memory::install_fault_handler;
use manatee_control as control;

use super::candidates::Candidates;
use super::capabilities::capabilities;
use super::links::Links;
use super::logging::{self, LogArguments, LogLevel};
use super::metrics::{self, Facts, Metrics, Observed};
use super::operator::{Operator, Surroundings};
use super::port::{self, Interface, PortArgument};
use super::rates::Rates;
use crate::jail::{self, Confinement, Ids, Jail, Role, limits};
use bounds::BoundArguments;
use keeping::Material;
use kept::Predecessor;
use manatee_keeper::line::Word;
use opened::{Asked, Opened};
use running::{Running, StreamPort};
use served::Served;
use sockets::{Handed, SocketArguments};

/// Threads that carry out commands of the control socket.
const MAX_COMMANDS: usize = 32;

const EXAMPLES: &str = "\
Examples:
  An adapter on the TAP interface tap0 (made if it is missing, which needs root):
    manatee serve --socket-path /tmp/nic.sock --port tap=tap0,mac=02:00:00:00:00:01

  A network without any privilege, by passt:
    passt --socket /tmp/passt.sock && manatee serve --socket-path /tmp/nic.sock --port stream=/tmp/passt.sock

  Two ports, one of which sends every packet back, and a control socket:
    manatee serve --socket-path /tmp/nic.sock --port tap=tap0 --port loopback --control /tmp/nic.control

The VMM has to share the guest's memory: QEMU with
  -object memory-backend-memfd,id=mem,size=1G,share=on -machine q35,memory-backend=mem
  -device '{\"driver\":\"vfio-user-pci\",\"socket\":{\"type\":\"unix\",\"path\":\"/tmp/nic.sock\"}}'
or Cloud Hypervisor with
  --memory size=1G,shared=on --user-device socket=/tmp/nic.sock

SIGTERM, SIGINT and SIGQUIT end it; sockets and TAP interfaces that it made are removed, also
when it is killed. SIGHUP, SIGUSR1 and SIGUSR2 change nothing.

A service manager may hand over the sockets (systemd: FileDescriptorName=vfio, and control).";

/// Offer a network adapter to virtual machines at a vfio-user socket
#[derive(Debug, clap::Args)]
#[command(
    arg_required_else_help = true,
    long_about = "Offer a network adapter to virtual machines at a vfio-user socket.\n\n\
        One virtual machine at a time can be attached. When it goes, the adapter returns to its \
        initial state and waits for the next.\n\n\
        Before it serves anybody the process is confined for ever: it becomes an unprivileged \
        user if it is root, has no capability, no path, no network and no other program in \
        reach (landlock), and few system calls (seccomp). `manatee inspect` shows that under \
        process/jail.",
    after_help = EXAMPLES
)]
pub struct Arguments {
    #[command(flatten)]
    sockets: SocketArguments,

    /// A port of the adapter: `tap=INTERFACE` (the host's network), `fd=N` or `fds=N:M` (queues
    /// of a TAP or macvtap that whoever starts this has opened), `stream=PATH` or
    /// `fd=N,type=stream` (a Unix stream socket, such as passt's or another guest's),
    /// `loopback` (every packet comes back) or `null` (every packet is lost). After it,
    /// `,mac=ADDRESS` (by default one that is made from the socket's path and
    /// stays the same), `,mtu=BYTES`, `,speed=MBITS` (what the guest shows as the link's
    /// speed; 100000 by default) and `,queues=NUMBER` (1 to 64; by default 1, or as many as
    /// there are processors, up to 16, for an interface that is made here), `,rate=MBITS` (how
    /// fast it sends at the most), `,spoof-check=on` (what the guest sends from another address
    /// than the port's is dropped), `,vlans=1,5-9` (the VLANs that the guest may send to and
    /// receive from; 0 is packets without a tag) and `,promiscuous=on` (the guest also receives
    /// what is addressed to others). Repeat it for more ports
    #[arg(
        long = "port",
        value_name = "KIND[,SETTING=VALUE]...",
        required_unless_present = "print_capabilities"
    )]
    ports: Vec<PortArgument>,

    /// The device's component, instead of the one that is built in
    #[arg(long, value_name = "FILE.wasm")]
    component: Option<PathBuf>,

    /// The user to become when all is open: a name, UID or UID:GID. By default
    /// `nobody` (65534) if this is root, which `--user root` stays
    #[arg(long, value_name = "USER[:GROUP]")]
    user: Option<String>,

    /// Serve without confinement: privileges, files and system calls stay within
    /// reach of whoever breaks out of the component
    #[arg(long)]
    no_sandbox: bool,

    /// Print as JSON what management software may ask a backend for, and serve nothing
    #[arg(long)]
    print_capabilities: bool,

    /// Offer counters as OpenMetrics, for Prometheus and others: at an address with its port
    /// (127.0.0.1:9464), under /metrics, or at a Unix socket, whose path has a `/`
    #[arg(long, value_name = "PATH|ADDRESS")]
    metrics: Option<metrics::Address>,

    #[command(flatten)]
    bounds: BoundArguments,

    #[command(flatten)]
    logging: LogArguments,
}

/// Serves until it is asked to end.
pub fn run(arguments: &Arguments) -> ExitCode {
    if arguments.print_capabilities {
        return match super::output::print(&format!("{:#}\n", capabilities())) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => super::output::fail(&error),
        };
    }
    // Before anything is opened.
    let handed = arguments.sockets.take();
    let (level, logged) = logging::start(&arguments.logging);
    let served = logged.and(handed);
    let line = served.as_ref().ok().and_then(Handed::copy_line);
    match served.and_then(|handed| start(arguments, handed, level)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            arguments.logging.report(&error);
            if let Some(line) = line {
                let reason = format!("{error:#}");
                // The status says so too.
                let _ = line.say(Word::Refused { reason }, &[]);
            }
            ExitCode::FAILURE
        }
    }
}

fn start(arguments: &Arguments, handed: Handed, log_level: LogLevel) -> anyhow::Result<()> {
    limits::raise_descriptors();
    let ids = jail::resolve(arguments.user.as_deref()).context("--user")?;
    // It has no thread but this one until a command comes.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(MAX_COMMANDS)
        .enable_all()
        .build();
    let runtime = runtime.context("starting the control plane")?;
    install_fault_handler().context("preparing for guest memory that goes away")?;
    let entered = runtime.enter();
    let asked = Asked {
        sockets: &arguments.sockets,
        metrics: arguments.metrics.as_ref(),
        ports: &arguments.ports,
        component: arguments.component.as_deref(),
        sandbox: !arguments.no_sandbox,
    };
    let opened = Opened::open(&asked, ids, handed)?;
    drop(entered);
    let broker = opened.broker.clone();
    let result = confine(arguments, ids).and_then(|confinement| {
        let Opened {
            signals,
            child,
            sockets,
            metrics,
            ports:
                port::Opened {
                    ports,
                    interfaces,
                    queues,
                },
            watch,
            component,
            notifier,
            broker,
            predecessor,
            kept,
            listed,
            swapped,
            mut keeper,
            waits,
            inherits,
        } = opened;
        let notifier = Arc::new(notifier);
        let candidates = Arc::new(Candidates::default());
        if let Some(source) = component.as_ref().filter(|_| swapped) {
            candidates.remember(source.digest, &source.name, &source.wasm)?;
        }
        let events = control::Events::default();
        let observed = Observed::default();
        let told = (events.clone(), observed.clone());
        let component = match &component {
            Some(source) => source.load(&mut keeper.codes, &broker)?,
            None => Component::embedded()?,
        };
        let (mut predecessor, mut kept) = (predecessor, kept);
        if let Some(line) = keeper.line.as_mut().filter(|_| waits) {
            let limits = arguments.bounds.limits();
            let left = standby::stand_by(line, predecessor, &component, &ports, limits)?;
            predecessor = Some(left.0);
            kept = left.1;
        }
        let device = Served::new(&component, ports, &arguments.bounds, told)?;
        let streams = streams(&arguments.ports, &interfaces);
        let links = Links::new(device.device.clone(), interfaces, events.clone());
        let links = Arc::new(links);
        let given = arguments.ports.iter().map(PortArgument::rate);
        let rates = Arc::new(Rates::new(device.device.clone(), given)?);
        let (mut session, mut follow) = (None, None);
        if let Some(Predecessor {
            mut hand_over,
            notes,
        }) = predecessor
        {
            follow = hand_over.take_follow();
            session = device.take_over(hand_over)?;
            links.restore(&notes.links);
            rates.restore(&notes.rates);
        }
        if inherits {
            broker.own_sockets()?;
        }
        notifier.note_stored(kept.len());
        let material = Material {
            notifier: &notifier,
            device: &device,
            sockets: &sockets,
            metrics: metrics.as_ref(),
            taps: &queues,
            listed,
            links: &links,
            rates: &rates,
            candidates: &candidates,
            kept: &kept,
        };
        let keeping = material.keep(follow).map(Arc::new);
        if keeping.is_some() {
            // The next process has the sockets, however this one ends.
            broker.leave_sockets();
        }
        let facts = Facts {
            device: device.device.clone(),
            confined: confinement.is_some(),
            broker: broker.clone(),
            log: log_level.output(),
        };
        let metrics = metrics.map(|socket| (socket, Metrics::new(facts, observed)));
        let surroundings = Surroundings {
            broker: broker.clone(),
            links: links.clone(),
            rates: rates.clone(),
            log_level,
            notifier: notifier.clone(),
            candidates: candidates.clone(),
            keeping: keeping.clone(),
            confinement,
        };
        let operator = Operator::new(surroundings, device.device.clone());
        runtime.block_on(running::serve(Running {
            device,
            operator: Arc::new(operator),
            events,
            signals,
            child,
            sockets,
            metrics,
            links,
            rates,
            watch,
            streams,
            notifier,
            broker,
            session,
            candidates,
            taps: queues,
            listed,
            line: keeper.line,
            keeping,
        }))
    });
    broker.end();
    // A control client may still wait for an answer.
    runtime.shutdown_background();
    result
}

/// Returns the ports that are streams, with the number of the [peer](peers) that each is
/// connected to.
fn streams(ports: &[PortArgument], interfaces: &[Option<Interface>]) -> Vec<StreamPort> {
    let mut peers = 0..;
    let both = ports.iter().zip(interfaces);
    both.filter_map(|(port, interface)| match interface {
        Some(Interface::Stream(link)) => Some(StreamPort {
            link: link.clone(),
            peer: port.stream().and_then(|_| peers.next()),
        }),
        _ => None,
    })
    .collect()
}

/// Confines this process, unless it is not to be.
fn confine(arguments: &Arguments, ids: Option<Ids>) -> anyhow::Result<Option<Confinement>> {
    if arguments.no_sandbox {
        tracing::warn!(
            "NOT CONFINED: --no-sandbox leaves this process its privileges, files and system calls"
        );
        return Ok(None);
    }
    let mut jail = Jail::new(Role::Server);
    jail.ids = ids;
    let confinement = jail.enter().context("confining the process")?;
    tracing::info!(jail = %confinement.to_json(), "confined");
    Ok(Some(confinement))
}
