//! Going on after a failure, from an older state and what is outside of the
//! device: the guest's rings, and what the host saw.

use alloc::vec::Vec;

use mana_wire::registers::DOORBELLS;

use super::Device;
use crate::bnic::objects::Work;
use crate::gdma::cq::LastCompleted;
use crate::gdma::queues::Queues;
use crate::gdma::queues::recover::Doorbells;
use crate::hwc::Answered;
use device_kit::envelope::RestoreError;
use device_kit::platform::{HandedOver, Observations, Platform};
use mana_wire::queue::{MAX_SQE_SIZE, QueueType, WQE_UNIT};

impl<P: Platform> Device<P> {
    /// Goes on where a device was that failed after it was saved. What it had
    /// received and not completed is lost; what it had handed over is not
    /// handed over again. Work is left afterwards.
    ///
    /// # Errors
    ///
    /// [`RestoreError`]; the device is as it was after `configure`.
    pub(super) fn recover_from(
        &mut self,
        state: &[u8],
        seen: &Observations,
    ) -> Result<(), RestoreError> {
        self.restore_state(state)?;
        let answered = self.channel_done();
        let doorbells = seen.doorbells.iter().filter(|write| write.bar == 0);
        let rung: Vec<(u64, u64)> = doorbells
            .filter_map(|write| Some((write.offset.checked_sub(DOORBELLS)?, write.value)))
            .collect();
        let doorbells = Doorbells { rung: &rung };
        let last = self
            .queues
            .recover(&mut self.platform, doorbells, &seen.skip);
        self.nic.waiting.clear();
        for (_, object) in &mut self.nic.objects {
            let (vport, queue) = (object.vport as u32, object.queue);
            match &mut object.work {
                Work::Send {
                    in_flight,
                    handed_over,
                } => {
                    in_flight.clear();
                    let mut told = seen.transmitted.iter();
                    let last = told.find(|t| (t.port, t.queue) == (vport, queue));
                    *handed_over = last.and_then(|last| ahead(&mut self.queues, object.wq, last));
                }
                Work::Receive { posted } => posted.clear(),
            }
        }
        self.note_unsaved_request(answered, &last);
        self.recovered = true;
        self.rehearsed = false;
        Ok(())
    }

    /// Where the last answered request of the hardware channel ends.
    fn channel_done(&mut self) -> Option<u32> {
        let [_, _, sq, _] = self.hwc.as_ref()?.queue_ids();
        let (_, _, done) = self.queues.sq(sq)?.positions();
        Some(done)
    }

    /// Has the channel act again on the last request, if that is one that the
    /// state does not know of: `answered` is how far that knows.
    fn note_unsaved_request(&mut self, answered: Option<u32>, last: &[LastCompleted]) {
        let (Some(hwc), Some(answered)) = (&mut self.hwc, answered) else {
            return;
        };
        let [_, _, sq, _] = hwc.queue_ids();
        let Some(request) = last.iter().find(|l| l.is_sq && l.wq == sq) else {
            return;
        };
        let length = request.note.wrapping_mul(WQE_UNIT);
        if length != 0 && length <= MAX_SQE_SIZE && request.end != answered {
            hwc.replay = Some(Answered {
                position: request.end.wrapping_sub(length),
                end: request.end,
            });
        }
    }

    /// Asks the driver to reset the device.
    pub(super) fn request_reset(&mut self) {
        let (hwc, mut ctx) = self.split();
        if let Some(hwc) = hwc {
            hwc.channel.request_reset(&mut ctx);
        }
        self.finish();
    }

    /// Works on every queue, whether or not a doorbell rings.
    pub(super) fn look_at_everything(&mut self) {
        let (hwc, mut ctx) = self.split();
        if let Some(hwc) = hwc {
            hwc.replay(&mut ctx);
            ctx.platform.changed();
        }
        self.hwc_waiting = self.hwc.is_some();
        for queue_type in [QueueType::Sq, QueueType::Rq] {
            for key in self.nic.keys(queue_type) {
                self.process_nic(key);
            }
        }
    }
}

/// The end of the last packet that was handed over, if it is among those that
/// have no completion yet.
fn ahead(queues: &mut Queues, sq: u32, last: &HandedOver) -> Option<u32> {
    let (tail, _, done) = queues.sq(sq)?.positions();
    let (posted, handed) = (tail.wrapping_sub(done), last.id.wrapping_sub(done));
    (handed > 0 && handed <= posted).then_some(last.id)
}
