//! Each oracle notices the failure that is planted for it. A program that does what was recorded, plus one fault, is judged.

use conformance::case::Case;
use conformance::judge;
use conformance::oracles::{Judging, Strictness};
use conformance::runner::{Program, RunOutput};
use conformance::whitelist::Whitelist;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

const VERSION: &str = "10.0.2";

/// Where the parts of the fixture's overlay lie, from its header and L1 table: 64 KiB clusters.
const CLUSTER: u64 = 65536;

/// A program that changes nothing but what `plant` does, and says what was recorded.
struct Planted {
    case: Case,
    rc: Option<i32>,
    plant: fn(&Path, &mut RunOutput),
    info: fn(String) -> String,
}

impl Program for Planted {
    fn run_case(&self, case: &Case, folder: &Path) -> io::Result<RunOutput> {
        let outcome = case.outcome(VERSION).expect("recorded");
        let said = |text: &str| text.replace("qemu-img", "instar").into_bytes();
        let mut output = RunOutput { rc: self.rc, stdout: said(&outcome.stdout), stderr: said(&outcome.stderr) };
        (self.plant)(folder, &mut output);
        Ok(output)
    }

    fn info(&self, version: &str, _folder: &Path, file: &str) -> io::Result<RunOutput> {
        let recorded = self.case.outcome(version).and_then(|o| o.files[file].info.clone()).unwrap_or_default();
        Ok(RunOutput { rc: Some(0), stdout: (self.info)(recorded).into_bytes(), stderr: Vec::new() })
    }

    fn describe(&self, _case: &Case) -> String {
        String::new()
    }
}

/// The oracles that complain, sorted.
fn complaints(
    case: &str,
    rc: Option<i32>,
    plant: fn(&Path, &mut RunOutput),
    info: fn(String) -> String,
) -> Vec<&'static str> {
    let path = conformance::paths::testdata().join(format!("recordings/commit/{case}.json"));
    let case = Case::load(&path).expect("recorded");
    let program = Planted { case: case.clone(), rc, plant, info };
    let whitelist = Whitelist::load().expect("whitelist.toml");
    let judging = Judging { program: &program, whitelist: &whitelist, strictness: Strictness::Product };
    let verdict = judge::judge_version(&case, &judging, VERSION).unwrap_or_else(|error| panic!("{error:?}"));
    let mut oracles: Vec<_> = verdict.findings.iter().map(|finding| finding.oracle).collect();
    oracles.sort_unstable();
    oracles.dedup();
    oracles
}

/// A command that fails and leaves everything alone: exit 1, two qcow2 files, nothing changed.
fn refused(plant: fn(&Path, &mut RunOutput)) -> Vec<&'static str> {
    complaints("commit-plain-base-absent", Some(1), plant, |info| info)
}

fn open(folder: &Path, name: &str) -> fs::File {
    OpenOptions::new().read(true).write(true).open(folder.join(name)).expect("fixture file")
}

fn read_u64(file: &fs::File, offset: u64) -> u64 {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, offset).expect("inside of the file");
    u64::from_be_bytes(bytes)
}

/// Offset of the first L2 table, and index and value of its first entry with a data cluster.
fn first_data_entry(file: &fs::File) -> (u64, u64, u64) {
    let l2 = read_u64(file, read_u64(file, 40)) & 0x00ff_ffff_ffff_fe00;
    let found = (0..CLUSTER / 8).map(|index| (index, read_u64(file, l2 + index * 8))).find(|(_, entry)| *entry > 1);
    let (index, entry) = found.expect("an allocated cluster");
    (l2, index, entry & 0x00ff_ffff_ffff_fe00)
}

#[test]
fn nothing_planted_nothing_found() {
    assert_eq!(refused(|_, _| ()), [""; 0]);
}

#[test]
fn exit_status_is_noticed() {
    assert_eq!(refused(|_, output| output.rc = Some(0)), ["exit"]);
    assert_eq!(refused(|_, output| output.rc = None), ["exit"]);
    assert_eq!(refused(|_, output| output.rc = Some(-11)), ["exit"]);
}

#[test]
fn text_on_stdout_is_noticed() {
    assert_eq!(refused(|_, output| output.stdout.push(b'x')), ["stdout"]);
}

#[test]
fn changed_message_is_noticed() {
    assert_eq!(refused(|_, output| output.stderr.insert(0, b' ')), ["stderr"]);
}

#[test]
fn stray_file_is_noticed() {
    assert_eq!(refused(|folder, _| fs::write(folder.join("left-over.tmp"), b"x").expect("can write")), ["folder"]);
}

#[test]
fn lost_file_is_noticed() {
    // The overlay no longer opens without its base.
    let found = refused(|folder, _| fs::remove_file(folder.join("base.qcow2")).expect("can remove"));
    assert_eq!(found, ["content", "folder", "untouched"]);
}

