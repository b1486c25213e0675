//! `--verify`: it changes nothing about what a command does, and it notices what was not kept as it was written.
//!
//! Cannot see: whether the disk is read, and not the page cache; what a disk forgets later.

use conformance::case::{self, Case, Operation};
use conformance::digest;
use conformance::fixture::{Workspace, list_files};
use conformance::image::Chain;
use conformance::paths;
use conformance::runner::inprocess::{Direct, Disk, Disks, FileStorage, carry_out, run_command};
use conformance::runner::{Product, Program, RunOutput, format_of};
use instar::session::{DeviceFile, Guest};
use instar::vm::VmError;
use instar_abi::job::{CommitJob, RebaseJob, commit_flag, operation, rebase_flag};
use instar_exec::job::Job;
use instar_exec::recording::{Recording, Request};
use instar_exec::{CopySegment, DeviceId, Storage, StorageError};
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

type Files = BTreeMap<PathBuf, Vec<u8>>;

fn load(name: &str) -> Case {
    let operation = name.split('-').next().expect("a word");
    Case::load(&paths::testdata().join(format!("recordings/{operation}/{name}.json"))).expect("recorded")
}

fn verified(case: &Case) -> Case {
    let argv = ["--verify".to_owned()].into_iter().chain(case.argv.iter().cloned()).collect();
    Case { argv, ..case.clone() }
}

fn read(folder: &Path) -> Files {
    let files = list_files(folder).expect("a folder");
    files
        .into_iter()
        .map(|path| (path.strip_prefix(folder).expect("in it").into(), fs::read(&path).expect("a file")))
        .collect()
}

/// Runs a case in a fresh copy of its fixture: how it ended, and the files afterwards.
fn run(case: &Case, program: &dyn Program) -> (RunOutput, Files) {
    let workspace = Workspace::unpack(&case.fixture).expect("a fixture");
    let output = program.run_case(case, workspace.path()).expect("runs");
    (output, read(workspace.path()))
}

/// What a case does otherwise with `--verify`.
fn difference(case: &Case, program: &dyn Program) -> Option<String> {
    let ((plain, files), (careful, others)) = (run(case, program), run(&verified(case), program));
    let is_done = plain.rc == Some(0);
    if (plain.rc, &plain.stdout) != (careful.rc, &careful.stdout) || (is_done && plain.stderr != careful.stderr) {
        return Some(format!("{}: {plain:?} and with --verify {careful:?}", case.name));
    }
    let changed = files.keys().chain(others.keys()).find(|name| files.get(*name) != others.get(*name));
    changed.map(|name| format!("{}: {} is another one with --verify", case.name, name.display()))
}

fn assert_none(differences: Vec<String>) {
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn every_recorded_case_ends_the_same_with_verification() {
    let mut cases = case::load_all(Operation::Commit).expect("recordings");
    cases.extend(case::load_all(Operation::Rebase).expect("recordings"));
    cases.retain(|case| !case.argv.iter().any(|argument| argument == "-u"));
    assert!(cases.len() > 200, "only {} cases", cases.len());
    assert_none(cases.iter().filter_map(|case| difference(case, &conformance::runner::InProcess)).collect());
}

/// Every kind of image on either side, for the built program.
const SHAPES: [&str; 24] = [
    "commit-plain",
    "commit-plain-drop",
    "commit-raw-base",
    "commit-raw-base-overlay-larger",
    "commit-overlay-larger",
    "commit-chain3-to-base",
    "commit-compressed-overlay",
    "commit-compressed-overlay-zstd",
    "commit-compressed-base",
    "commit-snapshot-both",
    "commit-bitmap-base",
    "commit-data-file-base",
    "commit-data-file-overlay",
    "commit-extl2-both",
    "commit-lazy-refcounts",
    "commit-vmdk",
    "commit-qcow2-on-vhdx",
    "commit-broken-overlay-l2-unaligned",
    "rebase-safe-other",
    "rebase-safe-compress",
    "rebase-safe-detach",
    "rebase-snapshot-safe",
    "rebase-vmdk-detach",
    "rebase-qed-detach",
];

#[test]
fn the_built_program_does_the_same_with_verification() {
    let is_left_out = std::env::var_os("INSTAR_TEST_WITHOUT_KVM").is_some_and(|value| value == "1");
    if is_left_out && !Path::new("/dev/kvm").exists() {
        println!("the_built_program_does_the_same_with_verification: skipped, there is no /dev/kvm");
        return;
    }
    let product = Product::find().expect("the program");
    assert_none(SHAPES.iter().filter_map(|name| difference(&load(name), &product)).collect());
}

/// Which part of a command a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Copying,
    Other,
}

