//! `instar-testdata/MANIFEST`: every data file with its SHA-256 and how it was made.

use crate::case::DataError;
use crate::digest;
use crate::fixture::list_files;
use crate::paths;

/// How the files of a folder were made.
fn origin(path: &str) -> &'static str {
    if path.starts_with("fixtures/broken-") || path.starts_with("fixtures/no-backing-format/") {
        "built with qemu-img and qemu-io 10.0.2, then patched on purpose; zstd"
    } else if path.starts_with("fixtures/") {
        "built with qemu-img and qemu-io 10.0.2; zstd"
    } else if path.starts_with("corpus/") {
        "drawn from the seed in its name and recorded with qemu-img 10.0.2 by `cargo run -p conformance --bin differential`"
    } else if path.starts_with("recordings/") {
        "recorded by running the qemu-img versions that it names"
    } else if path.starts_with("expected-outputs/") {
        "derived from recordings/ by `cargo run -p conformance --bin generate`"
    } else {
        "written by hand"
    }
}

/// The text of the MANIFEST: one line a file, `sha256  path  origin`, sorted by path.
pub fn render() -> Result<String, DataError> {
    let root = paths::testdata();
    let mut text = String::new();
    for path in list_files(&root)? {
        let name = path.strip_prefix(&root).expect("found below it").to_string_lossy().into_owned();
        if name == "MANIFEST" {
            continue;
        }
        let bytes = std::fs::read(&path).map_err(|e| DataError::new(&path, e))?;
        text.push_str(&format!("{}\t{name}\t{}\n", digest::sha256(&bytes), origin(&name)));
    }
    Ok(text)
}
