//! A component's description, laid out in its memory.

use wit_parser::{Resolve, SizeAlign, Type, TypeDefKind};

/// A list, given by its items or by a claimed address and length.
#[derive(Clone, Debug)]
pub enum List<T> {
    /// A list of these items.
    Items(Vec<T>),
    /// A claim of this many items at an address.
    Claimed {
        /// The claimed address.
        address: u32,
        /// The claimed number.
        count: u32,
    },
}

impl<T> List<T> {
    /// Claims this many items at an address.
    pub fn claim(&mut self, address: u32, count: u32) {
        *self = Self::Claimed { address, count };
    }
}

/// The fields of a description, by the names of the contract.
#[derive(Clone, Debug)]
pub struct Described {
    /// The device's name.
    pub name: List<u8>,
    /// The version of its build.
    pub build: List<u8>,
    /// PCI device id.
    pub device_id: u16,
    /// Index and size of each BAR.
    pub bars: List<(u8, u64)>,
    /// MSI-X vectors.
    pub msix_vectors: u16,
    /// The most ports.
    pub max_ports: u32,
    /// The formats that it reads.
    pub reads: List<u32>,
    /// BAR, offset and length of each range of doorbells.
    pub doorbells: List<(u8, u64, u64)>,
}

impl Default for Described {
    /// Creates the description of an adapter much like the shipped one.
    fn default() -> Self {
        Self {
            name: List::Items(b"Test adapter".into()),
            build: List::Items(b"9.9.9".into()),
            device_id: 0xba,
            bars: List::Items(vec![(0, 0x2000)]),
            msix_vectors: 65,
            max_ports: 256,
            reads: List::Items(vec![1]),
            doorbells: List::Items(vec![(0, 0x1000, 0x1000)]),
        }
    }
}

/// Writes values in the canonical ABI's layout.
pub struct Layout<'a> {
    resolve: &'a Resolve,
    sizes: SizeAlign,
}

/// A value of any type of the contract; missing fields are zero.
enum Value {
    Number(u64),
    Some(u64),
    Claim(u32, u32),
    List(Vec<Value>),
    /// A record, by the names of its fields.
    Record(Vec<(&'static str, Value)>),
}

impl<'a> Layout<'a> {
    /// Creates a layout of the types of a package.
    pub fn new(resolve: &'a Resolve) -> Self {
        let mut sizes = SizeAlign::default();
        sizes.fill(resolve);
        Self { resolve, sizes }
    }

    /// Writes a description for an address. Returns the bytes from there on.
    pub fn lower(&self, ty: &Type, described: &Described, at: u32) -> Vec<u8> {
        let mut memory = vec![0; self.size(ty)];
        self.put(&mut memory, at, 0, ty, &described.value());
        memory
    }

    fn size(&self, ty: &Type) -> usize {
        self.sizes.size(ty).size_wasm32()
    }

    fn put(&self, memory: &mut Vec<u8>, base: u32, at: usize, ty: &Type, value: &Value) {
        let kind = match ty {
            Type::Id(id) => Some(&self.resolve.types[*id].kind),
            _ => None,
        };
        match (kind, value) {
            (Some(TypeDefKind::Type(ty)), value) => self.put(memory, base, at, ty, value),
            (_, Value::Number(number)) => {
                let size = self.size(ty).min(8);
                memory[at..at + size].copy_from_slice(&number.to_le_bytes()[..size]);
            }
            (Some(TypeDefKind::Option(inner)), Value::Some(number)) => {
                memory[at] = 1;
                let align = self.sizes.align(inner).align_wasm32();
                self.put(memory, base, at + align, inner, &Value::Number(*number));
            }
            (Some(TypeDefKind::List(_)), Value::Claim(address, count)) => {
                set_list(memory, at, *address, *count);
            }
            (Some(TypeDefKind::List(item)), Value::List(items)) => {
                let (size, align) = (self.size(item), self.sizes.align(item).align_wasm32());
                let begin = memory.len().next_multiple_of(align.max(8));
                memory.resize(begin + size * items.len(), 0);
                set_list(memory, at, base + begin as u32, items.len() as u32);
                for (index, value) in items.iter().enumerate() {
                    self.put(memory, base, begin + index * size, item, value);
                }
            }
            (Some(TypeDefKind::Record(record)), Value::Record(fields)) => {
                let types = record.fields.iter().map(|field| &field.ty);
                let offsets = self.sizes.field_offsets(types);
                for (field, (offset, ty)) in record.fields.iter().zip(offsets) {
                    let value = fields.iter().find(|(name, _)| *name == field.name);
                    if let Some((_, value)) = value {
                        self.put(memory, base, at + offset.size_wasm32(), ty, value);
                    }
                }
            }
            (kind, _) => panic!("no such value of {kind:?}"),
        }
    }
}

fn set_list(memory: &mut [u8], at: usize, address: u32, count: u32) {
    memory[at..at + 4].copy_from_slice(&address.to_le_bytes());
    memory[at + 4..at + 8].copy_from_slice(&count.to_le_bytes());
}

impl<T: Clone> List<T> {
    fn value(&self, of: impl Fn(T) -> Value) -> Value {
        match self {
            Self::Items(items) => Value::List(items.iter().cloned().map(of).collect()),
            Self::Claimed { address, count } => Value::Claim(*address, *count),
        }
    }
}

impl Described {
    fn value(&self) -> Value {
        use Value::{Number, Record, Some};
        let byte = |byte| Number(u64::from(byte));
        let version = vec![
            ("name", self.name.value(byte)),
            ("build", self.build.value(byte)),
        ];
        let pci = vec![
            ("vendor-id", Number(0x1414)),
            ("device-id", Number(self.device_id.into())),
            ("subsystem-vendor-id", Number(0x1414)),
            ("revision-id", Number(1)),
            ("class-code", Number(0x02_00_00)),
        ];
        let bar = |(index, size)| Record(vec![("index", byte(index)), ("size", Number(size))]);
        let doorbells = |(bar, offset, length)| {
            Record(vec![
                ("bar", byte(bar)),
                ("offset", Number(offset)),
                ("length", Number(length)),
                ("key", Number(0xff_ffff)),
            ])
        };
        Record(vec![
            ("version", Record(version)),
            ("pci", Record(pci)),
            ("bars", self.bars.value(bar)),
            ("msix-vectors", Number(self.msix_vectors.into())),
            ("max-ports", Number(self.max_ports.into())),
            ("saved-state-writes", Some(1)),
            ("saved-state-reads", self.reads.value(|n| Number(n.into()))),
            ("doorbells", self.doorbells.value(doorbells)),
        ])
    }
}
