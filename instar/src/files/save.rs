//! Writes a result where the user wants it, and never over anything that is there: it might be an image.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

/// Makes a file that does not exist yet.
///
/// # Errors
/// The system's; one that exists.
pub fn save_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).open(path)?.write_all(bytes)
}
