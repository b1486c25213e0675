//! The library against the built program: every operation, its report, progress, and a kill.

#[path = "common/client.rs"]
mod client;
mod common;
#[allow(dead_code, reason = "its main is for people")]
#[path = "../examples/consolidate.rs"]
mod consolidate;
#[path = "common/image.rs"]
mod image;
#[path = "common/kvm.rs"]
mod kvm;
#[path = "common/scattered.rs"]
mod scattered;

use std::fs;
use std::time::{Duration, Instant};

use client::{chain, code, content, here};
use common::Folder;
use image::{CLUSTER_BYTES, DISK_BYTES, qcow2};
use instar::client::{Afterwards, Cache, Commit, CommitReport, Error, FormatSpecific, Info, Mode, Plan, Rebase};
use instar::code::Code;
use kvm::without_kvm;
use scattered::{Backing, Disk};

#[test]
fn a_commit_reports_what_it_has_done() {
    if without_kvm("a_commit_reports_what_it_has_done") {
        return;
    }
    let folder = chain();
    let commit = here!(folder, Commit::new("top.qcow2")).format("qcow2").cache(Cache::Writethrough).rate_limit(1 << 30);
    let report = commit.verify(true).stats(true).check_siblings(".").run().expect("committed");
    assert_eq!((report.overlay.as_str(), report.overlay_format.as_str()), ("top.qcow2", "qcow2"));
    assert_eq!((report.backing.as_str(), report.backing_format.as_str()), ("middle.qcow2", "qcow2"));
    assert_eq!((report.clusters_committed, report.bytes_committed), (1, CLUSTER_BYTES as u64));
    assert_eq!((report.overlay_clusters_cleared, report.verified, report.overlay_deleted), (1, true, false));
    assert_eq!(content(&folder, "middle.qcow2"), 0x33);
    let stats = report.stats.expect("stats");
    assert!(stats.total_seconds > 0.0 && stats.barriers > 0 && stats.exits > 0, "{stats:?}");
    assert_eq!(stats.exits, stats.sandboxes.iter().map(|run| run.exits).sum::<u64>());
    assert!(stats.sandboxes.iter().any(|run| run.job == "commit" && run.run_seconds > 0.0), "{stats:?}");

    let onto_base = here!(folder, Commit::new("middle.qcow2")).base("base.qcow2");
    let report = onto_base.run().expect("committed");
    assert_eq!((report.overlay_clusters_cleared, report.stats), (0, None), "a named base leaves the overlay as it is");
    assert_eq!(content(&folder, "base.qcow2"), 0x33);
    let report = onto_base.afterwards(Afterwards::Delete).run().expect("committed");
    assert!(report.overlay_deleted && !folder.path().join("middle.qcow2").exists());
}

#[test]
fn warnings_come_with_the_report() {
    if without_kvm("warnings_come_with_the_report") {
        return;
    }
    let folder = Folder::new();
    folder.file("base", &[0x11; 64 * CLUSTER_BYTES]);
    folder.file("overlay", &[0x22; 64 * CLUSTER_BYTES]);
    folder.file("top.qcow2", &qcow2(0x33, "base", "raw"));
    let error = here!(folder, Commit::new("overlay")).run().expect_err("there is nothing below it");
    assert_eq!(error.code(), Some(Code::NoBacking));
    let messages = &error.failure().expect("the program said it").messages;
    assert!(messages[0].starts_with("WARNING: Image format was not specified for 'overlay'"), "{messages:?}");
    let report = here!(folder, Info::new("top.qcow2")).stats(true).run().expect("an image");
    assert!(report.messages.iter().any(|line| line.starts_with("total time: ")), "{:?}", report.messages);
}

