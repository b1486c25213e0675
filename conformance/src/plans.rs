//! Judges plans by what the planned command then does.
//!
//! Space on the disk is only judged from one side: a plan must not claim more than the command takes, because commits are
//! refused on its word. Cannot see: whether what a plan says of extents is true; the product's own tests look at those.

use crate::case::{self, Case, Operation};
use crate::fixture::{Workspace, list_files};
use crate::folder;
use crate::runner::{Product, Program, RunOutput};
use libtest_mimic::{Arguments, Failed, Trial};
use nix::sys::statfs::{EXT4_SUPER_MAGIC, TMPFS_MAGIC, statfs};
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// In a whole run at least so many lengths are compared.
const MIN_LENGTHS: usize = 250;

/// What blocks of the file system and its own tables may make of a number.
const ROUNDED_BYTES: u64 = 8 << 10;

/// A plan takes the locks of a reader. So it finds out what the command is kept from finding by its own lock as a writer.
const FINDS_THE_LOOP: [&str; 3] = ["commit-broken-base-loop", "rebase-broken-base-loop", "rebase-safe-self"];
const LOOP: &str = "Backing file 'overlay.qcow2' creates an infinite loop.";
const OWN_LOCK: &str = "Failed to get shared \"write\" lock\nIs another process using the image [overlay.qcow2]?";

type Found = Result<Product, String>;

/// Plans and runs every recorded case with the built program.
pub fn matrix() -> ExitCode {
    let arguments = Arguments::from_args();
    let loaded = case::load_all(Operation::Commit).and_then(|mut cases| {
        cases.extend(case::load_all(Operation::Rebase)?);
        Ok(cases)
    });
    let cases = match loaded {
        Ok(cases) => cases,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let is_whole = arguments.filter.is_none() && arguments.skip.is_empty() && !arguments.list && !arguments.ignored;
    let (product, compared) = (Arc::<OnceLock<Found>>::default(), Arc::new(AtomicUsize::new(0)));
    let trials = cases.into_iter().map(|case| {
        let (product, compared) = (Arc::clone(&product), Arc::clone(&compared));
        Trial::test(case.name.clone(), move || {
            let product = product.get_or_init(Product::find).as_ref().map_err(Failed::from)?;
            compared.fetch_add(judge(&case, product)?, Ordering::Relaxed);
            Ok(())
        })
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    let compared = compared.load(Ordering::Relaxed);
    if is_whole && compared < MIN_LENGTHS {
        eprintln!("only {compared} lengths were compared");
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}

/// Plans and runs one case; gives how many lengths were compared.
fn judge(case: &Case, product: &Product) -> Result<usize, Failed> {
    let workspace = Workspace::unpack(&case.fixture).map_err(|error| error.to_string())?;
    let path = workspace.path();
    let read = || folder::read(path).map_err(|error| error.to_string());
    let before = read()?;
    let planned = product.plan_case(case, path).map_err(|error| error.to_string())?;
    if read()? != before {
        return Err("the plan changed a file".into());
    }
    let stored = stored_bytes(path)?;
    let done = product.run_case(case, path).map_err(|error| error.to_string())?;
    if planned.rc != done.rc {
        return Err(format!(
            "the plan ended with {:?}, the command with {:?}\n{}",
            planned.rc,
            done.rc,
            texts(&planned, &done)
        )
        .into());
    }
    if planned.rc != Some(0) {
        // Neither has a result; what is wrong is said in the same words.
        let said = String::from_utf8_lossy(&planned.stderr).replace("instar plan ", "instar ");
        let is_loop = FINDS_THE_LOOP.contains(&case.name.as_str());
        let said = if is_loop { said.replace(LOOP, OWN_LOCK) } else { said };
        let same =
            said.as_bytes() == done.stderr && is_loop == planned.stderr.ends_with(format!("{LOOP}\n").as_bytes());
        return if same { Ok(0) } else { Err(texts(&planned, &done).into()) };
    }
    if planned.stdout.is_empty() {
        return Ok(0);
    }
    let plan: serde_json::Value = serde_json::from_slice(&planned.stdout).map_err(|error| error.to_string())?;
    let files = plan["files"].as_array().ok_or("the plan names no files")?;
    for file in files {
        let name = file["filename"].as_str().ok_or("a file without a name")?;
        let length = path.join(name).metadata().map_err(|error| format!("{name}: {error}"))?.len();
        if file["planned_length_bytes"].as_u64() != Some(length) {
            return Err(
                format!("{name} is {length} bytes long, and the plan was {}", file["planned_length_bytes"]).into()
            );
        }
    }
    judge_space(files, &stored, &stored_bytes(path)?)?;
    Ok(files.len())
}

/// How much each file takes on the disk; nothing is said of file systems on which that is no certain number.
fn stored_bytes(folder: &Path) -> Result<BTreeMap<PathBuf, u64>, Failed> {
    let kind = statfs(folder).map_err(|error| error.to_string())?.filesystem_type();
    if ![EXT4_SUPER_MAGIC, TMPFS_MAGIC].contains(&kind) {
        return Ok(BTreeMap::new());
    }
    let mut stored = BTreeMap::new();
    for file in list_files(folder).map_err(|error| error.to_string())? {
        let status = file.metadata().map_err(|error| error.to_string())?;
        stored.insert(file.strip_prefix(folder).expect("found below it").to_path_buf(), status.blocks() * 512);
    }
    Ok(stored)
}

fn judge_space(
    files: &[serde_json::Value],
    before: &BTreeMap<PathBuf, u64>,
    after: &BTreeMap<PathBuf, u64>,
) -> Result<(), Failed> {
    for file in files {
        let name = file["filename"].as_str().unwrap_or_default();
        let (Some(before), Some(after)) = (before.get(Path::new(name)), after.get(Path::new(name))) else { continue };
        let number = |key: &str| file[key].as_u64().ok_or(format!("{name}: there is no {key}"));
        let claimed = number("newly_stored_bytes")?.saturating_sub(number("freed_bytes")?);
        let taken = after.saturating_sub(*before);
        if claimed > taken + ROUNDED_BYTES {
            return Err(format!("{name} was to take {claimed} bytes more of the disk, and took {taken}").into());
        }
    }
    Ok(())
}

fn texts(planned: &RunOutput, done: &RunOutput) -> String {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    format!("--- plan\n{}--- command\n{}", text(&planned.stderr), text(&done.stderr))
}
