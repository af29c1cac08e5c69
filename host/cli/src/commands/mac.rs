//! MAC addresses of ports.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A MAC address in transmission order.
pub type Mac = [u8; 6];

/// Why a text is no MAC address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMac {
    /// Not six bytes.
    #[error("`{0}` is not a MAC address: write six bytes in hexadecimal, as in 02:00:00:00:00:01")]
    Malformed(String),
    /// A multicast address: bit 0 of the first byte is set.
    #[error(
        "{0} is a multicast address, and an adapter needs a unicast one: the first byte must be \
         even, as in 02:00:00:00:00:01"
    )]
    Multicast(String),
    /// All bytes are zero.
    #[error("{0} is not a valid address: use one such as 02:00:00:00:00:01")]
    Zero(String),
}

/// Reads six bytes in hexadecimal, with `:` or `-` between them.
///
/// # Errors
///
/// [`InvalidMac`] if it is not a unicast address.
pub fn parse(text: &str) -> Result<Mac, InvalidMac> {
    let malformed = || InvalidMac::Malformed(text.to_owned());
    let mac: macaddr::MacAddr6 = text.parse().map_err(|_| malformed())?;
    if mac.is_nil() {
        return Err(InvalidMac::Zero(text.to_owned()));
    }
    if mac.is_multicast() {
        return Err(InvalidMac::Multicast(text.to_owned()));
    }
    Ok(mac.into_array())
}

/// Returns an address as text.
pub fn format(mac: Mac) -> String {
    macaddr::MacAddr6::from(mac).to_string().to_lowercase()
}

/// Returns an address for a port without `mac=`: locally administered, always the same for
/// the same socket, different for another one.
pub fn for_port(socket: &Path, index: usize) -> Mac {
    let socket = std::path::absolute(socket).unwrap_or_else(|_| socket.to_owned());
    let index = (index as u64).to_le_bytes();
    // FNV-1a, because it never changes; collisions are as rare as they can be
    // with 46 bits.
    let hash = socket.as_os_str().as_bytes().iter().chain(&index);
    let hash = hash.fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let mut mac = Mac::default();
    mac.copy_from_slice(&(hash ^ hash >> 48).to_le_bytes()[..6]);
    // Bit 1: locally administered; bit 0: a group.
    mac[0] = mac[0] & !1 | 2;
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unicast_addresses_are_read() {
        let mac = [0x02, 0, 0, 0xab, 0xcd, 0xef];
        assert_eq!(parse("02:00:00:ab:CD:ef"), Ok(mac));
        assert_eq!(parse("02-00-00-ab-cd-ef"), Ok(mac));
        assert_eq!(format(mac), "02:00:00:ab:cd:ef");
    }

    #[test]
    fn others_are_refused_with_the_way_out() {
        for text in [
            "",
            "02",
            "02:00:00:00:00",
            "02:00:00:00:00:00:00",
            "02:00:00:00:00:0g",
        ] {
            assert_eq!(
                parse(text),
                Err(InvalidMac::Malformed(text.to_owned())),
                "{text}"
            );
        }
        assert!(matches!(
            parse("ff:ff:ff:ff:ff:ff"),
            Err(InvalidMac::Multicast(_))
        ));
        assert!(matches!(
            parse("01:00:5e:00:00:01"),
            Err(InvalidMac::Multicast(_))
        ));
        assert!(matches!(
            parse("00:00:00:00:00:00"),
            Err(InvalidMac::Zero(_))
        ));
    }

    #[test]
    fn default_is_stable_local_and_unicast() {
        let path = Path::new("/run/manatee/nic.sock");
        assert_eq!(format(for_port(path, 0)), format(for_port(path, 0)));
        assert_ne!(for_port(path, 0), for_port(path, 1));
        assert_ne!(
            for_port(path, 0),
            for_port(Path::new("/run/manatee/nic2.sock"), 0)
        );
        for index in 0..64 {
            assert_eq!(for_port(path, index)[0] & 3, 2);
        }
    }
}
