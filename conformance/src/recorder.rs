//! Records what a qemu-img makes of a case, in the schema of the delivered recordings.
//!
//! Texts and info come from the program itself; counts of `check` from a reference qemu-img (the delivered ones used 10.0.2); map and
//! content from this crate's readers, which the self-test holds against the delivered recordings.

use crate::case::{Case, Check, DataError, FileState, Outcome};
use crate::fixture::Workspace;
use crate::judge::{JudgeError, read_file};
use crate::runner::{Program, QemuImg, RunOutput, format_of};
use crate::{allocation, folder, oracles, text};
use std::collections::BTreeMap;
use std::path::Path;

/// The delivered recordings saw at least this many runs of every command.
const RUNS: usize = 3;

/// The case with one outcome: the one of `qemu`.
pub fn record(case: &Case, qemu: &QemuImg, reference: &QemuImg) -> Result<Case, JudgeError> {
    record_runs(case, qemu, reference, RUNS)
}

/// As [`record`], with file lengths seen over `runs` runs.
pub fn record_runs(case: &Case, qemu: &QemuImg, reference: &QemuImg, runs: usize) -> Result<Case, JudgeError> {
    let mut outcome = run_once(case, qemu, reference)?;
    for _ in 1..runs {
        let workspace = Workspace::unpack(&case.fixture)?;
        qemu.run_case(case, workspace.path()).map_err(JudgeError::Run)?;
        let again = folder::read(workspace.path())?;
        for (name, state) in &mut outcome.files {
            let length = again.get(name).map_or(state.length, |bytes| bytes.length);
            state.length_range = [state.length_range[0].min(length), state.length_range[1].max(length)];
        }
    }
    Ok(Case { outcomes: vec![outcome], ..case.clone() })
}

fn run_once(case: &Case, qemu: &QemuImg, reference: &QemuImg) -> Result<Outcome, JudgeError> {
    let workspace = Workspace::unpack(&case.fixture)?;
    let path = workspace.path();
    let output = qemu.run_case(case, path).map_err(JudgeError::Run)?;
    let mut files = BTreeMap::new();
    for (name, bytes) in folder::read(path)? {
        let state = match format_of(&name) {
            None => FileState { sha256: Some(bytes.sha256), ..empty(bytes.length) },
            Some(format) => image(&name, format, bytes.length, path, qemu, reference).map_err(JudgeError::Run)?,
        };
        files.insert(name, state);
    }
    // Raw and external data files: holes of the host's file system would decide the maps of the whole folder.
    if files.iter().any(|(name, state)| state.sha256.is_some() || format_of(name) == Some("raw")) {
        files.values_mut().for_each(|state| state.map = None);
    }
    let said = |bytes: &[u8]| text::fold_node_names(&text::universal(bytes, &path.to_string_lossy()));
    Ok(Outcome {
        versions: vec![qemu.version().to_owned()],
        rc: output.rc,
        stdout: said(&output.stdout),
        stderr: said(&output.stderr),
        files,
    })
}

fn empty(length: u64) -> FileState {
    FileState {
        length,
        length_range: [length, length],
        info: None,
        info_error: None,
        check: None,
        check_rc: None,
        map: None,
        content: None,
        snapshots: None,
        bitmaps: None,
        sha256: None,
        timeout: None,
    }
}

fn image(
    name: &str,
    format: &str,
    length: u64,
    folder: &Path,
    qemu: &QemuImg,
    reference: &QemuImg,
) -> std::io::Result<FileState> {
    let mut state = empty(length);
    let info = qemu.info(qemu.version(), folder, name)?;
    let text = |bytes: &[u8]| text::universal(bytes, &folder.to_string_lossy());
    if info.rc == Some(0) {
        state.info = Some(text(&info.stdout))
    } else {
        state.info_error = Some(text(&info.stderr))
    }
    if format != "raw" {
        let check: RunOutput = reference.ask(folder, &["check", "--output=json", "-f", format, name])?;
        if check.rc.is_none() {
            state.timeout = Some(true);
            return Ok(state);
        }
        state.check_rc = check.rc;
        state.check = check_counts(&check.stdout);
    }
    let reading = read_file(folder, name);
    state.content = reading.content.ok();
    // A chain that cannot be read may have a map all the same, if it can be opened.
    let is_mapped = state.content.is_some() || reference.ask(folder, &["map", "-f", format, name])?.rc == Some(0);
    state.map = reading.map.filter(|_| is_mapped).as_deref().map(allocation::as_recorded);
    if format == "qcow2" {
        oracles::snapshots::record(folder, name, &mut state);
        oracles::bitmaps::record(folder, name, &mut state);
    }
    Ok(state)
}

/// The three counts of a check report; `None` if the text is none.
fn check_counts(stdout: &[u8]) -> Option<Check> {
    let report: serde_json::Value = serde_json::from_slice(stdout).ok()?;
    let count = |name: &str| report.get(name).and_then(serde_json::Value::as_u64).unwrap_or(0);
    Some(Check { check_errors: count("check-errors"), corruptions: count("corruptions"), leaks: count("leaks") })
}

/// Writes a recorded case to `FOLDER/<operation>/<case>.json`.
pub fn write(case: &Case, folder: &Path) -> Result<(), DataError> {
    let folder = folder.join(case.op.word());
    std::fs::create_dir_all(&folder).map_err(|e| DataError::new(&folder, e))?;
    let path = folder.join(format!("{}.json", case.name));
    let mut text = serde_json::to_string_pretty(case).map_err(|e| DataError::new(&path, e))?;
    text.push('\n');
    std::fs::write(&path, text).map_err(|e| DataError::new(&path, e))
}
