//! Resource limits.

#![allow(unsafe_code)]

use rustix::process::{Resource, Rlimit, getrlimit, setpriority_process, setrlimit};

/// Raises this process' limit of descriptors to its hard limit, since a VMM may share memory by
/// many.
pub fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "the limit of descriptors is not raised");
    }
}

/// Lowers a hard limit; a lower one is kept.
///
/// # Errors
///
/// If a system call fails.
pub fn lower(resource: Resource, most: u64) -> std::io::Result<()> {
    let most = getrlimit(resource)
        .maximum
        .map_or(most, |max| max.min(most));
    let limit = Rlimit {
        current: Some(most),
        maximum: Some(most),
    };
    Ok(setrlimit(resource, limit)?)
}

/// Gives the process idle priority: it runs only when no other process is runnable.
///
/// # Errors
///
/// If a system call fails.
pub fn run_when_idle() -> std::io::Result<()> {
    setpriority_process(None, 19)?;
    // SAFETY: a `struct sched_param` is integers; the kernel copies it.
    let done = unsafe {
        let parameters: libc::sched_param = std::mem::zeroed();
        libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameters)
    };
    if done == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}

/// Limits the processor time of this process, which gets SIGXCPU at the limit.
///
/// # Errors
///
/// If a system call fails.
pub fn processor(most: std::time::Duration) -> std::io::Result<()> {
    let seconds = most.as_secs().max(1);
    let limit = Rlimit {
        current: Some(seconds),
        // The process is killed a second later, should the signal be ignored.
        maximum: Some(seconds + 1),
    };
    Ok(setrlimit(Resource::Cpu, limit)?)
}

/// Returns the processor time that a process has used.
///
/// # Errors
///
/// If there is no such process.
pub fn processor_time(process: u32) -> std::io::Result<std::time::Duration> {
    let mut clock = 0;
    // SAFETY: the C library writes a clock's id to a live value.
    let error = unsafe { libc::clock_getcpuclockid(process as libc::pid_t, &raw mut clock) };
    if error != 0 {
        return Err(std::io::Error::from_raw_os_error(error));
    }
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel writes a time to a live value.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(std::time::Duration::new(
        time.tv_sec.unsigned_abs(),
        time.tv_nsec as u32,
    ))
}
