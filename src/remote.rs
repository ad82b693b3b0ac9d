//! File systems whose files are somebody else's to give: of a server on the network, of a host's
//! machine, or of a program (FUSE).

use std::path::Path;

use rustix::fs::FsWord;

/// By the names that the kernel prints, the numbers of statfs(2), and what people call them. The numbers
/// that are not in statfs(2) are those of linux/magic.h and of coreutils' stat(1).
const REMOTE: [(&str, FsWord, &str); 18] = [
    ("9p", 0x0102_1997, "9p"),
    ("afs", 0x5346_414f, "AFS"),
    ("afs", 0x6b41_4653, "AFS"),
    ("beegfs", 0x1983_0326, "BeeGFS"),
    ("ceph", 0x00c3_6400, "Ceph"),
    ("cifs", 0xff53_4d42, "SMB"),
    ("coda", 0x7375_7245, "Coda"),
    ("gfs2", 0x0116_1970, "GFS2"),
    ("gpfs", 0x4750_4653, "GPFS"),
    ("lustre", 0x0bd0_0bd0, "Lustre"),
    ("ncpfs", 0x564c, "NCP"),
    ("nfs", 0x6969, "NFS"),
    ("nfs4", 0x6969, "NFS"),
    ("ocfs2", 0x7461_636f, "OCFS2"),
    ("orangefs", 0x2003_0528, "OrangeFS"),
    ("smb3", 0xfe53_4d42, "SMB"),
    ("smbfs", 0x517b, "SMB"),
    ("vboxsf", 0x786f_4256, "vboxsf"),
];

/// Of FUSE, and of virtiofs, which is served by the host in the same way.
const FUSE: FsWord = 0x6573_5546;

/// Whether the kernel prints this kind of a file system of somebody else.
pub(crate) fn is_remote_kind(kind: &str) -> bool {
    kind.starts_with("fuse")
        || kind == "virtiofs"
        || REMOTE.iter().any(|(printed, ..)| *printed == kind)
}

/// The name of the remote file system that a path lies on, if it does: flock may mean less there. None of
/// FUSE, whose programs differ. Of a path that does not exist yet the nearest directory that does is
/// asked. Waits for a server that is asked and does not answer.
#[must_use]
pub fn remote_file_system(path: &Path) -> Option<&'static str> {
    let kind = path
        .ancestors()
        .find_map(|it| rustix::fs::statfs(it).ok())?
        .f_type;
    name(kind)
}

fn name(kind: FsWord) -> Option<&'static str> {
    let known = REMOTE.iter().find(|(_, number, _)| *number == kind)?;
    Some(known.2)
}

/// Whether what is done to a path elsewhere may go untold here.
pub(crate) fn may_change_untold(path: &Path) -> bool {
    let fuse = rustix::fs::statfs(path).is_ok_and(|stat| stat.f_type == FUSE);
    fuse || remote_file_system(path).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers are those of the manual, each from its own line there.
    #[test]
    fn remote_file_systems_are_known_by_their_numbers() {
        for (kind, known) in [
            (0x6969, Some("NFS")),
            (0x517b, Some("SMB")),
            (0xff53_4d42, Some("SMB")),
            (0xfe53_4d42, Some("SMB")),
            (0x0102_1997, Some("9p")),
            (0x00c3_6400, Some("Ceph")),
            (0x5346_414f, Some("AFS")),
            (0x6b41_4653, Some("AFS")),
            (0x7375_7245, Some("Coda")),
            (0x7461_636f, Some("OCFS2")),
            (0x0116_1970, Some("GFS2")),
            (0x0bd0_0bd0, Some("Lustre")),
            // ext4, tmpfs, overlayfs, btrfs, xfs
            (0xef53, None),
            (0x0102_1994, None),
            (0x794c_7630, None),
            (0x9123_683e, None),
            (0x5846_5342, None),
        ] {
            assert_eq!(name(kind), known, "{kind:#x}");
        }
    }

    #[test]
    fn remote_file_systems_are_known_by_the_names_the_kernel_prints() {
        for kind in [
            "nfs4",
            "cifs",
            "fuse",
            "fuse.sshfs",
            "fuseblk",
            "virtiofs",
            "lustre",
        ] {
            assert!(is_remote_kind(kind), "{kind}");
        }
        for kind in [
            "ext4", "tmpfs", "overlay", "btrfs", "xfs", "proc", "nfsd", "",
        ] {
            assert!(!is_remote_kind(kind), "{kind}");
        }
    }
}
