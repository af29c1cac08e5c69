//! A server whose sessions survive it.

use std::fmt;
use std::sync::Arc;

use manatee_common::closer::Foreign;

use super::Server;
use super::control::Running;
use super::error::ServeError;
use crate::attachment::Attachment;
use crate::backend::Backend;
use crate::journal::{Journal, Lost, Unfinished};
use crate::rations::Rations;
use crate::session::Start;
use crate::vectors::Vectors;

impl Server {
    /// Notes sessions in a journal, so that another process can [recover](Self::recover) one
    /// if this process dies.
    #[must_use]
    pub fn with_journal(self, journal: Arc<dyn Journal>) -> Self {
        Self {
            journal: Some(journal),
            ..self
        }
    }

    /// Continues a session whose server died, with its `backend` as it was there and `vectors`
    /// as its journal has them, and then serves one VMM after the other as
    /// [`serve`](Self::serve) does. The [journal](Self::with_journal) of this server has what
    /// was noted of the session. Without one, the session is over.
    ///
    /// # Errors
    ///
    /// [`ServeError`] if no server could have noted such a session, which is closed in the
    /// journal then, or if the socket breaks.
    pub fn recover(
        self,
        lost: Lost,
        backend: &dyn Backend,
        vectors: &Vectors,
    ) -> Result<(), ServeError> {
        let checked = lost.check();
        if let (Err(_), Some(journal)) = (checked, &self.journal) {
            // Whoever starts this process again does not come to the same end.
            journal.closed();
        }
        checked?;
        let _running = Running::new(&self.control);
        let mut rations = Rations::default();
        if let Some(journal) = self.journal.as_deref() {
            let attachment = Attachment::new(backend, vectors, &mut rations);
            self.serve_lost(lost, attachment, journal);
        }
        self.serve_others(backend, vectors, &mut rations)
    }

    fn serve_lost<'a>(
        &'a self,
        lost: Lost,
        mut attachment: Attachment<'a>,
        journal: &'a dyn Journal,
    ) {
        attachment.reopen_journal(journal);
        if lost.attached {
            attachment.resume();
        }
        let unfinished = Unfinished {
            progress: lost.progress,
            answer: lost.answer,
            took_effect: lost.took_effect,
        };
        match self.control.take_lost(Foreign::new(lost.connection)) {
            Some(socket) => self.serve_until_end(socket, attachment, Start::Lost(unfinished)),
            None => journal.closed(),
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("control", &self.control)
            .field("journal", &self.journal.is_some())
            .finish()
    }
}
