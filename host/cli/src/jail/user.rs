//! The user that a process becomes.

use std::fs;

/// A user and a group, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Ids {
    /// The user.
    pub user: u32,
    /// The group.
    pub group: u32,
}

/// The user and group that Linux calls `nobody`, by number.
const NOBODY: Ids = Ids {
    user: 65534,
    group: 65534,
};
const ROOT: Ids = Ids { user: 0, group: 0 };

/// Why `--user` can't be honoured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UserError {
    /// An unknown user.
    #[error("there is no user `{0}` in /etc/passwd; give a name from there, or UID or UID:GID")]
    NoUser(String),
    /// An unknown group.
    #[error("there is no group `{0}` in /etc/group; give a name from there, or its number")]
    NoGroup(String),
    /// Not root.
    #[error(
        "only root can become another user, and this is user {0}; omit --user to stay that user"
    )]
    NotRoot(u32),
}

/// Returns the user to become: that of `--user`, or `nobody` if this is root and there is
/// no `--user`. None to stay the current user.
///
/// # Errors
///
/// [`UserError`].
pub fn resolve(wanted: Option<&str>) -> Result<Option<Ids>, UserError> {
    let own = Ids {
        user: rustix::process::geteuid().as_raw(),
        group: rustix::process::getegid().as_raw(),
    };
    let Some(wanted) = wanted else {
        return Ok((own.user == 0).then(default_ids).flatten());
    };
    let ids = parse(wanted, &Tables::read())?;
    if own.user != 0 && ids != own {
        return Err(UserError::NotRoot(own.user));
    }
    Ok((ids != own).then_some(ids))
}

/// Returns `nobody`, if it exists: a user namespace may have root only.
fn default_ids() -> Option<Ids> {
    let mapped = |file, id| fs::read_to_string(file).is_ok_and(|map| is_mapped(&map, id));
    let exists =
        mapped("/proc/self/uid_map", NOBODY.user) && mapped("/proc/self/gid_map", NOBODY.group);
    if !exists {
        tracing::info!(
            "this user namespace has no user {}; staying its root, without capabilities",
            NOBODY.user
        );
    }
    exists.then_some(NOBODY)
}

/// Returns whether a map of user or group numbers in /proc contains this one.
fn is_mapped(map: &str, id: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u64>);
        match (numbers.next(), numbers.next(), numbers.next()) {
            (Some(Ok(inside)), Some(Ok(_)), Some(Ok(count))) => {
                (inside..inside.saturating_add(count)).contains(&u64::from(id))
            }
            _ => false,
        }
    })
}

/// The files with users and groups. They are read here, because the C library's
/// look-ups may load other code and talk to other processes.
struct Tables {
    users: String,
    groups: String,
}

impl Tables {
    fn read() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Self {
            users: read("/etc/passwd"),
            groups: read("/etc/group"),
        }
    }

    /// Returns the numbers of a user and of that user's own group.
    fn user(&self, name: &str) -> Option<Ids> {
        let mut fields = fields_of(&self.users, name)?;
        let user = fields.next()?.parse().ok()?;
        let group = fields.next()?.parse().ok()?;
        Some(Ids { user, group })
    }

    fn group(&self, name: &str) -> Option<u32> {
        fields_of(&self.groups, name)?.next()?.parse().ok()
    }
}

/// Returns the fields of a name's line, from the third on.
fn fields_of<'a>(table: &'a str, name: &str) -> Option<impl Iterator<Item = &'a str> + use<'a>> {
    table.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.skip(1))
    })
}

fn parse(text: &str, tables: &Tables) -> Result<Ids, UserError> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let mut ids = match (user.parse(), tables.user(user)) {
        _ if user == "root" => ROOT,
        // A user's number is also its group's, as for most users.
        (Ok(number), _) => Ids {
            user: number,
            group: number,
        },
        (Err(_), Some(ids)) => ids,
        (Err(_), None) => return Err(UserError::NoUser(user.to_owned())),
    };
    if let Some(group) = group {
        let known = group.parse().ok().or_else(|| tables.group(group));
        ids.group = known.ok_or_else(|| UserError::NoGroup(group.to_owned()))?;
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables() -> Tables {
        Tables {
            users: "root:x:0:0::/root:/bin/sh\nnic:x:120:130::/:/bin/false\nbad:x:y\n".into(),
            groups: "kvm:x:36:\n".into(),
        }
    }

    #[test]
    fn names_and_numbers_are_read() {
        let ids = |user, group| Ok(Ids { user, group });
        for (text, expected) in [
            ("nic", ids(120, 130)),
            ("nic:kvm", ids(120, 36)),
            ("7", ids(7, 7)),
            ("7:8", ids(7, 8)),
            ("7:kvm", ids(7, 36)),
            ("root", ids(0, 0)),
            ("nobody", Err(UserError::NoUser("nobody".into()))),
            ("bad", Err(UserError::NoUser("bad".into()))),
            ("", Err(UserError::NoUser(String::new()))),
            ("7:", Err(UserError::NoGroup(String::new()))),
            ("-1", Err(UserError::NoUser("-1".into()))),
            ("4294967296", Err(UserError::NoUser("4294967296".into()))),
        ] {
            assert_eq!(parse(text, &tables()), expected, "{text}");
        }
    }

    #[test]
    fn maps_of_user_namespaces_are_read() {
        let all = "         0          0 4294967295\n";
        assert!(is_mapped(all, NOBODY.user));
        let root_only = "         0       1000          1\n";
        assert!(is_mapped(root_only, 0));
        assert!(!is_mapped(root_only, NOBODY.user));
        assert!(!is_mapped("", 0));
    }
}
