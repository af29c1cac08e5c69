//! Seccomp: restricts system calls.
//!
//! Three filters are stacked, and the strictest result applies:
//!
//! - calls that only an attacker would make end the process;
//! - `clone3` fails with ENOSYS, because a filter can't see its flags: the C library
//!   falls back to `clone`, whose flags are checked;
//! - calls that are not on the list of the [`Role`], or have other arguments, fail with
//!   EPERM. Libraries try to open files and sockets and continue without; that should not
//!   end the process.

mod allow;
mod lists;

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use super::error::JailError;
pub use allow::Role;
use allow::{Allow, List};

/// Restricts this process, all of its threads and its children to the system calls of
/// `role`.
///
/// # Errors
///
/// [`JailError::Seccomp`].
pub fn restrict(role: Role) -> Result<(), JailError> {
    for program in programs(role).map_err(JailError::Seccomp)? {
        let applied = seccompiler::apply_filter_all_threads(&program);
        applied.map_err(|error| JailError::Seccomp(error.to_string()))?;
    }
    Ok(())
}

/// Returns the filters in the order in which they are installed: the last one forbids further
/// filters.
fn programs(role: Role) -> Result<Vec<BpfProgram>, String> {
    let mut programs = vec![refuse(
        &[libc::SYS_clone3],
        SeccompAction::Errno(libc::ENOSYS as u32),
    )?];
    // Its children inherit the broker's filters, and have to start like any program.
    let deadly = match role {
        Role::Broker => lists::DEADLY,
        _ => lists::DEADLY_AND_EXECUTION,
    };
    programs.push(refuse(deadly, SeccompAction::KillProcess)?);
    programs.push(allow(lists::of(role))?);
    Ok(programs)
}

fn compile(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> Result<BpfProgram, String> {
    let architecture = std::env::consts::ARCH
        .try_into()
        .map_err(|_| format!("no filter is known for {}", std::env::consts::ARCH))?;
    SeccompFilter::new(rules, otherwise, matched, architecture)
        .and_then(BpfProgram::try_from)
        .map_err(|error| error.to_string())
}

fn refuse(calls: &[libc::c_long], action: SeccompAction) -> Result<BpfProgram, String> {
    let rules = calls.iter().map(|call| (*call, Vec::new())).collect();
    compile(rules, SeccompAction::Allow, action)
}

fn allow(lists: &[List]) -> Result<BpfProgram, String> {
    let mut rules: BTreeMap<i64, Option<Vec<SeccompRule>>> = BTreeMap::new();
    for (call, ways) in lists.iter().copied().flatten() {
        let entry = rules.entry(*call).or_insert_with(|| Some(Vec::new()));
        for way in *ways {
            match (rule(*way)?, &mut *entry) {
                (Some(rule), Some(rules)) => rules.push(rule),
                // A call without conditions in one list has none at all.
                _ => *entry = None,
            }
        }
    }
    let rules = rules
        .into_iter()
        .map(|(call, rules)| (call, rules.unwrap_or_default()))
        .collect();
    compile(
        rules,
        SeccompAction::Errno(libc::EPERM as u32),
        SeccompAction::Allow,
    )
}

/// Returns the rule for a condition; None if there is none.
fn rule(way: Allow) -> Result<Option<SeccompRule>, String> {
    let masked = |(index, bits, value)| {
        SeccompCondition::new(
            index,
            SeccompCmpArgLen::Qword,
            SeccompCmpOp::MaskedEq(bits),
            value,
        )
    };
    let exactly = |index, value| {
        let length = SeccompCmpArgLen::Dword;
        SeccompCondition::new(index, length, SeccompCmpOp::Eq, u64::from(value))
    };
    let conditions = match way {
        Allow::Any => return Ok(None),
        Allow::Bits(index, bits, value) => vec![masked((index, bits, value))],
        Allow::Value(index, value) => vec![exactly(index, value)],
        Allow::Own(index) => vec![exactly(index, std::process::id())],
    };
    let conditions = conditions
        .into_iter()
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())?;
    SeccompRule::new(conditions)
        .map(Some)
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_role_has_filters() {
        for role in [Role::Server, Role::Broker, Role::Compile, Role::Check] {
            assert_eq!(programs(role).unwrap().len(), 3, "{role:?}");
        }
    }

    #[test]
    fn nothing_deadly_is_allowed() {
        for role in [Role::Server, Role::Compile, Role::Check] {
            for (call, _) in lists::of(role).iter().copied().flatten() {
                assert!(
                    !lists::DEADLY_AND_EXECUTION.contains(call),
                    "{role:?} {call}"
                );
            }
        }
    }
}