#[test]
fn rebases_of_every_kind_report_what_they_have_done() {
    if without_kvm("rebases_of_every_kind_report_what_they_have_done") {
        return;
    }
    let folder = chain();
    // The second cluster of the disk is held by the base alone.
    let mut base = qcow2(0x11, "", "");
    let table = 4 * CLUSTER_BYTES;
    base.copy_within(table..table + 8, table + 8);
    base[table..table + 8].fill(0);
    folder.file("base.qcow2", &base);
    folder.file("other.qcow2", &qcow2(0x44, "", ""));

    let safe = here!(folder, Rebase::onto("top.qcow2", "other.qcow2", "qcow2")).verify(true).stats(true);
    let report = safe.cache(Cache::Writeback).backing_cache(Cache::Writeback).run().expect("rebased");
    assert_eq!((report.mode, report.verified, report.overlay.as_str()), (Mode::Safe, true, "top.qcow2"));
    assert_eq!((report.clusters_copied, report.bytes_copied), (1, CLUSTER_BYTES as u64));
    assert_eq!(report.new_backing.as_deref(), Some("other.qcow2"));
    assert!(report.stats.expect("stats").sandboxes.iter().any(|run| run.job == "rebase"));

    let report = here!(folder, Rebase::onto("top.qcow2", "gone.qcow2", "qcow2")).unsafe_mode(true).run().expect("done");
    assert_eq!((report.mode, report.clusters_copied, report.stats), (Mode::Unsafe, 0, None));
    assert_eq!(report.new_backing.as_deref(), Some("gone.qcow2"));

    let report = here!(folder, Rebase::detach("middle.qcow2")).compress(true).run().expect("detached");
    assert_eq!((report.mode, report.new_backing, report.clusters_copied), (Mode::Safe, None, 1));
    assert_eq!(here!(folder, Info::new("middle.qcow2")).run().expect("an image").image().backing_filename, None);

    let before = fs::read(folder.path().join("top.qcow2")).expect("an image");
    let nameless = here!(folder, Rebase::onto("top.qcow2", "", "qcow2")).unsafe_mode(true);
    assert_eq!(code(nameless.run()), Code::Usage);
    assert_eq!(code(Plan::rebase(&nameless).run()), Code::Usage);
    assert_eq!(fs::read(folder.path().join("top.qcow2")).expect("an image"), before, "the empty name is not 'none'");
}

#[test]
fn what_is_known_of_an_image_has_types() {
    if without_kvm("what_is_known_of_an_image_has_types") {
        return;
    }
    let folder = chain();
    let report = here!(folder, Info::new("top.qcow2")).backing_chain(true).force_share(true).run().expect("a chain");
    let names: Vec<&str> = report.images.iter().map(|image| image.filename.as_str()).collect();
    assert_eq!(names, ["top.qcow2", "middle.qcow2", "base.qcow2"]);
    let image = report.image();
    assert_eq!((image.format.as_str(), image.virtual_size, image.cluster_size), ("qcow2", DISK_BYTES, Some(512)));
    assert_eq!((image.dirty_flag, image.encrypted, image.snapshots.len()), (Some(false), false, 0));
    assert_eq!(image.backing_filename.as_deref(), Some("middle.qcow2"));
    assert_eq!(image.backing_filename_format.as_deref(), Some("qcow2"));
    assert_eq!((image.children[0].name.as_str(), image.children[0].info.virtual_size), ("file", 3072));
    let Some(FormatSpecific::Qcow2(qcow2)) = &image.format_specific else { panic!("{image:?}") };
    assert_eq!((qcow2.compat.as_str(), qcow2.refcount_bits, qcow2.corrupt), ("1.1", 16, Some(false)));
    let old = here!(folder, Info::new("top.qcow2")).qemu_version("6.0.0").run().expect("an image");
    assert_eq!((old.images.len(), old.image().children.len()), (1, 0));
}

#[test]
fn a_plan_says_what_the_operation_then_does() {
    if without_kvm("a_plan_says_what_the_operation_then_does") {
        return;
    }
    let folder = chain();
    let commit = here!(folder, Commit::new("top.qcow2")).base("base.qcow2");
    let plan = Plan::commit(&commit).svg("layers.svg").run().expect("a plan");
    assert_eq!((plan.command.as_str(), plan.moves.clusters), ("commit", 1));
    let layers: Vec<(&str, bool)> =
        plan.layers.iter().map(|layer| (layer.filename.as_str(), layer.is_target)).collect();
    assert_eq!(layers, [("top.qcow2", false), ("middle.qcow2", false), ("base.qcow2", true)]);
    let map = plan.map.expect("a map");
    assert_eq!((map.rows.len(), map.rows[0][0].data_bytes), (3, CLUSTER_BYTES as u64));
    assert_eq!((plan.files[0].layer, plan.files[0].copied.bytes), (2, CLUSTER_BYTES as u64));
    assert!(fs::read(folder.path().join("layers.svg")).expect("a picture").starts_with(b"<svg"));
    assert_eq!(content(&folder, "base.qcow2"), 0x11, "nothing is changed");
    let measured = Plan::commit(&commit).measure().run().expect("a measure");
    let report: CommitReport = commit.run().expect("committed");
    assert_eq!((report.bytes_committed, report.clusters_committed), (plan.moves.bytes, plan.moves.clusters));
    let length = fs::metadata(folder.path().join("base.qcow2")).expect("an image").len();
    let file = &measured.files[0];
    assert_eq!((measured.files.len(), file.filename.as_str()), (1, "base.qcow2"));
    assert_eq!((file.length_bytes, file.planned_length_bytes), (3072, length));

    let plan = Plan::rebase(&here!(folder, Rebase::detach("top.qcow2"))).run().expect("a plan");
    assert_eq!((plan.command.as_str(), plan.moves.bytes), ("rebase", 0));
}

