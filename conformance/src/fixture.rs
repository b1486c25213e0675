//! Unpacks a fixture into a private folder: zstd in, sparse files out.

use crate::case::DataError;
use crate::paths;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Zeros in units of this many bytes become holes.
const UNIT: usize = 4096;

/// An unpacked fixture; the folder goes away with the value.
#[derive(Debug)]
pub struct Workspace {
    folder: TempDir,
}

impl Workspace {
    /// Unpacks `fixture` below the system's temporary folder.
    pub fn unpack(fixture: &str) -> Result<Self, DataError> {
        let source = paths::testdata().join("fixtures").join(fixture);
        let folder = tempfile::Builder::new()
            .prefix("instar-case-")
            .tempdir()
            .map_err(|e| DataError::new(&std::env::temp_dir(), e))?;
        let files = list_files(&source)?;
        if files.is_empty() {
            return Err(DataError::new(&source, "the fixture holds no file"));
        }
        for packed in files {
            let name = packed.strip_prefix(&source).expect("found below it").with_extension("");
            unpack_file(&packed, &folder.path().join(name)).map_err(|e| DataError::new(&packed, e))?;
        }
        Ok(Self { folder })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// All files below `folder`, sorted.
pub fn list_files(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let mut found = Vec::new();
    let mut pending = vec![folder.to_path_buf()];
    while let Some(folder) = pending.pop() {
        let entries = std::fs::read_dir(&folder).map_err(|e| DataError::new(&folder, e))?;
        for entry in entries {
            let path = entry.map_err(|e| DataError::new(&folder, e))?.path();
            if path.is_dir() { pending.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    Ok(found)
}

/// Packs every file below `folder` as `target/NAME.zst`; `level` is zstd's.
pub fn pack(folder: &Path, target: &Path, level: i32) -> std::io::Result<()> {
    for path in list_files(folder).map_err(std::io::Error::other)? {
        let name = path.strip_prefix(folder).expect("found below it").to_string_lossy().into_owned();
        let packed = target.join(format!("{name}.zst"));
        if let Some(parent) = packed.parent() {
            std::fs::create_dir_all(parent)?;
        }
        zstd::stream::copy_encode(File::open(&path)?, File::create_new(packed)?, level)?;
    }
    Ok(())
}

fn unpack_file(packed: &Path, target: &Path) -> std::io::Result<()> {
    if let Some(parent) = target.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let mut decoder = zstd::stream::Decoder::new(File::open(packed)?)?;
    let file = File::create_new(target)?;
    let mut buf = vec![0u8; UNIT];
    let mut offset = 0u64;
    loop {
        let mut filled = 0;
        while filled < UNIT {
            match decoder.read(&mut buf[filled..])? {
                0 => break,
                n => filled += n,
            }
        }
        if buf[..filled].iter().any(|byte| *byte != 0) {
            file.write_all_at(&buf[..filled], offset)?;
        }
        offset += filled as u64;
        if filled < UNIT {
            return file.set_len(offset);
        }
    }
}
