//! The configurations that a row runs in, and the device that it attacks.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use manatee::component::Component;
use manatee::device::{CrashPolicy, Device, Limits, Port};
use manatee::endpoint::{Endpoint, Loopback};
use manatee::interrupt::{Interrupts, VectorSink};
use parking_lot::Mutex;
use rustix::fs::{MemfdFlags, memfd_create};

use crate::hostile::{Hostile, VERSIONS, Version};

/// Guest memory of a device, in bytes.
pub const MEMORY: u64 = manatee_conformance::guest::MEMORY_SIZE;

/// A version of the contract, and a way to call components.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// The contract's version.
    pub version: Version,
    /// Whether the component is called in its module, instead of through the component model.
    pub direct: bool,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = if self.direct { "direct" } else { "model" };
        write!(f, "{}/{way}", self.version.number)
    }
}

impl Case {
    /// Returns every combination.
    pub fn all() -> impl Iterator<Item = Self> {
        VERSIONS.into_iter().flat_map(|version| {
            let ways = [true, false].into_iter();
            // The first contract always goes through the component model.
            let ways = ways.filter(move |direct| version.has_arenas || !direct);
            ways.map(move |direct| Self { version, direct })
        })
    }

    /// Returns a well-behaved component, whose function bodies a row replaces with hostile ones.
    pub fn hostile(&self) -> Hostile {
        let hostile = Hostile::new(self.version);
        if self.direct {
            hostile
        } else {
            hostile.by_the_model()
        }
    }

    /// Returns the limits of a device under attack: the default ones, with a deadline short
    /// enough for the suite.
    pub fn limits(&self) -> Limits {
        Limits {
            direct: self.direct,
            deadline: Duration::from_millis(200),
            ..Limits::default()
        }
    }

    /// Makes a device of a component that loads.
    pub fn victim(&self, hostile: &Hostile) -> Victim {
        let victim = self.try_victim(hostile, self.limits(), Box::new(Loopback::new()));
        victim.expect("the component behaves so far")
    }

    /// Makes a device of a component that the host may refuse.
    ///
    /// # Errors
    ///
    /// The host refuses the component.
    pub fn try_victim(
        &self,
        hostile: &Hostile,
        limits: Limits,
        endpoint: Box<dyn Endpoint>,
    ) -> Result<Victim, String> {
        let component = hostile.load().map_err(|error| error.to_string())?;
        Victim::new(&component, limits, endpoint)
    }

    /// Tries to make a device of a component, and returns why that is refused.
    pub fn refusal(&self, hostile: &Hostile) -> String {
        match self.try_victim(hostile, self.limits(), Box::new(Loopback::new())) {
            Ok(_) => panic!("it was accepted as a device"),
            Err(error) => error,
        }
    }
}

/// Counts vectors, and forwards them to a listener, if there is one.
#[derive(Clone, Default)]
pub struct Counter {
    count: Arc<AtomicU64>,
    listener: Arc<Mutex<Option<Sender<u16>>>>,
}

impl Counter {
    /// Returns how many were raised.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    /// Returns a channel that receives the vectors raised from now on.
    pub fn listen(&self) -> Receiver<u16> {
        let (sender, receiver) = channel();
        *self.listener.lock() = Some(sender);
        receiver
    }
}

impl VectorSink for Counter {
    fn raise(&self, vector: u16) {
        self.count.fetch_add(1, Ordering::SeqCst);
        if let Some(listener) = &*self.listener.lock() {
            let _ = listener.send(vector);
        }
    }
}

/// A device under attack, with a port and guest memory that it may use.
pub struct Victim {
    /// The device.
    pub device: Device,
    /// The guest's memory.
    pub memory: File,
    /// Vectors that were raised.
    pub vectors: Counter,
}

