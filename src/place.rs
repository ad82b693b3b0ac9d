//! Where a pid file lies: the same words must mean the same file from a shell, a unit and cron.
//!
//! XDG variables are not read, because only some of those have them.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::text::printable;
use crate::unusable::{PLACE_AT_HOME, SYSTEM_PLACE, another_place};
use crate::user::passwd_of;
use crate::{Error, ErrorKind, Result, variables};

/// The file's name in its directory.
pub const FILE_NAME: &str = "gateway.pid";

/// What the caller said about the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Choice {
    /// This path.
    Path(PathBuf),
    /// The instance of this name.
    Name(Name),
    /// Nothing: the environment or the default decides.
    Default,
}

/// An instance's name: letters, digits, `.`, `_`, `-`, `@`, `:`, not starting with `.`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Name(String);

impl Name {
    /// Checks a name.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@:".contains(&byte);
        let sound = !text.is_empty()
            && !text.starts_with('.')
            && text.len() <= 255
            && text.bytes().all(allowed);
        sound.then(|| Self(text.to_owned()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What decides, apart from the choice: an argument, so that it can be tried.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// `$GATEWAY_PID_FILE`
    pub pid_file: Option<OsString>,
    /// `$GATEWAY_STATE_DIR`
    pub state_dir: Option<OsString>,
    /// `$HOME`
    pub home: Option<OsString>,
    /// Our effective uid.
    pub uid: u32,
}

impl Surroundings {
    /// Those of this process.
    #[must_use]
    pub fn of_this_process() -> Self {
        Self {
            pid_file: std::env::var_os(variables::PID_FILE),
            state_dir: std::env::var_os(variables::STATE_DIR),
            home: std::env::var_os("HOME"),
            uid: rustix::process::geteuid().as_raw(),
        }
    }

    /// The absolute path of the pid file.
    ///
    /// # Errors
    /// A path of the environment is not absolute; there is no home; no current directory.
    pub fn pid_file(&self, choice: &Choice) -> Result<PathBuf> {
        match (choice, &self.pid_file) {
            (Choice::Path(path), _) => absolute(path),
            (Choice::Name(name), _) => {
                Ok(self.place(Some(name))?.join(name.as_str()).join(FILE_NAME))
            }
            (Choice::Default, Some(path)) => from_variable(variables::PID_FILE, path),
            (Choice::Default, None) => Ok(self.place(None)?.join(FILE_NAME)),
        }
    }

    /// The directory of this user's pid files, for the given name.
    ///
    /// # Errors
    /// As `pid_file`.
    pub fn place(&self, name: Option<&Name>) -> Result<PathBuf> {
        if let Some(directory) = &self.state_dir {
            return from_variable(variables::STATE_DIR, directory);
        }
        let system = Path::new(SYSTEM_PLACE);
        let ours = |name: &Name| owner(&system.join(name.as_str())) == Some(self.uid);
        if self.uid == 0 || name.is_some_and(ours) {
            return Ok(system.to_path_buf());
        }
        Ok(self.home(name)?.join(PLACE_AT_HOME))
    }

    /// Every directory where pid files of this user may lie: its own place, and the system's.
    #[must_use]
    pub fn places(&self) -> Vec<PathBuf> {
        let mut places: Vec<PathBuf> = self.place(None).into_iter().collect();
        places.push(PathBuf::from(SYSTEM_PLACE));
        places.dedup();
        places
    }

    /// The name by which this user means the pid file at this absolute path, if there is one.
    #[must_use]
    pub fn name_of(&self, path: &Path) -> Option<Name> {
        let name = Name::new(path.parent()?.file_name()?.to_str()?)?;
        let meant = self.pid_file(&Choice::Name(name.clone())).ok()?;
        is_one_path(&meant, path).then_some(name)
    }

    fn home(&self, name: Option<&Name>) -> Result<PathBuf> {
        let passwd = passwd_of(self.uid)
            .map(|entry| entry.home)
            .filter(|home| home.is_absolute());
        let variable = || {
            self.home
                .as_ref()
                .map(PathBuf::from)
                .filter(|home| self.owns(home))
        };
        passwd.or_else(variable).ok_or_else(|| {
            Error::new(
                ErrorKind::PidFile,
                format!(
                    "no place for the pid file: user {} has no home directory",
                    self.uid
                ),
            )
            .advise(another_place(self.uid, name.map(Name::as_str)))
        })
    }

    fn owns(&self, home: &Path) -> bool {
        home.is_absolute() && owner(home) == Some(self.uid)
    }
}

fn owner(path: &Path) -> Option<u32> {
    Some(std::fs::metadata(path).ok()?.uid())
}

/// Whether they name one file, whatever links lie in between: the records have the canonical form.
fn is_one_path(one: &Path, other: &Path) -> bool {
    let directory = |path: &Path| std::fs::canonicalize(path.parent()?).ok();
    let same = one.file_name() == other.file_name();
    one == other || same && directory(one).is_some() && directory(one) == directory(other)
}

/// The absolute path of a pid file, whose parts need not exist.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf> {
    if path.as_os_str().is_empty() {
        return Err(
            Error::new(ErrorKind::PidFile, "the pid file's path is empty")
                .advise("name one with -f PATH"),
        );
    }
    let absolute = std::path::absolute(path).map_err(|error| without_directory(path, error))?;
    if path.as_os_str().as_bytes().ends_with(b"/") {
        return Err(names_a_directory(&absolute));
    }
    Ok(absolute)
}

fn without_directory(path: &Path, error: io::Error) -> Error {
    let shown = printable(path.as_os_str());
    let error = match error.kind() {
        // getcwd(2): the current directory has been unlinked.
        io::ErrorKind::NotFound => io::Error::other("the current directory was removed"),
        _ => error,
    };
    Error::new(ErrorKind::PidFile, format!("cannot make {shown} absolute"))
        .because(error)
        .advise("cd elsewhere, or give an absolute path")
}

/// Its path ends with a slash.
fn names_a_directory(path: &Path) -> Error {
    let plain: PathBuf = path.components().collect();
    let is_other = std::fs::metadata(&plain).is_ok_and(|found| !found.is_dir());
    let meant = if is_other {
        plain
    } else {
        path.join(FILE_NAME)
    };
    let shown = |path: &Path| printable(path.as_os_str());
    Error::new(
        ErrorKind::PidFile,
        format!("{} names a directory, not a pid file", shown(path)),
    )
    .advise(format!("did you mean {}?", shown(&meant)))
}

fn from_variable(variable: &str, value: &OsStr) -> Result<PathBuf> {
    let path = PathBuf::from(value);
    if path.is_absolute() {
        return Ok(path);
    }
    let value = printable(value);
    Err(Error::new(
        ErrorKind::PidFile,
        format!("{variable} is not an absolute path: {value:?}"),
    )
    .advise(format!("set it to an absolute path, or unset {variable}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nobody() -> Surroundings {
        Surroundings {
            pid_file: None,
            state_dir: None,
            home: None,
            uid: 4_000_000_000,
        }
    }

    #[test]
    fn names_are_names() {
        for good in ["hermes", "a", "web@1:2", "x.y_z-9"] {
            assert!(Name::new(good).is_some(), "{good}");
        }
        for bad in ["", ".", "..", ".x", "a/b", "a b", "ä", "a\n", "a\0"] {
            assert!(Name::new(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn the_choice_beats_the_environment_which_beats_the_default() {
        let said = Surroundings {
            pid_file: Some("/e/f".into()),
            state_dir: Some("/s".into()),
            ..nobody()
        };
        let path = |choice| said.pid_file(&choice).unwrap();
        assert_eq!(path(Choice::Path("/a/b".into())), Path::new("/a/b"));
        assert_eq!(
            path(Choice::Name(Name::new("n").unwrap())),
            Path::new("/s/n/gateway.pid")
        );
        assert_eq!(path(Choice::Default), Path::new("/e/f"));
        let unsaid = Surroundings {
            pid_file: None,
            ..said
        };
        assert_eq!(
            unsaid.pid_file(&Choice::Default).unwrap(),
            Path::new("/s/gateway.pid")
        );
    }

    #[test]
    fn a_name_is_what_finds_the_file() {
        let said = Surroundings {
            state_dir: Some("/p".into()),
            ..nobody()
        };
        let name = |path: &str| said.name_of(Path::new(path));
        assert_eq!(name("/p/web/gateway.pid"), Name::new("web"));
        for other in [
            "/p/gateway.pid",
            "/q/web/gateway.pid",
            "/p/web/other.pid",
            "/p/a/b/gateway.pid",
            "/p/a b/gateway.pid",
            // Of the system, and not of this user.
            "/var/lib/gateway/web/gateway.pid",
        ] {
            assert_eq!(name(other), None, "{other}");
        }
        assert_eq!(said.places(), ["/p", "/var/lib/gateway"].map(PathBuf::from));
    }

    #[test]
    fn a_link_to_the_place_changes_no_name() {
        let room = tempfile::tempdir().unwrap();
        let place = std::fs::canonicalize(room.path()).unwrap().join("place");
        std::fs::create_dir_all(place.join("web")).unwrap();
        let link = place.with_file_name("link");
        std::os::unix::fs::symlink(&place, &link).unwrap();
        let said = Surroundings {
            state_dir: Some(link.into()),
            ..nobody()
        };
        assert_eq!(
            said.name_of(&place.join("web/gateway.pid")),
            Name::new("web")
        );
        assert_eq!(said.name_of(&place.join("not/gateway.pid")), None);
    }

    #[test]
    fn root_uses_the_system_place() {
        let root = Surroundings { uid: 0, ..nobody() };
        assert_eq!(
            root.pid_file(&Choice::Default).unwrap(),
            Path::new("/var/lib/gateway/gateway.pid")
        );
    }

    #[test]
    fn a_relative_variable_is_refused_with_its_name() {
        let said = Surroundings {
            pid_file: Some("x".into()),
            ..nobody()
        };
        assert!(
            said.pid_file(&Choice::Default)
                .unwrap_err()
                .to_string()
                .contains("GATEWAY_PID_FILE")
        );
        let said = Surroundings {
            state_dir: Some("".into()),
            ..nobody()
        };
        assert!(
            said.pid_file(&Choice::Default)
                .unwrap_err()
                .to_string()
                .contains("GATEWAY_STATE_DIR")
        );
    }

    #[test]
    fn no_home_is_said_with_what_to_type() {
        let error = nobody().pid_file(&Choice::Default).unwrap_err();
        let error = format!("{error:#}");
        assert!(
            error.contains("no home") && error.contains("-f PATH"),
            "{error}"
        );
        let foreign = Surroundings {
            home: Some("/".into()),
            ..nobody()
        };
        assert!(
            foreign.pid_file(&Choice::Default).is_err(),
            "a home that is not ours"
        );
    }
}
