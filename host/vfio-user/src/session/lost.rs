//! Finishes what a server was doing when it died.

use crate::answers::{self, Place};
use crate::connection::{Broken, Receiver};
use crate::journal::{Journal, Progress, Unfinished};

use super::{Session, posted_write};

impl Session<'_, '_> {
    /// Finishes the step that was in progress, so that the next message can be received.
    ///
    /// # Errors
    ///
    /// [`Broken`] also if the connection is not as it was noted.
    pub fn continue_lost<'a>(
        &mut self,
        receiver: &mut Receiver<'a>,
        journal: &'a dyn Journal,
        lost: Unfinished,
    ) -> Result<(), Broken> {
        if let Progress::Consuming { done, peeked } = lost.progress {
            Receiver::finish_consuming(self.socket, done, peeked)?;
            journal.set_progress(Progress::Idle { done: 0 });
        }
        receiver.keep(journal)?;
        match lost.progress {
            Progress::Consuming { .. } => Ok(()),
            Progress::Idle { done } => receiver.skip(done as usize),
            Progress::Executing { done, length }
            | Progress::Posted { done, length }
            | Progress::Executed { done, length }
            | Progress::Answering { done, length } => {
                receiver.skip(done as usize)?;
                self.finish(receiver, length, journal, &lost)
            }
        }
    }

    fn finish(
        &mut self,
        receiver: &mut Receiver<'_>,
        length: u32,
        journal: &dyn Journal,
        lost: &Unfinished,
    ) -> Result<(), Broken> {
        let message = receiver.again(length)?;
        self.place = Place::of(&message);
        match lost.progress {
            Progress::Executed { .. } => {
                let (out, _) = journal.pipe();
                answers::empty(out)?;
                answers::send_noted(journal, self.socket, self.place, &lost.answer)?;
            }
            Progress::Answering { .. } => answers::send_rest(journal, self.socket)?,
            Progress::Posted { .. } => {}
            _ => {
                self.took_effect = lost.took_effect;
                let served = self.serve(message);
                self.took_effect = false;
                return served;
            }
        }
        let posted = matches!(lost.progress, Progress::Posted { .. });
        // Other requests were carried out before they were answered.
        if let Some(write) = posted_write(&message, self.max_access) {
            self.took_effect = posted && lost.took_effect;
            self.carry_out_posted(&write);
            self.took_effect = false;
        } else if posted {
            return Err(Broken::Unlike("a message is noted as posted, and is none"));
        }
        self.note(Place::finished);
        Ok(())
    }
}
