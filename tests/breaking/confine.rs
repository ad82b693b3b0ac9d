//! A system call taken away from a program, as a container's seccomp filter does.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The same command, in which this call fails with this errno.
pub fn deny(command: Command, call: i64, errno: i32) -> Command {
    let errno = u32::try_from(errno).expect("an errno");
    answer(command, call, libc::SECCOMP_RET_ERRNO | errno)
}

/// The same command, which is killed by this call, as by systemd's `SystemCallFilter=`.
pub fn kill_at(command: Command, call: i64) -> Command {
    answer(command, call, libc::SECCOMP_RET_KILL_PROCESS)
}

fn answer(mut command: Command, call: i64, answer: u32) -> Command {
    let number = u32::try_from(call).expect("a call's number");
    // Loads the call's number, compares it, and answers (seccomp(2)).
    let mut filter = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0),
        libc::sock_filter {
            code: code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K),
            jt: 0,
            jf: 1,
            k: number,
        },
        statement(libc::BPF_RET | libc::BPF_K, answer),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ];
    // SAFETY: prctl(2) is async-signal-safe, and the filter is copied before the closure returns.
    unsafe {
        command.pre_exec(move || {
            let program = libc::sock_fprog {
                len: 4,
                filter: filter.as_mut_ptr(),
            };
            if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::prctl(
                    libc::PR_SET_SECCOMP,
                    libc::SECCOMP_MODE_FILTER,
                    &raw const program,
                ) == 0
            {
                return Ok(());
            }
            Err(io::Error::last_os_error())
        });
    }
    command
}

fn code(bits: u32) -> u16 {
    u16::try_from(bits).expect("a code of 16 bits")
}

fn statement(bits: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        code: code(bits),
        jt: 0,
        jf: 0,
        k,
    }
}
