//! What a call can fail with: from its manual page, and what a Linux kernel returns there.

use std::path::Path;

use libc::{
    E2BIG, EACCES, EAGAIN, EDQUOT, EFBIG, EINTR, EINVAL, EIO, ELOOP, EMFILE, EMLINK, ENFILE,
    ENODEV, ENOENT, ENOLCK, ENOMEM, ENOSPC, ENOSYS, EOPNOTSUPP, EPERM, EPIPE, EROFS, ESRCH,
    ETXTBSY,
};

/// The errnos for a call on this path.
pub fn of(number: i64, path: Option<&str>) -> &'static [i32] {
    let in_proc = path.is_some_and(|path| path.starts_with("/proc/"));
    let pid_file = path.is_some_and(|path| path.ends_with("gateway.pid"));
    match number {
        libc::SYS_open | libc::SYS_openat if pid_file => &[
            EMFILE, ENFILE, ENOMEM, EACCES, EPERM, EIO, EROFS, ENOSPC, EDQUOT, ELOOP, EINTR,
        ],
        libc::SYS_openat2 => &[
            EMFILE, ENFILE, ENOMEM, EACCES, EPERM, EIO, EROFS, ELOOP, EINTR, ENOSYS, EINVAL, EAGAIN,
        ],
        // Of a process that lives, the kernel says neither ENOENT nor ESRCH, and root may look.
        libc::SYS_open | libc::SYS_openat if of_a_process(path) => &[EMFILE, ENFILE, ENOMEM],
        libc::SYS_open | libc::SYS_openat => &[EMFILE, ENFILE, ENOMEM, EACCES, ENOENT],
        libc::SYS_read | libc::SYS_pread64 if in_proc => &[ENOMEM, EIO, EINTR],
        libc::SYS_read | libc::SYS_pread64 => &[EIO, EINTR],
        libc::SYS_write | libc::SYS_writev => &[EPIPE, EAGAIN, EIO, ENOSPC, EINTR],
        libc::SYS_pwrite64 => &[ENOSPC, EDQUOT, EIO, EFBIG, EINTR],
        libc::SYS_ftruncate => &[EIO, ENOSPC, EPERM, EINTR],
        libc::SYS_flock => &[ENOLCK, EOPNOTSUPP, EINVAL, EIO, EINTR],
        libc::SYS_stat | libc::SYS_lstat | libc::SYS_newfstatat | libc::SYS_statx
            if path.is_some() =>
        {
            &[EIO, ENOMEM, EACCES, ELOOP]
        }
        libc::SYS_fstat => &[EIO, ENOMEM],
        libc::SYS_statfs | libc::SYS_fstatfs => &[EIO, ENOMEM, ENOSYS, EINTR],
        libc::SYS_readlink | libc::SYS_readlinkat => &[EIO, ENOMEM, EACCES],
        libc::SYS_getdents64 => &[ENOMEM],
        libc::SYS_mkdir | libc::SYS_mkdirat => &[ENOSPC, EDQUOT, EACCES, EROFS, EMLINK, ENOMEM],
        libc::SYS_fchmod | libc::SYS_fchmodat => &[EPERM, EROFS, EIO],
        libc::SYS_faccessat | libc::SYS_faccessat2 => &[EACCES, EIO, ENOMEM, ENOSYS],
        libc::SYS_pidfd_open => &[EMFILE, ENFILE, ENOMEM, ENODEV, ENOSYS],
        libc::SYS_pidfd_send_signal => &[EPERM, ESRCH],
        libc::SYS_poll | libc::SYS_ppoll => &[EINTR, ENOMEM],
        libc::SYS_clone | libc::SYS_clone3 | libc::SYS_fork | libc::SYS_vfork => &[EAGAIN, ENOMEM],
        libc::SYS_wait4 | libc::SYS_waitid => &[EINTR],
        libc::SYS_madvise => &[EINVAL, ENOMEM],
        libc::SYS_pipe2 => &[EMFILE, ENFILE],
        // F_NOTIFY on a directory; what else is asked cannot fail on a descriptor that is open.
        libc::SYS_fcntl if path.is_some_and(|path| Path::new(path).is_dir()) => &[ENOMEM],
        libc::SYS_prctl => &[EINVAL, EPERM],
        libc::SYS_getrandom => &[ENOSYS, EINTR],
        libc::SYS_setpgid => &[EACCES, EPERM],
        libc::SYS_dup2 | libc::SYS_dup3 => &[EMFILE],
        libc::SYS_execve => &[
            ENOMEM, E2BIG, EACCES, EIO, EMFILE, ENFILE, ENOENT, ETXTBSY, EPERM, ELOOP,
        ],
        // Only a file system that has something to flush fails to close.
        libc::SYS_close if pid_file => &[EIO, EINTR],
        _ => &[],
    }
}

/// `/proc/PID/…`, or all of `/proc`.
fn of_a_process(path: Option<&str>) -> bool {
    path.and_then(|path| path.strip_prefix("/proc"))
        .is_some_and(|rest| rest.is_empty() || rest[1..].starts_with(|c: char| c.is_ascii_digit()))
}

/// Its name, for people.
pub fn name(errno: i32) -> String {
    std::io::Error::from_raw_os_error(errno).to_string()
}
