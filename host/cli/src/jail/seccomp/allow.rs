//! What a list of system calls is made of.

/// What a process is there for, which says what it may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Serves a device.
    Server,
    /// Removes sockets and starts children. What it may call includes what a child
    /// calls before it has a jail of its own.
    Broker,
    /// Compiles a component, and runs nothing of it.
    Compile,
    /// Compiles a component and runs it against the conformance suite.
    Check,
}

/// How a system call is allowed. Of several, one suffices.
#[derive(Clone, Copy, Debug)]
pub enum Allow {
    /// With any arguments.
    Any,
    /// If these bits of an argument have this value: index, bits, value.
    Bits(u8, u64, u64),
    /// If an argument, 32 bits of it, has this value.
    Value(u8, u32),
    /// If the argument is the id of this process.
    Own(u8),
}

/// A list of system calls and how they are allowed.
pub type List = &'static [(libc::c_long, &'static [Allow])];
