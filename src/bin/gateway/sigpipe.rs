//! SIGPIPE as it was before Rust's runtime ignored it, which it does before `main`.

use std::sync::atomic::{AtomicBool, Ordering};

use gateway_lock::sys::{Disposition, disposition, set_disposition};

static WAS_IGNORED: AtomicBool = AtomicBool::new(false);

extern "C" fn look() {
    let before = disposition(libc::SIGPIPE);
    WAS_IGNORED.store(before == Disposition::Ignored, Ordering::Relaxed);
}

// SAFETY: what is listed there the C runtime calls before `main`, and so before Rust's runtime; as a
// function of C, which `look` is. It needs nothing of Rust's runtime.
#[allow(unsafe_code, reason = "the attribute alone: nothing in here is unsafe")]
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = look;

/// COMMAND is to inherit what we were started with.
pub fn put_back() {
    if !WAS_IGNORED.load(Ordering::Relaxed) {
        set_disposition(libc::SIGPIPE, Disposition::Default);
    }
}
