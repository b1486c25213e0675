//! The stored corpus: `instar-testdata/corpus/fixtures/CASE/` and `instar-testdata/corpus/recordings/CASE.json`, in the schemas of the fixtures
//! and recordings, with one outcome each.

use crate::case::{Case, DataError};
use crate::fixture::list_files;
use crate::paths;
use std::path::{Path, PathBuf};

/// Where the corpus lies.
pub fn folder() -> PathBuf {
    paths::testdata().join("corpus")
}

/// Writes a case and its packed fixture below `folder`.
pub fn store(case: &Case, fixture: &Path, folder: &Path) -> Result<PathBuf, DataError> {
    let target = folder.join("fixtures").join(&case.name);
    for packed in list_files(fixture)? {
        let to = target.join(packed.strip_prefix(fixture).expect("found below it"));
        let parent = to.parent().expect("a file has a folder").to_path_buf();
        std::fs::create_dir_all(&parent).map_err(|e| DataError::new(&parent, e))?;
        std::fs::copy(&packed, &to).map_err(|e| DataError::new(&to, e))?;
    }
    let recordings = folder.join("recordings");
    std::fs::create_dir_all(&recordings).map_err(|e| DataError::new(&recordings, e))?;
    let path = recordings.join(format!("{}.json", case.name));
    let stored = Case { fixture: case.name.clone(), ..case.clone() };
    let mut text = serde_json::to_string(&stored).map_err(|e| DataError::new(&path, e))?;
    text.push('\n');
    std::fs::write(&path, text).map_err(|e| DataError::new(&path, e))?;
    Ok(path)
}

/// Bytes that a case takes when it is stored.
pub fn size_bytes(case: &Case, fixture: &Path) -> Result<u64, DataError> {
    let mut size = serde_json::to_string(case).map_err(|e| DataError::new(fixture, e))?.len() as u64;
    for packed in list_files(fixture)? {
        size += std::fs::metadata(&packed).map_err(|e| DataError::new(&packed, e))?.len();
    }
    Ok(size)
}

/// All cases below `folder`, sorted by name, with absolute paths of their fixtures.
pub fn load(folder: &Path) -> Result<Vec<Case>, DataError> {
    let mut cases = Vec::new();
    for path in list_files(&folder.join("recordings"))? {
        let text = std::fs::read_to_string(&path).map_err(|e| DataError::new(&path, e))?;
        let mut case: Case = serde_json::from_str(&text).map_err(|e| DataError::new(&path, e))?;
        if path.file_stem().is_none_or(|stem| stem != case.name.as_str()) {
            return Err(DataError::new(&path, format!("holds the case {}", case.name)));
        }
        if case.outcomes.len() != 1 || case.outcomes[0].versions.len() != 1 {
            return Err(DataError::new(&path, "must hold one outcome of one version"));
        }
        case.fixture = folder.join("fixtures").join(&case.fixture).to_string_lossy().into_owned();
        cases.push(case);
    }
    Ok(cases)
}
