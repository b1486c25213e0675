//! Writes `instar-testdata/expected-outputs` and `instar-testdata/MANIFEST` from the fixtures and recordings.

use conformance::case::DataError;
use conformance::{expected, manifest, paths};
use std::process::ExitCode;

fn run() -> Result<(), DataError> {
    let root = paths::testdata().join("expected-outputs");
    if root.exists() {
        std::fs::remove_dir_all(&root).map_err(|e| DataError::new(&root, e))?;
    }
    for (name, bytes) in expected::generate()? {
        let path = root.join(name);
        let parent = path.parent().expect("below the root").to_path_buf();
        std::fs::create_dir_all(&parent).map_err(|e| DataError::new(&parent, e))?;
        std::fs::write(&path, bytes).map_err(|e| DataError::new(&path, e))?;
    }
    let path = paths::testdata().join("MANIFEST");
    std::fs::write(&path, manifest::render()?).map_err(|e| DataError::new(&path, e))
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
