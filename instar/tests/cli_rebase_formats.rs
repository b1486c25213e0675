//! `instar rebase` on vmdk and qed overlays, through the real sandbox; an installed qemu-img reads what came out.

mod common;
#[path = "common/image.rs"]
mod image;
#[path = "common/kvm.rs"]
mod kvm;

use std::process::Command;

use common::{Ended, Folder};
use image::qcow2;
use kvm::without_kvm;

const GRAIN_BYTES: usize = 4096;
const DISK_SECTORS: u64 = 128;
/// Sector of the first grain.
const FIRST_GRAIN: usize = 16;
const NO_PARENT: u32 = u32::MAX;

fn success() -> Ended {
    Ended { status: Some(0), stdout: String::new(), stderr: String::new() }
}

/// A sparse vmdk image; its first grain holds `content`, if anything.
fn vmdk(content: Option<u8>, cid: u32, parent: Option<(&str, u32)>) -> Vec<u8> {
    let mut bytes = vec![0; FIRST_GRAIN * 512];
    let mut put = |offset: usize, value: &[u8]| bytes[offset..offset + value.len()].copy_from_slice(value);
    let longs = [(12, DISK_SECTORS), (20, 8), (28, 1), (36, 4), (56, 5), (64, FIRST_GRAIN as u64)];
    put(0, b"KDMV\x01\0\0\0\x01");
    longs.iter().for_each(|(offset, value)| put(*offset, &value.to_le_bytes()));
    put(44, &512u32.to_le_bytes());
    put(73, b"\n \r\n");
    put(5 * 512, &6u32.to_le_bytes());
    let hint = parent.map_or(String::new(), |(name, _)| format!("parentFileNameHint=\"{name}\"\n"));
    let parent_cid = parent.map_or(NO_PARENT, |(_, cid)| cid);
    let descriptor = format!(
        "# Disk DescriptorFile\nversion=1\nCID={cid:08x}\nparentCID={parent_cid:08x}\ncreateType=\"monolithicSparse\"\n\
         {hint}# Extent description\nRW {DISK_SECTORS} SPARSE \"x.vmdk\"\n# The Disk Data Base\n#DDB\n"
    );
    put(512, descriptor.as_bytes());
    if let Some(content) = content {
        put(6 * 512, &u32::try_from(FIRST_GRAIN).expect("small").to_le_bytes());
        bytes.extend([content; GRAIN_BYTES]);
    }
    bytes
}

/// A qed image with tables of two clusters; its first data cluster holds `content`, if anything.
fn qed(content: Option<u8>, backing: &str) -> Vec<u8> {
    let mut bytes = vec![0; 5 * GRAIN_BYTES];
    let mut put = |offset: usize, value: &[u8]| bytes[offset..offset + value.len()].copy_from_slice(value);
    put(0, b"QED\0");
    [(4, 4096u32), (8, 2), (12, 1)].iter().for_each(|(offset, value)| put(*offset, &value.to_le_bytes()));
    put(40, &4096u64.to_le_bytes());
    put(48, &(DISK_SECTORS * 512).to_le_bytes());
    if !backing.is_empty() {
        put(16, &[1]);
        put(56, &64u32.to_le_bytes());
        put(60, &u32::try_from(backing.len()).expect("short").to_le_bytes());
        put(64, backing.as_bytes());
    }
    put(4096, &12288u64.to_le_bytes());
    if let Some(content) = content {
        put(12288, &20480u64.to_le_bytes());
        bytes.extend([content; GRAIN_BYTES]);
    }
    bytes
}

fn stage() -> Folder {
    let folder = Folder::new();
    folder.file("base.vmdk", &vmdk(Some(0xbb), 0xaaaa, None));
    folder.file("other.vmdk", &vmdk(Some(0x0f), 0xbbbb, None));
    folder.file("overlay.vmdk", &vmdk(None, 0xcccc, Some(("base.vmdk", 0xaaaa))));
    folder.file("base.qed", &qed(Some(0xbb), ""));
    folder.file("other.qed", &qed(Some(0x0f), ""));
    folder.file("overlay.qed", &qed(None, "base.qed"));
    folder.file("plain.qcow2", &qcow2(0xbb, "", ""));
    folder
}

