//! One line of a descriptor that says where a piece of the disk lies.
//!
//! Source: Virtual Disk Format 5.0, "The Extents": access, number of sectors, type, file name, offset.

use alloc::string::String;
use alloc::vec::Vec;

use super::{SECTOR_BYTES, VmdkError};

/// What kind of file an extent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtentKind {
    /// The file's bytes are the disk's bytes.
    Flat,
    /// The same, on VMFS.
    Vmfs,
    /// A hosted sparse extent.
    Sparse,
    /// A sparse extent of ESX ("COWD").
    VmfsSparse,
    /// A space-efficient sparse extent of ESX.
    SeSparse,
}

impl ExtentKind {
    /// The word for it in descriptors.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Flat => "FLAT",
            Self::Vmfs => "VMFS",
            Self::Sparse => "SPARSE",
            Self::VmfsSparse => "VMFSSPARSE",
            Self::SeSparse => "SESPARSE",
        }
    }

    fn from_name(name: &[u8]) -> Option<Self> {
        [Self::Flat, Self::Vmfs, Self::Sparse, Self::VmfsSparse, Self::SeSparse]
            .into_iter()
            .find(|kind| kind.name().as_bytes() == name)
    }

    /// Whether the file's bytes are the disk's bytes.
    #[must_use]
    pub const fn is_flat(self) -> bool {
        matches!(self, Self::Flat | Self::Vmfs)
    }
}

/// An extent as the descriptor has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtentLine {
    /// What kind of file it is.
    pub kind: ExtentKind,
    /// How much of the disk it is, in bytes; below 2^63.
    pub length_bytes: u64,
    /// The file's name as recorded.
    pub name: Vec<u8>,
    /// Where in the file the extent begins, in bytes; 0 unless flat.
    pub offset_bytes: u64,
}

impl ExtentLine {
    /// Reads a line. Lines that are no writable extents of a known kind are `None`, as qemu-img skips them.
    ///
    /// # Errors
    /// If the line has too many or too few words for its kind.
    pub(super) fn parse(line: &[u8]) -> Result<Option<Self>, VmdkError> {
        let Some(rest) = line.strip_prefix(b"RW ") else { return Ok(None) };
        let broken = || VmdkError::ExtentLine(String::from_utf8_lossy(line).into_owned());
        let (sectors, rest) = word(rest);
        let (kind, rest) = word(rest);
        let (Some(sectors), Some(kind)) = (number(sectors), ExtentKind::from_name(kind)) else { return Ok(None) };
        let quoted = rest.trim_ascii_start().strip_prefix(b"\"").ok_or_else(broken)?;
        let name_length = quoted.iter().position(|&byte| byte == b'"').filter(|&length| length > 0);
        let (name, tail) = quoted.split_at(name_length.ok_or_else(broken)?);
        let tail = tail[1..].trim_ascii();
        let offset_sectors = match kind {
            ExtentKind::Flat => number(tail).ok_or_else(broken)?,
            _ if tail.is_empty() => 0,
            // ESX writes an offset behind its flat extents, too; it is always 0.
            ExtentKind::Vmfs if number(tail) == Some(0) => 0,
            _ => return Err(broken()),
        };
        if sectors == 0 {
            return Ok(None);
        }
        let to_bytes = |sectors: u64| sectors.checked_mul(SECTOR_BYTES).filter(|bytes| i64::try_from(*bytes).is_ok());
        let length_bytes = to_bytes(sectors).ok_or(VmdkError::SizeTooLarge)?;
        let offset_bytes = to_bytes(offset_sectors).ok_or_else(broken)?;
        offset_bytes.checked_add(length_bytes).filter(|end| i64::try_from(*end).is_ok()).ok_or_else(broken)?;
        Ok(Some(Self { kind, length_bytes, name: name.to_vec(), offset_bytes }))
    }
}

fn word(bytes: &[u8]) -> (&[u8], &[u8]) {
    let bytes = bytes.trim_ascii_start();
    bytes.split_at(bytes.iter().position(u8::is_ascii_whitespace).unwrap_or(bytes.len()))
}

fn number(bytes: &[u8]) -> Option<u64> {
    let digits = core::str::from_utf8(bytes).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_lines() {
        let flat = ExtentLine::parse(b"RW 10 FLAT \"disk flat.vmdk\" 3").unwrap().unwrap();
        assert_eq!((flat.length_bytes, flat.offset_bytes), (5120, 1536));
        assert_eq!((flat.kind, flat.name.as_slice()), (ExtentKind::Flat, b"disk flat.vmdk".as_slice()));
        let sparse = ExtentLine::parse(b"RW 4194304 SPARSE \"s001.vmdk\"").unwrap().unwrap();
        assert_eq!((sparse.kind, sparse.length_bytes, sparse.offset_bytes), (ExtentKind::Sparse, 2 << 30, 0));
    }

    #[test]
    fn skip_what_is_no_writable_extent() {
        for line in
            ["RDONLY 10 FLAT \"f\" 0", "RW 10 ZERO", "RW x FLAT \"f\" 0", "RW 0 FLAT \"f\" 0", "RW", "ddb.x = \"1\""]
        {
            assert_eq!(ExtentLine::parse(line.as_bytes()), Ok(None), "{line}");
        }
    }

    #[test]
    fn refuse_what_does_not_fit_its_kind() {
        for line in [
            "RW 10 FLAT \"f\"",
            "RW 10 FLAT \"f\" -1",
            "RW 10 FLAT \"f\" 99999999999999999999",
            "RW 10 FLAT \"f\" 9999999999999999999",
            "RW 10 SPARSE \"f\" 0",
            "RW 10 SPARSE f",
            "RW 10 SPARSE \"f",
            "RW 10 SPARSE \"\"",
        ] {
            assert_eq!(ExtentLine::parse(line.as_bytes()), Err(VmdkError::ExtentLine(line.into())), "{line}");
        }
        assert_eq!(ExtentLine::parse(b"RW 18446744073709551615 SPARSE \"f\""), Err(VmdkError::SizeTooLarge));
    }
}
