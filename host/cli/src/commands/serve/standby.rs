//! Waits to take over: this process was started while its predecessor serves, and prepares
//! what takes long.

use anyhow::{Context, bail, ensure};
use manatee::component::Component;
use manatee::device::{Limits, Port};
use manatee_keeper::line::{Heard, Line, Word};

use super::kept::{Kept, Predecessor};

/// Rehearses with the predecessor's offer, reports that, and waits for what the predecessor leaves.
/// Returns that, and the names under which it is stored.
///
/// # Errors
///
/// Why this process can't take over, or is not needed.
pub fn stand_by(
    line: &mut Line,
    offered: Option<Predecessor>,
    component: &Component,
    ports: &[Port],
    limits: Limits,
) -> anyhow::Result<(Predecessor, Vec<String>)> {
    let offered = offered.context("the process that serves offers nothing to rehearse with")?;
    let Predecessor { hand_over, notes } = offered;
    ensure!(
        hand_over.is_offer(),
        "what is to be rehearsed with is no offer: somebody has taken the device over already"
    );
    let rehearsed = hand_over.rehearse(component, ports, limits);
    rehearsed.context("rehearsing with what the process that serves offers")?;
    tracing::info!("rehearsed; waiting for the process that serves to end");
    line.say(Word::Ready, &[]).context("telling the keeper")?;
    let left = match line.wait()? {
        Heard::Said(Word::TakeOver, left) => left,
        Heard::Said(..) | Heard::Nothing => bail!("the keeper says something else"),
        Heard::Closed => bail!("the keeper does not need this process any more"),
    };
    let (mut kept, _) = Kept::sort(left);
    let names = kept.names();
    kept.close_copies();
    let left = kept.read()?;
    let left = left.context("the process that served has left nothing")?;
    ensure!(
        left.notes.component == notes.component,
        "the component was replaced while this process got ready: try again"
    );
    Ok((left, names))
}
