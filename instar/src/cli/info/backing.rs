//! Which file a recorded backing name means, as text: nothing is opened, canonicalised or followed.

/// The recorded name combined with the directory of `filename` as typed; names that are absolute or have a protocol
/// (`json:`, `nbd:`) stay as they are.
pub(super) fn full_name(filename: &[u8], backing_name: &[u8]) -> Vec<u8> {
    if backing_name.first() == Some(&b'/') || has_protocol(backing_name) {
        return backing_name.to_vec();
    }
    let protocol_end = if has_protocol(filename) { position(filename, b':').map_or(0, |colon| colon + 1) } else { 0 };
    let directory_end = filename.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
    let mut name = filename[..directory_end.max(protocol_end)].to_vec();
    name.extend(backing_name);
    name
}

/// Whether a colon comes before the first slash.
fn has_protocol(name: &[u8]) -> bool {
    name.iter().find(|&&byte| byte == b':' || byte == b'/') == Some(&b':')
}

fn position(name: &[u8], wanted: u8) -> Option<usize> {
    name.iter().position(|&byte| byte == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn combine_as_text() {
        for (filename, backing, full) in [
            ("overlay.qcow2", "base.qcow2", "base.qcow2"),
            ("vm/overlay.qcow2", "../images/base.qcow2", "vm/../images/base.qcow2"),
            ("./sub/top.qcow2", "base.qcow2", "./sub/base.qcow2"),
            ("/images/top.qcow2", "base.qcow2", "/images/base.qcow2"),
            ("sub/top.qcow2", "/base.qcow2", "/base.qcow2"),
            ("sub/top.qcow2", "json:{\"driver\":\"file\"}", "json:{\"driver\":\"file\"}"),
            ("sub/top.qcow2", "nbd:host:1", "nbd:host:1"),
            ("sub/top.qcow2", "a/b:c", "sub/a/b:c"),
        ] {
            assert_eq!(full_name(filename.as_bytes(), backing.as_bytes()), full.as_bytes(), "{filename} {backing}");
        }
    }
}
