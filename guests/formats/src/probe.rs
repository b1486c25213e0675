//! Which format a file has, judged by its first bytes exactly as qemu-img judges when nobody says the format.
//!
//! A guess: whoever writes the first bytes of a raw disk chooses what it is taken for.

use crate::bytes::le_u32;

/// How many bytes from the start of a file [`probe`] looks at.
pub const PROBE_BYTES: usize = 512;

/// An image format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A file whose bytes are the guest's bytes; also whatever is not recognised.
    Raw,
    /// qcow2, versions 2 and 3, and versions to come.
    Qcow2,
    /// VMware disk, all subformats.
    Vmdk,
    /// VirtualBox disk.
    Vdi,
    /// Hyper-V disk.
    Vhdx,
    /// Virtual PC disk.
    Vpc,
    /// QEMU enhanced disk.
    Qed,
    /// Parallels disk.
    Parallels,
    /// qcow version 1.
    Qcow,
    /// LUKS version 1 volume.
    Luks,
    /// Bochs growing disk.
    Bochs,
    /// Compressed loop image.
    Cloop,
}

impl Format {
    /// The name that command lines and backing format records use.
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(format, _)| *format == self).map_or("raw", |(_, name)| name)
    }

    /// The format of that name.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        NAMES.iter().find(|(_, known)| known.as_bytes() == name).map(|(format, _)| *format)
    }
}

const NAMES: [(Format, &str); 12] = [
    (Format::Raw, "raw"),
    (Format::Qcow2, "qcow2"),
    (Format::Vmdk, "vmdk"),
    (Format::Vdi, "vdi"),
    (Format::Vhdx, "vhdx"),
    (Format::Vpc, "vpc"),
    (Format::Qed, "qed"),
    (Format::Parallels, "parallels"),
    (Format::Qcow, "qcow"),
    (Format::Luks, "luks"),
    (Format::Bochs, "bochs"),
    (Format::Cloop, "cloop"),
];

/// Magics at the very start. Those of qcow, qcow2 and LUKS give way to the one of vdi at byte 64; see [`probe`].
const STRONG_MAGICS: [(&[u8], Format); 9] = [
    (b"COWD", Format::Vmdk),
    (b"KDMV", Format::Vmdk),
    (b"vhdxfile", Format::Vhdx),
    (b"conectix", Format::Vpc),
    (b"QED\0", Format::Qed),
    (b"WithoutFreeSpace\x02\0\0\0", Format::Parallels),
    (b"WithouFreSpacExt\x02\0\0\0", Format::Parallels),
    (CLOOP_MAGIC, Format::Cloop),
    (BOCHS_MAGIC, Format::Bochs),
];
const CLOOP_MAGIC: &[u8] = b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n";
const BOCHS_MAGIC: &[u8] =
    b"Bochs Virtual HD Image\0\0\0\0\0\0\0\0\0\0Redolog\0\0\0\0\0\0\0\0\0Growing\0\0\0\0\0\0\0\0\0";
const VDI_MAGIC: u32 = 0xbeda_107f;
const VDI_MAGIC_OFFSET: usize = 64;
const BOCHS_VERSIONS: [u32; 2] = [0x1_0000, 0x2_0000];

/// Judges the first [`PROBE_BYTES`] of a file; a shorter file counts as if it went on with zeros.
pub fn probe(first_bytes: &[u8]) -> Format {
    let mut start = [0; PROBE_BYTES];
    let length = first_bytes.len().min(PROBE_BYTES);
    start[..length].copy_from_slice(&first_bytes[..length]);

    let at_64 = le_u32(&start, VDI_MAGIC_OFFSET).unwrap_or(0);
    for (magic, format) in STRONG_MAGICS {
        if start.starts_with(magic) && (format != Format::Bochs || BOCHS_VERSIONS.contains(&at_64)) {
            return format;
        }
    }
    if is_vmdk_descriptor(&start) {
        return Format::Vmdk;
    }
    if at_64 == VDI_MAGIC {
        return Format::Vdi;
    }
    match start {
        [b'Q', b'F', b'I', 0xfb, 0, 0, 0, 1, ..] => Format::Qcow,
        [b'Q', b'F', b'I', 0xfb, 0, 0, 0, 0, ..] => Format::Raw,
        [b'Q', b'F', b'I', 0xfb, ..] => Format::Qcow2,
        [b'L', b'U', b'K', b'S', 0xba, 0xbe, 0, 1, ..] => Format::Luks,
        _ => Format::Raw,
    }
}

