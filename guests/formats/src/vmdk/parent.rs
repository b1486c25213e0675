//! The lines of a descriptor that say what an image is based on, replaced. Everything else stays, byte for byte.
//!
//! Source: Virtual Disk Format 5.0, "The Descriptor File" (parentCID, parentFileNameHint).

use alloc::vec::Vec;

use super::{Cid, VmdkError};
use crate::bytes::until_zero;

/// The longest parent name, a limit of qemu-img.
pub const PARENT_NAME_BYTES_MAX: usize = 1023;

const PARENT_CID: &[u8] = b"parentCID";
const PARENT_NAME: &[u8] = b"parentFileNameHint";

/// The descriptor's text with another parent, or with none; what stands behind a zero byte is left out.
///
/// # Errors
/// If the name cannot stand between quotes on one line, is empty, or is longer than [`PARENT_NAME_BYTES_MAX`].
pub fn with_parent(bytes: &[u8], parent: Option<(&[u8], Cid)>) -> Result<Vec<u8>, VmdkError> {
    let is_storable = |name: &[u8]| {
        (1..=PARENT_NAME_BYTES_MAX).contains(&name.len())
            && !name.iter().any(|byte| matches!(byte, b'"' | b'\n' | b'\r' | 0))
    };
    if parent.is_some_and(|(name, _)| !is_storable(name)) {
        return Err(VmdkError::ParentName);
    }
    let lines: Vec<&[u8]> = until_zero(bytes).split_inclusive(|&byte| byte == b'\n').collect();
    let has = |key: &[u8]| lines.iter().position(|line| is_assignment(line, key));
    // A line that is missing goes behind what stands before it in descriptors that are complete.
    let cid_line = has(PARENT_CID);
    let cid_behind = has(b"CID").or(has(b"version"));
    let name_line = has(PARENT_NAME);
    let name_behind = has(b"createType").or(cid_line).or(cid_behind);
    let end = if lines.iter().any(|line| line.ends_with(b"\r\n")) { &b"\r\n"[..] } else { b"\n" };
    let mut text = Vec::new();
    let put_cid = |text: &mut Vec<u8>| {
        let cid = parent.map_or(Cid::NONE, |(_, cid)| cid);
        put(text, PARENT_CID, alloc::format!("{cid}").as_bytes(), end);
    };
    let put_name = |text: &mut Vec<u8>| {
        if let Some((name, _)) = parent {
            put(text, PARENT_NAME, &[b"\"", name, b"\""].concat(), end);
        }
    };
    if cid_line.is_none() && cid_behind.is_none() {
        put_cid(&mut text);
    }
    if name_line.is_none() && name_behind.is_none() {
        put_name(&mut text);
    }
    for (at, line) in lines.iter().enumerate() {
        match Some(at) {
            at if at == cid_line => put_cid(&mut text),
            at if at == name_line => put_name(&mut text),
            // Whoever reads a later line of the same key must not find another parent there.
            _ if is_assignment(line, PARENT_CID) || is_assignment(line, PARENT_NAME) => {}
            _ => put_line(&mut text, line, end),
        }
        if cid_line.is_none() && cid_behind == Some(at) {
            put_cid(&mut text);
        }
        if name_line.is_none() && name_behind == Some(at) {
            put_name(&mut text);
        }
    }
    Ok(text)
}

/// Whether a line gives a key a value.
fn is_assignment(line: &[u8], key: &[u8]) -> bool {
    line.strip_prefix(key).is_some_and(|rest| rest.trim_ascii_start().starts_with(b"="))
}

fn put(text: &mut Vec<u8>, key: &[u8], value: &[u8], end: &[u8]) {
    for part in [key, b"=", value, end] {
        text.extend_from_slice(part);
    }
}

/// A line as it is; the last one of a descriptor may lack its end.
fn put_line(text: &mut Vec<u8>, line: &[u8], end: &[u8]) {
    text.extend_from_slice(line);
    if !line.ends_with(b"\n") {
        text.extend_from_slice(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmdk::Descriptor;
    use alloc::string::String;
    use proptest::prelude::*;

    const CHILD: &[u8] = b"# Disk DescriptorFile\nversion=1\nCID=199b9a1c\nparentCID=1f677b71\n\
        createType=\"monolithicSparse\"\nparentFileNameHint=\"b.vmdk\"\n# Extent description\nRW 8 SPARSE \"x\"\n";

    fn edited(text: &[u8], parent: Option<(&[u8], Cid)>) -> String {
        String::from_utf8(with_parent(text, parent).unwrap()).unwrap()
    }

    #[test]
    fn replace_and_remove_the_parent() {
        let text = edited(CHILD, Some((b"sub/new.vmdk", Cid(0xab))));
        let expected = String::from_utf8_lossy(CHILD).replace("1f677b71", "000000ab").replace("b.vmdk", "sub/new.vmdk");
        assert_eq!(text, expected);
        let alone = edited(CHILD, None);
        assert!(alone.contains("parentCID=ffffffff\n") && !alone.contains("parentFileNameHint"));
        let again = edited(alone.as_bytes(), Some((b"b.vmdk", Cid(0x1f67_7b71))));
        assert_eq!(again.as_bytes(), CHILD);
    }

    #[test]
    fn line_ends_stay_and_missing_lines_are_added() {
        let text = edited(b"version=1\r\nCID=1\r\ncreateType=\"vmfs\"", Some((b"n", Cid(2))));
        assert_eq!(
            text,
            "version=1\r\nCID=1\r\nparentCID=00000002\r\ncreateType=\"vmfs\"\r\nparentFileNameHint=\"n\"\r\n"
        );
        assert_eq!(edited(b"", Some((b"n", Cid(2)))), "parentCID=00000002\nparentFileNameHint=\"n\"\n");
    }

    #[test]
    fn refuse_names_that_do_not_fit_between_quotes() {
        for name in [&b""[..], b"a\"b", b"a\nb", b"a\rb", b"a\0b", &[b'n'; 1024]] {
            assert_eq!(with_parent(CHILD, Some((name, Cid(1)))), Err(VmdkError::ParentName));
        }
        assert!(with_parent(CHILD, Some((&[b'n'; 1023], Cid(1)))).is_ok());
    }

    proptest! {
        #[test]
        fn whatever_stood_there_the_new_parent_is_read_back(
            lines in proptest::collection::vec("(version|CID|parentCID|createType|parentFileNameHint|RW 1)?[ =]{0,2}\"?[a-f0-9]{0,9}\"?\r?", 0..12),
            name in "[ -!#-~]{1,40}",
            cid: u32,
        ) {
            let text = lines.join("\n");
            let new = with_parent(text.as_bytes(), Some((name.as_bytes(), Cid(cid)))).unwrap();
            let descriptor = Descriptor::parse_embedded(&new).unwrap();
            prop_assert_eq!(descriptor.parent_name.as_deref(), Some(name.as_bytes()));
            prop_assert_eq!(descriptor.parent_cid, Cid(cid));
            let none = with_parent(&new, None).unwrap();
            let descriptor = Descriptor::parse_embedded(&none).unwrap();
            prop_assert_eq!((descriptor.parent_name, descriptor.parent_cid), (None, Cid::NONE));
        }
    }
}
