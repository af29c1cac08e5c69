//! `manatee serve`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use manatee::component::Component;
use manatee::control;
use manatee::device::Device;
use manatee::interrupt::Interrupts;
use manatee::memory::install_fault_handler;
use manatee::vfio_user::{self, Vectors};
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use super::access::AccessArguments;
use super::logging::{self, LogArguments};
use super::port::{self, PortArgument};

/// How long the session with a VMM may take to end when we do.
const PATIENCE: Duration = Duration::from_secs(3);

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

SIGTERM and SIGINT end it; sockets and TAP interfaces that it made are removed.";

/// Offer a network adapter to virtual machines at a vfio-user socket
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Offer a network adapter to virtual machines at a vfio-user socket.\n\n\
        One virtual machine at a time can be attached. When it goes, the adapter returns to its \
        initial state and waits for the next.",
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

    /// A control socket to make, for `manatee inspect`
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,

    #[command(flatten)]
    access: AccessArguments,

    #[command(flatten)]
    logging: LogArguments,
}

/// A device whose sockets listen, but are not served yet.
struct Parts {
    device: Device,
    vectors: Vectors,
    server: vfio_user::Server,
    control: Option<control::Server>,
}

/// The signals that end us.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on they don't end the process by themselves. Needs a runtime.
    fn catch() -> std::io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Self {
            terminate,
            interrupt,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    logging::start(&arguments.logging);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.context("starting the control plane")?;
    install_fault_handler().context("preparing for guest memory that goes away")?;
    let result = runtime.block_on(async {
        // Before the sockets are made, so that they are removed in any case.
        let signals = Signals::catch().context("catching signals")?;
        serve(prepare(arguments)?, signals).await
    });
    // A control client may still wait for an answer.
    runtime.shutdown_background();
    result
}

fn prepare(arguments: &Arguments) -> anyhow::Result<Parts> {
    let component = match &arguments.component {
        Some(file) => Component::from_file(file)?,
        None => Component::embedded()?,
    };
    let description = component.describe()?;
    let (given, max) = (arguments.ports.len(), description.max_ports);
    if given > max as usize {
        anyhow::bail!("{given} ports are given, and the device has at most {max}");
    }
    // Sockets come first: whoever is too late must not touch the interfaces of
    // the one who serves already.
    let access = arguments.access.access();
    let server = vfio_user::Server::bind_for(&arguments.socket, access);
    let server = server.context("the vfio-user socket")?;
    let control = arguments.control.as_deref().map(bind_control).transpose()?;
    let ports = port::open_all(&arguments.ports, &arguments.socket)?;
    let vectors = Vectors::new(description.msix_vectors);
    let interrupts = Interrupts::Vectors(Box::new(vectors.clone()));
    let device = Device::new(&component, ports, interrupts)?;
    Ok(Parts {
        device,
        vectors,
        server,
        control,
    })
}

fn bind_control(path: &Path) -> anyhow::Result<control::Server> {
    control::Server::bind(path).context("the control socket")
}

async fn serve(parts: Parts, mut signals: Signals) -> anyhow::Result<()> {
    let Parts {
        device,
        vectors,
        server,
        control,
    } = parts;
    let path = server.path().display().to_string();
    let stopper = server.stopper();
    let (ended, mut has_ended) = oneshot::channel();
    let served = device.clone();
    thread::Builder::new()
        .name("vfio-user".to_owned())
        .spawn(move || ended.send(server.serve(&served, &vectors)))
        .context("starting the vfio-user thread")?;
    tracing::info!(socket = path, "ready: a VMM can attach");
    notify(NotifyState::Ready);
    let result = tokio::select! {
        () = signals.next() => Ok(()),
        result = &mut has_ended => result.context("the vfio-user thread panicked")?.map_err(Into::into),
        result = answer(control.as_ref(), &device) => result,
    };
    notify(NotifyState::Stopping);
    tracing::info!("stopping");
    if !stopper.stop(PATIENCE) {
        tracing::warn!("the session with the VMM does not end; leaving it");
    }
    result
}

/// Answers control requests for ever; waits for ever if there is no socket.
async fn answer(control: Option<&control::Server>, device: &Device) -> anyhow::Result<()> {
    match control {
        Some(control) => Ok(control.serve(Arc::new(device.clone())).await?),
        None => std::future::pending().await,
    }
}

/// Tells systemd, or whoever gave us a socket to say it on.
fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "the service manager can't be told how we are");
    }
}
