//! Who may connect to the vfio-user socket.

use manatee::vfio_user::Access;

/// The file with the names of groups.
const GROUPS: &str = "/etc/group";

/// Who may connect.
#[derive(Debug, clap::Args)]
pub struct AccessArguments {
    /// Let the members of a group connect: its name in /etc/group, or its number
    #[arg(long, value_name = "GROUP", value_parser = group)]
    socket_group: Option<u32>,

    /// The permissions of the vfio-user socket's file, in octal: 0600 by default, and 0660
    /// with --socket-group. Whoever may write to it may attach a virtual machine
    #[arg(long, value_name = "MODE", value_parser = mode)]
    socket_mode: Option<u32>,
}

impl AccessArguments {
    /// Returns whether any of it was given.
    pub fn is_given(&self) -> bool {
        self.socket_group.is_some() || self.socket_mode.is_some()
    }

    /// Returns the permissions of the socket's file.
    pub fn access(&self) -> Access {
        let default = match self.socket_group {
            Some(_) => 0o660,
            None => 0o600,
        };
        Access {
            mode: self.socket_mode.unwrap_or(default),
            group: self.socket_group,
        }
    }
}

fn mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err("give three octal digits, such as 0660".to_owned()),
    }
}

fn group(text: &str) -> Result<u32, String> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    let groups = std::fs::read_to_string(GROUPS).map_err(|error| format!("{GROUPS}: {error}"))?;
    let number = groups.lines().find_map(|line| number_of(line, text));
    number.ok_or_else(|| format!("{GROUPS} has no such group: give its number"))
}

/// Returns the number of a group, if this is its line.
fn number_of(line: &str, name: &str) -> Option<u32> {
    let mut fields = line.split(':');
    if fields.next() != Some(name) {
        return None;
    }
    fields.nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_have_names_and_numbers() {
        assert_eq!(group("107"), Ok(107));
        assert_eq!(number_of("kvm:x:107:a,b", "kvm"), Some(107));
        assert_eq!(number_of("kvm:x:107:a,b", "x"), None);
        assert_eq!(number_of("kvm", "kvm"), None);
        assert!(group("no such group").unwrap_err().contains("number"));
    }

    #[test]
    fn modes_are_octal() {
        assert_eq!((mode("0660"), mode("600")), (Ok(0o660), Ok(0o600)));
        for wrong in ["", "0o600", "1777", "888", "-1", "rw"] {
            assert!(mode(wrong).is_err(), "{wrong}");
        }
    }
}
