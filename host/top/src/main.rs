//! `manatee top`, a separate program, so that the one that serves contains no terminal code.

mod arguments;
mod model;
mod screen;
#[cfg(test)]
mod tests;
mod view;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use arguments::Arguments;
use clap::Parser;
use manatee_control::{Client, ClientError, Told};

use model::{Flow, Look, Model};
use screen::{Input, Screen};
use view::Palette;

/// The pause before a device that does not answer is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// An input of the main loop.
enum News {
    Input(Input),
    Look(usize, Look),
    Lost(usize, String),
    Happened(usize, Told),
}

/// The exit status if no process answers at the control socket, as of `manatee` itself.
const NOBODY: u8 = 6;

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "manatee top", bin_name = "manatee top")]
struct Cli {
    #[command(flatten)]
    arguments: Arguments,
}

fn main() -> ExitCode {
    let Cli { arguments } = Cli::parse();
    match run(&arguments) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("error: {error:#}");
            match error.downcast_ref() {
                Some(ClientError::Connect { .. }) => ExitCode::from(NOBODY),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    if arguments.once {
        return once(arguments).map(|()| ExitCode::SUCCESS);
    }
    // A device that does not exist at the start is an error, instead of a line on the screen.
    for path in &arguments.control {
        Client::connect(path)?;
    }
    let (news, heard) = channel();
    let input = news.clone();
    let mut screen = Screen::open(move |it| input.send(News::Input(it)).is_ok())?;
    for (device, path) in arguments.control.iter().enumerate() {
        let (looks, path, every) = (news.clone(), path.clone(), arguments.interval);
        let (events, other) = (news.clone(), path.clone());
        start("looks", move || look_for_ever(device, &path, every, &looks))?;
        start("events", move || follow_for_ever(device, &other, &events))?;
    }
    let ended = show(&mut screen, arguments, &heard);
    screen.close();
    ended
}

fn start(name: &str, run: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
    let started = thread::Builder::new().name(name.to_owned()).spawn(run);
    started.map(drop).context("starting a thread")
}

/// Draws news until the user ends it.
fn show(
    screen: &mut Screen,
    arguments: &Arguments,
    heard: &Receiver<News>,
) -> anyhow::Result<ExitCode> {
    let mut model = Model::new(&arguments.control);
    let palette = Palette::new(colours_are_wanted());
    loop {
        screen.draw(|frame| view::draw(frame, &model, palette, arguments.interval))?;
        let mut next = heard.recv_timeout(RETRY);
        // One frame shows all news that arrived meanwhile.
        loop {
            match next {
                Ok(News::Input(Input::End(status))) => return Ok(status),
                Ok(News::Input(Input::Suspend)) => screen.suspend()?,
                Ok(News::Input(Input::Redraw)) => screen.clear()?,
                Ok(News::Look(device, look)) => model.devices[device].looked(look),
                Ok(News::Lost(device, why)) => model.devices[device].lost(&why),
                Ok(News::Happened(device, told)) => model.happened(device, &told),
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => return Ok(ExitCode::FAILURE),
            }
            next = heard.try_recv().map_err(|_| RecvTimeoutError::Timeout);
        }
    }
}

/// Samples a device until the receiver is dropped.
fn look_for_ever(device: usize, path: &Path, every: Duration, news: &Sender<News>) {
    let mut client = None;
    loop {
        let begun = Instant::now();
        let looked = match client.take() {
            Some(client) => Ok(client),
            None => Client::connect(path),
        };
        let looked = looked.and_then(|mut asked| Ok((look(&mut asked)?, asked)));
        let (told, pause) = match looked {
            Ok((look, asked)) => {
                client = Some(asked);
                (News::Look(device, look), every)
            }
            Err(error) => (News::Lost(device, error.to_string()), every.max(RETRY)),
        };
        if news.send(told).is_err() {
            return;
        }
        thread::sleep(pause.saturating_sub(begun.elapsed()));
    }
}

/// Follows a device's events until the receiver is dropped.
fn follow_for_ever(device: usize, path: &Path, news: &Sender<News>) {
    loop {
        let followed = Client::connect(path).and_then(|mut client| {
            client.subscribe(None)?;
            loop {
                let told = client.follow()?;
                if news.send(News::Happened(device, told)).is_err() {
                    return Ok(());
                }
            }
        });
        if followed.is_ok() {
            return;
        }
        // The sampling thread reports the lost connection.
        thread::sleep(RETRY);
    }
}

/// Samples a device's counters. Neither request waits for the device.
fn look(client: &mut Client) -> Result<Look, manatee_control::ClientError> {
    let counts = client.counters()?;
    let tree = client.inspect(Some("ports/*/queues".to_owned()))?;
    Ok(Look {
        counts,
        queues: Flow::queues(&tree),
    })
}

/// Takes two samples and prints the result.
fn once(arguments: &Arguments) -> anyhow::Result<()> {
    let connect = |path: &PathBuf| Client::connect(path);
    let mut clients = arguments
        .control
        .iter()
        .map(connect)
        .collect::<Result<Vec<_>, _>>()?;
    let mut model = Model::new(&arguments.control);
    for pause in [Duration::ZERO, arguments.interval] {
        thread::sleep(pause);
        for (client, device) in clients.iter_mut().zip(&mut model.devices) {
            device.looked(look(client)?);
        }
    }
    let text = view::text(&model);
    // A closed pipe (`| head`) is no error.
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Returns whether colours are wanted on a terminal: <https://no-color.org>.
fn colours_are_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
