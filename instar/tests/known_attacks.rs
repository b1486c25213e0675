//! Attacks that hosts of virtual machines have met, by the numbers under which they are known, on the built program. Each image
//! leads to a file of the host that is none of its business; every command refuses, says the name and shows no byte of it.

mod common;
#[path = "common/image.rs"]
mod image;
#[path = "common/kvm.rs"]
mod kvm;

use common::{Folder, finish};
use image::{CLUSTER_BYTES, DISK_BYTES, qcow2};
use kvm::without_kvm;

/// What must not be seen; it is as long as the disks are.
fn secret() -> Vec<u8> {
    b"root:x:0:0:the secret:/root:/bin/sh\n".iter().copied().cycle().take(64 * CLUSTER_BYTES).collect()
}

/// A folder with a file of the host outside of the images' directory.
fn host() -> Folder {
    let folder = Folder::new();
    folder.file("etc/passwd", &secret());
    folder.file("vm/base.qcow2", &qcow2(0x11, "", ""));
    folder
}

/// The ways by which commands come across what an image names.
fn every_command(image: &'static str) -> Vec<Vec<&'static str>> {
    vec![
        vec!["commit", image],
        vec!["commit", "-d", image],
        vec!["rebase", "-b", "", image],
        vec!["rebase", "-b", "base.qcow2", "-F", "qcow2", image],
    ]
}

/// No command follows `name`, which `image` records, and none shows a byte of the secret, whatever it prints and whatever guests
/// run on.
#[track_caller]
fn refused_by_all(folder: &Folder, image: &'static str, commands: &[Vec<&str>], name: &str) {
    for (command, sandbox) in commands.iter().flat_map(|command| [(command, "kvm"), (command, "process")]) {
        let before = std::fs::read(folder.path().join("etc/passwd")).expect("readable");
        let ended = finish(folder.instar(command).env("INSTAR_SANDBOX", sandbox));
        let words = format!("The image names '{name}', which is outside of the directories that may be used");
        assert_eq!((ended.status, &*ended.stdout), (Some(1), ""), "{command:?} on {image}: {ended:?}");
        assert!(ended.stderr.contains(&words) && !ended.stderr.contains("secret"), "{command:?}: {}", ended.stderr);
        assert_eq!(std::fs::read(folder.path().join("etc/passwd")).expect("readable"), before);
    }
}

/// An uploaded image whose backing file is one of the host's: whoever flattens it hands that file out.
#[test]
fn cve_2015_5163_backing_file_of_the_host() {
    if without_kvm("cve_2015_5163_backing_file_of_the_host") {
        return;
    }
    let folder = host();
    let outside = folder.path().canonicalize().expect("it exists").join("etc/passwd");
    let outside = outside.to_str().expect("UTF-8");
    for name in [outside, "../etc/passwd", "/etc/passwd", "/etc/shadow"] {
        folder.file("vm/image.qcow2", &qcow2(0x22, name, "raw"));
        let mut commands = every_command("vm/image.qcow2");
        commands.push(vec!["info", "--backing-chain", "vm/image.qcow2"]);
        refused_by_all(&folder, "vm/image.qcow2", &commands, name);
        let refusal = format!(
            "instar: Could not open 'vm/image.qcow2': Could not open backing file: The image names '{name}', which is outside of \
             the directories that may be used; --allow-dir DIR allows a directory, --allow-any-path every file"
        );
        folder.fails(&["commit", "vm/image.qcow2"], &refusal);
        // Looking at the image alone opens nothing else.
        let info = folder.run(&["info", "vm/image.qcow2"]);
        assert_eq!(info.status, Some(0), "{info:?}");
        assert!(!info.stdout.contains("secret"), "{}", info.stdout);
    }
}

/// A vmdk descriptor whose flat extent is a file of the host.
#[test]
fn cve_2022_47951_vmdk_flat_extent_of_the_host() {
    if without_kvm("cve_2022_47951_vmdk_flat_extent_of_the_host") {
        return;
    }
    let folder = host();
    for name in ["/etc/passwd", "../etc/passwd"] {
        let sectors = DISK_BYTES / 512;
        let descriptor = format!(
            "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n\n\
             RW {sectors} FLAT \"{name}\" 0\n\nddb.virtualHWVersion = \"4\"\nddb.geometry.cylinders = \"1\"\n\
             ddb.geometry.heads = \"16\"\nddb.geometry.sectors = \"63\"\nddb.adapterType = \"ide\"\n"
        );
        folder.file("vm/image.vmdk", descriptor.as_bytes());
        folder.file("vm/overlay.qcow2", &qcow2(0x22, "image.vmdk", "vmdk"));
        let commands = vec![
            vec!["info", "vm/image.vmdk"],
            vec!["info", "-f", "vmdk", "vm/image.vmdk"],
            vec!["commit", "vm/image.vmdk"],
        ];
        refused_by_all(&folder, "vm/image.vmdk", &commands, name);
        refused_by_all(&folder, "vm/overlay.qcow2", &every_command("vm/overlay.qcow2"), name);
    }
}

/// A qcow2 image whose external data file is one of the host's.
#[test]
fn cve_2024_32498_external_data_file_of_the_host() {
    if without_kvm("cve_2024_32498_external_data_file_of_the_host") {
        return;
    }
    let folder = host();
    for name in ["/etc/passwd", "../etc/passwd"] {
        folder.file("vm/overlay.qcow2", &qcow2(0x22, "image.qcow2", "qcow2"));
        folder.file("vm/image.qcow2", &with_data_file(name));
        let commands = [vec!["commit", "vm/image.qcow2"], vec!["rebase", "-b", "", "vm/image.qcow2"]];
        refused_by_all(&folder, "vm/image.qcow2", &commands, name);
        refused_by_all(&folder, "vm/overlay.qcow2", &every_command("vm/overlay.qcow2"), name);
        // What info shows of the image is the name, not whether or how long the file is.
        let info = folder.run(&["info", "--qemu-version", "11.1.0", "vm/image.qcow2"]);
        let length = DISK_BYTES.to_string();
        assert!(!info.stdout.contains("secret") && info.stdout.matches(&length).count() == 1, "{info:?}");
    }
}

/// An image whose clusters are in an external raw data file, at the same places as on the disk.
fn with_data_file(name: &str) -> Vec<u8> {
    let mut image = qcow2(0x22, "", "");
    let mut put = |offset: usize, bytes: &[u8]| image[offset..offset + bytes.len()].copy_from_slice(bytes);
    // Incompatible feature: data file. Autoclear feature: the data file is raw.
    put(72, &4u64.to_be_bytes());
    put(88, &2u64.to_be_bytes());
    put(104, &0x4441_5441_u32.to_be_bytes());
    put(108, &u32::try_from(name.len()).expect("short").to_be_bytes());
    put(112, name.as_bytes());
    // The first cluster is the first of the data file.
    put(4 * CLUSTER_BYTES, &(1u64 << 63).to_be_bytes());
    image
}
