//! Files that speak of bystanders.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::harness::stat_field;

pub fn boot_id() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("a boot id");
    id.trim().to_owned()
}

fn pid_namespace() -> u64 {
    fs::metadata("/proc/self/ns/pid")
        .expect("our pid namespace")
        .ino()
}

/// A record for the file at this path as its holder would have written it, but with this process
/// for the holder: everything about it is true except that it holds.
pub fn record_naming(file: &Path, pid: u32) -> String {
    record_with(file, pid, "")
}

/// The same, with more members: `"payload":{…},`.
pub fn record_with(file: &Path, pid: u32, more: &str) -> String {
    if !file.exists() {
        fs::write(file, "").expect("a file");
    }
    let (folder, name) = (
        file.parent().expect("a folder"),
        file.file_name().expect("a name"),
    );
    let path = fs::canonicalize(folder).expect("a folder").join(name);
    let file = fs::metadata(&path).expect("a file");
    let start = stat_field(pid, 22).unwrap_or_else(|| "1".to_owned());
    format!(
        "{pid}\n{{\"format\":1,\"pid\":{pid},\"start_time\":{start},\"boot_id\":\"{}\",\
         \"pid_namespace\":{},\"host\":\"h\",\"uid\":0,\"path\":\"{}\",\"dev\":{},\"inode\":{},\
         \"run_id\":\"0123456789abcdef0123456789abcdef\",\"generation\":7,{more}\
         \"since\":\"2026-01-01T00:00:00.000000Z\",\"argv\":[\"gateway\",\"run\"],\
         \"stop_timeout\":1.0}}\n",
        boot_id(),
        pid_namespace(),
        path.display(),
        file.dev(),
        file.ino(),
    )
}
