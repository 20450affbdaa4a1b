//! Files that are written for others.

use std::io::{self, Write as _};
use std::path::Path;

/// Replaces the file as a whole, so that a service that watches it never sees a part.
pub(super) fn write(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut partial = tempfile::Builder::new().permissions(permissions()).tempfile_in(folder)?;
    partial.write_all(bytes)?;
    partial.persist(file).map_err(|error| error.error)?;
    Ok(())
}

fn permissions() -> std::fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o644)
}
