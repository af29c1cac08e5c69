//! The types of lists of system calls.

/// The purpose of a process, which determines its system calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Serves a device.
    Server,
    /// Removes sockets and starts children. Its list includes the calls of a child
    /// before that has its own jail.
    Broker,
    /// Compiles a component without running it.
    Compile,
    /// Compiles a component and runs it against the conformance suite.
    Check,
}

/// A condition under which a system call is allowed. One of several suffices.
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
