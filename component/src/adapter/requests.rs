//! The table of requests.

use device_kit::Platform;
use mana_wire::bnic::{
    ConfigVportTxResp, QueryFilterStateResp, QueryVportConfigResp, SetBwClampResp, code as nic_code,
};
use mana_wire::gdma::{
    CreateQueueResp, DmaRegionHandle, HwcTimeout, MaxResourcesResp, RegisterDeviceResp, ReqHeader,
    VerifyVersionResp, code,
};

use crate::bnic::{Nic, link, requests as nic};
use crate::gdma::Context;
use crate::hwc::channel::Channel;
use crate::hwc::dispatch::{Command, Handled, Handler, NO_BODY, Purpose, Target, dispatch};
use crate::hwc::gdma_requests as gdma;

/// The handler of the hardware channel's requests.
pub(super) struct Requests<'a> {
    pub nic: &'a mut Nic,
}

/// The parts of the device that requests act on.
struct Scene<'a, 'c, P> {
    channel: &'a mut Channel,
    ctx: &'a mut Context<'c, P>,
    nic: &'a mut Nic,
}

impl<P: Platform> Handler<P> for Requests<'_> {
    fn handle(
        &mut self,
        channel: &mut Channel,
        ctx: &mut Context<'_, P>,
        purpose: Purpose,
        header: ReqHeader,
        message: &[u8],
        body: &mut [u8],
    ) -> Handled {
        let is_registered = ctx.registration.is_registered();
        let mut scene = Scene {
            channel,
            ctx,
            nic: self.nic,
        };
        dispatch(
            &Scene::COMMANDS,
            &mut scene,
            is_registered,
            purpose,
            header,
            message,
            body,
        )
    }
}

const QUERY: bool = false;
const CHANGE: bool = true;

