//! The descriptor: text that says what an image consists of, what it is based on, and its content identifiers.
//!
//! Source: Virtual Disk Format 5.0, "The Descriptor File".

use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use super::{Cid, ExtentLine, PARENT_NAME_BYTES_MAX, VmdkError};
use crate::bytes::until_zero;

/// How much of a descriptor is read, a limit of qemu-img.
pub const DESCRIPTOR_BYTES_MAX: u64 = (1 << 20) - 1;
/// The most extents, a limit of instar: each is a file of its own.
pub const EXTENTS_MAX: usize = 255;

/// Types that are a descriptor file with extents beside it.
const TYPES_WITH_EXTENT_FILES: [&[u8]; 6] =
    [b"monolithicFlat", b"twoGbMaxExtentFlat", b"twoGbMaxExtentSparse", b"vmfs", b"vmfsSparse", b"seSparse"];
/// What a sparse file without a descriptor, or without a type in it, is taken for.
const DEFAULT_TYPE: &[u8] = b"monolithicSparse";

/// A descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// The image's own identifier, if recorded.
    pub cid: Option<Cid>,
    /// Which bytes of the descriptor hold its digits.
    pub cid_digits: Range<usize>,
    /// The identifier that the parent must have, [`Cid::NONE`] if there is none.
    pub parent_cid: Cid,
    /// `createType` as recorded.
    pub create_type: Vec<u8>,
    /// `parentFileNameHint` as recorded.
    pub parent_name: Option<Vec<u8>>,
    /// The extents; empty for a descriptor inside a sparse file.
    pub extents: Vec<ExtentLine>,
}

impl Descriptor {
    /// Reads a descriptor that is a file of its own.
    ///
    /// # Errors
    /// In qemu-img's words, where it has any.
    pub fn parse_file(bytes: &[u8]) -> Result<Self, VmdkError> {
        let text = until_zero(bytes);
        let mut descriptor = Self::parse(text, quoted(text, b"createType").ok_or(VmdkError::NotVmdk)?)?;
        if !TYPES_WITH_EXTENT_FILES.contains(&descriptor.create_type.as_slice()) {
            return Err(VmdkError::ImageType(String::from_utf8_lossy(&descriptor.create_type).into_owned()));
        }
        for line in lines(text) {
            if let Some(extent) = ExtentLine::parse(line)? {
                if descriptor.extents.len() == EXTENTS_MAX {
                    return Err(VmdkError::ExtentLine(String::from_utf8_lossy(line).into_owned()));
                }
                descriptor.extents.push(extent);
            }
        }
        if descriptor.extents.is_empty() {
            return Err(VmdkError::NoExtents);
        }
        Ok(descriptor)
    }

    /// Reads a descriptor that lies in a sparse file. What it says about extents does not count: the file is the extent.
    ///
    /// # Errors
    /// If the parent's name makes no sense.
    pub fn parse_embedded(bytes: &[u8]) -> Result<Self, VmdkError> {
        let text = until_zero(bytes);
        Self::parse(text, quoted(text, b"createType").unwrap_or(DEFAULT_TYPE))
    }

    fn parse(text: &[u8], create_type: &[u8]) -> Result<Self, VmdkError> {
        let cid_digits = hexadecimal(text, b"CID").unwrap_or(0..0);
        let parent_digits = hexadecimal(text, b"parentCID").unwrap_or(0..0);
        let parent_name = match value(text, b"parentFileNameHint") {
            None => None,
            Some(_) => Some(
                quoted(text, b"parentFileNameHint")
                    .filter(|name| name.len() <= PARENT_NAME_BYTES_MAX)
                    .ok_or(VmdkError::ParentName)?
                    .to_vec(),
            ),
        };
        Ok(Self {
            cid: parse_cid(&text[cid_digits.clone()]),
            cid_digits,
            parent_cid: parse_cid(&text[parent_digits]).unwrap_or(Cid::NONE),
            create_type: create_type.to_vec(),
            parent_name: parent_name.filter(|name| !name.is_empty()),
            extents: Vec::new(),
        })
    }

    /// What other programs report as the identifier of an image that records none.
    #[must_use]
    pub fn cid_or_none(&self) -> Cid {
        self.cid.unwrap_or(Cid::NONE)
    }

    /// The number of the file that holds an extent: files are counted in the order in which they are first named.
    ///
    /// # Panics
    /// If there is no such extent.
    #[must_use]
    pub fn file_index(&self, extent: usize) -> u32 {
        let is_new = |at: &usize| self.extents[..*at].iter().all(|before| before.name != self.extents[*at].name);
        let first = self.extents.iter().position(|other| other.name == self.extents[extent].name).unwrap_or(extent);
        u32::try_from((0..first).filter(is_new).count()).unwrap_or(u32::MAX)
    }

    /// An identifier for changed content, and the digits to be put into the descriptor at [`Descriptor::cid_digits`];
    /// `None` if no identifier is recorded that could be replaced.
    #[must_use]
    pub fn next_cid(&self) -> Option<(Cid, Vec<u8>)> {
        let width = self.cid_digits.len();
        let next = self.cid?.successor(u32::try_from(width).ok()?);
        // The number of digits stays, so that nothing else in the descriptor moves.
        Some((next, alloc::format!("{:0width$x}", next.0).into_bytes()))
    }
}

fn parse_cid(digits: &[u8]) -> Option<Cid> {
    core::str::from_utf8(digits).ok().and_then(|digits| u32::from_str_radix(digits, 16).ok()).map(Cid)
}

