//! A vport with several queue pairs, as `mana_alloc_queues` makes it.

use alloc::vec;
use alloc::vec::Vec;

use mana_wire::bnic::{
    ConfigVportRxMore, ConfigVportRxReq, ConfigVportRxResp, HASH_KEY_SIZE, INDIRECTION_ENTRIES,
    code,
};
use mana_wire::queue::QueueType;
use zerocopy::IntoBytes;

use super::Driver;
use super::message::{REQUEST_HEADER, Request};
use super::nic::{Sizes, UNCHANGED, Vport, steering};
use crate::failure::{During, Outcome};

/// The Toeplitz key of [`Driver::open_pairs`]: Microsoft's, of "Verifying the RSS Hash
/// Calculation".
pub const KEY: [u8; HASH_KEY_SIZE] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0,
    0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c,
    0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
];

/// Offset of the table in the message (`struct mana_cfg_rx_steer_req_v2`).
const TABLE: usize =
    REQUEST_HEADER + size_of::<ConfigVportRxReq>() + size_of::<ConfigVportRxMore>();

/// A configuration of how a vport receives; a field that is None leaves the setting as
/// it is.
#[derive(Clone, Debug, Default)]
pub struct Rss {
    /// Whether packets are received.
    pub enable: Option<bool>,
    /// Whether packets are distributed by hash.
    pub spread: Option<bool>,
    /// Handle of the default object.
    pub default: Option<u64>,
    /// Hash key.
    pub key: Option<[u8; HASH_KEY_SIZE]>,
    /// Handles of objects in the indirection table.
    pub table: Option<Vec<u64>>,
    /// Whether packets may share a completion.
    pub coalesces: bool,
}

impl Rss {
    /// Returns the request as a current driver writes it (`mana_cfg_vport_steering`).
    pub fn request(&self, vport: u64) -> Request {
        let state = |state: Option<bool>| state.map_or(UNCHANGED, u32::from);
        let table = self.table.clone().unwrap_or_default();
        let body = ConfigVportRxReq {
            num_indir_entries: table.len() as u16,
            indir_tab_offset: TABLE as u16,
            rx_enable: state(self.enable),
            rss_enable: state(self.spread),
            update_default_rxobj: self.default.is_some().into(),
            update_hashkey: self.key.is_some().into(),
            update_indir_tab: self.table.is_some().into(),
            default_rxobj: self.default.unwrap_or_default(),
            hashkey: self.key.unwrap_or([0; HASH_KEY_SIZE]),
            ..steering(vport)
        };
        let table: Vec<u8> = table.iter().flat_map(|it| it.to_le_bytes()).collect();
        let more = ConfigVportRxMore {
            cqe_coalescing_enable: self.coalesces.into(),
            ..ConfigVportRxMore::default()
        };
        let bytes = [body.as_bytes(), more.as_bytes(), &table].concat();
        let size = size_of::<ConfigVportRxResp>();
        Request::of_bytes(code::CONFIG_VPORT_RX, &bytes, size).versions(2, 2)
    }
}

/// Returns a table that names objects in turn (`mana_rss_table_init`).
pub fn in_turn(pairs: &[Vport], entries: usize) -> Vec<u64> {
    let handles = pairs.iter().map(|pair| pair.rx.handle);
    handles.cycle().take(entries).collect()
}

impl Driver<'_> {
    /// Returns the first queue pairs of a port, each with an event queue and a vector of
    /// its own (that of its number and 1), which receive by hash. The device is started.
    ///
    /// # Errors
    ///
    /// A failure if the device does not behave as the driver expects.
    pub fn open_pairs(&mut self, port: u32, count: u16, sizes: Sizes) -> Outcome<Vec<Vport>> {
        let handle = self.query_vport(port)?.vport;
        let vp_offset = self.configure_tx(handle)?.tx_vport_offset;
        let mut pairs = Vec::new();
        for number in 0..count {
            let eq = self.create_eq(number + 1, sizes.eq)?;
            let tx = self.create_object(handle, QueueType::Sq, Some(eq.id), sizes)?;
            let rx = self.create_object(handle, QueueType::Rq, Some(eq.id), sizes)?;
            tx.cq.ring(self, true);
            rx.cq.ring(self, true);
            pairs.push(Vport {
                handle,
                port,
                eq,
                tx,
                rx,
                vp_offset,
            });
        }
        let rss = Rss {
            enable: Some(true),
            spread: Some(count > 1),
            default: Some(pairs[0].rx.handle),
            key: Some(KEY),
            table: Some(in_turn(&pairs, INDIRECTION_ENTRIES.into())),
            ..Rss::default()
        };
        let request = rss.request(handle);
        self.succeed(&request).during("steering to all queues")?;
        for pair in &mut pairs {
            pair.eq.drain(self)?;
            pair.eq.ring(self, true);
        }
        Ok(pairs)
    }

    /// Destroys queue pairs of a vport (`mana_dealloc_queues`).
    ///
    /// # Errors
    ///
    /// A failure if the device does not behave as the driver expects.
    pub fn close_pairs(&mut self, pairs: &[Vport]) -> Outcome {
        self.disable_rx(pairs[0].handle)?;
        for pair in pairs {
            self.destroy_object(&pair.rx)?;
        }
        for pair in pairs {
            self.destroy_object(&pair.tx)?;
        }
        for pair in pairs {
            self.destroy_queue(QueueType::Eq, pair.eq.id)?;
        }
        Ok(())
    }

    /// Starts the device and opens all queue pairs of port 0 that it reports. Returns
    /// the pairs, and their number.
    ///
    /// # Errors
    ///
    /// A failure if the device does not behave as the driver expects.
    pub fn start_and_open_pairs(&mut self) -> Outcome<Vec<Vport>> {
        self.start()?;
        let count = self.query_vport(0)?.max_num_rq;
        self.open_pairs(0, count as u16, Sizes::SMALL)
    }
}

/// Returns the numbers of the queues that a table of this many entries names in turn.
pub fn numbers_in_turn(queues: usize, entries: usize) -> Vec<u16> {
    let mut numbers = vec![0; entries];
    for (index, number) in numbers.iter_mut().enumerate() {
        *number = (index % queues) as u16;
    }
    numbers
}
