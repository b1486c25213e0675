//! What lies in a folder: names, lengths and digests of the bytes.

use crate::case::DataError;
use crate::digest;
use crate::fixture::list_files;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileBytes {
    /// Length in bytes.
    pub length: u64,
    /// SHA-256 of the bytes.
    pub sha256: String,
}

/// Every file of a folder by its name relative to it.
pub type FolderState = BTreeMap<String, FileBytes>;

/// Reads all files below `folder`.
pub fn read(folder: &Path) -> Result<FolderState, DataError> {
    let mut state = FolderState::new();
    for path in list_files(folder)? {
        let name = path.strip_prefix(folder).expect("found below it").to_string_lossy().into_owned();
        let (length, sha256) = digest_file(&path).map_err(|e| DataError::new(&path, e))?;
        state.insert(name, FileBytes { length, sha256 });
    }
    Ok(state)
}

fn digest_file(path: &Path) -> std::io::Result<(u64, String)> {
    let mut file = std::fs::File::open(path)?;
    let mut sha = Sha256::new();
    let mut buf = vec![0u8; 1 << 20];
    let mut length = 0u64;
    loop {
        match file.read(&mut buf)? {
            0 => return Ok((length, digest::hex(&sha.finalize()))),
            n => {
                length += n as u64;
                sha.update(&buf[..n]);
            }
        }
    }
}
