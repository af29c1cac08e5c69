//! Setting up the terminal for `manatee top`, and restoring it.
//!
//! Whatever ends the process, the terminal is restored: on a key, on every signal that
//! can be caught, and on a panic.

use std::io::{self, IsTerminal, Read, Stdout, stdout};
use std::process::ExitCode;
use std::thread;

use anyhow::{Context, bail};
use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::prelude::CrosstermBackend;
use ratatui::{Frame, Terminal};
use rustix::process::{Signal, getpid, kill_process};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

/// Signals that are not handled: of children, of urgent data, and continuation. SIGSTOP and
/// SIGKILL can't be caught, and fault signals must not be.
const OTHERS: [i32; 9] = [
    libc::SIGCHLD,
    libc::SIGURG,
    libc::SIGCONT,
    libc::SIGSTOP,
    libc::SIGKILL,
    libc::SIGILL,
    libc::SIGFPE,
    libc::SIGSEGV,
    libc::SIGBUS,
];
/// The keys that end it: q, Ctrl-C and Escape in raw mode.
const ENDING: [u8; 3] = [b'q', 3, 27];
/// The key that suspends it: Ctrl-Z in raw mode.
const SUSPENDING: u8 = 26;
const REDRAWING: u8 = 12;

/// A request of the user.
#[derive(Clone, Copy, Debug)]
pub enum Input {
    /// End with this status.
    End(ExitCode),
    /// Stop until SIGCONT.
    Suspend,
    /// Draw the whole screen again, perhaps after it was resized.
    Redraw,
}

/// A terminal in raw mode. It is restored when this is dropped.
pub struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl Screen {
    /// Sets the terminal up. The user's requests are passed to `told`, until that returns false.
    ///
    /// # Errors
    ///
    /// If there is no terminal, or it can't be used.
    pub fn open(told: impl Fn(Input) -> bool + Clone + Send + 'static) -> anyhow::Result<Self> {
        if !io::stdin().is_terminal() || !stdout().is_terminal() {
            bail!("this is not a terminal: use `manatee top --once` for plain text");
        }
        // Before the terminal's mode is changed.
        hear(told.clone())?;
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            hook(panic);
        }));
        let keys = thread::Builder::new().name("keys".to_owned());
        keys.spawn(move || read_keys(&told))
            .context("starting a thread")?;
        take()?;
        let terminal = Terminal::new(CrosstermBackend::new(stdout()));
        let terminal = terminal.inspect_err(|_| restore());
        Ok(Self {
            terminal: terminal.context("the terminal")?,
        })
    }

    /// Draws a frame.
    pub fn draw(&mut self, picture: impl FnOnce(&mut Frame<'_>)) -> anyhow::Result<()> {
        self.terminal.draw(picture).context("the terminal")?;
        Ok(())
    }

    /// Makes the next frame be drawn as a whole, also after a resize.
    pub fn clear(&mut self) -> anyhow::Result<()> {
        self.terminal.clear().context("the terminal")
    }

    /// Restores the terminal while the process is stopped.
    pub fn suspend(&mut self) -> anyhow::Result<()> {
        restore();
        // SIGSTOP can't be caught: it stops the process at once.
        kill_process(getpid(), Signal::STOP)?;
        take()?;
        self.clear()
    }

    /// Restores the terminal.
    pub fn close(&mut self) {
        restore();
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

fn take() -> anyhow::Result<()> {
    let taken = enable_raw_mode().and_then(|()| execute!(stdout(), EnterAlternateScreen, Hide));
    taken.inspect_err(|_| restore()).context("the terminal")
}

/// Restores the terminal; may be called repeatedly. Errors can't be reported anywhere.
fn restore() {
    let _ = execute!(stdout(), LeaveAlternateScreen, Show);
    let _ = disable_raw_mode();
}

/// Handles all signals that can be caught, on a thread of its own.
fn hear(told: impl Fn(Input) -> bool + Send + 'static) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("hearing signals")?;
    let entered = runtime.enter();
    let mut heard = JoinSet::new();
    // Signals from 32 on are the C library's, and real-time ones.
    for number in (1..32).filter(|number| !OTHERS.contains(number)) {
        let mut one = signal(SignalKind::from_raw(number)).context("hearing signals")?;
        heard.spawn_on(
            async move {
                one.recv().await;
                (number, one)
            },
            runtime.handle(),
        );
    }
    drop(entered);
    let listen = async move {
        while let Some(Ok((number, mut one))) = heard.join_next().await {
            let input = match number {
                libc::SIGWINCH => Input::Redraw,
                libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU => Input::Suspend,
                // The status by which a shell reports a signal; all of them are below 32.
                _ => Input::End(ExitCode::from(128 + number as u8)),
            };
            if !told(input) {
                return;
            }
            heard.spawn(async move {
                one.recv().await;
                (number, one)
            });
        }
    };
    let thread = thread::Builder::new().name("signals".to_owned());
    thread
        .spawn(move || runtime.block_on(listen))
        .context("starting a thread")?;
    Ok(())
}

/// Reads keys until `told` returns false, or the terminal is closed.
fn read_keys(told: &impl Fn(Input) -> bool) {
    let mut keys = [0; 64];
    loop {
        let read = io::stdin().read(&mut keys);
        let input = match read {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // The terminal is closed.
            Ok(0) | Err(_) => Input::End(ExitCode::SUCCESS),
            // An arrow key is Escape followed by more.
            Ok(1) if ENDING.contains(&keys[0]) => Input::End(ExitCode::SUCCESS),
            Ok(1) if keys[0] == SUSPENDING => Input::Suspend,
            Ok(1) if keys[0] == REDRAWING => Input::Redraw,
            Ok(_) => continue,
        };
        if !told(input) || matches!(input, Input::End(_)) {
            return;
        }
    }
}
