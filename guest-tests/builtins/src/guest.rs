//! The guest's code, as text: one loop, whose accesses to the rings are written in
//! several ways, as a core module and as a component around one.

/// Offset of the window in the linear memory of a module that has one.
pub const WINDOW: usize = 1 << 16;
/// Entries that a ring has; completions too.
pub const RING: u64 = 256;
/// Bytes of an entry, four words, which begin at the start of the pages.
pub const ENTRY: usize = 32;
/// Bytes of a completion, eight words, which follow the entries.
pub const COMPLETION: usize = 64;
/// Offset of the completions.
pub const COMPLETIONS: usize = RING as usize * ENTRY;
/// Bytes of both rings.
pub const PAGES: usize = COMPLETIONS + RING as usize * COMPLETION;

/// The parameters and the result of every export: those of the device's
/// `write-register`, which is what a doorbell calls.
const SIGNATURE: &str =
    r#"(param "bar" u32) (param "offset" u64) (param "size" u32) (param "value" u64) (result u32)"#;

/// Returns the words of all entries, which all differ.
pub fn entries() -> impl Iterator<Item = u64> {
    let next = |word: &u64| Some(word.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1));
    std::iter::successors(Some(1), next).take(COMPLETIONS / 8)
}

/// Writes words as a string of the text format.
fn escaped(words: impl Iterator<Item = u64>) -> String {
    let bytes = words.flat_map(u64::to_le_bytes);
    bytes.map(|byte| format!("\\{byte:02x}")).collect()
}

/// The guest's import from the host.
pub const HOST: &str =
    r#"(export "note" (func (param "kind" u32) (param "value" u64) (result u32)))"#;

/// The module's exports.
pub const EXPORTS: [&str; 3] = ["empty", "notify", "batch"];

/// How the guest accesses the rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Loads and stores of linear memory, in which the pages are mapped.
    Window,
    /// A builtin for each word.
    Words(Check),
    /// A builtin for each word that is read, and one for a whole completion.
    Completions,
}

/// How a builtin checks the bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Compares in wasm, and traps.
    OwnCode,
    /// Leaves it to wasmtime's checked intrinsics.
    Intrinsic,
    /// Nothing: unsound, and the least that a builtin can cost.
    Nothing,
}

impl Access {
    /// Loads the word at that offset of the present entry.
    fn load(self, offset: usize) -> String {
        match self {
            Self::Window => format!("(i64.load offset={offset} (local.get $entry))"),
            Self::Words(_) | Self::Completions => {
                format!("(call $load (i32.add (local.get $entry) (i32.const {offset})))")
            }
        }
    }

    /// Stores the words of the present completion, in order.
    fn publish(self, words: &[&str; 8]) -> String {
        let stores = words.iter().enumerate().map(|(index, word)| {
            let offset = 8 * index;
            match self {
                Self::Window => {
                    format!("(i64.store offset={offset} (local.get $completion) {word})\n")
                }
                Self::Words(_) => format!(
                    "(call $store (i32.add (local.get $completion) (i32.const {offset})) {word})\n"
                ),
                Self::Completions => word.to_string(),
            }
        });
        match self {
            Self::Completions => {
                let words: Vec<String> = stores.collect();
                format!(
                    "(call $publish (local.get $completion) {})",
                    words.join(" ")
                )
            }
            Self::Window | Self::Words(_) => stores.collect(),
        }
    }

