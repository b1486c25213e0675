//! What the header of a qcow2 overlay becomes when its backing file changes.

use core::fmt;

use instar_formats::qcow2::header::MAX_BACKING_NAME_BYTES;
use instar_formats::qcow2::{Header, feature};

/// The backing file that an overlay is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewBacking<'a> {
    /// Its name as it is to be recorded; empty for none at all.
    pub name: &'a [u8],
    /// Its format name as it is to be recorded; empty where none was given.
    pub format_name: &'a [u8],
}

/// Why the header cannot name the new backing file; `Display` gives qemu-img's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderRefusal {
    /// There is a name and no format.
    FormatMissing,
    /// The name is too long for the format, or the image's data file is raw and would no longer be the whole disk.
    Invalid,
}

impl fmt::Display for HeaderRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FormatMissing => "backing format must be specified",
            Self::Invalid => "Invalid argument",
        })
    }
}

impl core::error::Error for HeaderRefusal {}

/// The header with the new backing file, and without the autoclear bits that nobody here understands.
///
/// # Errors
/// If the image cannot have this backing file.
pub fn plan_header(header: &Header, backing: &NewBacking<'_>) -> Result<Header, HeaderRefusal> {
    let mut planned = header.clone();
    planned.autoclear_features &= feature::KNOWN_AUTOCLEAR;
    if backing.name.is_empty() {
        planned.backing_name = None;
        planned.extensions.backing_format = None;
        return Ok(planned);
    }
    if backing.format_name.is_empty() {
        return Err(HeaderRefusal::FormatMissing);
    }
    if backing.name.len() > MAX_BACKING_NAME_BYTES || header.has_raw_external_data_file() {
        return Err(HeaderRefusal::Invalid);
    }
    planned.backing_name = Some(backing.name.to_vec());
    planned.extensions.backing_format = Some(backing.format_name.to_vec());
    Ok(planned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;
    use instar_formats::qcow2::{Access, encode_first_cluster};

    /// The first cluster of a small image of version 3: 4096-byte clusters, 1 MiB.
    fn image(incompatible: u64, autoclear: u64) -> Header {
        let mut bytes = vec![0; 4096];
        let mut put = |offset: usize, value: &[u8]| bytes[offset..offset + value.len()].copy_from_slice(value);
        put(0, b"QFI\xfb");
        put(4, &3u32.to_be_bytes());
        put(20, &12u32.to_be_bytes());
        put(24, &(1u64 << 20).to_be_bytes());
        put(36, &1u32.to_be_bytes());
        put(40, &(3u64 << 12).to_be_bytes());
        put(48, &(1u64 << 12).to_be_bytes());
        put(56, &1u32.to_be_bytes());
        put(72, &incompatible.to_be_bytes());
        put(88, &autoclear.to_be_bytes());
        put(96, &4u32.to_be_bytes());
        put(100, &104u32.to_be_bytes());
        Header::parse(&bytes, Access::Inspect).unwrap()
    }

    fn named<'a>(name: &'a [u8], format_name: &'a [u8]) -> NewBacking<'a> {
        NewBacking { name, format_name }
    }

    fn rewritten(header: &Header, backing: &NewBacking<'_>) -> Header {
        let bytes = encode_first_cluster(&plan_header(header, backing).unwrap()).unwrap();
        Header::parse(&bytes, Access::ReadWrite).unwrap()
    }

    #[test]
    fn attach_and_detach() {
        let attached = rewritten(&image(0, 1 << 40), &named(b"new.qcow2", b"qcow2"));
        assert_eq!(attached.backing_name.as_deref(), Some(&b"new.qcow2"[..]));
        assert_eq!(attached.extensions.backing_format.as_deref(), Some(&b"qcow2"[..]));
        assert_eq!(attached.autoclear_features, 0);
        let detached = rewritten(&attached, &named(b"", b"qcow2"));
        assert_eq!((detached.backing_name, detached.backing_name_offset), (None, 0));
        assert_eq!(detached.extensions.backing_format, None);
    }

    #[test]
    fn refuse_a_name_without_format_and_names_that_are_too_long() {
        let header = image(0, 0);
        assert_eq!(plan_header(&header, &named(b"new", b"")), Err(HeaderRefusal::FormatMissing));
        let name: Vec<u8> = vec![b'n'; 1024];
        assert_eq!(plan_header(&header, &named(&name, b"raw")), Err(HeaderRefusal::Invalid));
        assert!(plan_header(&header, &named(&name[..1023], b"raw")).is_ok());
    }

    #[test]
    fn a_raw_data_file_stays_the_whole_disk() {
        let header = image(feature::EXTERNAL_DATA_FILE, feature::RAW_EXTERNAL_DATA);
        assert_eq!(plan_header(&header, &named(b"new", b"raw")), Err(HeaderRefusal::Invalid));
        assert!(plan_header(&header, &named(b"", b"")).is_ok());
    }
}
