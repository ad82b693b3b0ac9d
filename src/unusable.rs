//! Why a path cannot be the pid file, and what to do about it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::Stat;
use rustix::io::Errno;

use crate::record::{MAX_SIZE, begins_as_record};
use crate::text::{printable, quoted};
use crate::user::{passwd_of, user_name};
use crate::{Error, Result};

/// Where the system's own gateways keep their pid files.
pub const SYSTEM_PLACE: &str = "/var/lib/gateway";

/// Where a user's own pid files lie, below the home directory.
pub(crate) const PLACE_AT_HOME: &str = ".local/state/gateway";

/// What else to do than to use this path.
pub(crate) const ANOTHER_PATH: &str = "name another path with -f PATH, or an instance with -n NAME";

/// What to do about a full disk, or a quota that is used up.
pub(crate) const MAKE_ROOM: &str = "make room on that file system";

/// What we say that we do not do, and why.
type Unlikely = (&'static str, &'static str);

/// Whether a file can be a pid file, by what is known without opening it.
#[must_use]
pub(crate) fn may_be_pid_file(mode: u32, size: u64) -> bool {
    no_file(mode).or_else(|| too_large(size)).is_none()
}

/// Why an open file is none, with what to do about it: a mistyped path must not cost anybody a file.
pub(crate) fn refuse_unlikely(path: &Path, file: &File, stat: &Stat) -> Result<()> {
    let why = no_file(stat.st_mode)
        .or_else(|| a_program(file, stat))
        .or_else(|| too_large(stat.st_size.unsigned_abs()))
        .or_else(|| an_order(file, stat));
    why.map_or(Ok(()), |(action, why)| {
        Err(Error::pid_file(action, path)
            .because(io::Error::other(why))
            .advise(ANOTHER_PATH))
    })
}

fn no_file(mode: u32) -> Option<Unlikely> {
    let kind = rustix::fs::FileType::from_raw_mode(mode);
    (!kind.is_file()).then(|| ("cannot use", describe(kind)))
}

/// `chmod -R 755` makes a pid file executable, and a program does not begin as a record does.
fn a_program(file: &File, stat: &Stat) -> Option<Unlikely> {
    let is_program = stat.st_mode & 0o111 != 0 && !is_a_record(file);
    is_program.then_some(("will not use", "it is executable, and no pid file is"))
}

fn too_large(size: u64) -> Option<Unlikely> {
    let why = "it is larger than 64 KiB, and no pid file is";
    (size > MAX_SIZE).then_some(("will not use", why))
}

/// Such a file takes no room: any other than a new one does.
fn an_order(file: &File, stat: &Stat) -> Option<Unlikely> {
    let is_order = stat.st_blocks == 0 && is_the_kernels_own(file);
    is_order.then_some(("will not use", "it is a setting of the kernel, and no file"))
}

fn is_a_record(file: &File) -> bool {
    let mut head = [0; 64];
    let read = file.read_at(&mut head, 0);
    read.is_ok_and(|length| length > 1 && begins_as_record(&head[..length]))
}

/// In procfs and the like what is written into a file is an order to the kernel.
fn is_the_kernels_own(file: &File) -> bool {
    // linux/magic.h: proc, sysfs, securityfs, debugfs, tracefs, configfs, cgroup, cgroup2, binfmt_misc, selinuxfs,
    // smackfs, mqueue, bpf, efivarfs, pstore, resctrl.
    const KINDS: [rustix::fs::FsWord; 16] = [
        0x9fa0,
        0x6265_6572,
        0x7363_6673,
        0x6462_6720,
        0x7472_6163,
        0x6265_6570,
        0x0027_e0eb,
        0x6367_7270,
        0x4249_4e4d,
        0xf97c_ff8c,
        0x4341_5d53,
        0x1980_0202,
        0xcafe_4a11,
        0xde5e_81e4,
        0x6165_676c,
        0x0765_5821,
    ];
    rustix::fs::fstatfs(file).is_ok_and(|stat| KINDS.contains(&stat.f_type))
}

/// What it is, if it is no regular file.
pub(crate) fn describe(kind: rustix::fs::FileType) -> &'static str {
    use rustix::fs::FileType;
    match kind {
        FileType::Directory => "it is a directory, not a regular file",
        FileType::Fifo => "it is a named pipe, not a regular file",
        FileType::Socket => "it is a socket, not a regular file",
        FileType::CharacterDevice | FileType::BlockDevice => "it is a device, not a regular file",
        FileType::Symlink => "it is a symbolic link, not a regular file",
        _ => "it is not a regular file",
    }
}

