//! Gives a stock Linux guest a network without any privilege: through passt, which an
//! ordinary user runs, in namespaces of that user.

use std::io::Write;
use std::net::{Shutdown, TcpListener};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use manatee_guest_linux::assets::Assets;
use manatee_guest_linux::checks;
use manatee_guest_linux::process::Process;
use manatee_guest_linux::qemu::{Machine, Nic, Vm};
use manatee_guest_linux::report::{self, Report};
use manatee_guest_linux::stage::{Options, Stage};
use sha2::{Digest, Sha256};

/// Size of the file that is fetched.
const FILE_BYTES: usize = 8 << 20;
const MAC: &str = "02:6d:61:6e:61:00";
/// The guest, and this machine as it sees it.
const GUEST: &str = "10.0.2.15";
const HOST: &str = "10.0.2.2";
/// The longest that a step may take, on a busy machine without KVM.
const PATIENCE: Duration = Duration::from_secs(120);

/// Boots a stock Linux guest behind passt, and fetches a file.
#[derive(Parser)]
#[command(name = "demo-rootless")]
struct Arguments {
    #[command(flatten)]
    options: Options,
}

fn main() -> ExitCode {
    report::conclude("demo-rootless", show(&Arguments::parse().options))
}

fn show(options: &Options) -> Result<()> {
    let stage = Stage::set(options)?;
    let mapped = std::fs::read_to_string("/proc/self/uid_map")?;
    let user = mapped.split_whitespace().nth(1).unwrap_or_default();
    ensure!(
        user != "0",
        "this is to show what an ordinary user can do: run it as one"
    );
    let report = Report::begin(&format!(
        "A stock Linux {} behind passt, by the user {user} in a namespace of its own",
        stage.kernel.release
    ));
    let dir = stage.sandbox.run_dir();
    let (socket, vfio) = (dir.join("passt.sock"), dir.join("vfio-user.sock"));
    let mut passt = report.step_with("passt", || {
        loopback_up(&stage.assets)?;
        let passt = start_passt(&socket)?;
        Ok((
            passt,
            "gives the guest a network, without any interface".into(),
        ))
    })?;
    let mut serve = report.step_with("manatee", || {
        let serve = start_serve(&stage.manatee, dir, &vfio, &socket)?;
        Ok((
            serve,
            "`manatee serve` is connected to it, and confined".into(),
        ))
    })?;
    let mut vm = report.step_with("boot", || {
        let machine = Machine {
            qemu: &stage.assets.qemu(),
            kernel: &stage.kernel.image,
            initramfs: &stage.initramfs,
            cpus: 1,
            nics: &[Nic::VfioUser {
                socket: vfio.clone(),
            }],
        };
        let mut vm = Vm::start(&machine, dir)?;
        let version = vm.wait_for_boot()?;
        Ok((vm, format!("QEMU is attached, and Linux {version} is up")))
    })?;
    let fetched = report.step("fetch", || fetch(&mut vm));
    fetched.with_context(|| {
        let (passt, serve) = (passt.output().tail(10), serve.output().tail(10));
        format!("passt printed: {passt}; manatee serve printed: {serve}")
    })?;
    report.step("end", || {
        drop(vm);
        let ended = serve.terminate(PATIENCE)?;
        ensure!(ended.success(), "`manatee serve` ended with {ended}");
        passt.check_running()?;
        Ok("`manatee serve` ended cleanly on SIGTERM".to_owned())
    })?;
    println!("  all of it in {}", report.total());
    Ok(())
}

fn loopback_up(assets: &Assets) -> Result<()> {
    let up = Command::new(assets.ip())
        .args(["link", "set", "lo", "up"])
        .status();
    ensure!(up.context("ip")?.success(), "the loopback does not come up");
    Ok(())
}

/// Starts passt, and waits until it listens.
fn start_passt(socket: &Path) -> Result<Process> {
    let target = std::env::current_exe()?;
    let target = target.ancestors().nth(2).context("no target directory")?;
    let program = target.join("tools/bin/passt");
    ensure!(
        program.exists(),
        "there is no {}: run `scripts/setup.sh passt`",
        program.display()
    );
    let mut command = Command::new(program);
    command
        .args(["--foreground", "--mtu", "1500", "--socket"])
        .arg(socket);
    command.args(["--address", GUEST, "--netmask", "24", "--gateway", HOST]);
    command.args(["--map-host-loopback", HOST]);
    let mut passt = Process::spawn("passt", command)?;
    let begun = Instant::now();
    // Its last line at startup.
    while !passt.output().tail(40).contains("You can now start qemu") {
        let in_time = begun.elapsed() < PATIENCE;
        let running = passt.check_running();
        running.with_context(|| format!("it printed: {}", passt.output().tail(10)))?;
        ensure!(in_time, "it is not ready: {}", passt.output().tail(10));
        thread::yield_now();
    }
    Ok(passt)
}

/// Starts `manatee serve`, and waits until it reports that it is ready.
fn start_serve(manatee: &Path, dir: &Path, vfio: &Path, passt: &Path) -> Result<Process> {
    let notify = dir.join("notify.sock");
    let ready = UnixDatagram::bind(&notify)?;
    ready.set_read_timeout(Some(PATIENCE))?;
    let mut command = Command::new(manatee);
    command
        .arg("serve")
        .arg("--socket-path")
        .arg(vfio)
        .arg("--port");
    command.arg(format!("stream={},mac={MAC}", passt.display()));
    command.env("NOTIFY_SOCKET", &notify);
    let serve = Process::spawn("manatee serve", command)?;
    let heard = ready.recv(&mut [0; 256]);
    heard.with_context(|| format!("not ready; it printed: {}", serve.output().tail(10)))?;
    Ok(serve)
}

/// Has the guest fetch a file over TCP from a server on this machine's loopback.
fn fetch(vm: &mut Vm) -> Result<String> {
    vm.sh("modprobe mana")?;
    let interface = checks::interface_with(vm, MAC)?;
    vm.sh(&format!(
        "ip addr add {GUEST}/24 dev {interface} && ip link set {interface} up && ip route add default via {HOST}"
    ))?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let file: Vec<u8> = (0..FILE_BYTES).map(|i| (i * 7 + i / 251) as u8).collect();
    let server = thread::spawn(move || -> std::io::Result<Vec<u8>> {
        let (mut stream, _) = listener.accept()?;
        stream.write_all(&file)?;
        stream.shutdown(Shutdown::Write)?;
        // The guest closes its end when it has everything.
        std::io::copy(&mut stream, &mut std::io::sink())?;
        Ok(file)
    });
    // The guest must not close its end first: passt then closes the server's end too, even if
    // data to the guest is still in flight.
    let command =
        format!("nc.openbsd -d {HOST} {port} >/tmp/file; sha256sum </tmp/file; wc -c </tmp/file");
    let told = vm.sh_within(&command, PATIENCE)?;
    let file = server.join().expect("a server that does not panic")?;
    let expected = Sha256::digest(&file);
    let expected: String = expected.iter().map(|byte| format!("{byte:02x}")).collect();
    let found = told.split_whitespace().next().unwrap_or_default();
    ensure!(
        found == expected,
        "the file has SHA-256 {expected}, and not the sum and length of what came: {told}"
    );
    Ok(format!("{} MiB over TCP, SHA-256 equal", FILE_BYTES >> 20))
}
