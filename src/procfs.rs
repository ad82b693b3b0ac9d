//! Files of `/proc`, read without trust in their size, and what their errors mean.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

/// What to do where it is missing.
pub(crate) const PROC_NEEDED: &str =
    "the lock's holder is proven by /proc: mount it (mount -t proc proc /proc)";

/// Reads a line, all that there is in the file: up to its end, so that nobody has to ask whether there is
/// more. What is longer than 2 KiB is cut.
pub(crate) fn read_line(path: &str) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    read_until(LINE, |_, rest| file.read(rest), is_line)
}

/// Reads a file, and no more of it than `limit` bytes, whatever its size claims to be: files of
/// `/proc` claim none, and are read in large pieces because each piece is made anew.
pub(crate) fn read_bounded(path: &str, limit: usize) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    read_until(limit, |_, rest| file.read(rest), |_| false)
}

/// As [`read_line`], of a file that is kept open: the line as it is now.
pub(crate) fn line_of(file: &File) -> io::Result<Vec<u8>> {
    beginning_of(file, LINE, is_line)
}

/// What a file that is kept open begins with now, until that is all, and no more of it than `limit` bytes.
pub(crate) fn beginning_of(
    file: &File,
    limit: usize,
    is_all: impl Fn(&[u8]) -> bool,
) -> io::Result<Vec<u8>> {
    read_until(limit, |at, rest| file.read_at(rest, at as u64), is_all)
}

/// The longest line.
const LINE: usize = 2048;

fn is_line(read: &[u8]) -> bool {
    read.ends_with(b"\n")
}

/// Reads until that is all, the file is at its end, or there are `limit` bytes. `read` is told how many
/// there are already.
fn read_until(
    limit: usize,
    mut read: impl FnMut(usize, &mut [u8]) -> io::Result<usize>,
    is_all: impl Fn(&[u8]) -> bool,
) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; limit.min(4096)];
    let mut length = 0;
    while length < limit && !is_all(&bytes[..length]) {
        if length == bytes.len() {
            bytes.resize(limit.min(length * 4), 0);
        }
        match read(length, &mut bytes[length..]) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(length);
    Ok(bytes)
}

/// The value in a line `NAME:` and white space, of a file with a line for each (proc_pid_status(5),
/// proc_pid_fdinfo(5)).
pub(crate) fn field<'t>(text: &'t [u8], name: &str) -> Option<&'t str> {
    let value = |line: &'t [u8]| line.strip_prefix(name.as_bytes())?.strip_prefix(b":");
    let value = text.split(|byte| *byte == b'\n').find_map(value)?;
    Some(std::str::from_utf8(value).ok()?.trim())
}

/// Gone, or not ours to see, is an answer; every other error is none.
pub(crate) fn unless_absent<T>(looked: io::Result<T>) -> io::Result<Option<T>> {
    match looked {
        Ok(seen) => Ok(Some(seen)),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOENT | libc::ESRCH | libc::EACCES | libc::EPERM) => Ok(None),
            _ => Err(error),
        },
    }
}

/// We are short of something at the moment: that says nothing of what was looked at. What else a file
/// gives for an error is its own affair: a bad sector, one of sysfs that has no value now.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    let shortages = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::EINTR];
    error
        .raw_os_error()
        .is_some_and(|errno| shortages.contains(&errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let text = b"Name:\t\xff\nNSpid:\t7\t1\nPid:\t42\n";
        assert_eq!(field(text, "Pid"), Some("42"));
        assert_eq!(field(text, "NSpid"), Some("7\t1"));
        assert_eq!(field(text, "id"), None);
        assert_eq!(field(text, "Name"), None, "no text");
    }

    #[test]
    fn a_file_is_read_whole_or_up_to_its_bound() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![b'x'; 100_000]).unwrap();
        let path = file.path().to_str().unwrap();
        for (limit, length) in [
            (10, 10),
            (4096, 4096),
            (50_000, 50_000),
            (100_000, 100_000),
            (1 << 20, 100_000),
        ] {
            assert_eq!(read_bounded(path, limit).unwrap().len(), length);
        }
    }
}
