//! The resource limits of a device, and its recovery after failures.

use std::time::Duration;

use manatee::device::{CrashPolicy, Limits};

/// The resource limits of a device.
#[derive(Debug, clap::Args)]
pub struct BoundArguments {
    /// The most memory that the component may have, in MiB of addresses: windows into guest
    /// memory take of them
    #[arg(long, value_name = "MIB", default_value = "512",
        value_parser = clap::value_parser!(u16).range(64..=4095))]
    memory_limit: u16,

    /// The longest that the component may work at a time, in milliseconds; then it has failed
    #[arg(long, value_name = "MS", default_value = "1000",
        value_parser = clap::value_parser!(u32).range(10..=60_000))]
    deadline: u32,

    /// Fresh instances of a component that fails that may fail one after the other before the
    /// guest is asked to reset the device; 0: the device is down with the first failure
    #[arg(long, value_name = "N", default_value = "4",
        value_parser = clap::value_parser!(u32).range(0..=1000))]
    recoveries: u32,

    /// Fresh instances that may fail after that before the device is down, until the virtual
    /// machine resets it
    #[arg(long, value_name = "N", default_value = "2",
        value_parser = clap::value_parser!(u32).range(0..=1000))]
    last_tries: u32,
}

impl BoundArguments {
    /// Returns the limits.
    pub fn limits(&self) -> Limits {
        Limits {
            memory: usize::from(self.memory_limit) << 20,
            deadline: Duration::from_millis(self.deadline.into()),
            ..Limits::default()
        }
    }

    /// Returns the crash policy.
    pub fn policy(&self) -> CrashPolicy {
        CrashPolicy {
            recoveries: self.recoveries,
            last_tries: self.last_tries,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        bounds: BoundArguments,
    }

    #[test]
    fn defaults_are_the_librarys() {
        let Command { bounds } = Command::parse_from(["x"]);
        assert_eq!(bounds.limits().memory, Limits::default().memory);
        assert_eq!(bounds.limits().deadline, Limits::default().deadline);
        assert_eq!(bounds.policy(), CrashPolicy::default());
    }
}