fn read(folder: &Folder, name: &str) -> Vec<u8> {
    std::fs::read(folder.path().join(name)).expect("the file is there")
}

/// The lines of an overlay's descriptor that name its parent.
fn parent(folder: &Folder) -> Vec<String> {
    let bytes = read(folder, "overlay.vmdk");
    let text = String::from_utf8_lossy(&bytes[512..5 * 512]).into_owned();
    text.lines().filter(|line| line.starts_with("parent")).map(str::to_owned).collect()
}

/// Has an installed qemu-img compare what an image shows with another one's content.
fn qemu_img_finds_equal(folder: &Folder, test: &str, format: &str, left: &str, right: &str) {
    let mut command = Command::new("qemu-img");
    command.current_dir(folder.path()).args(["compare", "-f", format, "-F", format, left, right]);
    match command.output() {
        Err(_) => println!("{test}: not compared by qemu-img, which is not installed"),
        Ok(output) => assert!(output.status.success(), "{output:?}"),
    }
}

#[test]
fn a_vmdk_overlay_keeps_its_content_on_another_base() {
    if without_kvm("a_vmdk_overlay_keeps_its_content_on_another_base") {
        return;
    }
    let folder = stage();
    assert_eq!(folder.run(&["rebase", "-b", "other.vmdk", "-F", "vmdk", "overlay.vmdk"]), success());
    assert_eq!(parent(&folder), ["parentCID=0000bbbb", "parentFileNameHint=\"other.vmdk\""]);
    assert!(read(&folder, "overlay.vmdk").ends_with(&[0xbb; GRAIN_BYTES]));
    qemu_img_finds_equal(&folder, "another base", "vmdk", "overlay.vmdk", "base.vmdk");
    assert_eq!(folder.run(&["rebase", "-b", "", "overlay.vmdk"]), success());
    assert_eq!(parent(&folder), ["parentCID=ffffffff"]);
    qemu_img_finds_equal(&folder, "no base", "vmdk", "overlay.vmdk", "base.vmdk");
}

#[test]
fn a_vmdk_overlay_without_compressed_grains_gets_none() {
    if without_kvm("a_vmdk_overlay_without_compressed_grains_gets_none") {
        return;
    }
    let [plain, compressed] = [&["rebase"][..], &["rebase", "-c"]].map(|options| {
        let folder = stage();
        let ended = folder.run(&[options, &["-b", "other.vmdk", "-F", "vmdk", "overlay.vmdk"]].concat());
        assert_eq!(ended, success());
        assert!(read(&folder, "overlay.vmdk").ends_with(&[0xbb; GRAIN_BYTES]));
        read(&folder, "overlay.vmdk")
    });
    assert!(plain == compressed);
}

