//! A file that is replaced as a whole, or not at all.
//!
//! What is written goes to a file of another name in the same folder, which takes the name once all of it
//! is on the disk. So whoever reads under the name finds the old or the new, whatever crashes.

use crate::random;
use crate::snapshot::{Contents, SnapshotError};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

/// Replaces the file by what `write` writes. If that fails, or panics, the file is what it was.
pub(crate) fn replace<T>(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<&File>) -> Result<T, SnapshotError>,
) -> Result<T, SnapshotError> {
    // First, since what fails once the file has its name comes too late.
    let folder = Folder::of(path)?;
    let (temporary, file) = Temporary::create(path)?;
    let mut out = BufWriter::new(&file);
    let written = write(&mut out)?;
    out.flush()?;
    drop(out);
    file.sync_all()?;
    // Before it is renamed, which not every system does to open files.
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

/// Asks what it is before it is opened: to open a pipe is to wait for its writer.
fn open(path: &Path) -> io::Result<File> {
    if fs::metadata(path)?.is_file() {
        File::open(path)
    } else {
        Err(io::Error::new(
            ErrorKind::InvalidInput,
            "this is no regular file",
        ))
    }
}

/// A file that is removed unless it is renamed.
struct Temporary(PathBuf);

impl Temporary {
    /// In the folder of `path`, under a name that no other process and no crash has left in use. Only its
    /// owner may read it: what is cached may be secret.
    fn create(path: &Path) -> io::Result<(Self, File)> {
        let Some(name) = path.file_name() else {
            return Err(io::Error::new(ErrorKind::InvalidInput, "no file's path"));
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
                Ok(file) => return Ok((Self(temporary), file)),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn rename(self, path: &Path) -> io::Result<()> {
        fs::rename(&self.0, path)?;
        std::mem::forget(self);
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // There is nothing to be done about one that cannot be removed.
        let _ = fs::remove_file(&self.0);
    }
}

/// The folder of a file. Until it is synced a file in it may have its old name after a crash.
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
