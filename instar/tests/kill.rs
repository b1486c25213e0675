//! A commit that is killed at any moment and run again ends as if it had never been killed; and what the overlay shows is the
//! same at every moment.
//!
//! Kills the built program with SIGKILL at random moments: `INSTAR_KILL_RUNS` says how often (60), `INSTAR_KILL_SEED` with
//! which random numbers. Content is compared with what the images were made of, byte by byte; qcow2 is read by the imago
//! crate. Cannot see: what a power loss does, where the system loses what it has not written yet.

#[path = "common/kvm.rs"]
mod kvm;
#[path = "common/scattered.rs"]
mod scattered;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use imago::file::File as ImagoFile;
use imago::qcow2::Qcow2;
use imago::{FormatAccess, FormatDriverBuilder, PermissiveImplicitOpenGate};
use libtest_mimic::{Arguments, Failed, Trial};

use scattered::{Backing, Disk, Numbers};

/// Size of the disk: its images are some 50 MiB, scattered over it.
const DISK_CLUSTERS: usize = 1600;
/// Runs where the environment does not say how many.
const DEFAULT_RUNS: usize = 60;
/// Place of the low byte of the incompatible features in a qcow2 header, and the bit for "dirty" in it.
const INCOMPATIBLE_LOW_BYTE: usize = 79;
const DIRTY: u8 = 1;
/// Length of the holes in restored images.
const HOLE_BYTES: usize = 64 << 10;
/// What is said of an image that somebody else holds.
const TAKEN: &str = "Is another process using the image";
/// How long a worker may take to let go of an image after its parent was killed, on a busy machine.
const LETTING_GO: Duration = Duration::from_secs(2);
/// How often the content through the overlay is read right after the kill.
const LOOK_EVERY: usize = 4;

fn main() {
    let arguments = Arguments::from_args();
    let trials = vec![
        Trial::test("a_killed_commit_into_a_raw_base_can_be_finished", || killed("raw", "kvm")),
        Trial::test("a_killed_commit_into_a_qcow2_base_can_be_finished", || killed("qcow2", "kvm")),
        Trial::test("a_killed_commit_without_kvm_can_be_finished", || killed("qcow2", "process")),
    ];
    libtest_mimic::run(&arguments, trials).exit();
}

/// The images as they were made, and what the base shows when they are merged.
struct Scene {
    directory: tempfile::TempDir,
    sandbox: &'static str,
    base_format: &'static str,
    base: Vec<u8>,
    overlay: Vec<u8>,
    merged: Vec<u8>,
}

impl Scene {
    fn new(base_format: &'static str, sandbox: &'static str) -> Result<Self, Failed> {
        let mut numbers = Numbers(7);
        let base = Disk::scattered(DISK_CLUSTERS, 25, &mut numbers);
        let overlay = Disk::scattered(DISK_CLUSTERS, 30, &mut numbers);
        let merged = overlay.over(&base).bytes();
        let base = if base_format == "raw" { base.bytes() } else { base.as_qcow2(&Backing::None, &mut numbers) };
        let overlay = overlay.as_qcow2(&Backing::Named("base", base_format), &mut numbers);
        Ok(Self { directory: tempfile::tempdir()?, sandbox, base_format, base, overlay, merged })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Puts the images back as they were.
    fn restore(&self) -> std::io::Result<()> {
        write_sparse(&self.path("base"), &self.base)?;
        write_sparse(&self.path("overlay"), &self.overlay)
    }

    fn commit(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_instar"));
        command.args(["commit", "--sandbox", self.sandbox, "overlay"]).current_dir(self.directory.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Commits undisturbed.
    fn finish(&self) -> Result<(), Failed> {
        let output = self.commit().output()?;
        if output.status.success() && output.stdout == b"Image committed.\n" {
            return Ok(());
        }
        Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr)).into())
    }

    /// Whether the base alone shows the merged content.
    fn check_base(&self) -> Result<(), Failed> {
        let shown =
            if self.base_format == "raw" { fs::read(self.path("base"))? } else { read_qcow2(&self.path("base"))? };
        if shown == self.merged { Ok(()) } else { Err(difference(&shown, &self.merged, "the base")) }
    }

    /// Whether the overlay shows the merged content, before, while and after it gets into the base.
    fn check_overlay(&self) -> Result<(), Failed> {
        let copy = self.path("overlay-copy");
        let mut image = fs::read(self.path("overlay"))?;
        // While it is being emptied it is marked as dirty, which the reader refuses: its refcounts may be wrong.
        image[INCOMPATIBLE_LOW_BYTE] &= !DIRTY;
        fs::write(&copy, image)?;
        let shown = read_qcow2(&copy)?;
        if shown == self.merged { Ok(()) } else { Err(difference(&shown, &self.merged, "the overlay")) }
    }
}