/// A text descriptor: comment lines and lines of blanks, then a line that says version 1, 2 or 3 and nothing else.
fn is_vmdk_descriptor(start: &[u8]) -> bool {
    for line in start.split_inclusive(|&byte| byte == b'\n') {
        let Some(line) = line.strip_suffix(b"\n") else { return false };
        let text = line.strip_suffix(b"\r").unwrap_or(line);
        let is_comment = line.first() == Some(&b'#');
        let is_blank = !text.is_empty() && text.iter().all(|&byte| byte == b' ');
        if !is_comment && !is_blank {
            return matches!(text, b"version=1" | b"version=2" | b"version=3");
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn vdi(start: &[u8]) -> Vec<u8> {
        let mut bytes = start.to_vec();
        bytes.resize(VDI_MAGIC_OFFSET, 0);
        bytes.extend(VDI_MAGIC.to_le_bytes());
        bytes
    }

    #[test]
    fn know_magics() {
        for (bytes, format) in [
            (&b"QFI\xfb\0\0\0\x02"[..], Format::Qcow2),
            (b"QFI\xfb\0\0\0\x03", Format::Qcow2),
            (b"QFI\xfb\xff\xff\xff\xff", Format::Qcow2),
            (b"QFI\xfb\0\0\0\x01", Format::Qcow),
            (b"QFI\xfb\0\0\0\0", Format::Raw),
            (b"QFI\xfb", Format::Raw),
            (b"COWD", Format::Vmdk),
            (b"KDMV", Format::Vmdk),
            (b"vhdxfile", Format::Vhdx),
            (b"conectix", Format::Vpc),
            (b"QED", Format::Qed),
            (b"WithoutFreeSpace\x02", Format::Parallels),
            (b"WithoutFreeSpace\x01", Format::Raw),
            (b"LUKS\xba\xbe\0\x01", Format::Luks),
            (b"LUKS\xba\xbe\0\x02", Format::Raw),
            (CLOOP_MAGIC, Format::Cloop),
            (b"", Format::Raw),
        ] {
            assert_eq!(probe(bytes), format, "{bytes:?}");
        }
        let mut bochs = BOCHS_MAGIC.to_vec();
        assert_eq!(probe(&bochs), Format::Raw);
        bochs.extend([0, 0, 2, 0]);
        assert_eq!(probe(&bochs), Format::Bochs);
    }

    #[test]
    fn vdi_yields_to_all_but_qcow_and_luks() {
        for (start, format) in [
            (&b""[..], Format::Vdi),
            (b"QFI\xfb\0\0\0\x01", Format::Vdi),
            (b"QFI\xfb\0\0\0\x03", Format::Vdi),
            (b"LUKS\xba\xbe\0\x01", Format::Vdi),
            (b"KDMV", Format::Vmdk),
            (b"version=1\n", Format::Vmdk),
            (b"conectix", Format::Vpc),
            (b"vhdxfile", Format::Vhdx),
            (b"QED\0", Format::Qed),
            (b"WithoutFreeSpace\x02\0\0\0", Format::Parallels),
        ] {
            assert_eq!(probe(&vdi(start)), format, "{start:?}");
        }
    }

    #[test]
    fn know_vmdk_descriptors() {
        let long = |comment_bytes, line: &[u8]| [&b"#".repeat(comment_bytes)[..], line].concat();
        for descriptor in [
            &b"# Disk DescriptorFile\nversion=1\nCID=fffffffe\n"[..],
            b"version=3\r\n",
            b" \nversion=1\n",
            b"#a\n \n#b\n   \r\n#c\nversion=2\n",
            &long(501, b"\nversion=1\n"),
        ] {
            assert_eq!(probe(descriptor), Format::Vmdk, "{descriptor:?}");
        }
        for text in [
            &b"# Disk DescriptorFile\n"[..],
            b"version=1",
            b"version=1\r",
            b"version=4\n",
            b"version=10\n",
            b"version=1 \n",
            b"Version=1\n",
            b"\nversion=1\n",
            b"\r\nversion=1\n",
            b"\t\nversion=1\n",
            b" version=1\n",
            b" \n\nversion=1\n",
            b"#a\rversion=1\n",
            b"text\nversion=1\n",
            &long(502, b"\nversion=1\n"),
        ] {
            assert_eq!(probe(text), Format::Raw, "{text:?}");
        }
    }

    #[test]
    fn names_are_reversible() {
        for (format, name) in NAMES {
            assert_eq!(format.name(), name);
            assert_eq!(Format::from_name(name.as_bytes()), Some(format));
        }
        assert_eq!(Format::from_name(b"qcow3"), None);
    }
}