impl Victim {
    /// Makes a device. Its first failure takes it down, since it has no checkpoint.
    ///
    /// # Errors
    ///
    /// The host refuses the component.
    pub fn new(
        component: &Component,
        limits: Limits,
        endpoint: Box<dyn Endpoint>,
    ) -> Result<Self, String> {
        let vectors = Counter::default();
        let port = Port {
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            link_speed_mbps: 10_000,
            endpoint,
        };
        let sink = Interrupts::Vectors(Box::new(vectors.clone()));
        let policy = CrashPolicy::default();
        let device = Device::builder(component)
            .port(port)
            .limits(limits)
            .crash_policy(policy)
            .build(sink)
            .map_err(|error| error.to_string())?;
        let flags = MemfdFlags::CLOEXEC;
        let memory = File::from(memfd_create("guest", flags).map_err(|e| e.to_string())?);
        memory.set_len(MEMORY).map_err(|error| error.to_string())?;
        let victim = Self {
            device,
            memory,
            vectors,
        };
        victim.share_memory();
        victim.be_master();
        Ok(victim)
    }

    /// Maps the guest's memory.
    pub fn share_memory(&self) {
        let file = self.memory.try_clone().expect("a descriptor");
        let mapped = self.device.map_memory(0, MEMORY, Some((file, 0)), true);
        mapped.expect("the memory is mapped");
    }

    /// Enables memory space and bus mastering.
    pub fn be_master(&self) {
        self.device.config_write(4, &6_u16.to_le_bytes());
    }

    /// Calls the component: a `write-register` of 8 bytes.
    pub fn poke(&self) {
        self.write(0, 0);
    }

    /// Writes a register of 8 bytes.
    pub fn write(&self, offset: u64, value: u64) {
        self.device.bar_write(0, offset, &value.to_le_bytes());
    }

    /// Reads a register of 8 bytes.
    pub fn read(&self, offset: u64) -> u64 {
        let mut value = [0; 8];
        self.device.bar_read(0, offset, &mut value);
        u64::from_le_bytes(value)
    }

    /// Reads guest memory.
    pub fn guest(&self, address: u64, length: usize) -> Vec<u8> {
        let mut data = vec![0; length];
        self.memory
            .read_exact_at(&mut data, address)
            .expect("guest memory can be read");
        data
    }

    /// Checks that the instance was ended, that this is counted and shown, and that
    /// the message contains one of these words. Returns the message.
    pub fn is_ended(&self, words: &[&str]) -> String {
        let failure = self.device.failure().expect("the instance was ended");
        let text = failure.summary();
        is_clean(&text);
        has_one_of(&text, words);
        let tree = self.device.inspect();
        assert_eq!(tree["runtime"]["state"], "down", "{tree:#}");
        assert!(tree["runtime"]["failures"].as_u64() > Some(0), "{tree:#}");
        // A device whose component failed reads as ones.
        assert_eq!(self.read(0), u64::MAX);
        text
    }

    /// Checks that the device works, ignoring earlier failures.
    pub fn runs_after_failures(&self) {
        assert!(self.device.failure().is_none());
        assert_ne!(self.read(0x100), u64::MAX);
    }

    /// Checks that the instance runs and answers.
    pub fn runs(&self) {
        if let Some(failure) = self.device.failure() {
            panic!("the instance was ended: {failure}");
        }
        let tree = self.device.inspect();
        assert_eq!(tree["runtime"]["failures"], 0, "{tree:#}");
        assert_ne!(self.read(0x100), u64::MAX);
    }
}

/// Checks that a text is a single, bounded line without control characters.
pub fn is_clean(text: &str) {
    assert!(!text.is_empty());
    assert!(text.len() <= 2048, "a message of {} bytes", text.len());
    let odd = |c: char| {
        c.is_control()
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}')
    };
    assert!(!text.contains(odd), "{text:?}");
}

/// Checks that a text contains one of these words; an empty list accepts any text.
pub fn has_one_of(text: &str, words: &[&str]) {
    let found = words.is_empty() || words.iter().any(|word| text.contains(word));
    assert!(found, "{text:?} has none of {words:?}");
}
