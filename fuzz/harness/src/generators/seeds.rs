//! Small images that qemu-img made, one or two of each format: what a fuzzer starts from, and what the hostile corpus changes.

use std::path::Path;
use std::{fs, io};

use instar_abi::job::format;

/// Target, file in `fuzz/seeds`, and format of each.
const IMAGES: [(&str, &str, u32); 12] = [
    ("image_luks", "luks", format::LUKS),
    ("image_parallels", "parallels", format::PARALLELS),
    ("image_qcow", "qcow", format::QCOW),
    ("image_qcow2", "qcow2", format::QCOW2),
    ("image_qcow2", "qcow2-extended", format::QCOW2),
    ("image_qed", "qed", format::QED),
    ("image_vdi", "vdi", format::VDI),
    ("image_vhdx", "vhdx", format::VHDX),
    ("image_vmdk", "vmdk", format::VMDK),
    ("image_vmdk", "vmdk-stream", format::VMDK),
    ("image_vpc", "vpc", format::VPC),
    // The descriptor alone: a text that names an extent file.
    ("image_vmdk", "vmdk-text", format::VMDK),
];

/// A small sound image.
#[derive(Clone, Debug)]
pub struct Seed {
    /// The target that it is for.
    pub target: &'static str,
    /// Its name.
    pub name: &'static str,
    /// One of [`format`].
    pub format: u32,
    /// The file.
    pub bytes: Vec<u8>,
}

/// All seeds, unpacked.
///
/// # Errors
/// A seed that is missing or cannot be unpacked.
pub fn all() -> io::Result<Vec<Seed>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../seeds");
    let read = |(target, name, format): (&'static str, &'static str, u32)| {
        let packed = fs::read(folder.join(format!("{name}.img.zst")))?;
        Ok(Seed { target, name, format, bytes: zstd::decode_all(&packed[..])? })
    };
    IMAGES.into_iter().map(read).collect()
}