/// Where the hexadecimal digits, at most eight, of a key's value lie.
fn hexadecimal(text: &[u8], key: &[u8]) -> Option<Range<usize>> {
    let value = value(text, key)?;
    let digits = text[value.clone()].iter().take(8).take_while(|byte| byte.is_ascii_hexdigit()).count();
    (digits > 0).then(|| value.start..value.start + digits)
}

/// A key's value without its quotes; `None` if the key or a quote is missing.
fn quoted<'a>(text: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    let value = text[value(text, key)?].strip_prefix(b"\"")?;
    value.iter().position(|&byte| byte == b'"').map(|end| &value[..end])
}

/// Where the value behind `key=` lies, to the end of its line. The first line that begins with the key counts.
fn value(text: &[u8], key: &[u8]) -> Option<Range<usize>> {
    let mut start = 0;
    for line in text.split(|&byte| byte == b'\n') {
        if let Some(rest) = line.strip_prefix(key) {
            let rest = rest.trim_ascii_start();
            if let Some(value) = rest.strip_prefix(b"=") {
                let value = value.trim_ascii_start();
                let end = start + line.len();
                return Some(end - value.len()..end);
            }
        }
        start += line.len() + 1;
    }
    None
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmdk::ExtentKind;
    use proptest::prelude::*;

    const SPLIT: &[u8] = b"# Disk DescriptorFile\nversion=1\nCID=199b9a1c\nparentCID=1f677b71\n\
        createType=\"twoGbMaxExtentSparse\"\r\nparentFileNameHint=\"b.vmdk\"\n# Extent description\n\
        RW 4194304 SPARSE \"x-s001.vmdk\"\r\nRW 20 FLAT \"x-f002.vmdk\" 0\n\n# The Disk Data Base\n#DDB\n\0junk";

    #[test]
    fn read_a_descriptor_file() {
        let descriptor = Descriptor::parse_file(SPLIT).unwrap();
        assert_eq!(descriptor.cid, Some(Cid(0x199b_9a1c)));
        assert_eq!(&SPLIT[descriptor.cid_digits.clone()], b"199b9a1c");
        assert_eq!(descriptor.parent_cid, Cid(0x1f67_7b71));
        assert_eq!(descriptor.parent_name.as_deref(), Some(b"b.vmdk".as_slice()));
        let kinds: Vec<ExtentKind> = descriptor.extents.iter().map(|extent| extent.kind).collect();
        assert_eq!(kinds, [ExtentKind::Sparse, ExtentKind::Flat]);
        assert_eq!([0, 1].map(|extent| descriptor.file_index(extent)), [0, 1]);
    }

    #[test]
    fn a_file_that_holds_several_extents_counts_once() {
        let lines = ["a", "b", "a", "c", "b"].map(|name| alloc::format!("RW 8 FLAT \"{name}\" 0\n")).concat();
        let text = alloc::format!("createType=\"monolithicFlat\"\n{lines}");
        let descriptor = Descriptor::parse_file(text.as_bytes()).unwrap();
        assert_eq!([0, 1, 2, 3, 4].map(|extent| descriptor.file_index(extent)), [0, 1, 0, 2, 1]);
    }

    #[test]
    fn an_embedded_descriptor_may_lack_anything() {
        let descriptor = Descriptor::parse_embedded(b"").unwrap();
        assert_eq!(descriptor.create_type, b"monolithicSparse");
        assert_eq!((descriptor.cid, descriptor.parent_cid, descriptor.parent_name), (None, Cid::NONE, None));
    }

    #[test]
    fn refuse_what_is_no_descriptor() {
        let refuse = |text: &str| Descriptor::parse_file(text.as_bytes()).unwrap_err();
        assert_eq!(refuse("version=1\n"), VmdkError::NotVmdk);
        assert_eq!(refuse("createType=\"custom\"\n"), VmdkError::ImageType("custom".into()));
        assert_eq!(refuse("createType=\"monolithicFlat\"\nRW 1 ZERO\n"), VmdkError::NoExtents);
        assert_eq!(refuse("createType=\"vmfs\"\nparentFileNameHint=\"x\n"), VmdkError::ParentName);
    }

    #[test]
    fn a_new_identifier_has_as_many_digits_as_the_old_one() {
        let descriptor = Descriptor::parse_embedded(b"version=1\nCID=cf8f0de\n").unwrap();
        let (cid, digits) = descriptor.next_cid().unwrap();
        assert_eq!(digits.len(), 7);
        assert_eq!(parse_cid(&digits), Some(cid));
        assert!(Descriptor::parse_embedded(b"parentCID=12\n").unwrap().next_cid().is_none());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Descriptor::parse_file(&bytes);
            let _ = Descriptor::parse_embedded(&bytes);
        }

        #[test]
        fn damaged_descriptors_never_panic(at in 0usize..SPLIT.len(), byte: u8, cut in 0usize..SPLIT.len()) {
            let mut bytes = SPLIT.to_vec();
            bytes[at] = byte;
            for bytes in [&bytes[..], &bytes[..cut]] {
                if let Ok(descriptor) = Descriptor::parse_file(bytes) {
                    prop_assert!(descriptor.cid_digits.end <= bytes.len());
                    prop_assert!(descriptor.next_cid().is_none_or(|(_, digits)| digits.len() == descriptor.cid_digits.len()));
                }
            }
        }
    }
}
