//! Files that are whole or as they were.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// Writes a file beside its place and, when it is whole and on the disk, moves it there. `failed`
/// makes the caller's error of one of the system.
pub(crate) fn replace_file<T, E>(
    path: &Path,
    failed: impl Fn(io::Error) -> E,
    write: impl FnOnce(&mut BufWriter<&File>) -> Result<T, E>,
) -> Result<T, E> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let file = builder().tempfile_in(folder).map_err(&failed)?;
    let mut writer = BufWriter::new(file.as_file());
    let written = write(&mut writer)?;
    writer.flush().map_err(&failed)?;
    drop(writer);
    file.as_file().sync_all().map_err(&failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    // The move itself, where folders can be synced.
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
    Ok(written)
}

/// Files with the permissions that other new files get, where temporary ones are the owner's only.
fn builder() -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    builder
}
