//! `manatee serve`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use manatee::component::Component;
use manatee::device::{Device, Port};
use manatee::interrupt::Interrupts;
use manatee::memory::install_fault_handler;
use manatee::vfio_user::{self, Vectors};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use super::access::AccessArguments;
use super::logging::{self, LogArguments};
use super::notify::Notifier;
use super::operator::Operator;
use super::port::{self, PortArgument};
use crate::jail::broker::{Begin, Broker, SocketFile};
use crate::jail::child::Code;
use crate::jail::{self, Confinement, Ids, Jail, Role, limits};

/// How long the session with a VMM may take to end when we do.
const PATIENCE: Duration = Duration::from_secs(3);
/// Threads that carry out commands of the control socket.
const MAX_COMMANDS: usize = 32;

const EXAMPLES: &str = "\
Examples:
  An adapter on the TAP interface tap0 (made if it is missing, which needs root):
    manatee serve --socket /tmp/nic.sock --port tap=tap0,mac=02:00:00:00:00:01

  Two ports, one of which sends every packet back, and a control socket:
    manatee serve --socket /tmp/nic.sock --port tap=tap0 --port loopback --control /tmp/nic.control

The VMM has to share the guest's memory: QEMU with
  -object memory-backend-memfd,id=mem,size=1G,share=on -machine q35,memory-backend=mem
  -device '{\"driver\":\"vfio-user-pci\",\"socket\":{\"type\":\"unix\",\"path\":\"/tmp/nic.sock\"}}'
or Cloud Hypervisor with
  --memory size=1G,shared=on --user-device socket=/tmp/nic.sock

SIGTERM, SIGINT and SIGQUIT end it; sockets and TAP interfaces that it made are removed.
SIGHUP, SIGUSR1 and SIGUSR2 change nothing.";

/// Offer a network adapter to virtual machines at a vfio-user socket
#[derive(Debug, clap::Args)]
#[command(
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
    /// The vfio-user socket to make, for the VMM to connect to
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,

    /// A port of the adapter: `tap=INTERFACE` (the host's network), `loopback`
    /// (every packet comes back) or `null` (every packet is lost). After it,
    /// `,mac=ADDRESS` (by default one that is made from the socket's path and
    /// stays the same) and `,mtu=BYTES`. Repeat it for more ports
    #[arg(long = "port", value_name = "KIND[,mac=MAC][,mtu=N]", required = true)]
    ports: Vec<PortArgument>,

    /// The device's component, instead of the one that is built in
    #[arg(long, value_name = "FILE.wasm")]
    component: Option<PathBuf>,

    /// A control socket to make, for `manatee inspect`, `swap` and `rollback`
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,

    /// The user to become when all is open: a name, UID or UID:GID. By default
    /// `nobody` (65534) if this is root, which `--user root` stays
    #[arg(long, value_name = "USER[:GROUP]")]
    user: Option<String>,

    /// Serve without confinement: privileges, files and system calls stay within
    /// reach of whoever breaks out of the component
    #[arg(long)]
    no_sandbox: bool,

    #[command(flatten)]
    access: AccessArguments,

    #[command(flatten)]
    logging: LogArguments,
}

/// What has to be opened before the process is confined.
struct Opened {
    signals: Signals,
    /// That the broker has ended, perhaps.
    child: Signal,
    server: vfio_user::Server,
    control: Option<manatee_control::Server>,
    ports: Vec<Port>,
    /// None if it is the one that is built in.
    component: Option<Code>,
    notifier: Notifier,
    broker: Arc<Broker>,
}