    /// Returns the builtins' names, and their types in a component and in its module.
    pub fn builtins(self) -> Vec<(&'static str, String, String)> {
        let load = (
            "load",
            r#"(param "offset" u32) (result u64)"#.to_owned(),
            "(param i32) (result i64)".to_owned(),
        );
        let store = |name, words: usize| {
            let mut lifted = r#"(param "offset" u32)"#.to_owned();
            for word in 0..words {
                lifted += &format!(r#" (param "w{word}" u64)"#);
            }
            (
                name,
                lifted,
                format!("(param i32 {})", "i64 ".repeat(words)),
            )
        };
        match self {
            Self::Window => vec![],
            Self::Words(_) => vec![load, store("store", 1)],
            Self::Completions => vec![load, store("publish", 8)],
        }
    }
}

/// Returns a core module.
pub fn module(access: Access) -> String {
    format!("(module {})", fields(access))
}

/// Returns the fields of the module: `batch` reads a number of entries from a position on,
/// and publishes a completion for each; `empty` does nothing; `notify` calls the host a
/// number of times.
fn fields(access: Access) -> String {
    let mut imports = String::new();
    for (name, _, core) in access.builtins() {
        imports += &format!(r#"(import "ring" "{name}" (func ${name} {core}))"#);
    }
    let (memory, base) = match access {
        // The data is for guests without a window over it.
        Access::Window => (
            format!(
                r#"(memory (export "memory") 2 2) (data (i32.const {WINDOW}) "{}")"#,
                escaped(entries())
            ),
            WINDOW,
        ),
        Access::Words(_) | Access::Completions => (String::new(), 0),
    };
    let [a, b, c, d] = [0, 8, 16, 24].map(|offset| access.load(offset));
    let publish = access.publish(&[
        "(local.get $a)",
        "(local.get $b)",
        "(local.get $c)",
        "(local.get $d)",
        "(i64.xor (local.get $a) (local.get $b))",
        "(i64.add (local.get $c) (local.get $d))",
        "(local.get $position)",
        "(i64.or (local.get $position) (i64.const 0x8000000000000000))",
    ]);
    format!(
        r#"{imports}
        (import "host" "note" (func $note (param i32 i64) (result i32)))
        {memory}
        ;; As in the device, where the pages lie is known when a queue is made.
        (global $base (export "base") (mut i32) (i32.const {base}))
        (func (export "empty") (param i32 i64 i32 i64) (result i32) (local.get 0))
        (func (export "notify") (param i32 i64 i32 i64) (result i32)
            (local $sum i32)
            (loop $next
                (local.set $sum (i32.add (local.get $sum)
                    (call $note (local.get 0) (local.get 1))))
                (local.set 3 (i64.sub (local.get 3) (i64.const 1)))
                (br_if $next (i64.ne (local.get 3) (i64.const 0))))
            (local.get $sum))
        (func (export "batch") (param i32) (param $position i64) (param i32) (param $count i64)
                (result i32)
            (local $base i32) (local $entry i32) (local $completion i32) (local $end i64)
            (local $a i64) (local $b i64) (local $c i64) (local $d i64) (local $sum i64)
            (local.set $base (global.get $base))
            (local.set $end (i64.add (local.get $position) (local.get $count)))
            (loop $next
                (local.set $entry (i32.and
                    (i32.wrap_i64 (local.get $position)) (i32.const {mask})))
                (local.set $completion (i32.add (local.get $base) (i32.add
                    (i32.const {COMPLETIONS})
                    (i32.mul (local.get $entry) (i32.const {COMPLETION})))))
                (local.set $entry (i32.add (local.get $base)
                    (i32.mul (local.get $entry) (i32.const {ENTRY}))))
                (local.set $a {a})
                (local.set $b {b})
                (local.set $c {c})
                (local.set $d {d})
                {publish}
                (local.set $sum (i64.add (local.get $sum) (i64.add
                    (i64.add (local.get $a) (local.get $b))
                    (i64.add (local.get $c) (local.get $d)))))
                (local.set $position (i64.add (local.get $position) (i64.const 1)))
                (br_if $next (i64.ne (local.get $position) (local.get $end))))
            (i32.wrap_i64 (local.get $sum)))"#,
        mask = RING - 1,
    )
}

/// Returns the module with its instance and its lifted exports, for a component that
/// has the host's functions; `ring` is what the module is given as such.
pub fn instance(access: Access, ring: &str) -> String {
    let lifts = EXPORTS.map(|name| {
        format!(r#"(func (export "{name}") {SIGNATURE} (canon lift (core func $guest "{name}")))"#)
    });
    format!(
        r#"(core module $code {fields})
        (core func $note (canon lower (func $host "note")))
        (core instance $guest (instantiate $code
            {ring}
            (with "host" (instance (export "note" (func $note))))))
        {lifts}"#,
        fields = fields(access),
        lifts = lifts.concat(),
    )
}

/// Returns a component of that module.
pub fn component(access: Access) -> String {
    let (mut exports, mut lowered, mut given) = (String::new(), String::new(), String::new());
    for (name, lifted, _) in access.builtins() {
        exports += &format!(r#"(export "{name}" (func {lifted}))"#);
        lowered += &format!(r#"(core func ${name} (canon lower (func $ring "{name}")))"#);
        given += &format!(r#"(export "{name}" (func ${name}))"#);
    }
    let (import, ring) = match access {
        Access::Window => (String::new(), String::new()),
        Access::Words(_) | Access::Completions => (
            format!(r#"(import "ring" (instance $ring {exports}))"#),
            format!(r#"(with "ring" (instance {given}))"#),
        ),
    };
    format!(
        r#"(component
        {import}
        (import "host" (instance $host {HOST}))
        {lowered}
        {instance})"#,
        instance = instance(access, &ring),
    )
}
