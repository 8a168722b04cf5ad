//! Atomic replacement of a file.
//!
//! The new content is written to a file of another name in the same folder, which is renamed once all of it is on the
//! disk. So a reader finds the old or the new content, even after a crash.

use crate::random;
use crate::snapshot::{Contents, SnapshotError};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

/// Replaces the content of the file with the output of `write`. If `write` fails or panics, the file is unchanged.
pub(crate) fn replace<T>(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<&File>) -> Result<T, SnapshotError>,
) -> Result<T, SnapshotError> {
    // The folder is opened first, because a failure after the renaming would come too late.
    let folder = Folder::of(path)?;
    let (temporary, file) = Temporary::create(path)?;
    let mut out = BufWriter::new(&file);
    let written = write(&mut out)?;
    out.flush()?;
    drop(out);
    file.sync_all()?;
    // It is closed before it is renamed, because not every system renames open files.
    drop(file);
    temporary.rename(path)?;
    folder.sync()?;
    Ok(written)
}

/// Reads and checks a file.
pub(crate) fn read(path: &Path) -> Result<Contents, SnapshotError> {
    Contents::read(open(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => SnapshotError::NotFound,
        _ => error.into(),
    })?)
}

/// Opens a regular file. The type is checked first, because opening a pipe would wait for its writer.
fn open(path: &Path) -> io::Result<File> {
    if fs::metadata(path)?.is_file() {
        File::open(path)
    } else {
        Err(io::Error::new(
            ErrorKind::InvalidInput,
            "it is not a regular file",
        ))
    }
}

/// A file that is removed unless it is renamed.
struct Temporary {
    path: PathBuf,
    is_renamed: bool,
}

impl Temporary {
    /// Creates a file in the folder of `path`, under a name that is not in use. Only its owner may read it, because
    /// cached values may be secret.
    fn create(path: &Path) -> io::Result<(Self, File)> {
        let Some(name) = path.file_name() else {
            return Err(io::Error::new(
                ErrorKind::InvalidInput,
                "the path has no file name",
            ));
        };
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        loop {
            let mut other = OsString::from(".");
            other.push(name);
            other.push(format!(".{:016x}.tmp", random::bits()));
            let temporary = path.with_file_name(other);
            match options.open(&temporary) {
                Ok(file) => {
                    let is_renamed = false;
                    let path = temporary;
                    return Ok((Self { path, is_renamed }, file));
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Renames the file to `path`.
    fn rename(mut self, path: &Path) -> io::Result<()> {
        fs::rename(&self.path, path)?;
        self.is_renamed = true;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.is_renamed {
            // A file that cannot be removed is left behind.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The folder of a file. Until it is synced, a renamed file may have its old name after a crash.
struct Folder(#[cfg(unix)] File);

#[cfg(unix)]
impl Folder {
    fn of(path: &Path) -> io::Result<Self> {
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        Ok(Self(File::open(folder.unwrap_or(Path::new(".")))?))
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_all()
    }
}

#[cfg(not(unix))]
#[allow(clippy::unnecessary_wraps, clippy::unused_self)]
impl Folder {
    fn of(_: &Path) -> io::Result<Self> {
        Ok(Self())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}