fn part_of(job: &[u8]) -> Part {
    let job = Job::parse(job).expect("a job");
    let copies = match job.operation {
        operation::COMMIT => job.operation_part::<CommitJob>().expect("its part").flags & commit_flag::COPY_ONLY != 0,
        operation::REBASE => job.operation_part::<RebaseJob>().expect("its part").flags & rebase_flag::COPY_ONLY != 0,
        _ => false,
    };
    if copies { Part::Copying } else { Part::Other }
}

/// A disk that does not keep the last byte of what it was last asked to copy.
struct Forgetful<'a>(FileStorage<'a>);

impl Storage for Forgetful<'_> {
    fn length_bytes(&self, device: DeviceId) -> u64 {
        self.0.length_bytes(device)
    }
    fn read(&mut self, device: DeviceId, offset: u64, buffer: &mut [u8]) -> Result<(), StorageError> {
        self.0.read(device, offset, buffer)
    }
    fn write(&mut self, device: DeviceId, offset: u64, bytes: &[u8]) -> Result<(), StorageError> {
        self.0.write(device, offset, bytes)
    }
    fn write_zeroes(&mut self, device: DeviceId, offset: u64, length: u64, unmap: bool) -> Result<(), StorageError> {
        self.0.write_zeroes(device, offset, length, unmap)
    }
    fn discard(&mut self, device: DeviceId, offset: u64, length_bytes: u64) -> Result<(), StorageError> {
        self.0.discard(device, offset, length_bytes)
    }
    fn copy(&mut self, target: DeviceId, segments: &[CopySegment]) -> Result<(), StorageError> {
        self.0.copy(target, segments)?;
        let Some(last) = segments.last() else { return Ok(()) };
        let place = last.target_offset + last.length_bytes - 1;
        let mut byte = [0];
        self.0.read(target, place, &mut byte)?;
        self.0.write(target, place, &[byte[0] ^ 0x10])
    }
    fn resize(&mut self, device: DeviceId, length_bytes: u64) -> Result<(), StorageError> {
        self.0.resize(device, length_bytes)
    }
    fn settle(&mut self) -> Result<(), StorageError> {
        self.0.settle()
    }
    fn flush(&mut self, device: DeviceId) -> Result<(), StorageError> {
        self.0.flush(device)
    }
    fn progress(&mut self, done_bytes: u64, total_bytes: u64) {
        self.0.progress(done_bytes, total_bytes);
    }
}

/// Copies to a disk that forgets.
struct OnForgetfulDisk;

