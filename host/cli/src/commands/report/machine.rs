//! The machine's part of a report.

use std::fs;

use rustix::process::{Resource, getrlimit};
use serde_json::{Map, Value, json};

/// Kernel settings that affect `manatee`.
const SETTINGS: [&str; 6] = [
    "vm/max_map_count",
    "vm/overcommit_memory",
    "kernel/io_uring_disabled",
    "kernel/unprivileged_userns_clone",
    "kernel/seccomp/actions_avail",
    "net/core/rmem_max",
];

/// Describes the machine, without its host name.
pub fn describe() -> Value {
    let kernel = |name: &str| read(&format!("/proc/sys/kernel/{name}")).unwrap_or_default();
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    json!({
        "kernel": format!("{} {}", kernel("ostype"), kernel("osrelease")),
        "kernel_build": kernel("version"),
        "architecture": std::env::consts::ARCH,
        "processor": processor(),
        "processors": processors,
        "memory": line("/proc/meminfo", "MemTotal:"),
        "distribution": distribution(),
        "settings": settings(),
        "security_modules": read("/sys/kernel/security/lsm"),
    })
}

/// Lists the resource limits of this process, which its children inherit.
pub fn limits() -> Value {
    let limit = |name: &str, resource| {
        let limit = getrlimit(resource);
        (
            name.to_owned(),
            json!({ "soft": limit.current, "hard": limit.maximum }),
        )
    };
    let limits = [
        limit("open_files", Resource::Nofile),
        limit("locked_memory_bytes", Resource::Memlock),
        limit("address_space_bytes", Resource::As),
        limit("processes", Resource::Nproc),
        limit("core_bytes", Resource::Core),
    ];
    Value::Object(limits.into_iter().collect())
}

fn read(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

fn settings() -> Map<String, Value> {
    let setting = |name: &&str| {
        (
            (*name).to_owned(),
            json!(read(&format!("/proc/sys/{name}"))),
        )
    };
    SETTINGS.iter().map(setting).collect()
}

/// Returns the processor's model name.
fn processor() -> Option<String> {
    let line = line("/proc/cpuinfo", "model name")?;
    Some(line.trim_start_matches(':').trim().to_owned())
}

fn distribution() -> Option<String> {
    let line = line("/etc/os-release", "PRETTY_NAME=")?;
    Some(line.trim_matches('"').to_owned())
}

/// Returns the rest of a file's first line that begins with these words.
fn line(path: &str, begin: &str) -> Option<String> {
    let text = read(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix(begin))?;
    Some(line.trim().to_owned())
}
