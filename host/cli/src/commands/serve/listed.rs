//! Listening sockets of the service manager's.

/// Which listening sockets the service manager hands over by itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Listed {
    pub vfio: bool,
    pub control: bool,
}
