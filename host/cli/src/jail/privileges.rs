//! Giving up a user, groups and capabilities.

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::{
    self, CapabilitiesSecureBits as SecureBits, CapabilitySet, CapabilitySets, Gid, Uid,
};

use super::JailError;
use super::user::Ids;

/// More than any kernel has: the kernel reports the last one.
const MAX_CAPABILITIES: u32 = 64;

/// Becomes the user of `ids`, if any, and irrevocably drops every capability except
/// `keep` from every set. An unprivileged process has little to drop, and needs no privilege
/// for that.
///
/// # Errors
///
/// [`JailError::Privileges`].
pub fn drop_all(ids: Option<Ids>, keep: CapabilitySet) -> Result<(), JailError> {
    let before = thread::capabilities(None).map_err(failed("capget"))?;
    let keep = keep & before.permitted;
    if before.effective.contains(CapabilitySet::SETPCAP) {
        drop_bounding_set()?;
        let bits = SecureBits::KEEP_CAPS | SecureBits::NO_ROOT | SecureBits::NO_ROOT_LOCKED;
        thread::set_capabilities_secure_bits(bits).map_err(failed("PR_SET_SECUREBITS"))?;
    }
    if before.effective.contains(CapabilitySet::SETGID) {
        drop_groups()?;
    }
    if let Some(ids) = ids {
        become_user(ids)?;
    }
    let kept = CapabilitySets {
        effective: keep,
        permitted: keep,
        inheritable: CapabilitySet::empty(),
    };
    thread::set_capabilities(None, kept).map_err(failed("capset"))?;
    // Kernels before 4.3 have no ambient set.
    match thread::clear_ambient_capability_set() {
        Ok(()) | Err(Errno::INVAL) => {}
        Err(errno) => return Err(failed("PR_CAP_AMBIENT_CLEAR_ALL")(errno)),
    }
    thread::set_no_new_privs(true).map_err(failed("PR_SET_NO_NEW_PRIVS"))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed("PR_SET_DUMPABLE"))?;
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, none).map_err(failed("RLIMIT_CORE"))
}

fn failed(step: &'static str) -> impl Fn(Errno) -> JailError {
    move |errno| JailError::Privileges {
        step,
        source: errno.into(),
    }
}

fn drop_bounding_set() -> Result<(), JailError> {
    for number in 0..MAX_CAPABILITIES {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(failed("PR_CAPBSET_DROP")(errno)),
        }
    }
    Ok(())
}

fn drop_groups() -> Result<(), JailError> {
    match thread::set_thread_groups(&[]) {
        Ok(()) => Ok(()),
        // In a user namespace of an ordinary user the groups are fixed, and are
        // that user's.
        Err(Errno::PERM) if groups_are_fixed() => Ok(()),
        Err(errno) => Err(failed("setgroups")(errno)),
    }
}

fn groups_are_fixed() -> bool {
    std::fs::read_to_string("/proc/self/setgroups").is_ok_and(|answer| answer.trim() == "deny")
}

/// Becomes a user. The calls change one thread; this process has no other.
fn become_user(ids: Ids) -> Result<(), JailError> {
    let (user, group) = (Uid::from_raw(ids.user), Gid::from_raw(ids.group));
    thread::set_thread_res_gid(group, group, group).map_err(failed("setresgid"))?;
    thread::set_thread_res_uid(user, user, user).map_err(failed("setresuid"))
}
