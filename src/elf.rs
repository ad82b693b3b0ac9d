//! What a program in the format of elf(5) needs to run, as far as its headers tell.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// What a kernel for us may run, by `e_machine`; nothing: not known here.
const MACHINES: &[u16] = if cfg!(any(target_arch = "x86_64", target_arch = "x86")) {
    &[62, 3]
} else if cfg!(any(target_arch = "aarch64", target_arch = "arm")) {
    &[183, 40]
} else {
    &[]
};

/// `p_type` of a part that is brought into memory, and of the one that names the loader.
const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;

/// The kernel takes no larger table (`load_elf_phdrs` in its fs/binfmt_elf.c), and no longer path.
const LARGEST_TABLE: usize = 65_536;
const LONGEST_PATH: u64 = 4096;

/// Whether it is a program for a machine that a kernel for us is no kernel for.
pub(crate) fn is_foreign(head: &[u8]) -> bool {
    head.len() >= Class::Narrow.header()
        && !MACHINES.is_empty()
        && !MACHINES.contains(&half(head, 18))
}

/// Why the kernel would not execute a file that begins so, if it begins as these do.
pub(crate) fn flaw(head: &[u8]) -> Option<&'static str> {
    if Class::of(head).is_none() {
        return Some("it is a damaged program: it ends in its header");
    }
    // ET_EXEC and ET_DYN.
    (!matches!(half(head, 16), 2 | 3))
        .then_some("it is a part of a program, and cannot run by itself")
}

/// The loader that a program of this length, without a flaw in its head, names. `Ok(None)`: it needs none,
/// or the disk does not give it, which is left to the kernel to say.
///
/// # Errors
/// The kernel would not execute it, or it would die as soon as it runs: why.
pub(crate) fn loader(file: &File, end: u64, head: &[u8]) -> Result<Option<PathBuf>, &'static str> {
    let Some(class) = Class::of(head) else {
        return Ok(None);
    };
    let (at, size, count) = class.table(head);
    if count == 0 || size * count > LARGEST_TABLE {
        return Err("it is a damaged program: it has no table of segments");
    }
    let is_whole =
        |offset: u64, length: u64| offset.checked_add(length).is_some_and(|to| to <= end);
    let mut table = vec![0; size * count];
    if !is_whole(at, table.len() as u64) {
        return Err("it is a damaged program: it ends before its table of segments");
    }
    if read(file, head, &mut table, at).is_err() {
        return Ok(None);
    }
    let segments = || table.chunks_exact(size).map(|segment| class.place(segment));
    // One that ends within a segment may run: what is missing of a page is zeros, and what is missing else
    // may never be used.
    let is_missing = |(kind, offset, length): (u32, u64, u64)| match kind {
        PT_LOAD => length > 0 && offset >= end,
        PT_INTERP => !is_whole(offset, length),
        _ => false,
    };
    if segments().any(is_missing) {
        return Err("it is a damaged program: it ends before its last segment");
    }
    let Some((_, offset, length)) = segments().find(|(kind, ..)| *kind == PT_INTERP) else {
        return Ok(None);
    };
    if !(2..=LONGEST_PATH).contains(&length) {
        return Err("it is a damaged program: it names no loader");
    }
    let mut path = vec![0; usize::try_from(length).unwrap_or_default()];
    if read(file, head, &mut path, offset).is_err() {
        return Ok(None);
    }
    path.truncate(
        path.iter()
            .position(|byte| *byte == 0)
            .unwrap_or(path.len()),
    );
    Ok(Some(PathBuf::from(OsString::from_vec(path))))
}

/// From what has been read already, if it is there.
fn read(file: &File, head: &[u8], bytes: &mut [u8], at: u64) -> io::Result<()> {
    let known = usize::try_from(at)
        .ok()
        .and_then(|at| head.get(at..at.checked_add(bytes.len())?));
    match known {
        Some(known) => bytes.copy_from_slice(known),
        None => file.read_exact_at(bytes, at)?,
    }
    Ok(())
}

/// Of 32 or 64 bits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Narrow,
    Wide,
}

impl Class {
    /// By how long an entry of the table of segments is, as the kernel has it; it does not look at the byte
    /// that says so (`EI_CLASS`).
    fn of(head: &[u8]) -> Option<Self> {
        let is =
            |class: &Self| head.len() >= class.header() && class.table(head).1 == class.segment();
        [Self::Wide, Self::Narrow].into_iter().find(is)
    }

    /// How long the header is.
    fn header(self) -> usize {
        match self {
            Self::Narrow => 52,
            Self::Wide => 64,
        }
    }

    /// How long an entry of the table of segments is.
    fn segment(self) -> usize {
        match self {
            Self::Narrow => 32,
            Self::Wide => 56,
        }
    }

    /// Where that table is (`e_phoff`), how long an entry says it is, and how many there are.
    fn table(self, head: &[u8]) -> (u64, usize, usize) {
        let (at, size, count) = match self {
            Self::Narrow => (word(head, 28).into(), half(head, 42), half(head, 44)),
            Self::Wide => (long(head, 32), half(head, 54), half(head, 56)),
        };
        (at, size.into(), count.into())
    }

    /// A segment's kind, where it is in the file, and how long.
    fn place(self, segment: &[u8]) -> (u32, u64, u64) {
        let kind = word(segment, 0);
        match self {
            Self::Narrow => (kind, word(segment, 4).into(), word(segment, 16).into()),
            Self::Wide => (kind, long(segment, 8), long(segment, 32)),
        }
    }
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes(array(bytes, at))
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(array(bytes, at))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(array(bytes, at))
}

/// Zeros, where there are no such bytes.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes
        .get(at..at + N)
        .map_or([0; N], |bytes| bytes.try_into().unwrap_or([0; N]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    fn own() -> Vec<u8> {
        std::fs::read("/proc/self/exe").unwrap()
    }

    fn with(bytes: &[u8]) -> Result<Option<PathBuf>, &'static str> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        loader(&file, bytes.len() as u64, &bytes[..bytes.len().min(2048)])
    }

    #[test]
    fn what_nothing_can_run_has_a_flaw() {
        let changed = |at: usize, byte: u8| {
            let mut head = own();
            head[at] = byte;
            head
        };
        assert_eq!(flaw(&own()), None);
        // The kernel does not look at the class.
        assert_eq!(flaw(&changed(4, 0)), None);
        // A part of a program (ET_REL).
        assert!(flaw(&changed(16, 1)).is_some());
        // EM_SPARC.
        assert!(!is_foreign(&own()));
        assert_eq!(is_foreign(&changed(18, 2)), !MACHINES.is_empty());
        for end in 4..52 {
            assert!(flaw(&own()[..end]).is_some(), "{end} bytes");
        }
    }

    /// This test is a program with a loader.
    #[test]
    fn the_loader_is_found_and_a_program_that_was_cut_is_not_whole() {
        let own = own();
        let found = with(&own).unwrap().expect("a loader");
        assert!(found.is_absolute() && found.exists(), "{}", found.display());
        for end in [64, 300, 1000, 5000] {
            assert!(with(&own[..end]).is_err(), "{end} bytes");
        }
        let mut without = own;
        without[56..58].fill(0);
        assert!(with(&without).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..600), wide in any::<bool>()) {
            let mut bytes = [&b"\x7fELF"[..], &[1 + u8::from(wide)], &bytes].concat();
            let _ = (flaw(&bytes), with(&bytes));
            // With a table that may be read.
            if let Some(place) = bytes.get_mut(42..58) {
                place.copy_from_slice(&[32, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 56, 0, 2, 0]);
            }
            let _ = with(&bytes);
        }
    }
}
