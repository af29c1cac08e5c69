//! Events that the host causes.

use device_kit::Platform;
use mana_wire::gdma::cap1;
use mana_wire::hwc::{TypeData, reconfig};
use mana_wire::queue::eqe;

use super::channel::Channel;
use super::gdma_requests::MAX_TIMEOUT_MS;
use crate::gdma::Context;

impl Channel {
    /// Tells a driver that did not get an answer in time to wait longer, if it supports
    /// that (`HWC_DATA_CFG_HWC_TIMEOUT`).
    pub fn extend_timeout(&mut self, ctx: &mut Context<'_, impl Platform>) {
        if self.driver_caps & cap1::HWC_TIMEOUT_RECONFIG == 0 {
            return;
        }
        self.timeout_ms = self.timeout_ms.saturating_mul(2).min(MAX_TIMEOUT_MS);
        self.reconfigure(ctx, reconfig::HWC_TIMEOUT, self.timeout_ms);
    }

    /// Asks the driver to reset the device.
    pub fn request_reset(&self, ctx: &mut Context<'_, impl Platform>) {
        self.post(ctx, eqe::HWC_RESET_REQUEST, 0);
        self.link_changed(ctx, false);
    }

    /// Notifies a driver that supports it that a link went up or down.
    pub fn link_changed(&self, ctx: &mut Context<'_, impl Platform>, up: bool) {
        if self.driver_caps & cap1::HW_VPORT_LINK_AWARE != 0 {
            let kind = if up {
                reconfig::LINK_CONNECT
            } else {
                reconfig::LINK_DISCONNECT
            };
            self.reconfigure(ctx, kind, 0);
        }
    }

    fn reconfigure(&self, ctx: &mut Context<'_, impl Platform>, kind: u8, value: u32) {
        let data = TypeData::new().with_kind(kind).with_value(value);
        self.post(ctx, eqe::HWC_SOC_RECONFIG_DATA, data.into_bits());
    }
}
