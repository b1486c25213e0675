//! Images that are known to have hurt other tools, each by what it does.

use instar_abi::job::{commit_flag, format};
use instar_abi::report::ReportHeader;
use instar_abi::wire::Wire;
use instar_exec::memory::MemoryStorage;
use instar_fuzz::generators::attack::{self, Attack};
use instar_fuzz::jobs;
use instar_fuzz::oracles::image::survives_everything;
use instar_fuzz::oracles::report::is_done;

/// Merges an image into its base; `Err` holds what was said. Nothing may have changed then.
fn commit(overlay: &[u8], overlay_format: u32, base: &[u8], base_format: u32) -> Result<Vec<Vec<u8>>, String> {
    let devices = vec![overlay.to_vec(), base.to_vec()];
    let mut storage = MemoryStorage { devices: devices.clone() };
    let mut report = vec![0; 4096];
    let job = jobs::commit(&[overlay_format, base_format], 1, commit_flag::EMPTY_OVERLAY);
    instar_exec::commit::run(&job, &mut storage, &mut report);
    if is_done(&report) {
        return Ok(storage.devices);
    }
    assert!(storage.devices == devices, "something was changed before the refusal");
    let header = ReportHeader::get(&report);
    Err(String::from_utf8_lossy(&header.text[..header.text_length_bytes as usize]).into_owned())
}

/// The image must be refused as a base, where its refcounts would be trusted.
#[track_caller]
fn is_no_base(attack: &Attack) {
    survives_everything(&attack.image, format::QCOW2);
    let refusal = commit(&attack::overlay(), format::QCOW2, &attack.image, format::QCOW2).expect_err("a refusal");
    assert!(!refusal.is_empty());
}

#[test]
fn an_l2_table_that_is_the_l1_table() {
    is_no_base(&attack::l2_is_l1());
}

#[test]
fn an_l2_table_whose_entries_lead_back_to_it() {
    is_no_base(&attack::l2_maps_itself());
}

#[test]
fn an_l2_table_that_two_l1_entries_share() {
    is_no_base(&attack::shared_l2());
}

#[test]
fn a_refcount_block_that_is_the_refcount_table() {
    is_no_base(&attack::refcount_block_is_its_table());
}

#[test]
fn a_refcount_table_full_of_the_same_block() {
    is_no_base(&attack::one_block_for_all());
}

#[test]
fn data_that_is_the_refcount_table() {
    is_no_base(&attack::data_is_the_refcount_table());
}

#[test]
fn a_small_cluster_that_unpacks_to_a_gigabyte() {
    let bombs = [attack::deflate_bomb(), attack::zstd_bomb()];
    let commits = bombs.map(|bomb| {
        survives_everything(&bomb.image, format::QCOW2);
        commit(&bomb.image, format::QCOW2, &[1; 256 << 10], format::RAW)
    });
    // Unpacking ends where the cluster does: what lies behind it is never produced.
    let devices = commits[0].as_ref().expect("a whole cluster");
    assert_eq!(devices[1][..512], [0; 512]);
    // A window of terabytes is not made.
    assert!(commits[1].as_ref().expect_err("refused").contains("cannot be unpacked"));
}

#[test]
fn a_disk_of_two_to_the_sixty_three_bytes() {
    let attack = attack::endless_disk();
    survives_everything(&attack.image, format::QCOW2);
    commit(&attack.image, format::QCOW2, &[0; 4096], format::RAW).expect_err("no base can be that long");
}