impl<P: Platform> Scene<'_, '_, P> {
    #[rustfmt::skip]
    const COMMANDS: [Command<Self>; 28] = [
        // The hardware channel's own.
        Command { code: code::VERIFY_VF_DRIVER_VERSION, target: Target::Any, changes: CHANGE,
            layouts: &[size_of::<VerifyVersionResp>()],
            act: |it, request, answer| gdma::verify_version(it.channel, it.ctx, it.nic.capabilities(), request, answer) },
        Command { code: code::QUERY_HWC_TIMEOUT, target: Target::Any, changes: CHANGE,
            layouts: &[size_of::<HwcTimeout>()],
            act: |it, request, answer| gdma::query_hwc_timeout(it.channel, request, answer) },
        Command { code: code::QUERY_MAX_RESOURCES, target: Target::Any, changes: QUERY,
            layouts: &[size_of::<MaxResourcesResp>()],
            act: |_, _, answer| gdma::query_max_resources(answer) },
        Command { code: code::LIST_DEVICES, target: Target::Any, changes: QUERY,
            layouts: &[16],
            act: |_, _, answer| gdma::list_devices(answer) },
        Command { code: code::GENERATE_TEST_EQE, target: Target::Any, changes: QUERY,
            layouts: NO_BODY,
            act: |it, request, _| gdma::generate_test_eqe(it.ctx, request) },
        Command { code: code::GENERATE_RESET_REQUEST_EQE, target: Target::Any, changes: QUERY,
            layouts: NO_BODY,
            act: |it, request, _| gdma::generate_reset_eqe(it.ctx, request) },
        // GDMA.
        Command { code: code::REGISTER_DEVICE, target: Target::Nic, changes: CHANGE,
            layouts: &[size_of::<RegisterDeviceResp>()],
            act: |it, _, answer| nic::register_device(it.ctx, answer) },
        Command { code: code::DEREGISTER_DEVICE, target: Target::RegisteredNic, changes: CHANGE,
            layouts: NO_BODY,
            act: |it, _, _| nic::deregister_device(it.nic, it.ctx) },
        Command { code: code::CREATE_QUEUE, target: Target::Any, changes: CHANGE,
            layouts: &[size_of::<CreateQueueResp>()],
            act: |it, request, answer| gdma::create_queue(it.ctx, request, answer) },
        Command { code: code::DISABLE_QUEUE, target: Target::Any, changes: CHANGE,
            layouts: NO_BODY,
            act: |it, request, _| gdma::disable_queue(it.ctx, request) },
        Command { code: code::CREATE_DMA_REGION, target: Target::Any, changes: CHANGE,
            layouts: &[size_of::<DmaRegionHandle>()],
            act: |it, request, answer| gdma::create_dma_region(it.ctx, request, answer) },
        Command { code: code::DMA_REGION_ADD_PAGES, target: Target::Any, changes: CHANGE,
            layouts: NO_BODY,
            act: |it, request, _| gdma::add_pages(it.ctx, request) },
        Command { code: code::DESTROY_DMA_REGION, target: Target::Any, changes: CHANGE,
            layouts: NO_BODY,
            act: |it, request, _| gdma::destroy_dma_region(it.ctx, request) },
        Command { code: code::CHANGE_MSIX_FOR_EQ, target: Target::Any, changes: CHANGE,
            layouts: NO_BODY,
            act: |it, request, _| gdma::change_msix(it.ctx, request) },
        // The NIC. Linux 7.2 queries the configuration before it registers, to
        // distribute its vectors (`mana_gd_query_max_resources`).
        Command { code: nic_code::QUERY_DEV_CONFIG, target: Target::Nic, changes: QUERY,
            layouts: nic::DEV_CONFIG_LAYOUTS,
            act: |it, request, answer| nic::query_dev_config(it.nic, request, answer) },
        Command { code: nic_code::QUERY_STATS, target: Target::RegisteredNic, changes: QUERY,
            layouts: &[size_of::<u64>()],
            act: |it, request, answer| nic::query_stats(it.nic, request, answer) },
        Command { code: nic_code::QUERY_VPORT_CONFIG, target: Target::RegisteredNic, changes: QUERY,
            layouts: &[size_of::<QueryVportConfigResp>()],
            act: |it, request, answer| nic::query_vport_config(it.nic, it.channel.driver_caps, request, answer) },
        Command { code: nic_code::QUERY_LINK_CONFIG, target: Target::RegisteredNic, changes: QUERY,
            layouts: link::LINK_CONFIG_LAYOUTS,
            act: |it, request, answer| link::query_link_config(it.nic, request, answer) },
        Command { code: nic_code::SET_BW_CLAMP, target: Target::RegisteredNic, changes: CHANGE,
            layouts: &[size_of::<SetBwClampResp>()],
            act: |it, request, answer| link::set_bw_clamp(it.nic, it.ctx, request, answer) },
        Command { code: nic_code::QUERY_PHY_STAT, target: Target::RegisteredNic, changes: QUERY,
            layouts: link::PHY_STATS_LAYOUTS,
            act: |it, request, answer| link::query_phy_stats(it.nic, it.ctx, request, answer) },
        Command { code: nic_code::CONFIG_VPORT_TX, target: Target::RegisteredNic, changes: CHANGE,
            layouts: &[size_of::<ConfigVportTxResp>()],
            act: |it, request, answer| nic::config_vport_tx(it.nic, request, answer) },
        Command { code: nic_code::CONFIG_VPORT_RX, target: Target::RegisteredNic, changes: CHANGE,
            layouts: nic::CONFIG_VPORT_RX_LAYOUTS,
            act: |it, request, answer| nic::config_vport_rx(it.nic, it.ctx, it.channel.driver_caps, request, answer) },
        Command { code: nic_code::CREATE_WQ_OBJ, target: Target::RegisteredNic, changes: CHANGE,
            layouts: nic::CREATE_WQ_OBJ_LAYOUTS,
            act: |it, request, answer| nic::create_wq_obj(it.nic, it.ctx, it.channel.driver_caps, request, answer) },
        Command { code: nic_code::DESTROY_WQ_OBJ, target: Target::RegisteredNic, changes: CHANGE,
            layouts: NO_BODY,
            act: |it, request, _| nic::destroy_wq_obj(it.nic, it.ctx, request) },
        Command { code: nic_code::FENCE_RQ, target: Target::RegisteredNic, changes: QUERY,
            layouts: NO_BODY,
            act: |it, request, _| nic::fence_rq(it.nic, it.ctx, request) },
        Command { code: nic_code::VTL2_ASSIGN_SERIAL_NUMBER, target: Target::RegisteredNic, changes: CHANGE,
            layouts: NO_BODY,
            act: |it, request, _| nic::assign_serial_number(it.nic, request) },
        Command { code: nic_code::VTL2_MOVE_FILTER, target: Target::RegisteredNic, changes: CHANGE,
            layouts: NO_BODY,
            act: |it, request, _| nic::move_filter(it.nic, request) },
        Command { code: nic_code::VTL2_QUERY_FILTER_STATE, target: Target::RegisteredNic, changes: QUERY,
            layouts: &[size_of::<QueryFilterStateResp>()],
            act: |it, request, answer| nic::query_filter_state(it.nic, request, answer) },
    ];
}
