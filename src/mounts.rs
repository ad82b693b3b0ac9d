//! What the kernel tells of mounts: `/proc/PID/mountinfo`, and the mount that a descriptor was opened in.

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::procfs::{field, read_bounded};
use crate::remote::is_remote_kind;

/// Tables are read up to this size.
const MAX_SIZE: usize = 16 << 20;

/// The number of a mount, good as long as it is mounted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct MountId(u64);

impl MountId {
    /// The mount that one of our descriptors was opened in.
    pub(crate) fn of(fd: BorrowedFd<'_>) -> Option<Self> {
        let fdinfo = format!("/proc/self/fdinfo/{}", fd.as_raw_fd());
        Self::in_fdinfo(&read_bounded(&fdinfo, MAX_SIZE).ok()?)
    }

    /// `mnt_id:` of a `fdinfo` file (proc_pid_fdinfo(5)).
    pub(crate) fn in_fdinfo(fdinfo: &[u8]) -> Option<Self> {
        field(fdinfo, "mnt_id")?.parse().ok().map(Self)
    }
}

/// The mounts of a process, as they were when they were read.
#[derive(Debug, Default)]
pub(crate) struct Mounts(Vec<u8>);

impl Mounts {
    /// Ours; none where they cannot be read.
    pub(crate) fn ours() -> Self {
        Self::of("self")
    }

    /// Those of the process with this name in `/proc`; none where they cannot be read.
    pub(crate) fn of(process: impl std::fmt::Display) -> Self {
        Self(read_bounded(&format!("/proc/{process}/mountinfo"), MAX_SIZE).unwrap_or_default())
    }

    /// The words of the line about a mount (proc_pid_mountinfo(5)).
    fn words(&self, id: MountId) -> Option<impl Iterator<Item = &str>> {
        self.0.split(|byte| *byte == b'\n').find_map(|line| {
            let words = line.split(|byte| *byte == b' ');
            let mut words = words.map(|word| std::str::from_utf8(word).unwrap_or_default());
            (words.next()?.parse() == Ok(id.0)).then_some(words)
        })
    }

    /// The kind of its file system and what follows: any number of optional fields comes before the hyphen.
    fn after_the_hyphen(&self, id: MountId) -> Option<impl Iterator<Item = &str>> {
        let words = self.words(id)?;
        Some(words.skip_while(|word| *word != "-").skip(1))
    }

    /// Its device, major and minor.
    pub(crate) fn device(&self, id: MountId) -> Option<(u32, u32)> {
        let (major, minor) = self.words(id)?.nth(1)?.split_once(':')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    }

    /// Whether it is a `/proc` that shows every process to everybody (proc(5), `hidepid`): in another one
    /// somebody may come to be seen without being born, as when they become another user. `None`: the
    /// mount is not in this table.
    pub(crate) fn shows_every_process(&self, id: MountId) -> Option<bool> {
        let mut words = self.after_the_hyphen(id)?;
        let (kind, _source, options) = (words.next()?, words.next()?, words.next()?);
        let hides = options
            .split(',')
            .any(|option| option.starts_with("hidepid="));
        Some(kind == "proc" && !hides)
    }

    /// Whether a file of it is somebody else's to give: of a server on the network, or of a program
    /// (FUSE). What is asked of those may never be answered. `None`: the mount is not in this table.
    pub(crate) fn is_remote(&self, id: MountId) -> Option<bool> {
        let kind = self.after_the_hyphen(id)?.next()?;
        Some(is_remote_kind(kind))
    }

    /// The same in the table of a process with mounts of its own, which are not all in `ours`. In a user
    /// namespace anybody may lay layers (overlayfs) over the files of a program, and the kernel asks that
    /// program, whoever opens them: layers count as a file system of here where they are in `ours`, too.
    pub(crate) fn is_remote_to(&self, ours: &Self, id: MountId) -> Option<bool> {
        let kind = self.after_the_hyphen(id)?.next()?;
        let strange = kind == "overlay" && !ours.have(self.device(id)?);
        Some(strange || is_remote_kind(kind))
    }

    /// Whether the file system with this device is mounted anywhere.
    fn have(&self, device: (u32, u32)) -> bool {
        let device = format!("{}:{}", device.0, device.1);
        let mut lines = self.0.split(|byte| *byte == b'\n');
        lines.any(|line| line.split(|byte| *byte == b' ').nth(2) == Some(device.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_kernel_text_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = MountId::in_fdinfo(&bytes);
            let mounts = Mounts(bytes);
            let _ = mounts.device(MountId(5));
            let _ = mounts.is_remote(MountId(5));
            let _ = mounts.shows_every_process(MountId(5));
        }
    }

    #[test]
    fn the_mount_of_a_descriptor_is_found() {
        let id = MountId::in_fdinfo;
        assert_eq!(id(b"pos:\t0\nmnt_id:\t29\n"), Some(MountId(29)));
        assert_eq!(id(b"pos:\t0\n"), None);
        let mounts = Mounts(b"28 1 254:0 / / rw\n29 28 0:31 / /tmp rw\n".to_vec());
        assert_eq!(mounts.device(MountId(29)), Some((0, 31)));
        assert_eq!(mounts.device(MountId(30)), None);
    }

    #[test]
    fn a_proc_that_hides_processes_says_so() {
        let table = b"20 1 0:20 / /proc rw shared:5 - proc proc rw\n21 1 0:21 / /p rw - proc proc rw,gid=4,hidepid=invisible\n\
            22 1 0:22 / /q rw - fuse.procfs proc rw\n23 1 0:23 / /r rw - proc proc";
        let mounts = Mounts(table.to_vec());
        let shows = |id| mounts.shows_every_process(MountId(id));
        assert_eq!([20, 21, 22].map(shows), [true, false, false].map(Some));
        assert_eq!([23, 24].map(shows), [None, None]);
    }

    #[test]
    fn what_is_not_answered_here_is_remote() {
        let table = b"28 1 254:0 / / rw shared:1 master:2 - ext4 /dev/a rw\n29 28 0:31 / /n rw - nfs4 - rw\n\
            30 28 0:32 / /s rw - fuse.sshfs s: rw\n31 28 8:1 / /b rw - fuseblk /dev/b rw\n32 28 0:33 / /t rw";
        let mounts = Mounts(table.to_vec());
        let remote = |id| mounts.is_remote(MountId(id));
        assert_eq!(
            [28, 29, 30, 31].map(remote),
            [false, true, true, true].map(Some)
        );
        assert_eq!((remote(32), remote(33)), (None, None));
    }

    #[test]
    fn layers_are_somebody_elses_unless_they_are_mounted_here_too() {
        let ours = Mounts(
            b"28 1 254:0 / / rw - ext4 - rw\n29 1 0:40 / /merged rw - overlay - rw".to_vec(),
        );
        let theirs = b"40 1 0:40 / / rw - overlay - rw\n41 1 0:41 / / rw - overlay - rw\n\
            42 1 0:42 / / rw - tmpfs - rw\n43 1 0:43 / / rw - fuse.sshfs - rw";
        let theirs = Mounts(theirs.to_vec());
        let remote = |id| theirs.is_remote_to(&ours, MountId(id));
        assert_eq!(
            [40, 41, 42, 43].map(remote),
            [false, true, false, true].map(Some)
        );
        assert_eq!(remote(44), None);
    }
}