/// 8 MiB on an empty base.
fn large() -> (Folder, Disk) {
    let folder = Folder::new();
    let disk = Disk::full(128);
    folder.file("large.qcow2", &disk.as_ordered_qcow2(&Backing::Named("base.raw", "raw")));
    folder.file("base.raw", &[]);
    (folder, disk)
}

#[test]
fn progress_comes_until_all_is_done() {
    if without_kvm("progress_comes_until_all_is_done") {
        return;
    }
    let (folder, disk) = large();
    let mut running = here!(folder, Commit::new("large.qcow2")).rate_limit(16 << 20).start().expect("started");
    assert!(running.id() > 0 && !running.has_ended());
    let seen: Vec<_> = running.updates().collect();
    assert!(seen.len() >= 3, "{seen:?}");
    assert!(seen.is_sorted_by_key(|progress| progress.done_bytes), "{seen:?}");
    let last = seen.last().expect("some");
    assert!(last.finished && seen.iter().filter(|progress| progress.finished).count() == 1, "{seen:?}");
    assert_eq!((last.done_bytes, last.total_bytes, last.percent), (8 << 20, 8 << 20, 100.0));
    assert_eq!(running.progress(), Some(*last));
    let report = running.wait().expect("committed");
    assert_eq!((report.bytes_committed, report.messages.len()), (8 << 20, 0));
    assert_eq!(fs::read(folder.path().join("base.raw")).expect("a file"), disk.bytes());
}

#[test]
fn what_was_killed_is_completed_by_the_next_run() {
    if without_kvm("what_was_killed_is_completed_by_the_next_run") {
        return;
    }
    let (folder, disk) = large();
    // At this rate it would take more than two minutes.
    let start = Instant::now();
    let mut running = here!(folder, Commit::new("large.qcow2")).rate_limit(64 << 10).start().expect("started");
    let some = running.updates().find(|progress| progress.done_bytes > 0).expect("it is copying");
    assert!(!some.finished && !running.has_ended());
    running.kill().expect("killed");
    let error = running.wait().expect_err("it was killed");
    assert!(matches!(error, Error::Signal { signal: 9, .. }), "{error}");
    assert!(start.elapsed() < Duration::from_secs(60), "nobody waits for what was killed");
    let report = here!(folder, Commit::new("large.qcow2")).run().expect("committed");
    assert_eq!(report.bytes_committed, 8 << 20);
    assert_eq!(fs::read(folder.path().join("base.raw")).expect("a file"), disk.bytes());
}

#[test]
fn operations_run_side_by_side_in_a_program_of_many_threads() {
    if without_kvm("operations_run_side_by_side_in_a_program_of_many_threads") {
        return;
    }
    let folders: Vec<Folder> = (0..4).map(|_| chain()).collect();
    std::thread::scope(|scope| {
        let threads = folders.iter().map(|folder| scope.spawn(|| here!(folder, Commit::new("top.qcow2")).run()));
        for thread in threads.collect::<Vec<_>>() {
            assert_eq!(thread.join().expect("ends").expect("committed").clusters_committed, 1);
        }
    });
    assert!(folders.iter().all(|folder| content(folder, "middle.qcow2") == 0x33));
}

#[test]
fn the_example_plans_and_commits() {
    if without_kvm("the_example_plans_and_commits") {
        return;
    }
    let (folder, disk) = large();
    let mut told = Vec::new();
    consolidate::consolidate(&here!(folder, Commit::new("large.qcow2")), &mut told).expect("done");
    let told = String::from_utf8(told).expect("UTF-8");
    assert!(told.starts_with("base.raw will grow by 8388608 bytes\n"), "{told}");
    assert!(told.ends_with("100 %\nbase.raw received 8388608 bytes of large.qcow2\n"), "{told}");
    assert_eq!(fs::read(folder.path().join("base.raw")).expect("a file"), disk.bytes());
}