impl Guest for OnForgetfulDisk {
    fn run(
        &mut self,
        job_operation: u32,
        devices: &[DeviceFile<'_>],
        job: &[u8],
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Vec<u8>, VmError> {
        match part_of(job) {
            Part::Copying => carry_out(job_operation, job, &mut Forgetful(FileStorage::new(devices, progress))),
            Part::Other => Direct.run(job_operation, devices, job, progress),
        }
    }
}

/// Flips a bit somewhere in what the copying has changed, right after it.
struct Flipping {
    random: fastrand::Rng,
    /// File and byte.
    flipped: Option<(PathBuf, u64)>,
}

fn path_of(device: &DeviceFile<'_>) -> PathBuf {
    fs::read_link(format!("/proc/self/fd/{}", device.file.as_raw_fd())).expect("an open file")
}

impl Guest for Flipping {
    fn run(
        &mut self,
        job_operation: u32,
        devices: &[DeviceFile<'_>],
        job: &[u8],
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Vec<u8>, VmError> {
        let is_copying = part_of(job) == Part::Copying;
        let written: Vec<_> = devices.iter().filter(|device| is_copying && device.writable).collect();
        let before: Vec<_> = written.iter().map(|device| fs::read(path_of(device)).expect("a file")).collect();
        let answer = Direct.run(job_operation, devices, job, progress)?;
        let mut changed = Vec::new();
        for (device, before) in written.iter().zip(before) {
            let now = fs::read(path_of(device)).expect("a file");
            let differs = |at: &usize| before.get(*at) != Some(&now[*at]);
            changed.extend((0..now.len()).filter(differs).map(|at| (*device, at, now[at])));
        }
        if let Some((device, at, byte)) = self.random.choice(changed) {
            let flipped = [byte ^ 1 << self.random.u8(..8)];
            device.file.write_all_at(&flipped, at as u64).expect("writes");
            self.flipped = Some((path_of(device), at as u64));
        }
        Ok(answer)
    }
}

/// Records what is asked of the devices, in all jobs of a command.
#[derive(Default)]
struct Recorder(Vec<Request>);

impl Guest for Recorder {
    fn run(
        &mut self,
        job_operation: u32,
        devices: &[DeviceFile<'_>],
        job: &[u8],
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Vec<u8>, VmError> {
        if job_operation == operation::INFO {
            return Direct.run(job_operation, devices, job, progress);
        }
        let read = |device: &DeviceFile<'_>| Disk::from_bytes(&fs::read(path_of(device)).expect("a file"));
        let mut recording = Recording::new(Disks(devices.iter().map(read).collect()));
        let answer = carry_out(job_operation, job, &mut recording)?;
        for (device, disk) in devices.iter().zip(&recording.storage.0).filter(|(device, _)| device.writable) {
            fs::write(path_of(device), disk.to_bytes()).expect("writes");
        }
        self.0.extend(recording.requests.into_iter().filter(|request| *request != Request::Settle));
        Ok(answer)
    }
}

/// So that whatever the crash harness finds of a command holds with verification as well.
#[test]
fn the_same_is_written_in_the_same_order_with_verification() {
    let rebases = ["rebase-safe-other", "rebase-safe-detach", "rebase-safe-compress", "rebase-v2-safe"];
    let others = ["commit-data-file-overlay", "commit-snapshot-both", "commit-vmdk", "commit-lazy-refcounts"];
    for name in COMMITS.into_iter().chain(others).chain(rebases) {
        let case = load(name);
        let requests = [&case, &verified(&case)].map(|case| {
            let workspace = Workspace::unpack(&case.fixture).expect("a fixture");
            let mut recorder = Recorder::default();
            let output = run_command(case.op.word(), &case.argv, workspace.path(), &mut recorder).expect("runs");
            assert_eq!(output.rc, Some(0), "{name}: {}", String::from_utf8_lossy(&output.stderr));
            recorder.0
        });
        assert!(requests[0].iter().any(|request| request.changes().is_some()), "{name} changes nothing");
        assert!(requests[0] == requests[1], "{name}: other requests with --verify");
    }
}

fn overlay_of(case: &Case) -> &str {
    case.argv.last().expect("the overlay")
}

fn shown(folder: &Path, name: &str) -> Result<String, String> {
    let chain = Chain::open(&folder.join(name), format_of(name)).map_err(|error| error.to_string())?;
    digest::of_chain(&chain).map_err(|error| error.to_string())
}

/// Raw data, tables of all kinds, growing, subclusters, snapshots, a data file.
const COMMITS: [&str; 9] = [
    "commit-plain",
    "commit-raw-base",
    "commit-overlay-larger",
    "commit-extl2-both",
    "commit-snapshot-base",
    "commit-data-file-base",
    "commit-qcow2-on-qed",
    "commit-qcow2-on-vdi",
    "commit-qcow2-on-vhdx",
];

#[test]
fn a_commit_to_a_forgetful_disk_leaves_the_overlay_alone() {
    for name in COMMITS {
        let case = verified(&load(name));
        let workspace = Workspace::unpack(&case.fixture).expect("a fixture");
        let (folder, overlay) = (workspace.path(), overlay_of(&case));
        let (bytes, before) = (fs::read(folder.join(overlay)).expect("a file"), shown(folder, overlay));
        let output = run_command("commit", &case.argv, folder, &mut OnForgetfulDisk).expect("runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.rc, Some(1), "{name}: {said}");
        assert!(said.contains("': Verification failed: within 4096 bytes from byte "), "{name}: {said}");
        assert!(said.contains("was not changed and still reads as before"), "{name}: {said}");
        assert!(bytes == fs::read(folder.join(overlay)).expect("a file"), "{name}: the overlay has changed");
        assert_eq!(before, shown(folder, overlay), "{name}");
        // The disk has been mended: the same command completes it.
        let output = run_command("commit", &case.argv, folder, &mut Direct).expect("runs");
        assert_eq!(output.rc, Some(0), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(before, shown(folder, overlay), "{name}, afterwards");
    }
}

#[test]
fn a_rebase_on_a_forgetful_disk_leaves_the_overlay_as_it_reads() {
    for name in
        ["rebase-safe-other", "rebase-safe-detach", "rebase-safe-ext", "rebase-data-file-safe", "rebase-qed-detach"]
    {
        let case = verified(&load(name));
        let workspace = Workspace::unpack(&case.fixture).expect("a fixture");
        let (folder, overlay) = (workspace.path(), overlay_of(&case));
        let before = shown(folder, overlay);
        let output = run_command("rebase", &case.argv, folder, &mut OnForgetfulDisk).expect("runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.rc, Some(1), "{name}: {said}");
        assert!(said.contains("Verification failed: within ") && said.contains("reads as before"), "{name}: {said}");
        assert_eq!(before, shown(folder, overlay), "{name}");
        let output = run_command("rebase", &case.argv, folder, &mut Direct).expect("runs");
        assert_eq!(output.rc, Some(0), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(before, shown(folder, overlay), "{name}, afterwards");
    }
}

/// Flips of a bit between copying and reading again, for each case.
const FLIPS: u64 = 12;

#[test]
fn a_bit_that_flips_before_it_is_read_again_is_noticed_or_does_no_harm() {
    let rebases =
        ["rebase-safe-other", "rebase-safe-detach", "rebase-safe-compress", "rebase-safe-ext", "rebase-qed-detach"];
    for name in COMMITS.into_iter().chain(rebases) {
        let case = verified(&load(name));
        let (mut flips, mut noticed) = (0, 0);
        for seed in 0..FLIPS {
            let workspace = Workspace::unpack(&case.fixture).expect("a fixture");
            let (folder, overlay) = (workspace.path(), overlay_of(&case));
            let (files, before) = (read(folder), shown(folder, overlay));
            let mut guest = Flipping { random: fastrand::Rng::with_seed(seed), flipped: None };
            let output = run_command(case.op.word(), &case.argv, folder, &mut guest).expect("runs");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let context = format!("{name}, seed {seed}, {:?}: {said}", guest.flipped);
            flips += u64::from(guest.flipped.is_some());
            if output.rc == Some(0) {
                assert_eq!(before, shown(folder, overlay), "{context}");
                continue;
            }
            noticed += 1;
            assert_eq!(output.rc, Some(1), "{context}");
            let now = read(folder);
            let is_written = |path: &Path| guest.flipped.as_ref().is_some_and(|(flipped, _)| flipped.ends_with(path));
            for (path, bytes) in files.iter().filter(|(path, _)| !is_written(path)) {
                let is_changed_data_file =
                    case.fixture.contains("data-file") && format_of(&path.to_string_lossy()).is_none();
                let may_change = case.op == Operation::Commit && path.as_path() != Path::new(overlay);
                assert!(
                    may_change || is_changed_data_file || bytes == &now[path],
                    "{} has changed: {context}",
                    path.display()
                );
            }
            // What lies beside the written data in a new block of the base is shown by every overlay.
            let is_beside = said.contains("was not changed, but shows that, too");
            assert!(!is_beside || name.contains("vdi") || name.contains("vhdx"), "{context}");
            if case.op == Operation::Commit && !is_beside {
                assert_eq!(before, shown(folder, overlay), "{context}");
            }
        }
        println!("{name}: {flips} bits flipped, {noticed} noticed");
        assert!(flips == FLIPS && noticed > 0, "{name}: {flips} flipped, {noticed} noticed");
    }
}