/// Writes a file with holes where there are only zeros.
fn write_sparse(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let file = fs::File::create(path)?;
    file.set_len(bytes.len() as u64)?;
    let zeros = [0; HOLE_BYTES];
    for (index, piece) in bytes.chunks(HOLE_BYTES).enumerate() {
        if piece != &zeros[..piece.len()] {
            file.write_all_at(piece, (index * HOLE_BYTES) as u64)?;
        }
    }
    Ok(())
}

fn difference(shown: &[u8], wanted: &[u8], image: &str) -> Failed {
    let place = shown.iter().zip(wanted).position(|(left, right)| left != right);
    format!("{image} shows something else: {} of {} bytes, first difference at {place:?}", shown.len(), wanted.len())
        .into()
}

/// The disk that a qcow2 image shows, through its backing file.
fn read_qcow2(path: &Path) -> Result<Vec<u8>, Failed> {
    let image = Qcow2::<ImagoFile>::builder_path(path).open(PermissiveImplicitOpenGate::default())?;
    let image = FormatAccess::new(image);
    let mut bytes = vec![0; usize::try_from(image.size())?];
    image.read(&mut bytes[..], 0)?;
    Ok(bytes)
}

/// A number from the environment.
fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

fn killed(base_format: &'static str, sandbox: &'static str) -> Result<(), Failed> {
    if sandbox == "kvm" && kvm::without_kvm("kill") {
        return Ok(());
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |time| u64::from(time.subsec_nanos()));
    let seed = setting("INSTAR_KILL_SEED").unwrap_or(now).max(1);
    let all_runs = setting("INSTAR_KILL_RUNS").and_then(|runs| usize::try_from(runs).ok()).unwrap_or(DEFAULT_RUNS);
    let runs = all_runs.div_ceil(2);
    let scene = Scene::new(base_format, sandbox)?;

    // What an undisturbed commit does, and how long it takes.
    let mut times = Vec::new();
    for _ in 0..5 {
        scene.restore()?;
        let start = Instant::now();
        scene.finish()?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    let takes = times[times.len() / 2];
    scene.check_base()?;
    scene.check_overlay()?;
    let emptied = fs::read(scene.path("overlay"))?;

    let mut numbers = Numbers(seed);
    let mut struck = 0;
    for run in 0..runs {
        let moment = Duration::from_nanos(numbers.below(u64::try_from(takes.as_nanos())?));
        let outcome = one(&scene, moment, run % LOOK_EVERY == 0, &emptied);
        match outcome {
            Ok(killed) => struck += usize::from(killed),
            Err(error) => {
                let text = error.message().unwrap_or("no message").to_owned();
                return Err(format!("run {run}, INSTAR_KILL_SEED={seed}, killed after {moment:?}: {text}").into());
            }
        }
    }
    eprintln!(
        "{base_format}, {sandbox}: {struck} of {runs} commits were killed before their end; an undisturbed one takes {takes:?}"
    );
    if struck * 4 < runs { Err(format!("only {struck} of {runs} commits were killed").into()) } else { Ok(()) }
}

/// One commit that is killed, and the one that finishes it; tells whether the first one was still at work.
fn one(scene: &Scene, moment: Duration, looks: bool, emptied: &[u8]) -> Result<bool, Failed> {
    scene.restore()?;
    let mut first = scene.commit().spawn()?;
    thread::sleep(moment);
    first.kill()?;
    let killed = !first.wait()?.success();
    if looks {
        scene.check_overlay().map_err(|error| prefix("right after the kill", &error))?;
    }
    again(scene).map_err(|error| prefix("running it again", &error))?;
    scene.check_base()?;
    if fs::read(scene.path("overlay"))? != emptied {
        return Err("the overlay is not emptied as an undisturbed commit empties it".into());
    }
    Ok(killed)
}

/// Commits after a kill. A worker that was forked the very moment before it may still hold the image, until it is scheduled
/// and finds itself alone.
fn again(scene: &Scene) -> Result<(), Failed> {
    let start = Instant::now();
    loop {
        match scene.finish() {
            Err(error) if error.message().is_some_and(|text| text.contains(TAKEN)) && start.elapsed() < LETTING_GO => {
                thread::sleep(Duration::from_millis(10));
            }
            result => return result,
        }
    }
}

fn prefix(what: &str, error: &Failed) -> Failed {
    format!("{what}: {}", error.message().unwrap_or("no message")).into()
}