/// An errno of opening or making the pid file, with what is known about it.
pub(crate) fn explain(action: &str, path: &Path, errno: Errno) -> Error {
    explain_part(action, path, path, errno)
}

/// The same of something on the way to the pid file.
pub(crate) fn explain_part(action: &str, path: &Path, pid_file: &Path, errno: Errno) -> Error {
    if let Ok(stat) = rustix::fs::lstat(path) {
        let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
        if !kind.is_file() && !matches!(errno, Errno::ACCESS | Errno::PERM) {
            return Error::pid_file("cannot use", path)
                .because(io::Error::other(describe(kind)))
                .advise(ANOTHER_PATH);
        }
        if errno == Errno::PERM && may_do_everything_with(&stat) {
            let typed = quoted(path.as_os_str());
            return Error::pid_file(action, path).because(errno).advise(format!(
                "it may not be changed by anybody: look at it with lsattr {typed}, free it with chattr -ia {typed}"
            ));
        }
        if matches!(errno, Errno::ACCESS | Errno::PERM) {
            return Error::pid_file(action, path).because(errno).advise(format!(
                "it belongs to {}, mode {:04o}; run as that user, or name another path with -f PATH",
                user_name(stat.st_uid),
                stat.st_mode & 0o7777
            ));
        }
    }
    let error = Error::pid_file(action, path).because(errno);
    match errno {
        Errno::ACCESS | Errno::PERM => match (without_home(path, pid_file), nearest_existing(path))
        {
            (Some(advice), _) => error.advise(advice),
            (None, Some((directory, owner))) => error.advise(format!(
                "{directory} belongs to {owner}; name another path with -f PATH"
            )),
            (None, None) => error,
        },
        Errno::NOTDIR => error.advise(
            "a part of that path is a file, not a directory; name another path with -f PATH",
        ),
        Errno::NOSPC | Errno::DQUOT => error.advise(MAKE_ROOM),
        Errno::ROFS => error.advise("nothing can be written there; name another path with -f PATH"),
        Errno::NAMETOOLONG => error.advise("name a shorter path with -f PATH"),
        _ => error,
    }
}

/// Then what is not permitted is so for everybody (`chattr +i`).
fn may_do_everything_with(stat: &Stat) -> bool {
    let us = rustix::process::geteuid();
    us.is_root() || us.as_raw() == stat.st_uid
}

/// A service's user has often a home that does not exist, or that is the system's: no directory
/// there is to be made writable, there are better places.
fn without_home(path: &Path, pid_file: &Path) -> Option<String> {
    let uid = rustix::process::geteuid().as_raw();
    let home = passwd_of(uid)?.home;
    let place = home.join(PLACE_AT_HOME);
    let is_home_s = path.starts_with(&place) || place.starts_with(path);
    let is_ours = rustix::fs::stat(&home).is_ok_and(|stat| stat.st_uid == uid);
    let below = pid_file.strip_prefix(&place).ok().and_then(Path::parent);
    let name = below.and_then(Path::to_str).filter(|name| !name.is_empty());
    (is_home_s && !is_ours).then(|| {
        format!(
            "user {} has no home to write in ({}); {}",
            user_name(uid),
            printable(home.as_os_str()),
            another_place(uid, name)
        )
    })
}

/// Where the pid files of a user without a home can lie. `name`: the instance's, if it has one.
pub(crate) fn another_place(uid: u32, name: Option<&str>) -> String {
    let owner = passwd_of(uid).map_or_else(|| uid.to_string(), |entry| quoted(&entry.name));
    let (name, start) = match name {
        Some(name) => (name, ""),
        None => ("NAME", ", and start it with -n NAME"),
    };
    format!(
        "as root: install -d -o {owner} {SYSTEM_PLACE}/{name} (in a unit: StateDirectory=gateway/{name}){start}; or name a path with -f PATH"
    )
}

fn nearest_existing(path: &Path) -> Option<(String, String)> {
    path.ancestors().skip(1).find_map(|directory| {
        let stat = rustix::fs::stat(directory).ok()?;
        Some((printable(directory.as_os_str()), user_name(stat.st_uid)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_a_socket_and_a_device_are_called_what_they_are() {
        use rustix::fs::FileType;
        for (kind, word) in [
            (FileType::Directory, "directory"),
            (FileType::Socket, "socket"),
            (FileType::CharacterDevice, "device"),
            (FileType::BlockDevice, "device"),
        ] {
            assert!(describe(kind).contains(word));
        }
    }
}
