//! What a test needs of the machine. A test that lacks it fails and says what is missing.

use std::path::Path;

/// Where programs are looked for; the tests' processes get this as their `PATH`.
pub const SEARCH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Fails unless the program is installed; `package` is what Debian calls it.
#[track_caller]
pub fn need(program: &str, package: &str) {
    let found = SEARCH
        .split(':')
        .any(|folder| Path::new(folder).join(program).exists());
    assert!(
        found,
        "this test needs the program {program}: apt-get install {package}"
    );
}

/// Fails unless we are root.
#[track_caller]
pub fn must_be_root() {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test makes namespaces, or processes of other users: run it as root"
    );
}