#[test]
fn an_unsafe_rebase_of_vmdk_records_who_the_parent_is() {
    if without_kvm("an_unsafe_rebase_of_vmdk_records_who_the_parent_is") {
        return;
    }
    let folder = stage();
    let length = read(&folder, "overlay.vmdk").len();
    let rebased_to = |name: &str| {
        assert_eq!(folder.run(&["rebase", "-u", "-b", name, "-F", "vmdk", "overlay.vmdk"]), success());
        assert_eq!(read(&folder, "overlay.vmdk").len(), length);
        parent(&folder)
    };
    assert_eq!(rebased_to("moved/base.vmdk"), ["parentCID=0000aaaa", "parentFileNameHint=\"moved/base.vmdk\""]);
    assert_eq!(rebased_to("other.vmdk"), ["parentCID=0000bbbb", "parentFileNameHint=\"other.vmdk\""]);
    assert_eq!(rebased_to("overlay.vmdk"), ["parentCID=0000bbbb", "parentFileNameHint=\"overlay.vmdk\""]);
    assert_eq!(rebased_to("other.vmdk"), ["parentCID=0000bbbb", "parentFileNameHint=\"other.vmdk\""]);
    qemu_img_finds_equal(&folder, "unsafe", "vmdk", "overlay.vmdk", "other.vmdk");
    assert_eq!(folder.run(&["rebase", "-u", "overlay.vmdk"]), success());
    assert_eq!(parent(&folder), ["parentCID=ffffffff"]);
    let unknown = "instar: Could not change the backing file to 'nowhere.vmdk': \
                   the content identifier of the new backing file is not known: it cannot be read";
    folder.fails(&["rebase", "-u", "-b", "nowhere.vmdk", "-F", "vmdk", "overlay.vmdk"], unknown);
}

#[test]
fn what_a_vmdk_overlay_cannot_be_based_on_is_refused() {
    if without_kvm("what_a_vmdk_overlay_cannot_be_based_on_is_refused") {
        return;
    }
    let folder = stage();
    let only = "a vmdk image can only be based on a vmdk image";
    for (arguments, name, text) in [
        (&["-b", "plain.qcow2", "-F", "qcow2"][..], "plain.qcow2", only),
        (&["-u", "-b", "plain.qcow2", "-F", "qcow2"], "plain.qcow2", only),
        (&["-u", "-b", "a\"b", "-F", "vmdk"], "a\"b", "Invalid argument"),
        (&["-b", "other.vmdk"], "other.vmdk", "backing format must be specified"),
    ] {
        let message = format!("instar: Could not change the backing file to '{name}': {text}");
        folder.fails(&[&["rebase"], arguments, &["overlay.vmdk"]].concat(), &message);
    }
    // A parent that was changed behind the overlay's back is not what the overlay shows.
    folder.file("base.vmdk", &vmdk(Some(0xbb), 0xdddd, None));
    let stale =
        "instar: 'overlay.vmdk': the image below has been changed: its CID is 0000dddd, and parentCID says 0000aaaa";
    folder.fails(&["rebase", "-b", "", "overlay.vmdk"], stale);
}

#[test]
fn a_qed_overlay_is_rebased_in_every_mode() {
    if without_kvm("a_qed_overlay_is_rebased_in_every_mode") {
        return;
    }
    let folder = stage();
    let header = || read(&folder, "overlay.qed")[..96].to_vec();
    assert_eq!(folder.run(&["rebase", "-b", "other.qed", "-F", "qed", "overlay.qed"]), success());
    assert_eq!((header()[16], header()[60], &header()[64..73]), (1, 9, &b"other.qed"[..]));
    qemu_img_finds_equal(&folder, "qed, safe", "qed", "overlay.qed", "base.qed");
    assert_eq!(folder.run(&["rebase", "-u", "-b", "far/away", "-F", "raw", "overlay.qed"]), success());
    assert_eq!((header()[16], header()[60], &header()[64..72]), (5, 8, &b"far/away"[..]));
    assert_eq!(folder.run(&["rebase", "-u", "-b", "base.qed", "-F", "qed", "overlay.qed"]), success());
    assert_eq!(folder.run(&["rebase", "-b", "", "overlay.qed"]), success());
    assert_eq!((header()[16], &header()[56..64]), (0, &[0; 8][..]));
    qemu_img_finds_equal(&folder, "qed, detached", "qed", "overlay.qed", "base.qed");
    let name = "n".repeat(1024);
    let long = format!("instar: Could not change the backing file to '{name}': Invalid argument");
    folder.fails(&["rebase", "-u", "-b", &name, "-F", "qed", "overlay.qed"], &long);
    folder.fails(&["rebase", "-c", "-b", "", "overlay.qed"], "instar: Compression not supported for this file format");
}
