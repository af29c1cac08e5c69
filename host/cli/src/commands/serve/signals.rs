//! The signals that `manatee serve` handles.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The action that a signal requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// To end, where another process may continue.
    Terminate,
    /// To end for good.
    End,
    /// To read the configuration again.
    Reload,
    /// Nothing.
    Nothing(&'static str),
}

/// The signals that are handled. Any other that can be caught has the kernel's own effect: if
/// it ends the process, the broker removes the sockets.
pub struct Signals {
    ending: [Signal; 3],
    hangup: Signal,
    user: [Signal; 2],
}

impl Signals {
    /// Handles them from now on: they don't end the process by themselves. Needs a runtime.
    pub fn catch() -> std::io::Result<Self> {
        Ok(Self {
            ending: [
                signal(SignalKind::terminate())?,
                signal(SignalKind::interrupt())?,
                signal(SignalKind::quit())?,
            ],
            hangup: signal(SignalKind::hangup())?,
            user: [
                signal(SignalKind::user_defined1())?,
                signal(SignalKind::user_defined2())?,
            ],
        })
    }

    /// Waits for a signal.
    pub async fn next(&mut self) -> Heard {
        let [terminate, interrupt, quit] = &mut self.ending;
        let [first, second] = &mut self.user;
        tokio::select! {
            _ = terminate.recv() => Heard::Terminate,
            _ = interrupt.recv() => Heard::End,
            _ = quit.recv() => Heard::End,
            _ = self.hangup.recv() => Heard::Reload,
            _ = first.recv() => Heard::Nothing("SIGUSR1"),
            _ = second.recv() => Heard::Nothing("SIGUSR2"),
        }
    }
}