#[test]
fn flipped_guest_byte_is_noticed() {
    let found = refused(|folder, _| {
        let file = open(folder, "base.qcow2");
        let (_, _, data) = first_data_entry(&file);
        file.write_all_at(&[0xff ^ u8::try_from(read_u64(&file, data) >> 56).expect("a byte")], data)
            .expect("can write");
    });
    assert_eq!(found, ["content", "untouched"]);
}

#[test]
fn lost_cluster_is_noticed_as_content_and_leak() {
    let found = refused(|folder, _| {
        let file = open(folder, "overlay.qcow2");
        let (l2, index, _) = first_data_entry(&file);
        file.write_all_at(&[0; 8], l2 + index * 8).expect("can write");
    });
    assert_eq!(found, ["content", "structure", "untouched"]);
}

#[test]
fn wrong_refcount_is_noticed() {
    let found = refused(|folder, _| {
        let file = open(folder, "overlay.qcow2");
        let block = read_u64(&file, read_u64(&file, 48));
        let (_, _, data) = first_data_entry(&file);
        file.write_all_at(&2u16.to_be_bytes(), block + data / CLUSTER * 2).expect("can write");
    });
    assert_eq!(found, ["structure", "untouched"]);
}

#[test]
fn lying_copied_flag_is_noticed() {
    let found = refused(|folder, _| {
        let file = open(folder, "overlay.qcow2");
        let (l2, index, data) = first_data_entry(&file);
        file.write_all_at(&data.to_be_bytes(), l2 + index * 8).expect("can write");
    });
    assert_eq!(found, ["structure", "untouched"]);
}

#[test]
fn needless_zero_cluster_is_noticed_as_fatter() {
    // The base holds nothing there: a zero cluster reads the same but was recorded by no version.
    let found = refused(|folder, _| {
        let file = open(folder, "base.qcow2");
        let (l2, _, _) = first_data_entry(&file);
        let free =
            (0..128).find(|index| read_u64(&file, l2 + index * 8) == 0).expect("a cluster that the base does not hold");
        file.write_all_at(&1u64.to_be_bytes(), l2 + free * 8).expect("can write");
    });
    assert_eq!(found, ["map", "untouched"]);
}

#[test]
fn longer_file_is_noticed() {
    // The file's length also shows in info; the planted program goes on printing the recorded one.
    let found = refused(|folder, _| {
        let file = open(folder, "overlay.qcow2");
        let length = file.metadata().expect("exists").len();
        file.set_len(length + CLUSTER).expect("can grow");
    });
    assert_eq!(found, ["length", "untouched"]);
}

#[test]
fn changed_info_member_is_noticed() {
    let plant = |_: &Path, _: &mut RunOutput| ();
    let found = complaints("commit-plain-base-absent", Some(1), plant, |info| {
        info.replace("\"corrupt\": false", "\"corrupt\": true")
    });
    assert_eq!(found, ["info"]);
    let found =
        complaints("commit-plain-base-absent", Some(1), plant, |info| info.replace("\n    \"dirty", "\n     \"dirty"));
    assert_eq!(found, ["info"]);
}

#[test]
fn commit_that_does_nothing_is_noticed() {
    // Success is claimed, the base lacks the data and the overlay is not emptied.
    let found = complaints("commit-plain", Some(0), |_, _| (), |info| info);
    assert_eq!(found, ["content", "length", "map"]);
}

/// A commit that succeeds according to the planted program, which only does harm.
fn planted(case: &str, plant: fn(&Path, &mut RunOutput)) -> Vec<&'static str> {
    complaints(case, Some(0), plant, |info| info)
}

#[test]
fn lost_bitmap_is_noticed() {
    let found = planted("commit-bitmap-base", |folder, _| {
        let file = open(folder, "base.qcow2");
        // Without the autoclear bit nobody believes the bitmaps.
        file.write_all_at(&[0; 8], 88).expect("can write");
    });
    assert!(found.contains(&"bitmaps"), "{found:?}");
}

#[test]
fn forgotten_bit_of_a_bitmap_is_noticed() {
    let found = planted("commit-bitmap-base", |folder, _| {
        let file = open(folder, "base.qcow2");
        // The overlay's data arrives where the base holds some, and no bit tells of it.
        let (_, _, data) = first_data_entry(&file);
        file.write_all_at(&[0x5a; 4096], data).expect("can write");
    });
    assert!(found.contains(&"bitmaps"), "{found:?}");
}

#[test]
fn changed_snapshot_is_noticed() {
    let found = planted("commit-snapshot-base", |folder, _| {
        let file = open(folder, "base.qcow2");
        let table = read_u64(&file, 64);
        let l2 = read_u64(&file, read_u64(&file, table)) & 0x00ff_ffff_ffff_fe00;
        let entry = (0..CLUSTER / 8).map(|index| read_u64(&file, l2 + index * 8)).find(|entry| *entry > 1);
        let data = entry.expect("the snapshot holds data") & 0x00ff_ffff_ffff_fe00;
        file.write_all_at(&[0x5a; 512], data + 512).expect("can write");
    });
    assert!(found.contains(&"snapshots"), "{found:?}");
}
