//! Names of cache modes.

/// What a cache mode asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CacheMode {
    /// The result is on the disk when the command ends.
    Safe,
    /// It may still be on its way.
    Unsafe,
}

/// The mode with this name. All safe modes are one here: what is written is flushed at each of the promised points.
pub(super) fn parse(name: &[u8]) -> Option<CacheMode> {
    match name {
        b"none" | b"off" | b"directsync" | b"writeback" | b"writethrough" => Some(CacheMode::Safe),
        b"unsafe" => Some(CacheMode::Unsafe),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_six_names_are_known_and_no_other() {
        for name in ["none", "off", "directsync", "writeback", "writethrough"] {
            assert_eq!(parse(name.as_bytes()), Some(CacheMode::Safe));
        }
        assert_eq!(parse(b"unsafe"), Some(CacheMode::Unsafe));
        for name in ["", "bogus", "None", "writeback "] {
            assert_eq!(parse(name.as_bytes()), None);
        }
    }
}