/// The signals that are heard. The others end the process, whose broker removes the
/// sockets then.
struct Signals {
    ending: [Signal; 3],
    harmless: [(Signal, &'static str); 3],
}

impl Signals {
    /// From now on they don't end the process by themselves. Needs a runtime.
    fn catch() -> std::io::Result<Self> {
        Ok(Self {
            ending: [
                signal(SignalKind::terminate())?,
                signal(SignalKind::interrupt())?,
                signal(SignalKind::quit())?,
            ],
            harmless: [
                (signal(SignalKind::hangup())?, "SIGHUP"),
                (signal(SignalKind::user_defined1())?, "SIGUSR1"),
                (signal(SignalKind::user_defined2())?, "SIGUSR2"),
            ],
        })
    }

    /// Waits for a signal that ends the process.
    async fn next(&mut self) {
        let [terminate, interrupt, quit] = &mut self.ending;
        let [hangup, first, second] = &mut self.harmless;
        loop {
            let name = tokio::select! {
                _ = terminate.recv() => return,
                _ = interrupt.recv() => return,
                _ = quit.recv() => return,
                _ = hangup.0.recv() => hangup.1,
                _ = first.0.recv() => first.1,
                _ = second.0.recv() => second.1,
            };
            // As many as somebody sends, so not a line for each.
            tracing::debug!("{name} changes nothing");
        }
    }
}

/// Serves until it is told to end.
pub fn run(arguments: &Arguments) -> ExitCode {
    logging::start(&arguments.logging);
    match start(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            arguments.logging.report(&error);
            ExitCode::FAILURE
        }
    }
}

fn start(arguments: &Arguments) -> anyhow::Result<()> {
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
    let opened = Opened::open(arguments, ids)?;
    drop(entered);
    let broker = opened.broker.clone();
    let result = confine(arguments, ids).and_then(|confinement| {
        let Opened {
            signals,
            child,
            server,
            control,
            ports,
            component,
            notifier,
            broker,
        } = opened;
        let device = Served::new(component, ports)?;
        let operator = Operator::new(device.device.clone(), broker.clone(), confinement);
        runtime.block_on(serve(Running {
            device,
            operator: Arc::new(operator),
            signals,
            child,
            server,
            control,
            notifier,
            broker,
        }))
    });
    broker.end();
    // A control client may still wait for an answer.
    runtime.shutdown_background();
    result
}

impl Opened {
    fn open(arguments: &Arguments, ids: Option<Ids>) -> anyhow::Result<Self> {
        // Before the sockets are made, so that they are removed in any case.
        let signals = Signals::catch().context("catching signals")?;
        let child = signal(SignalKind::child()).context("catching signals")?;
        let notifier = Notifier::connect()?;
        let sandbox = !arguments.no_sandbox;
        let component = arguments.component.as_deref();
        let component = component.map(|file| super::compile(file, sandbox));
        let component = component.transpose()?;
        // Sockets come first: whoever is too late must not touch the interfaces of
        // the one who serves already.
        let access = arguments.access.access();
        let server = vfio_user::Server::bind_for(&arguments.socket, access);
        let server = server.context("the vfio-user socket")?;
        let control = arguments.control.as_deref().map(bind_control).transpose()?;
        let paths = [
            Some(server.path()),
            control.as_ref().map(manatee_control::Server::path),
        ];
        let sockets = paths.into_iter().flatten().map(SocketFile::at);
        let begin = Begin {
            sockets: sockets
                .collect::<std::io::Result<_>>()
                .context("the sockets")?,
            ids,
            sandbox,
        };
        let broker = Broker::start(&begin).context("starting the broker")?;
        let ports = port::open_all(&arguments.ports, &arguments.socket)?;
        Ok(Self {
            signals,
            child,
            server,
            control,
            ports,
            component,
            notifier,
            broker: Arc::new(broker),
        })
    }
}

fn bind_control(path: &Path) -> anyhow::Result<manatee_control::Server> {
    manatee_control::Server::bind(path).context("the control socket")
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

/// A device and the vectors that it raises.
struct Served {
    device: Device,
    vectors: Vectors,
}

impl Served {
    fn new(component: Option<Code>, ports: Vec<Port>) -> anyhow::Result<Self> {
        let component = match component {
            Some(code) => code.load()?,
            None => Component::embedded()?,
        };
        let description = component.describe()?;
        let (given, max) = (ports.len(), description.max_ports);
        if given > max as usize {
            anyhow::bail!("{given} ports are given, and the device has at most {max}");
        }
        let vectors = Vectors::new(description.msix_vectors);
        let interrupts = Interrupts::Vectors(Box::new(vectors.clone()));
        let device = Device::new(&component, ports, interrupts)?;
        Ok(Self { device, vectors })
    }
}

/// All that serves.
struct Running {
    device: Served,
    operator: Arc<Operator>,
    signals: Signals,
    child: Signal,
    server: vfio_user::Server,
    control: Option<manatee_control::Server>,
    notifier: Notifier,
    broker: Arc<Broker>,
}

async fn serve(running: Running) -> anyhow::Result<()> {
    let Running {
        device,
        operator,
        mut signals,
        mut child,
        server,
        control,
        notifier,
        broker,
    } = running;
    let path = server.path().display().to_string();
    let stopper = server.stopper();
    let (ended, mut has_ended) = oneshot::channel();
    thread::Builder::new()
        .name("vfio-user".to_owned())
        .spawn(move || ended.send(server.serve(&device.device, &device.vectors)))
        .context("starting the vfio-user thread")?;
    tracing::info!(socket = path, "ready: a VMM can attach");
    notifier.tell("READY=1");
    let result = tokio::select! {
        () = signals.next() => Ok(()),
        result = &mut has_ended => result.context("the vfio-user thread panicked")?.map_err(Into::into),
        result = answer(control.as_ref(), operator) => result,
        result = watch(&broker, &mut child) => result,
    };
    notifier.tell("STOPPING=1");
    tracing::info!("stopping");
    broker.end();
    if !stopper.stop(PATIENCE) {
        tracing::warn!("the session with the VMM does not end; leaving it");
    }
    result
}

/// Answers control requests for ever; waits for ever if there is no socket.
async fn answer(
    control: Option<&manatee_control::Server>,
    operator: Arc<Operator>,
) -> anyhow::Result<()> {
    match control {
        Some(control) => Ok(control.serve(operator).await?),
        None => std::future::pending().await,
    }
}

/// Says when the broker ends before its time. The device goes on.
async fn watch(broker: &Broker, child: &mut Signal) -> anyhow::Result<()> {
    while !broker.has_ended() {
        child.recv().await;
    }
    tracing::error!(
        process = broker.pid(),
        "the broker has ended: the device goes on, its component can't be replaced any more, \
         and the sockets' files will be left behind"
    );
    std::future::pending().await
}
