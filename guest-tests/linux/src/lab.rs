//! A guest on the network: TAP interfaces, the device's process, the machine.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use crate::assets::Assets;
use crate::checks::{self, Health, Ping};
use crate::control::{Control, Keeper};
use crate::netns::{Family, Subnet, Tap};
use crate::qemu::{Machine, Nic, Vm};
use crate::serve::{PortArgument, Serve, Start};
use crate::stage::Stage;
use crate::tcp;
use crate::transcript::Transcript;

/// How much of each log a failure shows.
const EVIDENCE_LINES: usize = 40;

/// The bytes that a quick check of the network sends each way over TCP.
const QUICK_TCP: usize = 1 << 20;

/// The emulation of the guest's network adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The wasm device, served by `manatee serve`.
    Manatee,
    /// QEMU's own virtio-net.
    VirtioNet,
}

impl Device {
    /// Returns the Linux driver for it, by the name of its module.
    pub fn driver(self) -> &'static str {
        match self {
            Self::Manatee => "mana",
            Self::VirtioNet => "virtio_net",
        }
    }

    /// Returns the modules to load, the driver last.
    fn modules(self) -> &'static [&'static str] {
        match self {
            Self::Manatee => &["mana"],
            Self::VirtioNet => &["virtio_pci", "virtio_net"],
        }
    }
}

/// What to set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The adapter.
    pub device: Device,
    /// How many ports there are, each with a TAP interface of its own.
    pub ports: u8,
    /// Whether each port is on an adapter of its own, with a `manatee serve` of its own.
    pub apart: bool,
    /// How many processors the guest has.
    pub cpus: u8,
    /// How many queue pairs each port has.
    pub queues: u16,
}

impl Plan {
    /// One guest with one port, as most demonstrations have it.
    pub const ONE_PORT: Self = Self {
        device: Device::Manatee,
        ports: 1,
        apart: false,
        cpus: 1,
        queues: 1,
    };
}

/// One port of the device.
pub struct Port {
    /// The host's end.
    pub tap: Tap,
    /// The guest's MAC address.
    pub mac: String,
    /// The guest's interface, once its driver is loaded.
    pub interface: String,
    /// How many queue pairs it has.
    pub queues: u16,
}

/// The whole set-up; dropping it takes everything down.
pub struct Lab {
    // In the order in which they have to be dropped.
    vm: Option<Vm>,
    serves: Vec<Serve>,
    ports: Vec<Port>,
    plan: Plan,
    /// Whether a keeper starts the processes.
    kept: bool,
    dir: PathBuf,
    stage: Arc<Stage>,
}

/// The parts that checks work on.
pub struct Parts<'a> {
    /// The running machine.
    pub vm: &'a mut Vm,
    /// Its ports.
    pub ports: &'a [Port],
    /// The host's tools.
    pub assets: &'a Assets,
}

impl Lab {
    /// Makes the TAP interfaces.
    pub fn new(stage: &Arc<Stage>, plan: Plan) -> Result<Self> {
        let ports = (0..plan.ports)
            .map(|number| Port::create(stage, number, plan.queues))
            .collect::<Result<_>>()?;
        Ok(Self {
            vm: None,
            serves: Vec::new(),
            ports,
            plan,
            kept: false,
            dir: stage.sandbox.run_dir().to_owned(),
            stage: Arc::clone(stage),
        })
    }

    /// Sets everything up, until the network works.
    pub fn start(stage: &Arc<Stage>, plan: Plan) -> Result<Self> {
        let mut lab = Self::new(stage, plan)?;
        match lab.start_all() {
            Ok(()) => Ok(lab),
            Err(error) => Err(lab.with_evidence(error)),
        }
    }

    /// Starts `manatee serve` on the ports, with the component that is built in.
    pub fn start_serve(&mut self) -> Result<()> {
        self.start_serve_with(&[])
    }

    /// Has `manatee keep` start the processes.
    pub fn keep(&mut self) {
        self.kept = true;
    }

    /// Starts the processes, each with its component of `components`.
    pub fn start_serve_with(&mut self, components: &[&Path]) -> Result<()> {
        let arguments: Vec<PortArgument<'_>> = self.ports.iter().map(Port::argument).collect();
        let each = if self.plan.apart { 1 } else { arguments.len() };
        for (number, ports) in arguments.chunks(each).enumerate() {
            self.serves.push(Serve::start(&Start {
                manatee: &self.stage.manatee,
                dir: &self.dir,
                number,
                component: components.get(number).copied(),
                kept: self.kept,
                ports,
            })?);
        }
        Ok(())
    }

    /// Starts a machine and waits until its guest answers; returns its kernel's version.
    pub fn start_vm(&mut self) -> Result<String> {
        let machine = Machine {
            qemu: &self.stage.assets.qemu(),
            kernel: &self.stage.kernel.image,
            initramfs: &self.stage.initramfs,
            cpus: self.plan.cpus,
            nics: &self.nics()?,
        };
        let vm = self.vm.insert(Vm::start(&machine, &self.dir)?);
        vm.wait_for_boot()
    }

    /// Kills the machine without warning the device.
    pub fn kill_vm(&mut self) {
        self.vm = None;
    }

    /// Loads the driver and finds the interfaces.
    pub fn load_driver(&mut self) -> Result<()> {
        let vm = self.vm.as_mut().context("no machine runs")?;
        for module in self.plan.device.modules() {
            vm.sh(&format!("modprobe {module}"))?;
        }
        for port in &mut self.ports {
            port.interface = checks::interface_with(vm, &port.mac)?;
        }
        Ok(())
    }

