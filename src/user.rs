//! Who a uid is, by `/etc/passwd` alone: name services need more than a static program has.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// A user, as `/etc/passwd` knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct User {
    /// The login name.
    pub name: OsString,
    /// The home directory.
    pub home: PathBuf,
}

/// The user's name, or its number where it has none here.
#[must_use]
pub fn user_name(uid: u32) -> String {
    passwd_of(uid).map_or_else(
        || format!("uid {uid}"),
        |entry| crate::text::printable(&entry.name),
    )
}

/// The line of a user in `/etc/passwd`.
#[must_use]
pub fn passwd_of(uid: u32) -> Option<User> {
    parse_passwd(
        &crate::procfs::read_bounded("/etc/passwd", 4 << 20).ok()?,
        uid,
    )
}

/// The first line of this uid in the form of passwd(5).
#[must_use]
pub fn parse_passwd(bytes: &[u8], uid: u32) -> Option<User> {
    bytes.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let name = fields.next()?;
        let number: u32 = std::str::from_utf8(fields.nth(1)?).ok()?.parse().ok()?;
        let home = fields.nth(2)?;
        let user = || User {
            name: OsString::from_vec(name.to_vec()),
            home: PathBuf::from(OsString::from_vec(home.to_vec())),
        };
        (number == uid && !name.is_empty()).then(user)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn passwd_lines_are_read_by_number() {
        let file = b"root:x:0:0:root:/root:/bin/sh\nbroken\n+::::::\nme:x:7:7::/home/me:/bin/sh\nalias:x:7:7::/x:\n";
        assert_eq!(
            parse_passwd(file, 7),
            Some(User {
                name: "me".into(),
                home: "/home/me".into()
            })
        );
        assert_eq!(parse_passwd(file, 8), None);
    }

    proptest! {
        #[test]
        fn any_passwd_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..500), uid in any::<u32>()) {
            let _ = parse_passwd(&bytes, uid);
        }
    }
}