    /// Gives the guest's interfaces their addresses and waits for the first answers.
    pub fn configure(&mut self) -> Result<()> {
        let Parts { vm, ports, .. } = self.parts()?;
        for port in ports {
            checks::configure(vm, &port.interface, port.tap.subnet())?;
            checks::wait_reachable(vm, port.tap.subnet())?;
        }
        Ok(())
    }

    /// Checks quickly whether everything works: pings and TCP both ways, over IPv4 and
    /// IPv6, on every port.
    pub fn network_works(&mut self) -> Result<()> {
        let Parts { vm, ports, assets } = self.parts()?;
        for port in ports {
            for family in Family::BOTH {
                checks::ping_both_ways(assets, vm, port.tap.subnet(), family, Ping::default())?;
                tcp::there_and_back(vm, port.tap.subnet(), family, QUICK_TCP)?;
            }
        }
        self.check_serve()
    }

    /// Returns the health of the guest and its interfaces.
    pub fn health(&mut self) -> Result<Vec<Health>> {
        let Parts { vm, ports, .. } = self.parts()?;
        let looks = ports.iter().map(|port| checks::health(vm, &port.interface));
        looks.collect()
    }

    /// Returns the running machine and what belongs to it.
    pub fn parts(&mut self) -> Result<Parts<'_>> {
        Ok(Parts {
            vm: self.vm.as_mut().context("no machine runs")?,
            ports: &self.ports,
            assets: &self.stage.assets,
        })
    }

    /// Returns its ports.
    pub fn ports(&self) -> &[Port] {
        &self.ports
    }

    /// Returns the stage that it was made from.
    pub fn stage(&self) -> &Arc<Stage> {
        &self.stage
    }

    /// Returns the control socket of the `manatee serve` with that number.
    pub fn control(&self, number: usize) -> Result<Control> {
        let serve = self
            .serves
            .get(number)
            .context("manatee serve does not run")?;
        Ok(Control::new(&self.stage.manatee, serve.control()))
    }

    /// Returns the client of the keeper of the `manatee serve` with that number.
    pub fn keeper(&self, number: usize) -> Result<Keeper> {
        let serve = self.serves.get(number);
        let serve = serve.context("manatee serve does not run")?;
        Ok(Keeper::new(&self.stage.manatee, serve.keeper()))
    }

    /// Returns what the `manatee serve` with that number has logged.
    pub fn log(&self, number: usize) -> Result<&Transcript> {
        let serve = self.serves.get(number);
        Ok(serve.context("manatee serve does not run")?.log())
    }

    /// Returns the process ids of those `manatee serve` that run.
    pub fn serve_pids(&self) -> Vec<u32> {
        self.serves.iter().map(Serve::pid).collect()
    }

    /// Fails if a `manatee serve` should run and does not.
    pub fn check_serve(&mut self) -> Result<()> {
        self.serves.iter_mut().try_for_each(Serve::check_running)
    }

    /// Stops the machine, then `manatee serve`, which has to end cleanly.
    pub fn stop(&mut self) -> Result<()> {
        self.kill_vm();
        self.serves.drain(..).try_for_each(Serve::stop)
    }

    /// Adds the ends of the guest's console and of the host's log to an error.
    pub fn with_evidence(&self, error: anyhow::Error) -> anyhow::Error {
        let mut text = format!("{error:#}");
        let console = self
            .vm
            .iter()
            .map(|vm| ("the guest's console", vm.console()));
        let logs = self
            .serves
            .iter()
            .map(|serve| ("manatee's log", serve.log()));
        for (name, transcript) in console.chain(logs) {
            let end = transcript.tail(EVIDENCE_LINES);
            text += &format!("\n--- the end of {name}:\n{end}\n---");
        }
        anyhow::Error::msg(text)
    }

    fn start_all(&mut self) -> Result<()> {
        if self.plan.device == Device::Manatee {
            self.start_serve()?;
        }
        let kernel = self.start_vm()?;
        ensure!(
            kernel == self.stage.kernel.release,
            "the guest runs kernel {kernel}, not {}",
            self.stage.kernel.release
        );
        self.load_driver()?;
        self.configure()
    }

    fn nics(&self) -> Result<Vec<Nic>> {
        if self.plan.device == Device::VirtioNet {
            return Ok(self.ports.iter().map(Port::virtio).collect());
        }
        ensure!(!self.serves.is_empty(), "manatee serve does not run");
        let nic = |serve: &Serve| Nic::VfioUser {
            socket: serve.socket().to_owned(),
        };
        Ok(self.serves.iter().map(nic).collect())
    }
}

impl Port {
    fn create(stage: &Stage, number: u8, queues: u16) -> Result<Self> {
        let (name, subnet) = (format!("tap{number}"), Subnet::new(number));
        Ok(Self {
            tap: Tap::create(&stage.sandbox, &stage.assets.ip(), &name, subnet, queues)?,
            // Locally administered.
            mac: format!("02:6d:61:6e:61:{number:02x}"),
            interface: String::new(),
            queues,
        })
    }

    fn argument(&self) -> PortArgument<'_> {
        PortArgument {
            tap: self.tap.name(),
            mac: &self.mac,
            queues: self.queues,
        }
    }

    fn virtio(&self) -> Nic {
        Nic::VirtioNet {
            tap: self.tap.name().to_owned(),
            mac: self.mac.clone(),
        }
    }
}
